//! Images: pull policy, pulling with back-off and credentials, and (in `gc`) getting rid of unused ones.
//!
//! Present images are never pulled unless the policy is `Always`. Reasons and messages are upstream's.

pub mod credentials;
pub mod gc;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;

use crate::context::Context;
use crate::cri::api;
use crate::events::Kind;
use crate::pods::backoff::Backoff;
use crate::pods::types::Pod;

/// Longest delay between two pulls of a failing image.
const MAX_BACKOFF: SignedDuration = SignedDuration::from_secs(300);

/// A container's waiting reason and message.
pub type Refusal = (String, String);

/// What a pod remembers of its pulls.
#[derive(Debug, Clone, Default)]
pub struct PullMemory {
    backoff: Backoff,
    last_errors: HashMap<String, String>,
}

/// An image on this node.
#[derive(Debug, Clone, Default)]
pub struct Present {
    /// What containers are made from.
    pub reference: String,
    /// The image's numeric user.
    pub user: Option<i64>,
    /// The image's named user.
    pub user_name: String,
}

/// Bounds pulls that run at the same time.
#[derive(Clone)]
pub struct Puller {
    slots: Arc<Semaphore>,
}

impl Puller {
    /// `parallel` pulls at a time; one when pulls are serialized.
    pub fn new(parallel: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(parallel)) }
    }
}

fn spec(image: &str, handler: &str) -> api::ImageSpec {
    api::ImageSpec {
        image: image.to_owned(),
        user_specified_image: image.to_owned(),
        runtime_handler: handler.to_owned(),
        ..Default::default()
    }
}

/// The image of a name with neither tag nor digest is the one tagged `latest`.
pub fn with_default_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || image.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// Whether a name can be an image reference at all.
fn is_valid_name(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or_default();
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (name, ""),
    };
    let repository =
        path.split_once('/').map_or(path, |(host, rest)| if host.contains(['.', ':']) { rest } else { path });
    !repository.is_empty()
        && repository.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c))
        && !repository.starts_with(['/', '-', '.', '_'])
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

async fn look(context: &Context, image: &str, handler: &str) -> Result<Option<Present>, Refusal> {
    let request = api::ImageStatusRequest { image: Some(spec(image, handler)), verbose: false };
    let found = context.runtime.image_status(request).await;
    let found =
        found.map_err(|e| ("ImageInspectError".to_owned(), format!("Failed to inspect image \"{image}\": {e}")))?;
    Ok(found.image.map(|i| Present { reference: i.id, user: i.uid.map(|u| u.value), user_name: i.username }))
}

/// An image that a container or a volume needs.
pub struct Wanted<'a> {
    pub image: &'a str,
    pub policy: Option<&'a str>,
    /// The container that events are about; empty for a volume's, which are about the pod.
    pub container: &'a str,
}

fn event(context: &Context, pod: &Pod, wanted: &Wanted<'_>, kind: Kind, reason: &str, message: &str) {
    if wanted.container.is_empty() {
        context.events.pod(pod, kind, reason, message);
    } else {
        context.events.container(pod, wanted.container, kind, reason, message);
    }
}

/// Makes sure that an image is here, by its pull policy.
///
/// # Errors
/// Why the container must wait.
pub async fn ensure(
    context: &Context,
    pod: &Pod,
    wanted: &Wanted<'_>,
    handler: &str,
    memory: &mut PullMemory,
) -> Result<Present, Refusal> {
    let name = wanted.image;
    if !is_valid_name(name) {
        let message = format!(
            "Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": invalid reference format"
        );
        event(context, pod, wanted, Kind::Warning, "InspectFailed", &message);
        return Err(("InvalidImageName".into(), message));
    }
    let image = with_default_tag(name);
    let latest = image.ends_with(":latest");
    let policy = wanted.policy.unwrap_or(if latest { "Always" } else { "IfNotPresent" });
    let present = look(context, &image, handler).await?;
    match (policy, present) {
        ("Never" | "IfNotPresent", Some(present)) => {
            let what = if wanted.container.is_empty() { "Image" } else { "Container image" };
            let message = format!("{what} \"{name}\" already present on machine and can be accessed by the pod");
            event(context, pod, wanted, Kind::Normal, "Pulled", &message);
            Ok(present)
        }
        ("Never", None) => {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            event(context, pod, wanted, Kind::Warning, "ErrImageNeverPull", &message);
            Err(("ErrImageNeverPull".into(), message))
        }
        _ => {
            pull(context, pod, wanted, &image, handler, memory).await?;
            let present = look(context, &image, handler).await?;
            present.ok_or_else(|| ("ErrImagePull".into(), format!("image \"{image}\" is missing after it was pulled")))
        }
    }
}

async fn pull(
    context: &Context,
    pod: &Pod,
    wanted: &Wanted<'_>,
    image: &str,
    handler: &str,
    memory: &mut PullMemory,
) -> Result<(), Refusal> {
    let now = Timestamp::now();
    let event = |kind, reason, message: &str| event(context, pod, wanted, kind, reason, message);
    if memory.backoff.blocked_since_update(image, now, MAX_BACKOFF).is_some() {
        let before = memory.last_errors.get(image).cloned().unwrap_or_default();
        let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {before}");
        event(Kind::Normal, "BackOff", &format!("Back-off pulling image \"{image}\""));
        return Err(("ImagePullBackOff".into(), message));
    }
    event(Kind::Normal, "Pulling", &format!("Pulling image \"{image}\""));
    let asked = Instant::now();
    let permit = context.puller.slots.acquire().await;
    let started = Instant::now();
    let credentials = credentials::for_image(context, pod, image).await;
    let mut result = Ok(String::new());
    for auth in credentials {
        let request = api::PullImageRequest { image: Some(spec(image, handler)), auth, sandbox_config: None };
        result = context.runtime.pull_image(request).await;
        if result.is_ok() {
            break;
        }
    }
    drop(permit);
    match result {
        Ok(_) => {
            memory.backoff.reset(image);
            memory.last_errors.remove(image);
            let message = format!(
                "Successfully pulled image \"{image}\" in {:.3}s ({:.3}s including waiting).",
                started.elapsed().as_secs_f64(),
                asked.elapsed().as_secs_f64()
            );
            event(Kind::Normal, "Pulled", &message);
            Ok(())
        }
        Err(error) => {
            memory.backoff.next(image, now, Timestamp::now(), MAX_BACKOFF);
            let message = format!("failed to pull image \"{image}\": {error}");
            event(Kind::Warning, "Failed", &format!("Failed to pull image \"{image}\": {error}"));
            event(Kind::Warning, "Failed", "Error: ErrImagePull");
            memory.last_errors.insert(image.to_owned(), message.clone());
            Err(("ErrImagePull".into(), message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in
            ["busybox", "a.b:5000/x/y:1.2", "localhost/x", "x@sha256:abc", "registry.k8s.io/pause:3.10", "host:5000/x"]
        {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", "Upper", "a b", "/x", "x:t/a b", "-x"] {
            assert!(!is_valid_name(bad), "{bad}");
        }
        assert_eq!(with_default_tag("h:5000/x"), "h:5000/x:latest");
        assert_eq!(with_default_tag("x:1"), "x:1");
    }
}

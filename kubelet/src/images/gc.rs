//! Image garbage collection: removes images that no container uses when the disk is fuller than it should be.
//!
//! `choose` decides (pure): oldest unused first, until enough is freed; the runner looks every five minutes, upstream's
//! period.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::cri::{CriError, api};
use crate::events::Kind;

const PERIOD: Duration = Duration::from_secs(300);

/// Thresholds of the collection.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub high_percent: u64,
    pub low_percent: u64,
    pub min_age: SignedDuration,
    /// Unused for longer than this an image goes however much room there is.
    pub max_age: Option<SignedDuration>,
}

/// Everything that nothing uses.
const ALL: Policy = Policy { high_percent: 0, low_percent: 0, min_age: SignedDuration::ZERO, max_age: None };

/// An image that could be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    id: String,
    size_bytes: u64,
    first_seen: Timestamp,
    last_used: Timestamp,
}

/// Size and free bytes of the file system that holds a path.
///
/// # Errors
/// What the kernel says.
pub fn disk(path: &Path) -> std::io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

/// Bytes to free for a disk of this size.
fn to_free(policy: Policy, size: u64, available: u64) -> u64 {
    let used = size.saturating_sub(available);
    if size == 0 || used * 100 / size < policy.high_percent {
        0
    } else {
        used.saturating_sub(size * policy.low_percent / 100)
    }
}

/// The images to remove, oldest use first.
fn choose(mut candidates: Vec<Candidate>, policy: Policy, bytes: u64, now: Timestamp) -> Vec<String> {
    candidates.retain(|c| now.duration_since(c.first_seen) >= policy.min_age);
    candidates.sort_by_key(|c| (c.last_used, c.first_seen));
    let mut freed = 0;
    let mut chosen = Vec::new();
    for candidate in candidates {
        if freed >= bytes {
            break;
        }
        freed += candidate.size_bytes;
        chosen.push(candidate.id);
    }
    chosen
}

/// Runs until shutdown.
pub async fn run(context: Arc<Context>, policy: Policy, shutdown: CancellationToken) {
    if policy.high_percent >= 100 && policy.max_age.is_none() {
        return;
    }
    let mut seen: HashMap<String, (Timestamp, Timestamp)> = HashMap::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        if let Err(error) = collect(&context, policy, &mut seen).await {
            tracing::warn!(%error, "Image garbage collection failed");
        }
    }
}

/// Removes every unused image, when the disk runs short.
pub async fn reclaim(context: &Context) {
    if let Err(error) = collect(context, ALL, &mut HashMap::new()).await {
        tracing::warn!(%error, "Cannot remove unused images");
    }
}

/// The file system that holds the runtime's images.
pub async fn place(context: &Context) -> Option<PathBuf> {
    let info = context.runtime.image_fs_info(api::ImageFsInfoRequest {}).await.ok()?;
    Some(PathBuf::from(info.image_filesystems.into_iter().next()?.fs_id?.mountpoint))
}

async fn collect(
    context: &Context,
    policy: Policy,
    seen: &mut HashMap<String, (Timestamp, Timestamp)>,
) -> Result<(), CriError> {
    let now = Timestamp::now();
    let images = context.runtime.list_images(api::ListImagesRequest { filter: None }).await?.images;
    let containers = context.runtime.list_containers(api::ListContainersRequest { filter: None }).await?.containers;
    let used: HashSet<&String> = containers.iter().map(|c| &c.image_ref).collect();
    let sandbox = sandbox_image(context).await;
    seen.retain(|id, _| images.iter().any(|i| &i.id == id));
    let mut candidates = Vec::new();
    for image in &images {
        let times = seen.entry(image.id.clone()).or_insert((now, Timestamp::UNIX_EPOCH));
        let in_use = used.contains(&image.id)
            || image.repo_digests.iter().any(|d| used.contains(d))
            || sandbox.as_ref().is_some_and(|s| image.repo_tags.contains(s) || image.repo_digests.contains(s));
        if in_use || image.pinned {
            times.1 = now;
        } else {
            candidates.push(Candidate {
                id: image.id.clone(),
                size_bytes: image.size,
                first_seen: times.0,
                last_used: times.1,
            });
        }
    }
    let old = |c: &Candidate| policy.max_age.is_some_and(|max| now.duration_since(c.last_used.max(c.first_seen)) > max);
    let (too_old, candidates): (Vec<_>, Vec<_>) = candidates.into_iter().partition(old);
    let place = place(context).await.unwrap_or_default();
    let bytes = disk(&place).map_or(0, |(size, available)| to_free(policy, size, available));
    if bytes == 0 && too_old.is_empty() {
        return Ok(());
    }
    let chosen: Vec<_> = too_old.into_iter().map(|c| c.id).chain(choose(candidates, policy, bytes, now)).collect();
    if chosen.is_empty() && policy.high_percent > 0 {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {bytes} bytes, but no image is unused"
        );
        context.events.node(Kind::Warning, "FreeDiskSpaceFailed", &message);
    }
    for id in chosen {
        let image = Some(api::ImageSpec { image: id.clone(), ..Default::default() });
        context.runtime.remove_image(api::RemoveImageRequest { image }).await?;
        tracing::info!(image = id, "Removed an unused image");
    }
    Ok(())
}

/// The image of sandboxes, which no container shows as used; runtimes that pin it need no look, older ones tell it in
/// their verbose status.
async fn sandbox_image(context: &Context) -> Option<String> {
    let status = context.runtime.status(api::StatusRequest { verbose: true }).await.ok()?;
    let config: serde_json::Value = serde_json::from_str(status.info.get("config")?).ok()?;
    config["sandboxImage"].as_str().map(super::with_default_tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_unused_first() {
        let policy =
            Policy { high_percent: 85, low_percent: 80, min_age: SignedDuration::from_secs(120), max_age: None };
        assert_eq!(to_free(policy, 1000, 200), 0);
        assert_eq!(to_free(policy, 1000, 100), 100);
        let at = |s| Timestamp::from_second(s).unwrap();
        let c = |id: &str, seen, used| Candidate {
            id: id.into(),
            size_bytes: 60,
            first_seen: at(seen),
            last_used: at(used),
        };
        let all = vec![c("new", 990, 0), c("b", 0, 50), c("a", 0, 10), c("c", 0, 70)];
        assert_eq!(choose(all, policy, 100, at(1000)), ["a", "b"]);
    }
}

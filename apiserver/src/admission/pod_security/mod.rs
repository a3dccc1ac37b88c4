//! PodSecurity: the namespace's labels say which profile its pods must meet (enforce), or are told about (warn, audit).
//!
//! Pods are enforced; the templates of controllers only warn. A label that cannot be read counts as `restricted`, and
//! writing one is refused. Tightening a namespace warns about the pods that are already there.

mod checks;

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::field::{ErrorList, FieldError, Path};
use apimachinery::gvk::GroupKind;
use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

use self::checks::{LATEST, Level, Minor, Pod, violations};
use super::{Operation, Plugin, Request, done};
use crate::objects::{Objects, find};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Existing pods looked at when a namespace is tightened.
const MAX_EXISTING_PODS: usize = 3000;

/// The plugin.
pub struct PodSecurity(pub Arc<dyn Objects>);

/// A profile at a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    level: Level,
    version: Minor,
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.version == LATEST {
            write!(f, "{}:latest", self.level.name())
        } else {
            write!(f, "{}:v1.{}", self.level.name(), self.version)
        }
    }
}

fn version(text: &str) -> Option<Minor> {
    if text == "latest" {
        return Some(LATEST);
    }
    let minor = text.strip_prefix("v1.")?;
    let canonical = minor == "0" || (!minor.starts_with('0') && !minor.starts_with('+'));
    minor.parse().ok().filter(|_| canonical)
}

fn label<'a>(namespace: &'a Value, name: &str) -> Option<&'a str> {
    namespace["metadata"]["labels"][format!("{PREFIX}{name}")].as_str()
}

/// The policy of one mode.
fn policy(namespace: &Value, mode: &str) -> Policy {
    let level = label(namespace, mode).map_or(Some(Level::Privileged), Level::parse);
    let version = label(namespace, &format!("{mode}-version")).map_or(Some(LATEST), version);
    match (level, version) {
        (Some(level), Some(version)) => Policy { level, version },
        // Unreadable: the strictest, for the modes that refuse; nothing for those that only tell.
        _ if mode == "enforce" => {
            Policy { level: level.unwrap_or(Level::Restricted), version: version.unwrap_or(LATEST) }
        }
        _ => Policy { level: level.unwrap_or(Level::Privileged), version: version.unwrap_or(LATEST) },
    }
}

fn label_errors(namespace: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = |name: &str| Path::new("metadata").child("labels").key(&format!("{PREFIX}{name}"));
    for mode in ["enforce", "audit", "warn"] {
        if let Some(text) = label(namespace, mode).filter(|text| Level::parse(text).is_none()) {
            errors.push(FieldError::invalid(path(mode), text, "must be one of privileged, baseline, restricted"));
        }
        let name = format!("{mode}-version");
        if let Some(text) = label(namespace, &name).filter(|text| version(text).is_none()) {
            errors.push(FieldError::invalid(path(&name), text, "must be \"latest\" or \"v1.x\""));
        }
    }
    errors
}

/// The violations of one pod or template as one sentence; `None` when there are none.
fn judge(policy: Policy, metadata: &Value, spec: &Value) -> Option<String> {
    let pod = Pod { annotations: metadata["annotations"].as_object(), spec, version: policy.version };
    let found = violations(policy.level, &pod);
    (!found.is_empty())
        .then(|| found.iter().map(|(reason, detail)| format!("{reason} ({detail})")).collect::<Vec<_>>().join(", "))
}

/// Metadata and spec of the pods that an object makes; `None` for kinds that make none.
fn template<'a>(request: &Request<'_>, object: &'a Value) -> Option<(&'a Value, &'a Value)> {
    let template = match (request.group, request.resource) {
        ("", "podtemplates") => &object["template"],
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => &object["spec"]["template"],
        ("batch", "cronjobs") => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    template["spec"].is_object().then(|| (&template["metadata"], &template["spec"]))
}

/// Whether an update of a pod changes anything the profiles look at.
fn significant(old: &Value, new: &Value) -> bool {
    let annotations = |pod: &Value| -> BTreeMap<String, Value> {
        let all = pod["metadata"]["annotations"].as_object().into_iter().flatten();
        let relevant = |key: &str| {
            key.contains("seccomp.security.alpha.kubernetes.io") || key.contains("apparmor.security.beta.kubernetes.io")
        };
        all.filter(|(key, _)| relevant(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    if annotations(old) != annotations(new) {
        return true;
    }
    super::ALL_CONTAINERS.iter().any(|list| {
        let relevant = |pod: &Value| -> Vec<(Value, Value, Value)> {
            let all = pod["spec"][*list].as_array().into_iter().flatten();
            all.map(|c| (c["name"].clone(), c["image"].clone(), c["securityContext"].clone())).collect()
        };
        relevant(old) != relevant(new)
    })
}

impl PodSecurity {
    async fn check_pod(&self, request: &Request<'_>, pod: &Value) -> Result<(), Status> {
        let changes_nothing =
            request.operation == Operation::Update && request.old.is_some_and(|old| !significant(old, pod));
        if changes_nothing {
            return Ok(());
        }
        let Some(namespace) = find(&*self.0, ("", "namespaces"), "", request.namespace).await? else { return Ok(()) };
        let enforce = policy(&namespace, "enforce");
        request.ctx.annotations.add(format!("{PREFIX}enforce-policy"), enforce.to_string());
        note(request, &namespace, &pod["metadata"], &pod["spec"]);
        if let Some(why) = judge(enforce, &pod["metadata"], &pod["spec"]) {
            return Err(request.forbidden(Some(pod), &format!("violates PodSecurity \"{enforce}\": {why}")));
        }
        warn(request, &namespace, &pod["metadata"], &pod["spec"]);
        Ok(())
    }

    async fn check_template(&self, request: &Request<'_>, metadata: &Value, spec: &Value) -> Result<(), Status> {
        if let Some(namespace) = find(&*self.0, ("", "namespaces"), "", request.namespace).await? {
            note(request, &namespace, metadata, spec);
            warn(request, &namespace, metadata, spec);
        }
        Ok(())
    }

    fn check_namespace(&self, request: &Request<'_>, namespace: &Value) -> Result<(), Status> {
        let errors = label_errors(namespace);
        let old_errors = request.old.map(label_errors).unwrap_or_default();
        if !errors.is_empty() && (request.operation == Operation::Create || errors != old_errors) {
            let kind = GroupKind { group: String::new(), kind: "Namespace".to_owned() };
            return Err(Status::invalid(&kind, request.display_name(Some(namespace)), &errors));
        }
        let Some(old) = request.old else { return Ok(()) };
        let (before, now) = (policy(old, "enforce"), policy(namespace, "enforce"));
        if before == now || now.level == Level::Privileged || now.level < before.level {
            return Ok(());
        }
        let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
        let mut by_violation: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in self.0.list(("", "pods"), name).iter().take(MAX_EXISTING_PODS) {
            if let Some(why) = judge(now, &pod["metadata"], &pod["spec"]) {
                by_violation
                    .entry(why)
                    .or_default()
                    .push(pod["metadata"]["name"].as_str().unwrap_or_default().to_owned());
            }
        }
        if !by_violation.is_empty() {
            request.ctx.warnings.add(format!(
                "existing pods in namespace {name:?} violate the new PodSecurity enforce level \"{now}\""
            ));
        }
        for (why, mut pods) in by_violation {
            pods.sort();
            let others = match pods.len() {
                1 => String::new(),
                2 => " (and 1 other pod)".to_owned(),
                n => format!(" (and {} other pods)", n - 1),
            };
            request.ctx.warnings.add(format!("{}{others}: {why}", pods[0]));
        }
        Ok(())
    }
}

/// What is told: the warn label's policy, or without one whatever is enforced.
fn warn_policy(namespace: &Value) -> Policy {
    let mode =
        if label(namespace, "warn").is_none() && label(namespace, "enforce").is_some() { "enforce" } else { "warn" };
    policy(namespace, mode)
}

/// What violates the audit label's policy goes to the audit log.
fn note(request: &Request<'_>, namespace: &Value, metadata: &Value, spec: &Value) {
    let policy = policy(namespace, "audit");
    if let Some(why) = judge(policy, metadata, spec) {
        let text = format!("would violate PodSecurity \"{policy}\": {why}");
        request.ctx.annotations.add(format!("{PREFIX}audit-violations"), text);
    }
}

fn warn(request: &Request<'_>, namespace: &Value, metadata: &Value, spec: &Value) {
    let policy = warn_policy(namespace);
    if let Some(why) = judge(policy, metadata, spec) {
        request.ctx.warnings.add(format!("would violate PodSecurity \"{policy}\": {why}"));
    }
}

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        if !matches!(request.operation, Operation::Create | Operation::Update) {
            return false;
        }
        match (request.group, request.resource) {
            ("", "pods") => matches!(request.subresource, "" | "ephemeralcontainers"),
            ("", "namespaces" | "podtemplates" | "replicationcontrollers") | ("apps" | "batch", _) => {
                request.subresource.is_empty()
            }
            _ => false,
        }
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let Some(object) = object else { return done(Ok(())) };
        match request.resource {
            "pods" => Box::pin(self.check_pod(request, object)),
            "namespaces" => done(self.check_namespace(request, object)),
            _ => match template(request, object) {
                Some((metadata, spec)) => Box::pin(self.check_template(request, metadata, spec)),
                None => done(Ok(())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels() {
        let namespace = |labels: Value| json!({"metadata": {"labels": labels}});
        let parsed = policy(
            &namespace(
                json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.24"}),
            ),
            "enforce",
        );
        assert_eq!(parsed.to_string(), "baseline:v1.24");
        assert_eq!(policy(&namespace(json!({})), "enforce").to_string(), "privileged:latest");
        let broken = namespace(
            json!({"pod-security.kubernetes.io/enforce": "strict", "pod-security.kubernetes.io/warn-version": "v2.0"}),
        );
        assert_eq!(policy(&broken, "enforce").level, Level::Restricted);
        let errors: Vec<_> = label_errors(&broken).iter().map(|e| e.path.to_string()).collect();
        assert_eq!(
            errors,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]",
                "metadata.labels[pod-security.kubernetes.io/warn-version]"
            ]
        );
        for (text, good) in
            [("latest", true), ("v1.0", true), ("v1.01", false), ("1.2", false), ("v1.x", false), ("v1.+1", false)]
        {
            assert_eq!(version(text).is_some(), good, "{text}");
        }
    }
}

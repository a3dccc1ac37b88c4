//! PodSecurity: the namespace's labels say which profile its pods must meet (enforce), or are told about (warn, audit).
//!
//! Pods are enforced; the templates of controllers only warn. A label that cannot be read counts as `restricted`, and
//! writing one is refused. Tightening a namespace warns about the pods that are already there.

mod checks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use apimachinery::field::{self, ErrorList, FieldError, Path};
use apimachinery::gvk::GroupKind;
use apimachinery::status::Status;
use component_base::metrics::{self, Counter, Family};
use futures::future::BoxFuture;
use serde_json::Value;

use self::checks::{LATEST, Level, Minor, Pod, violations};
use super::{Operation, Plugin, Request, done};
use crate::objects::{Objects, find};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Existing pods looked at when a namespace is tightened.
const MAX_EXISTING_PODS: usize = 3000;

/// How long those are looked at.
const MAX_LOOKING: Duration = Duration::from_secs(1);
/// Of pods; any other one may bring a spec.
const IGNORED_SUBRESOURCES: [&str; 8] =
    ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];
/// The newest profile that has a version of its own.
const OWN_MINOR: Minor = 36;

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

/// What a namespace's labels say of each mode; [`label_errors`] tells whether all of it could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policies {
    enforce: Policy,
    audit: Policy,
    warn: Policy,
}

impl Policies {
    fn of(namespace: &Value) -> Self {
        // Unreadable: the strictest, for the mode that refuses; nothing for those that only tell.
        let mode = |mode: &str, unreadable| Policy {
            level: label(namespace, mode).map_or(Level::Privileged, |level| Level::parse(level).unwrap_or(unreadable)),
            version: label(namespace, &format!("{mode}-version")).and_then(version).unwrap_or(LATEST),
        };
        let enforce = mode("enforce", Level::Restricted);
        let (audit, mut warn) = (mode("audit", Level::Privileged), mode("warn", Level::Privileged));
        // Who enforces is warned of the same.
        if label(namespace, "warn").is_none() && label(namespace, "enforce").and_then(Level::parse) > Some(warn.level) {
            warn.level = enforce.level;
            if label(namespace, "warn-version").is_none() {
                warn.version = enforce.version;
            }
        }
        Self { enforce, audit, warn }
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

fn found(policy: Policy, metadata: &Value, spec: &Value) -> Vec<(&'static str, String)> {
    violations(policy.level, &Pod { annotations: metadata["annotations"].as_object(), spec, version: policy.version })
}

/// The violations of one pod or template as one sentence; `None` when there are none.
fn judge(policy: Policy, metadata: &Value, spec: &Value) -> Option<String> {
    let found = found(policy, metadata, spec);
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

/// Whether an update of a pod changes anything the profiles look at: a container's image, or which containers there are.
fn significant(old: &Value, new: &Value) -> bool {
    fn list<'a>(pod: &'a Value, name: &str) -> &'a [Value] {
        pod["spec"][name].as_array().map_or(&[], Vec::as_slice)
    }
    let changed = |name: &str| {
        let (old, new) = (list(old, name), list(new, name));
        old.len() != new.len() || old.iter().zip(new).any(|(old, new)| old["image"] != new["image"])
    };
    let debugger_is_new = |container: &Value| {
        let known = list(old, "ephemeralContainers").iter().find(|known| known["name"] == container["name"]);
        known.is_none_or(|known| known["image"] != container["image"])
    };
    changed("containers") || changed("initContainers") || list(new, "ephemeralContainers").iter().any(debugger_is_new)
}

impl PodSecurity {
    async fn policies(&self, request: &Request<'_>) -> Result<(Policies, ErrorList), Status> {
        let namespace = find(&*self.0, ("", "namespaces"), "", request.namespace).await;
        match namespace {
            Ok(Some(namespace)) => Ok((Policies::of(&namespace), label_errors(&namespace))),
            Ok(None) | Err(_) => {
                count_error(request, true);
                Err(Status::internal(format!("failed to lookup namespace {:?}", request.namespace)))
            }
        }
    }

    async fn check_pod(&self, request: &Request<'_>, pod: &Value) -> Result<(), Status> {
        let (policies, errors) = self.policies(request).await?;
        let Policies { enforce, audit, warn } = policies;
        if errors.is_empty() && [enforce, audit, warn].iter().all(|policy| policy.level == Level::Privileged) {
            note(request, "enforce-policy", "privileged:latest".to_owned());
            count(request, "allow", enforce, "enforce");
            return Ok(());
        }
        if request.operation == Operation::Update && request.old.is_some_and(|old| !significant(old, pod)) {
            return Ok(());
        }
        note(request, "enforce-policy", enforce.to_string());
        let refused = judge(enforce, &pod["metadata"], &pod["spec"]);
        count(request, if refused.is_some() { "deny" } else { "allow" }, enforce, "enforce");
        tell(request, &policies, &errors, &pod["metadata"], &pod["spec"], refused.is_none());
        match refused {
            Some(why) => Err(request.forbidden(Some(pod), &format!("violates PodSecurity \"{enforce}\": {why}"))),
            None => Ok(()),
        }
    }

    async fn check_template(&self, request: &Request<'_>, metadata: &Value, spec: &Value) -> Result<(), Status> {
        match self.policies(request).await {
            Ok((policies, errors)) => tell(request, &policies, &errors, metadata, spec, true),
            // What refuses the pods may let their template through.
            Err(error) => note(request, "error", error.message),
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
        let (before, now) = (Policies::of(old).enforce, Policies::of(namespace).enforce);
        let is_relaxed = before.version == now.version && now.level <= before.level;
        if before == now || now.level == Level::Privileged || is_relaxed {
            return Ok(());
        }
        let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
        for warning in existing(name, now, &one_of_each_controller(self.0.list(("", "pods"), name))) {
            request.ctx.warnings.add(warning);
        }
        Ok(())
    }
}

/// The pods with one of each controller's first: its others are likely to be alike.
fn one_of_each_controller(pods: Vec<Arc<Value>>) -> Vec<Arc<Value>> {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let (mut first, others): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| {
        let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let controller = owners.into_iter().find(|owner| owner["controller"] == true);
        controller.is_none_or(|controller| seen.insert(controller["uid"].to_string()))
    });
    first.extend(others);
    first
}

/// What to say of the pods that are already there when their namespace is tightened. Looks for at most a second.
fn existing(namespace: &str, policy: Policy, pods: &[Arc<Value>]) -> Vec<String> {
    let begun = Instant::now();
    let mut by_reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut checked = 0;
    for pod in pods.iter().take(MAX_EXISTING_PODS) {
        checked += 1;
        let found = found(policy, &pod["metadata"], &pod["spec"]);
        if !found.is_empty() {
            let reasons = found.iter().map(|(reason, _)| *reason).collect::<Vec<_>>().join(", ");
            by_reasons.entry(reasons).or_default().push(pod["metadata"]["name"].as_str().unwrap_or_default());
        }
        if begun.elapsed() > MAX_LOOKING {
            break;
        }
    }
    let mut said: Vec<String> = by_reasons
        .into_iter()
        .map(|(reasons, pods)| {
            let first = pods.iter().min().copied().unwrap_or_default();
            match pods.len() {
                1 => format!("{first}: {reasons}"),
                2 => format!("{first} (and 1 other pod): {reasons}"),
                n => format!("{first} (and {} other pods): {reasons}", n - 1),
            }
        })
        .collect();
    said.sort();
    let mut warnings = Vec::new();
    if checked < pods.len() {
        let of = pods.len();
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {of} existing pods"
        ));
    }
    if !said.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{policy}\""
        ));
    }
    warnings.extend(said);
    warnings
}

fn note(request: &Request<'_>, key: &str, text: String) {
    request.ctx.annotations.add(format!("{PREFIX}{key}"), text);
}

/// What violates the audit label's policy goes to the audit log; what violates the warn label's is said, unless the request
/// is refused anyway.
fn tell(
    request: &Request<'_>,
    policies: &Policies,
    errors: &ErrorList,
    metadata: &Value,
    spec: &Value,
    with_warning: bool,
) {
    if !errors.is_empty() {
        note(request, "error", format!("Failed to parse policy: {}", field::sentence(errors)));
        count_error(request, false);
    }
    let would = |policy: Policy| {
        judge(policy, metadata, spec).map(|why| format!("would violate PodSecurity \"{policy}\": {why}"))
    };
    if let Some(text) = would(policies.audit) {
        note(request, "audit-violations", text);
        count(request, "deny", policies.audit, "audit");
    }
    if let Some(text) = with_warning.then(|| would(policies.warn)).flatten() {
        request.ctx.warnings.add(text);
        count(request, "deny", policies.warn, "warn");
    }
}

static EVALUATIONS: LazyLock<Family<Counter>> = LazyLock::new(|| {
    let labels =
        &["decision", "policy_level", "policy_version", "mode", "request_operation", "resource", "subresource"];
    metrics::counter("pod_security_evaluations_total", "Judgements of pods and templates", labels)
});
static ERRORS: LazyLock<Family<Counter>> = LazyLock::new(|| {
    let labels = &["fatal", "request_operation", "resource", "subresource"];
    metrics::counter("pod_security_errors_total", "Namespaces or labels that could not be read", labels)
});

fn count(request: &Request<'_>, decision: &str, policy: Policy, mode: &str) {
    let version = match policy.version {
        _ if policy.level == Level::Privileged => "latest".to_owned(),
        LATEST => "latest".to_owned(),
        minor if minor > OWN_MINOR => "future".to_owned(),
        minor => format!("v1.{minor}"),
    };
    let [operation, resource, subresource] = about(request);
    EVALUATIONS.with(&[decision, policy.level.name(), &version, mode, operation, resource, subresource]).inc();
}

fn count_error(request: &Request<'_>, fatal: bool) {
    let [operation, resource, subresource] = about(request);
    ERRORS.with(&[if fatal { "true" } else { "false" }, operation, resource, subresource]).inc();
}

fn about<'a>(request: &Request<'a>) -> [&'a str; 3] {
    let operation = if request.operation == Operation::Create { "create" } else { "update" };
    [operation, if request.resource == "pods" { "pod" } else { "controller" }, request.subresource]
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
            ("", "pods") => !IGNORED_SUBRESOURCES.contains(&request.subresource),
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
        let cases = [
            (json!({}), ["privileged:latest"; 3]),
            (json!({"enforce": "baseline"}), ["baseline:latest", "privileged:latest", "baseline:latest"]),
            (
                json!({"enforce": "restricted", "enforce-version": "v1.24"}),
                ["restricted:v1.24", "privileged:latest", "restricted:v1.24"],
            ),
            (
                json!({"enforce": "restricted", "enforce-version": "v1.24", "warn-version": "v1.30"}),
                ["restricted:v1.24", "privileged:latest", "restricted:v1.30"],
            ),
            (
                json!({"enforce": "restricted", "warn": "privileged", "audit": "baseline"}),
                ["restricted:latest", "baseline:latest", "privileged:latest"],
            ),
            (
                json!({"enforce": "x", "audit": "x", "warn": "x", "enforce-version": "1.2"}),
                ["restricted:latest", "privileged:latest", "privileged:latest"],
            ),
            (json!({"enforce": "x"}), ["restricted:latest", "privileged:latest", "privileged:latest"]),
        ];
        for (short, expected) in cases {
            let labels: Value = short
                .as_object()
                .unwrap()
                .iter()
                .map(|(key, value)| (format!("{PREFIX}{key}"), value.clone()))
                .collect();
            let Policies { enforce, audit, warn } = Policies::of(&namespace(labels));
            assert_eq!([enforce, audit, warn].map(|policy| policy.to_string()), expected, "{short}");
        }
        let broken = namespace(
            json!({"pod-security.kubernetes.io/enforce": "strict", "pod-security.kubernetes.io/warn-version": "v2.0"}),
        );
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

    #[test]
    fn what_is_said_of_existing_pods() {
        let pod = |name: &str, owner: Option<&str>, spec: Value| {
            let owners = owner.map(|uid| json!([{"controller": true, "uid": uid}]));
            Arc::new(json!({"metadata": {"name": name, "ownerReferences": owners}, "spec": spec}))
        };
        let bad =
            || json!({"hostNetwork": true, "containers": [{"name": "c", "securityContext": {"privileged": true}}]});
        let pods = vec![
            pod("b", Some("1"), bad()),
            pod("a", Some("1"), bad()),
            pod("z", None, bad()),
            pod("p", Some("2"), json!({"hostPID": true})),
            pod("fine", None, json!({"containers": [{"name": "c"}]})),
        ];
        let ordered = one_of_each_controller(pods);
        let names: Vec<&str> = ordered.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["b", "z", "p", "fine", "a"]);
        let policy = Policy { level: Level::Baseline, version: 30 };
        assert_eq!(
            existing("ns", policy, &ordered),
            [
                "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:v1.30\"",
                "a (and 2 other pods): host namespaces, privileged",
                "p: host namespaces",
            ]
        );
    }

    #[test]
    fn only_images_and_new_containers_matter_to_updates() {
        let pod = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}],
            "ephemeralContainers": [{"name": "e", "image": "i"}]}});
        let with = |change: fn(&mut Value)| {
            let mut new = pod.clone();
            change(&mut new);
            significant(&pod, &new)
        };
        assert!(!with(|pod| pod["metadata"]["annotations"]["a"] = "c".into()));
        assert!(!with(|pod| pod["spec"]["containers"][0]["resources"] = json!({})));
        assert!(with(|pod| pod["spec"]["containers"][0]["image"] = "j".into()));
        assert!(with(|pod| pod["spec"]["initContainers"] = json!([{"name": "i"}])));
        assert!(with(|pod| pod["spec"]["ephemeralContainers"][0]["name"] = "f".into()));
        assert!(!with(|pod| pod["spec"]["ephemeralContainers"] = json!([])));
    }
}

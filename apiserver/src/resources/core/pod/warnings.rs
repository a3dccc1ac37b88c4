//! What is accepted in a pod spec but probably not meant. Follows upstream's `GetWarningsForPod` and
//! `GetWarningsForPodTemplate`; one sentence per finding.

use apimachinery::quantity::Quantity;
use apimachinery::validation as names;
use serde_json::Value;

use super::super::claims;
use crate::resources::check::{At, parse_ip};

/// Warnings for a new pod; updates of pods get none.
pub fn pod(pod: &Value, old: Option<&Value>) -> Vec<String> {
    let at = At::root(pod);
    let mut out = Vec::new();
    if old.is_some() {
        return out;
    }
    out.extend(dotted_name(pod));
    out.extend(spec(&at.get("spec"), &at.get("metadata")));
    out
}

/// A warning of a name that is no label, for what pods and their hosts are named after.
pub fn dotted_name(object: &Value) -> Option<String> {
    let complaints = names::dns1123_label(At::root(object).get("metadata.name").str());
    let warning = "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended";
    (!complaints.is_empty()).then(|| format!("{warning}: {complaints:?}"))
}

/// Warnings for a template at `at`, none where its owner is unchanged.
pub fn template(at: &At, unchanged: bool) -> Vec<String> {
    if unchanged || !at.is_set() {
        return Vec::new();
    }
    spec(&at.get("spec"), &at.get("metadata"))
}

fn spec(at: &At, meta: &At) -> Vec<String> {
    let mut out = Vec::new();
    deprecated_labels(&mut out, at);
    annotations(&mut out, at, meta);
    for alias in at.get("hostAliases").items() {
        odd_ip(&mut out, &alias.get("ip"));
    }
    for server in at.get("dnsConfig.nameservers").items() {
        odd_ip(&mut out, &server);
    }
    duplicates(&mut out, &at.get("hostAliases"), "ip");
    duplicates(&mut out, &at.get("imagePullSecrets"), "name");
    for secret in at.get("imagePullSecrets").items().filter(|s| s.get("name").is_empty()) {
        out.push(format!("{}: invalid empty name \"\"", secret.get("name").path));
    }
    volumes(&mut out, at);
    for (name, amount) in at.get("overhead").entries() {
        fractional(&mut out, name, &amount);
    }
    for container in super::all_containers(at) {
        warn_container(&mut out, &container);
    }
    ports(&mut out, at);
    let grace = at.get("terminationGracePeriodSeconds");
    if grace.number() < 0 {
        out.push(format!("{}: negative values are taken for 1", grace.path));
    }
    out
}

fn deprecated_label(out: &mut Vec<String>, at: &At, key: &str) {
    const LABELS: [(&str, &str); 5] = [
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ];
    if let Some((_, instead)) = LABELS.iter().find(|(label, _)| *label == key) {
        out.push(format!("{}: deprecated label; use \"{instead}\" instead", at.path));
    }
}

/// Deprecated labels among the keys of a map.
pub fn map_labels(out: &mut Vec<String>, at: &At) {
    for (key, at) in at.entries() {
        deprecated_label(out, &at, key);
    }
}

/// Deprecated labels in the expressions of a selector.
pub fn expression_labels(out: &mut Vec<String>, at: &At) {
    for expression in at.items() {
        deprecated_label(out, &expression.get("key"), expression.get("key").str());
    }
}

fn deprecated_labels(out: &mut Vec<String>, spec: &At) {
    map_labels(out, &spec.get("nodeSelector"));
    let affinity = spec.get("affinity.nodeAffinity");
    let required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
    let preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution");
    let terms = required.items().chain(preferred.items().map(|t| t.get("preference")));
    for term in terms {
        expression_labels(out, &term.get("matchExpressions"));
    }
    for constraint in spec.get("topologySpreadConstraints").items() {
        deprecated_label(out, &constraint.get("topologyKey"), constraint.get("topologyKey").str());
        if !constraint.get("labelSelector").is_set() {
            out.push(format!(
                "{}: a null labelSelector results in matching no pod",
                constraint.get("labelSelector").path
            ));
        }
    }
    for pods in ["podAffinity", "podAntiAffinity"].map(|f| spec.get("affinity").get(f)) {
        let required = pods.get("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = pods.get("preferredDuringSchedulingIgnoredDuringExecution");
        for term in required.items().chain(preferred.items().map(|t| t.get("podAffinityTerm"))) {
            if !term.get("labelSelector").is_set() {
                out.push(format!(
                    "{}: a null labelSelector results in matching no pod",
                    term.get("labelSelector").path
                ));
            }
        }
    }
}

fn annotations(out: &mut Vec<String>, spec: &At, meta: &At) {
    const DEPRECATED: [(&str, &str); 2] = [
        (
            "scheduler.alpha.kubernetes.io/critical-pod",
            "non-functional in v1.16+; use the \"priorityClassName\" field instead",
        ),
        ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ];
    for (key, annotation) in meta.get("annotations").entries() {
        if let Some((_, instead)) = DEPRECATED.iter().find(|(k, _)| *k == key) {
            out.push(format!("{}: {instead}", annotation.path));
        } else if key == "security.alpha.kubernetes.io/unsafe-sysctls" {
            out.push(format!("{}: non-functional in v1.11+; use the \"sysctls\" field instead", annotation.path));
        } else if key == "seccomp.security.alpha.kubernetes.io/pod"
            && !spec.get("securityContext.seccompProfile").is_set()
        {
            out.push(format!(
                "{}: non-functional in v1.27+; use the \"seccompProfile\" field instead",
                annotation.path
            ));
        } else if let Some(name) = key.strip_prefix("container.seccomp.security.alpha.kubernetes.io/") {
            let container = super::all_containers(spec).find(|c| c.get("name").str() == name);
            if container.is_none_or(|c| !c.get("securityContext.seccompProfile").is_set()) {
                out.push(format!(
                    "{}: non-functional in v1.27+; use the \"seccompProfile\" field instead",
                    annotation.path
                ));
            }
        } else if let Some(name) = key.strip_prefix("container.apparmor.security.beta.kubernetes.io/") {
            let container = super::all_containers(spec).find(|c| c.get("name").str() == name);
            let profile = "securityContext.appArmorProfile";
            if container.is_none_or(|c| !c.get(profile).is_set()) && !spec.get(profile).is_set() {
                out.push(format!(
                    "{}: deprecated since v1.30; use the \"appArmorProfile\" field instead",
                    annotation.path
                ));
            }
        }
    }
}

fn volumes(out: &mut Vec<String>, spec: &At) {
    const GONE: [(&str, &str); 9] = [
        ("gitRepo", "deprecated in v1.11"),
        ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
        ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
        ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
        ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ];
    for volume in spec.get("volumes").items() {
        for (field, since) in GONE.iter().filter(|(field, _)| volume.get(field).is_set()) {
            out.push(format!("{}: {since}", volume.get(field).path));
        }
        for kind in ["configMap", "secret", "downwardAPI"] {
            let items = volume.get(kind).get("items").items();
            overlaps(out, &items.map(|item| item.get("path")).collect::<Vec<_>>());
        }
        projected(out, &volume.get("projected.sources"));
        claims::size_warnings(out, &volume.get("ephemeral.volumeClaimTemplate.spec"));
    }
}

/// Sources that are empty, and paths that two sources claim.
fn projected(out: &mut Vec<String>, sources: &At) {
    const KINDS: [&str; 6] =
        ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
    let mut paths: Vec<At> = Vec::new();
    for source in sources.items() {
        if !KINDS.iter().any(|kind| source.get(kind).is_set()) {
            out.push(format!("{}: no sources provided", source.path));
        }
        for kind in KINDS.map(|kind| source.get(kind)) {
            paths.extend(kind.get("items").items().map(|item| item.get("path")));
            paths.extend(Some(kind.get("path")).filter(At::is_set));
        }
    }
    overlaps(out, &paths);
}

/// Paths that are the same, or of which one is below the other.
fn overlaps(out: &mut Vec<String>, paths: &[At]) {
    let below =
        |path: &str, other: &str| path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let text = |path: &At| path.str().trim_end_matches('/').to_owned();
    for (i, path) in paths.iter().enumerate() {
        for other in &paths[..i] {
            if below(&text(path), &text(other)) || below(&text(other), &text(path)) {
                out.push(format!("{}: conflicting path {:?} also claimed by {}", path.path, path.str(), other.path));
            }
        }
    }
}

fn warn_container(out: &mut Vec<String>, container: &At) {
    for list in ["requests", "limits"] {
        for (name, amount) in container.get("resources").get(list).entries() {
            fractional(out, name, &amount);
        }
    }
    hidden_variables(out, &container.get("env"));
}

/// Less than a whole unit of what comes in units.
fn fractional(out: &mut Vec<String>, name: &str, amount: &At) {
    if ["memory", "ephemeral-storage"].contains(&name)
        && amount.quantity() != Quantity::default()
        && amount.quantity().milli() % 1000 != 0
    {
        out.push(format!("{}: fractional byte value \"{}\" is invalid, must be an integer", amount.path, amount.str()));
    }
}

fn duplicates(out: &mut Vec<String>, list: &At, field: &str) {
    let mut seen: Vec<&str> = Vec::new();
    for item in list.items().map(|item| item.get(field)) {
        if seen.contains(&item.str()) {
            out.push(format!("{}: duplicate {field} \"{}\"", item.path, item.str()));
        } else {
            seen.push(item.str());
        }
    }
}

/// A variable that is defined again without building on its first value.
fn hidden_variables(out: &mut Vec<String>, env: &At) {
    let mut seen: Vec<&str> = Vec::new();
    for variable in env.items() {
        let (name, value) = (variable.get("name").str(), variable.get("value").str());
        let reference = format!("$({name})");
        let builds_on = value.contains(&reference) && value != reference && !variable.get("valueFrom").is_set();
        if !seen.contains(&name) {
            seen.push(name);
        } else if !builds_on {
            out.push(format!(
                "{}: hides previous definition of \"{name}\", which may be dropped by apply",
                variable.path
            ));
        }
    }
}

/// Ports that are defined twice or nearly so, and names that two ports carry.
fn ports(out: &mut Vec<String>, spec: &At) {
    let ports: Vec<At> = super::all_containers(spec).flat_map(|c| c.get("ports").items().collect::<Vec<_>>()).collect();
    for (i, port) in ports.iter().enumerate() {
        let (host_ip, host_port) = (port.get("hostIP").str(), port.get("hostPort").number());
        if !host_ip.is_empty() && host_port == 0 {
            out.push(format!("{}: hostIP set without hostPort", port.path));
        }
        let same_port = |other: &&At| {
            ["containerPort", "protocol"].iter().all(|field| other.get(field).value == port.get(field).value)
        };
        for other in ports[..i].iter().filter(same_port) {
            let (other_ip, other_port) = (other.get("hostIP").str(), other.get("hostPort").number());
            let finding = if (host_ip, host_port) == (other_ip, other_port) {
                "duplicate"
            } else if host_port == 0 || other_port == 0 {
                "overlapping"
            } else if host_port == other_port && host_ip.is_empty() != other_ip.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            out.push(format!("{}: {finding} port definition with {}", port.path, other.path));
        }
    }
    for (i, port) in ports.iter().enumerate().filter(|(_, port)| !port.get("name").is_empty()) {
        let name = port.get("name").str();
        if let Some(first) = ports[..i].iter().find(|other| other.get("name").str() == name) {
            let first = &first.path;
            out.push(format!(
                "{}: duplicate port name \"{name}\" with {first}, which readers by name will use",
                port.path
            ));
        }
    }
}

fn odd_ip(out: &mut Vec<String>, at: &At) {
    if let Some(ip) = parse_ip(at.str()).filter(|ip| ip.to_string() != at.str()) {
        out.push(format!("{}: non-standard IP address \"{}\" will be considered invalid in a future Kubernetes release: use \"{ip}\"", at.path, at.str()));
    }
}

//! Environment variables and the references by which a container learns about itself. Follows upstream's `ValidateEnv`,
//! `ValidateEnvFrom` and their selectors.

use apimachinery::validation as names;

use crate::resources::check::{At, Check};

/// Fields an environment variable may show.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP",
    "status.hostIPs", "status.podIP", "status.podIPs",
];
/// Fields that can be named at all.
const KNOWN_FIELDS: [&str; 15] = [
    "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
    "spec.restartPolicy", "spec.serviceAccountName", "spec.schedulerName", "spec.host", "status.phase",
    "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage",
    "requests.memory",
];
const SIZES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Printable ASCII without `=`: what a variable may be called.
fn variable_name(name: &str) -> Vec<String> {
    if !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// `env` and `envFrom` of a container.
pub fn validate(check: &mut Check, container: &At) {
    for variable in container.get("env").items() {
        check.present_format(&variable.get("name"), variable_name);
        value_from(check, &variable);
    }
    let env_from = container.get("envFrom");
    for source in env_from.items() {
        check.format_if_set(&source.get("prefix"), variable_name);
        let refs: Vec<At> = ["configMapRef", "secretRef"].iter().map(|k| source.get(k)).filter(At::is_set).collect();
        for reference in &refs {
            check.present_format(&reference.get("name"), |name| {
                names::dns1123_subdomain(name.strip_suffix('-').unwrap_or(name))
            });
        }
        if refs.len() != 1 {
            check.invalid(&env_from, "must specify exactly one of: `configMapRef` or `secretRef`");
        }
    }
}

fn value_from(check: &mut Check, variable: &At) {
    const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let from = variable.get("valueFrom");
    if !from.is_set() {
        return;
    }
    let sources: Vec<&str> = SOURCES.into_iter().filter(|k| from.get(k).is_set()).collect();
    for kind in &sources {
        let at = from.get(kind);
        match *kind {
            "fieldRef" => field_ref(check, &at, &ENV_FIELDS),
            "resourceFieldRef" => resource_field_ref(check, &at, false),
            "fileKeyRef" => file_key(check, &at),
            _ => {
                check.format(&at.get("name"), names::dns1123_subdomain);
                check.present_format(&at.get("key"), names::config_map_key);
            }
        }
    }
    if sources.is_empty() || !variable.get("value").is_empty() || sources.len() > 1 {
        check.invalid(&from, "must specify exactly one source, and no `value` besides");
    }
}

/// Files of variables lie in empty directories of the same pod.
pub fn file_key_volumes(check: &mut Check, spec: &At) {
    for variable in super::all_containers(spec).flat_map(|container| container.get("env").items().collect::<Vec<_>>()) {
        let at = variable.get("valueFrom.fileKeyRef");
        if !at.is_set() {
            continue;
        }
        let name = at.get("volumeName");
        match spec.get("volumes").items().filter(|volume| volume.get("name").str() == name.str()).last() {
            None => check.not_found(&name),
            Some(volume) if !volume.get("emptyDir").is_set() => {
                check.invalid(&name, "referenced volume must be of type emptyDir");
            }
            Some(_) => {}
        }
    }
}

fn file_key(check: &mut Check, at: &At) {
    check.present_format(&at.get("volumeName"), names::dns1123_label);
    check.present_format(&at.get("key"), variable_name);
    if check.present(&at.get("path")) {
        super::volumes::local_path(check, &at.get("path"));
    }
}

/// A field of the pod, out of `allowed`, or one annotation or label by subscript.
pub fn field_ref(check: &mut Check, at: &At, allowed: &[&str]) {
    let (version, field) = (at.get("apiVersion"), at.get("fieldPath"));
    if !check.present(&version) || !check.present(&field) {
        return;
    }
    let (path, subscript) = match field.str().strip_suffix("']").and_then(|f| f.split_once("['")) {
        Some((path, key)) => (path, Some(key)),
        None => (field.str(), None),
    };
    let subscripted = ["metadata.annotations", "metadata.labels"].contains(&path);
    if version.str() != "v1" || !KNOWN_FIELDS.contains(&path) || (subscript.is_some() && !subscripted) {
        return check.invalid(&field, "error converting fieldPath: field label not supported");
    }
    match subscript {
        Some(key) => {
            let key = if path == "metadata.annotations" { key.to_lowercase() } else { key.to_owned() };
            for complaint in names::qualified_name(&key) {
                check.invalid(at, complaint);
            }
        }
        None if path != "spec.host" && !allowed.contains(&path) => check.not_supported(&field, allowed),
        None => {}
    }
}

/// A container's request or limit; a volume must also say whose.
pub fn resource_field_ref(check: &mut Check, at: &At, in_volume: bool) {
    let (container, resource, divisor) = (at.get("containerName"), at.get("resource"), at.get("divisor"));
    let name = resource.str();
    let hugepages = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if in_volume && container.is_empty() {
        check.required(&container, "");
    } else if check.present(&resource) && !RESOURCES.contains(&name) && !hugepages {
        check.not_supported(&resource, &RESOURCES);
    }
    if divisor.quantity() == apimachinery::quantity::Quantity::default() {
        return;
    }
    let allowed: &[&str] = if name.ends_with(".cpu") { &["1m", "1"] } else { &SIZES };
    if (RESOURCES.contains(&name) || hugepages) && !allowed.contains(&divisor.str()) {
        check.invalid(&divisor, format!("only divisor's values {} are supported", allowed.join(", ")));
    }
}

//! A container's environment: service variables, `envFrom`, `env`, `$(VAR)` expansion. Pure.
//!
//! What it needs from the API (config maps, secrets, services) is given as [`Lookups`]; `references` says which.
//! Error texts are upstream's, since they become the container's waiting message.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Secret};

use super::types::Pod;
use super::{env_file, resources};

/// A Service as far as environment variables need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInfo {
    pub name: String,
    pub namespace: String,
    pub cluster_ip: String,
    /// (name, port, protocol)
    pub ports: Vec<(String, i32, String)>,
}

/// Objects fetched for one pod, by name; a missing one is absent.
#[derive(Debug, Default)]
pub struct Lookups {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
    pub services: Vec<ServiceInfo>,
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
    pub allocatable: resources::Amounts,
    /// (volume, path) → text of the environment files that are there.
    pub files: BTreeMap<(String, String), String>,
    /// Objects are as they were then or later.
    pub since: Timestamp,
}

/// Names of config maps and secrets that a container's environment refers to.
pub fn references(container: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (config_maps, secrets)
}

/// The variables of a container, each name once, in order of first definition.
///
/// # Errors
/// The message of `CreateContainerConfigError`: what is missing or cannot be read.
pub fn build(pod: &Pod, container: &Container, lookups: &Lookups) -> Result<Vec<(String, String)>, String> {
    let mut env = Env::default();
    let mut service = BTreeMap::new();
    for info in &lookups.services {
        let master = info.namespace == "default" && info.name == "kubernetes";
        let linked = info.namespace == pod.namespace() && pod.spec.enable_service_links != Some(false);
        if master || linked {
            service.extend(service_variables(info));
        }
    }
    add_env_from(pod, container, lookups, &mut env)?;
    for var in container.env.iter().flatten() {
        let value = match &var.value_from {
            None => {
                let raw = var.value.as_deref().unwrap_or_default();
                expand(raw, |name| env.get(name).or_else(|| service.get(name)).cloned())
            }
            Some(source) => match from_source(pod, container, source, lookups)? {
                Some(value) => value,
                None => continue,
            },
        };
        env.set(&var.name, value);
    }
    // Service variables never replace the container's own.
    for (name, value) in service {
        if env.get(&name).is_none() {
            env.set(&name, value);
        }
    }
    Ok(env.list)
}

#[derive(Default)]
struct Env {
    list: Vec<(String, String)>,
}

impl Env {
    fn get(&self, name: &str) -> Option<&String> {
        self.list.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    fn set(&mut self, name: &str, value: String) {
        match self.list.iter_mut().find(|(n, _)| n == name) {
            Some(entry) => entry.1 = value,
            None => self.list.push((name.to_owned(), value)),
        }
    }
}

fn add_env_from(pod: &Pod, container: &Container, lookups: &Lookups, env: &mut Env) -> Result<(), String> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match lookups.config_maps.get(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        env.set(&format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match lookups.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        env.set(&format!("{prefix}{key}"), text(&value.0, key, "Secret", pod, &reference.name)?);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", reference.name)),
            }
        }
    }
    Ok(())
}

fn text(bytes: &[u8], key: &str, kind: &str, pod: &Pod, name: &str) -> Result<String, String> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| format!("key {key} in {kind} {}/{name} is not text and cannot be a variable", pod.namespace()))
}

/// A variable's value from its source; `None` when it is optional and missing.
fn from_source(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    lookups: &Lookups,
) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, lookups).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        let holder = reference.container_name.as_deref().unwrap_or(&container.name);
        let divisor = reference.divisor.as_ref().map(|q| q.0.as_str());
        return resource_value(pod, holder, &reference.resource, divisor, &lookups.allocatable).map(Some);
    }
    let missing =
        |optional: Option<bool>, message: String| if optional == Some(true) { Ok(None) } else { Err(message) };
    if let Some(reference) = &source.config_map_key_ref {
        let (name, key) = (&reference.name, &reference.key);
        let Some(map) = lookups.config_maps.get(name) else {
            return missing(reference.optional, format!("configmap \"{name}\" not found"));
        };
        return match map.data.as_ref().and_then(|d| d.get(key)) {
            Some(value) => Ok(Some(value.clone())),
            None => {
                missing(reference.optional, format!("couldn't find key {key} in ConfigMap {}/{name}", pod.namespace()))
            }
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let (name, key) = (&reference.name, &reference.key);
        let Some(secret) = lookups.secrets.get(name) else {
            return missing(reference.optional, format!("secret \"{name}\" not found"));
        };
        return match secret.data.as_ref().and_then(|d| d.get(key)) {
            Some(value) => text(&value.0, key, "Secret", pod, name).map(Some),
            None => {
                missing(reference.optional, format!("couldn't find key {key} in Secret {}/{name}", pod.namespace()))
            }
        };
    }
    if let Some(reference) = &source.file_key_ref {
        let volume = pod.spec.volumes.iter().flatten().find(|v| v.name == reference.volume_name);
        if volume.is_none_or(|v| v.empty_dir.is_none()) {
            return Err(format!("cannot find the volume \"{}\" referenced by FileKeyRef", reference.volume_name));
        }
        let text = lookups.files.get(&(reference.volume_name.clone(), reference.path.clone()));
        let Some(text) = text else {
            return missing(reference.optional, "couldn't parse env file".to_owned());
        };
        let value = env_file::value(text, &reference.key).map_err(|e| format!("couldn't parse env file: {e}"))?;
        let (key, path) = (&reference.key, &reference.path);
        let unknown = || format!("environment variable key \"{key}\" not found in file \"{path}\"");
        return value.map_or_else(|| missing(reference.optional, unknown()), |v| Ok(Some(v)));
    }
    Err("a variable's valueFrom names no source that this kubelet supports".to_owned())
}

/// A field of the pod by its downward API path.
///
/// # Errors
/// A path that the downward API does not offer.
pub fn field_value(pod: &Pod, path: &str, lookups: &Lookups) -> Result<String, String> {
    let subscript =
        |prefix: &str| path.strip_prefix(prefix).and_then(|p| p.strip_prefix("['")).and_then(|p| p.strip_suffix("']"));
    if let Some(key) = subscript("metadata.labels") {
        return Ok(pod.labels().get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = subscript("metadata.annotations") {
        return Ok(pod.annotation(key).unwrap_or_default().to_owned());
    }
    let lines = |map: Option<&BTreeMap<String, String>>| {
        map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n")
    };
    Ok(match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => pod.spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => lookups.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => lookups.host_ips.join(","),
        "status.podIP" => lookups.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => lookups.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// A container's request or limit divided and rounded up; an unset limit is the node's allocatable.
///
/// # Errors
/// An unknown container or resource.
pub fn resource_value(
    pod: &Pod,
    container: &str,
    resource: &str,
    divisor: Option<&str>,
    allocatable: &resources::Amounts,
) -> Result<String, String> {
    let (_, spec) = pod.container(container).ok_or_else(|| format!("container {container} not found"))?;
    let (side, name) =
        resource.split_once('.').ok_or_else(|| format!("unsupported container resource : {resource}"))?;
    let requirements = spec.resources.as_ref();
    let quantities = match side {
        "limits" => requirements.and_then(|r| r.limits.as_ref()),
        "requests" => requirements.and_then(|r| r.requests.as_ref()),
        _ => return Err(format!("unsupported container resource : {resource}")),
    };
    let own = quantities.and_then(|q| q.get(name)).map(|q| resources::amount(name, q));
    let value = match own {
        Some(value) => value,
        None if side == "limits" => allocatable.get(name).copied().unwrap_or(0),
        None => 0,
    };
    let divisor = divisor.filter(|d| !d.is_empty() && *d != "0").unwrap_or("1");
    let by = resources::amount(name, &k8s_openapi::apimachinery::pkg::api::resource::Quantity(divisor.to_owned()));
    Ok(if by > 0 { (value + by - 1) / by } else { value }.to_string())
}

/// The variables of one Service, as Docker links had them.
fn service_variables(service: &ServiceInfo) -> Vec<(String, String)> {
    let ip = &service.cluster_ip;
    if ip.is_empty() || ip == "None" {
        return Vec::new();
    }
    let upper = |s: &str| s.replace('-', "_").to_uppercase();
    let prefix = upper(&service.name);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    let mut vars = vec![(format!("{prefix}_SERVICE_HOST"), ip.clone())];
    for (index, (name, port, protocol)) in service.ports.iter().enumerate() {
        let proto = protocol.to_lowercase();
        let url = format!("{proto}://{host}:{port}");
        if index == 0 {
            vars.push((format!("{prefix}_SERVICE_PORT"), port.to_string()));
            vars.push((format!("{prefix}_PORT"), url.clone()));
        }
        if !name.is_empty() {
            vars.push((format!("{prefix}_SERVICE_PORT_{}", upper(name)), port.to_string()));
        }
        let base = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
        vars.push((base.clone(), url));
        vars.push((format!("{base}_PROTO"), proto));
        vars.push((format!("{base}_PORT"), port.to_string()));
        vars.push((format!("{base}_ADDR"), ip.clone()));
    }
    vars
}

/// Replaces `$(NAME)` by what `get` knows and leaves unknown ones as they are; `$$` is a dollar sign.
pub fn expand(input: &str, get: impl Fn(&str) -> Option<String>) -> String {
    let mut output = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        output.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            output.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match get(name) {
                Some(value) => output.push_str(&value),
                None => output.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            output.push('$');
        }
    }
    output.push_str(rest);
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::types::tests::pod;
    use serde_json::json;

    #[test]
    fn expansion() {
        let get = |name: &str| (name == "A").then(|| "x".to_owned());
        for (input, expected) in [
            ("$(A)-$(B)", "x-$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$x"),
            ("a$", "a$"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("", ""),
        ] {
            assert_eq!(expand(input, get), expected, "{input}");
        }
    }

    #[test]
    fn variables() {
        let pod = pod(json!({"metadata": {"name": "p", "namespace": "n", "labels": {"k": "v"}},
            "spec": {"containers": [{"name": "c",
            "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
            "env": [{"name": "A", "value": "$(P_x)$(WEB_SERVICE_PORT)"},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['k']"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
                {"name": "O", "valueFrom": {"secretKeyRef": {"name": "none", "key": "p", "optional": true}}},
                {"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}]}}));
        let lookups = Lookups {
            config_maps: BTreeMap::from([("m".into(), serde_json::from_value(json!({"data": {"x": "1"}})).unwrap())]),
            secrets: BTreeMap::from([("s".into(), serde_json::from_value(json!({"data": {"p": "cHc="}})).unwrap())]),
            services: vec![ServiceInfo {
                name: "web".into(),
                namespace: "n".into(),
                cluster_ip: "10.0.0.9".into(),
                ports: vec![("http".into(), 80, "TCP".into())],
            }],
            ..Lookups::default()
        };
        let env: BTreeMap<_, _> = build(&pod, &pod.spec.containers[0], &lookups).unwrap().into_iter().collect();
        for (name, value) in [
            ("P_x", "1"),
            ("A", "180"),
            ("N", "v"),
            ("S", "pw"),
            ("M", "64"),
            ("C", "2"),
            ("WEB_SERVICE_HOST", "10.0.0.9"),
            ("WEB_SERVICE_PORT_HTTP", "80"),
            ("WEB_PORT_80_TCP", "tcp://10.0.0.9:80"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!env.contains_key("O"));
    }

    #[test]
    fn missing_objects_are_named() {
        let pod = pod(json!({"metadata": {"namespace": "n"}, "spec": {"containers": [{"name": "c",
            "env": [{"name": "S", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "p"}}}]}]}}));
        let error = build(&pod, &pod.spec.containers[0], &Lookups::default()).unwrap_err();
        assert_eq!(error, "configmap \"s\" not found");
    }
}

//! A pod as the kubelet keeps it: the API's object in typed form, where it came from, and the questions asked of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod as ApiPod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::resize::Refused;
use crate::cri::labels;

/// Where a pod was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Api,
    File,
    /// Found in the runtime only: nobody wants it any more.
    Runtime,
}

impl Source {
    /// The value of the `config.source` annotation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api | Self::Runtime => "api",
            Self::File => "file",
        }
    }
}

/// Which list of the spec a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Init,
    Sidecar,
    Regular,
    Ephemeral,
}

/// A pod. Immutable: a change of the API object makes a new one.
#[derive(Debug, Clone)]
pub struct Pod {
    pub metadata: ObjectMeta,
    pub spec: PodSpec,
    /// The status the API had when this was read.
    pub status: PodStatus,
    /// Ephemeral containers in the shape of ordinary ones, with the container whose namespaces they share.
    pub ephemeral: Vec<(Container, Option<String>)>,
    pub source: Source,
}

impl Pod {
    /// Takes an API object apart.
    pub fn new(object: ApiPod, source: Source) -> Self {
        let spec = object.spec.unwrap_or_default();
        let ephemeral = spec.ephemeral_containers.iter().flatten().cloned().map(as_container).collect();
        Self { metadata: object.metadata, spec, status: object.status.unwrap_or_default(), ephemeral, source }
    }

    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("default")
    }

    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// `name_namespace(uid)`, upstream's way to name a pod in messages.
    pub fn full_name(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str)
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.metadata.labels.as_ref().unwrap_or(&NONE)
    }

    /// A static pod has no API object of its own, only a mirror.
    pub fn is_static(&self) -> bool {
        self.source == Source::File
    }

    /// The API's picture of a static pod.
    pub fn is_mirror(&self) -> bool {
        self.annotation(labels::CONFIG_MIRROR).is_some()
    }

    pub fn deletion_requested(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// The API's phase says that it will never run again.
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Grace for stopping: the deletion's when it has one, else the spec's, else 30 s.
    pub fn grace_seconds(&self) -> i64 {
        self.metadata
            .deletion_grace_period_seconds
            .filter(|_| self.deletion_requested())
            .or(self.spec.termination_grace_period_seconds)
            .unwrap_or(30)
            .max(0)
    }

    pub fn host_network(&self) -> bool {
        self.spec.host_network == Some(true)
    }

    pub fn restart_policy(&self) -> &str {
        self.spec.restart_policy.as_deref().unwrap_or("Always")
    }

    pub fn start_time(&self) -> Option<Timestamp> {
        self.status.start_time.as_ref().map(|t| t.0)
    }

    pub fn is_critical(&self) -> bool {
        self.is_static() || self.is_mirror() || self.spec.priority.is_some_and(|p| p >= 2_000_000_000)
    }

    pub fn init_containers(&self) -> &[Container] {
        self.spec.init_containers.as_deref().unwrap_or_default()
    }

    /// Every container with its role: init, regular, ephemeral, in spec order.
    pub fn containers(&self) -> impl Iterator<Item = (Role, &Container)> {
        let init = self.init_containers().iter().map(|c| (if is_sidecar(c) { Role::Sidecar } else { Role::Init }, c));
        let regular = self.spec.containers.iter().map(|c| (Role::Regular, c));
        init.chain(regular).chain(self.ephemeral.iter().map(|(c, _)| (Role::Ephemeral, c)))
    }

    pub fn container(&self, name: &str) -> Option<(Role, &Container)> {
        self.containers().find(|(_, c)| c.name == name)
    }
}

/// An init container that keeps running beside the regular ones.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn as_container(e: EphemeralContainer) -> (Container, Option<String>) {
    let container = Container {
        args: e.args,
        command: e.command,
        env: e.env,
        env_from: e.env_from,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        name: e.name,
        security_context: e.security_context,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        tty: e.tty,
        volume_devices: e.volume_devices,
        volume_mounts: e.volume_mounts,
        working_dir: e.working_dir,
        ..Container::default()
    };
    (container, e.target_container_name)
}

/// Why a pod must end, when it must.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Termination {
    /// Seconds between TERM and KILL.
    pub grace_seconds: i64,
    /// Status reason and message when the kubelet itself ends the pod (eviction, deadline): the pod is then Failed.
    pub failed: Option<(String, String)>,
    /// Condition `DisruptionTarget` to set, as (reason, message).
    pub disruption: Option<(String, String)>,
}

/// The API's picture of a static pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    pub uid: String,
    /// Hash of the file that it was made from.
    pub hash: String,
    pub deleting: bool,
}

/// What is wanted of one pod right now.
#[derive(Debug, Clone)]
pub struct Desired {
    /// With the resources that it was given, which may not be the ones that it asks for by now.
    pub pod: Arc<Pod>,
    /// Why it does not get what it asks for by now.
    pub refused: Option<Refused>,
    /// A static pod's mirror, when the API has one.
    pub mirror: Option<Mirror>,
    /// Set when the pod must end; it never becomes unset.
    pub termination: Option<Termination>,
}

/// Hash of what cannot change in a running container: its name and image.
pub fn container_hash(container: &Container) -> String {
    let picked = serde_json::json!({"image": container.image, "name": container.name}).to_string();
    format!("{:x}", fnv1a(picked.as_bytes()))
}

/// 32-bit FNV-1a.
pub fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, b| (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A pod from YAML-like JSON, for tests of the whole crate.
    pub fn pod(value: serde_json::Value) -> Pod {
        Pod::new(serde_json::from_value(value).unwrap(), Source::Api)
    }

    #[test]
    fn roles_and_grace() {
        let pod = pod(serde_json::json!({
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "deletionGracePeriodSeconds": 3},
            "spec": {"terminationGracePeriodSeconds": 7, "containers": [{"name": "c"}],
                "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
                "ephemeralContainers": [{"name": "e", "targetContainerName": "c"}]}}));
        let roles: Vec<_> = pod.containers().map(|(r, c)| (r, c.name.as_str())).collect();
        assert_eq!(roles, [(Role::Init, "i"), (Role::Sidecar, "s"), (Role::Regular, "c"), (Role::Ephemeral, "e")]);
        assert_eq!(pod.grace_seconds(), 7);
    }
}

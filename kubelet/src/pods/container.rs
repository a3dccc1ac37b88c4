//! What the runtime is told about one container. Pure: everything it needs is given.

use std::collections::HashMap;

use k8s_openapi::api::core::v1 as core;

use super::env::expand;
use super::types::{Pod, container_hash};
use crate::cri::{api, labels};

/// Default place of the termination message.
pub const TERMINATION_PATH: &str = "/dev/termination-log";

/// What the container's configuration is made from.
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub spec: &'a core::Container,
    pub attempt: u32,
    /// The image as the runtime resolved it.
    pub image_ref: String,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<api::Mount>,
    pub devices: Vec<api::Device>,
    pub resources: api::LinuxContainerResources,
    pub security: api::LinuxContainerSecurityContext,
}

/// Path of the container's log below the pod's log directory.
pub fn log_path(name: &str, attempt: u32) -> String {
    format!("{name}/{attempt}.log")
}

/// Directory of a pod's logs below the logs root.
pub fn log_directory(root: &str, namespace: &str, name: &str, uid: &str) -> String {
    format!("{root}/{namespace}_{name}_{uid}")
}

/// The request's configuration.
pub fn config(input: Input<'_>) -> api::ContainerConfig {
    let spec = input.spec;
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        let get = |name: &str| input.env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        words.iter().flatten().map(|w| expand(w, get)).collect()
    };
    api::ContainerConfig {
        metadata: Some(api::ContainerMetadata { name: spec.name.clone(), attempt: input.attempt }),
        image: Some(api::ImageSpec {
            image: input.image_ref,
            user_specified_image: spec.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&spec.command),
        args: expanded(&spec.args),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        labels: labels_of(input.pod, &spec.name),
        annotations: annotations(input.pod, spec, input.attempt),
        log_path: log_path(&spec.name, input.attempt),
        stdin: spec.stdin == Some(true),
        stdin_once: spec.stdin_once == Some(true),
        tty: spec.tty == Some(true),
        mounts: input.mounts,
        devices: input.devices,
        linux: Some(api::LinuxContainerConfig {
            resources: Some(input.resources),
            security_context: Some(input.security),
        }),
        stop_signal: stop_signal(spec),
        envs: input.env.into_iter().map(|(key, value)| api::KeyValue { key, value }).collect(),
        ..Default::default()
    }
}

fn stop_signal(spec: &core::Container) -> i32 {
    let name = spec.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref()).unwrap_or_default();
    // The interface spells real-time signals in letters.
    let name = name.replace('+', "PLUS").replace("MAX-", "MAXMINUS");
    api::Signal::from_str_name(&name).map_or(0, i32::from)
}

fn labels_of(pod: &Pod, container: &str) -> HashMap<String, String> {
    HashMap::from([
        (labels::POD_NAME.to_owned(), pod.name().to_owned()),
        (labels::POD_NAMESPACE.to_owned(), pod.namespace().to_owned()),
        (labels::POD_UID.to_owned(), pod.uid().to_owned()),
        (labels::CONTAINER_NAME.to_owned(), container.to_owned()),
    ])
}

fn annotations(pod: &Pod, spec: &core::Container, attempt: u32) -> HashMap<String, String> {
    let message_path = spec.termination_message_path.as_deref().unwrap_or(TERMINATION_PATH);
    let message_policy = spec.termination_message_policy.as_deref().unwrap_or("File");
    let mut map = HashMap::from([
        (labels::CONTAINER_HASH.to_owned(), container_hash(spec)),
        (labels::CONTAINER_RESTART_COUNT.to_owned(), attempt.to_string()),
        (labels::TERMINATION_MESSAGE_PATH.to_owned(), message_path.to_owned()),
        (labels::TERMINATION_MESSAGE_POLICY.to_owned(), message_policy.to_owned()),
    ]);
    if let Some(grace) = pod.spec.termination_grace_period_seconds {
        map.insert(labels::POD_TERMINATION_GRACE.to_owned(), grace.to_string());
    }
    if let Some(ports) = spec.ports.as_ref().and_then(|p| serde_json::to_string(p).ok()) {
        map.insert(labels::CONTAINER_PORTS.to_owned(), ports);
    }
    let hook = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
    if let Some(hook) = hook.and_then(|h| serde_json::to_string(h).ok()) {
        map.insert(labels::CONTAINER_PRE_STOP.to_owned(), hook);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::types::tests::pod;
    use serde_json::json;

    #[test]
    fn configuration() {
        let pod = pod(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "terminationGracePeriodSeconds": 5, "containers": [{"name": "c", "image": "i", "command": ["sh", "$(A)"],
            "lifecycle": {"stopSignal": "SIGRTMAX-3"}}]}}));
        let config = config(Input {
            pod: &pod,
            spec: &pod.spec.containers[0],
            attempt: 2,
            image_ref: "sha256:1".into(),
            env: vec![("A".into(), "x".into())],
            mounts: Vec::new(),
            devices: Vec::new(),
            resources: api::LinuxContainerResources::default(),
            security: api::LinuxContainerSecurityContext::default(),
        });
        assert_eq!(config.command, ["sh", "x"]);
        assert_eq!(config.log_path, "c/2.log");
        assert_eq!(config.annotations[labels::POD_TERMINATION_GRACE], "5");
        assert_eq!(config.stop_signal, api::Signal::Sigrtmaxminus3 as i32);
    }
}

//! Events of this kubelet, about pods, their containers, and the node.

use client::events::{EventType, ObjectRef, Recorder};

use crate::pods::types::Pod;

/// Whether something went as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Warning,
}

/// The kubelet's recorder; silent without an API server.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    node_name: String,
}

impl Events {
    /// Events through a recorder.
    pub fn new(recorder: Recorder, node_name: &str) -> Self {
        Self { recorder, node_name: node_name.to_owned() }
    }

    fn send(&self, object: &ObjectRef, kind: Kind, reason: &str, message: &str) {
        let type_ = match kind {
            Kind::Normal => EventType::Normal,
            Kind::Warning => EventType::Warning,
        };
        self.recorder.event(object, type_, reason, reason, message);
    }

    /// An event of a pod.
    pub fn pod(&self, pod: &Pod, kind: Kind, reason: &str, message: &str) {
        tracing::debug!(pod = %pod.full_name(), reason, "{message}");
        self.send(&reference(pod), kind, reason, message);
    }

    /// An event of a container.
    pub fn container(&self, pod: &Pod, container: &str, kind: Kind, reason: &str, message: &str) {
        tracing::debug!(pod = %pod.full_name(), container, reason, "{message}");
        let list = if pod.init_containers().iter().any(|c| c.name == container) {
            "initContainers"
        } else if pod.ephemeral.iter().any(|(c, _)| c.name == container) {
            "ephemeralContainers"
        } else {
            "containers"
        };
        let object = ObjectRef { field_path: format!("spec.{list}{{{container}}}"), ..reference(pod) };
        self.send(&object, kind, reason, message);
    }

    /// An event of this node.
    pub fn node(&self, kind: Kind, reason: &str, message: &str) {
        // Upstream refers to a node by its name in place of the uid.
        let object = ObjectRef {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: self.node_name.clone(),
            uid: self.node_name.clone(),
            ..ObjectRef::default()
        };
        self.send(&object, kind, reason, message);
    }
}

fn reference(pod: &Pod) -> ObjectRef {
    ObjectRef {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: pod.namespace().to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
        ..ObjectRef::default()
    }
}

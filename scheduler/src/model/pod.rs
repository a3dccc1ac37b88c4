//! A pod's own identity and state, next to its shared template.

use std::fmt;
use std::sync::Arc;

use super::template::Template;
use crate::objects::pod::{Pod, PodCondition};

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl PodKey {
    /// A key of two strings.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod as the scheduler keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct PodInfo {
    /// Namespace and name.
    pub key: PodKey,
    /// UID.
    pub uid: Box<str>,
    /// Where it runs; empty while it waits.
    pub node_name: Box<str>,
    /// Where room is being made for it; empty when nowhere.
    pub nominated: Box<str>,
    /// Creation time as text: RFC 3339 sorts by time.
    pub created: Box<str>,
    /// Start time as text; empty before the start.
    pub started: Box<str>,
    /// True once its deletion began.
    pub terminating: bool,
    /// True when that deletion is a preemption by the scheduler.
    pub preempted: bool,
    /// `metadata.generation`.
    pub generation: i64,
    /// Names of gates that still hold it.
    pub gates: Vec<Box<str>>,
    /// Its PodScheduled condition as the API has it.
    pub scheduled_condition: Option<PodCondition>,
    /// What its placement depends on.
    pub template: Arc<Template>,
}

impl PodInfo {
    /// Takes from the object what scheduling needs.
    pub fn of(pod: &Pod) -> Self {
        let (meta, spec, status) = (&pod.metadata, &pod.spec, &pod.status);
        let condition = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind);
        let terminating = meta.deletion_timestamp.is_some();
        Self {
            key: PodKey::new(&meta.namespace, &meta.name),
            uid: meta.uid.as_str().into(),
            node_name: spec.node_name.as_str().into(),
            nominated: status.nominated_node_name.as_str().into(),
            created: meta.creation_timestamp.as_ref().map(ToString::to_string).unwrap_or_default().into(),
            started: status.start_time.clone().unwrap_or_default().into(),
            terminating,
            preempted: terminating
                && condition("DisruptionTarget")
                    .is_some_and(|c| c.status == "True" && c.reason == "PreemptionByScheduler"),
            generation: meta.generation,
            gates: spec.scheduling_gates.iter().map(|g| g.name.as_str().into()).collect(),
            scheduled_condition: condition("PodScheduled").cloned(),
            template: Arc::new(Template::of(pod)),
        }
    }

    /// Priority of the pod.
    pub fn priority(&self) -> i32 {
        self.template.priority
    }
}

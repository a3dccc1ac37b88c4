//! One step of a replica set (or replication controller), purely: which pods are its own, how many to make or which to
//! delete, and what to say afterwards.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::controllers::deletion_order::choose;
use crate::framework::claim::claim;
use crate::framework::{Action, Subject, Target, View};
use crate::views::meta::{Condition, count, to_value};
use crate::views::pod::PodView;
use crate::views::workloads::{ReplicaSetSpec, ReplicaSetStatus, ReplicaSetView, ReplicationControllerView};

/// At most so many pods are created or deleted in one step.
pub const BURST_PODS: usize = 500;
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What replica sets and replication controllers have in common.
pub trait PodSet: View {
    /// What is wanted.
    fn spec(&self) -> &ReplicaSetSpec;
    /// What was last said.
    fn status(&self) -> &ReplicaSetStatus;
    /// Whether terminating pods are counted in the status.
    const COUNTS_TERMINATING: bool;
}

impl PodSet for ReplicaSetView {
    fn spec(&self) -> &ReplicaSetSpec {
        &self.spec
    }
    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }
    const COUNTS_TERMINATING: bool = true;
}

impl PodSet for ReplicationControllerView {
    fn spec(&self) -> &ReplicaSetSpec {
        &self.spec
    }
    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }
    const COUNTS_TERMINATING: bool = false;
}

/// The pods of a set, sorted out.
#[derive(Debug)]
pub struct Owned {
    /// Neither ended nor terminating.
    pub active: Vec<Arc<PodView>>,
    /// Asked to end.
    pub terminating: usize,
    /// Adoptions and releases.
    pub actions: Vec<Action>,
}

/// Sorts `candidates` (pods it controls, and orphans of the namespace).
pub fn sort_out<S: PodSet>(set: &S, subject: &Subject, candidates: &[Arc<PodView>]) -> Owned {
    let selector = &set.spec().selector;
    let active = candidates.iter().filter(|pod| pod.is_active()).cloned();
    let claims = claim(subject, set.meta(), selector, active, |_| true);
    let terminating = candidates
        .iter()
        .filter(|pod| {
            pod.is_terminating()
                && selector.matches(&pod.metadata.labels)
                && crate::framework::plan::controller_of(&pod.metadata).is_some_and(|owner| owner.uid == subject.uid)
        })
        .count();
    Owned { active: claims.owned, terminating, actions: claims.actions }
}

/// What to do about the number of pods.
#[derive(Debug)]
pub enum Manage {
    /// As many as wanted.
    Nothing,
    /// Make so many.
    Create(usize),
    /// Delete these.
    Delete(Vec<Arc<PodView>>),
}

/// Compares the pods with what is wanted. `related` is asked for only when pods must go.
pub fn manage<S: PodSet>(
    set: &S,
    active: &[Arc<PodView>],
    related: impl FnOnce() -> Vec<Arc<PodView>>,
    now: Timestamp,
) -> Manage {
    let wanted = usize::try_from(set.spec().replicas).unwrap_or(0);
    if active.len() < wanted {
        Manage::Create((wanted - active.len()).min(BURST_PODS))
    } else if active.len() > wanted {
        let excess = (active.len() - wanted).min(BURST_PODS);
        Manage::Delete(choose(active, &related(), excess, now))
    } else {
        Manage::Nothing
    }
}

/// The status change after a step; None when what is stored is right. `failure` is the step's reason and message.
pub fn status_change<S: PodSet>(
    set: &S,
    owned: &Owned,
    failure: Option<(&str, String)>,
    now: Timestamp,
) -> Option<Action> {
    let status = status(set, owned, failure, now);
    if status == *set.status() {
        return None;
    }
    let mut change = json!({"status": {
        "observedGeneration": status.observed_generation,
        "replicas": status.replicas,
        "fullyLabeledReplicas": status.fully_labeled_replicas,
        "readyReplicas": status.ready_replicas,
        "availableReplicas": status.available_replicas,
    }});
    if status.terminating_replicas != set.status().terminating_replicas {
        change["status"]["terminatingReplicas"] = json!(status.terminating_replicas);
    }
    if status.conditions != set.status().conditions {
        change["status"]["conditions"] = status.conditions.iter().map(to_value).collect();
    }
    Some(Target::of(&S::RESOURCE, set.meta()).change_status(change))
}

fn status<S: PodSet>(set: &S, owned: &Owned, failure: Option<(&str, String)>, now: Timestamp) -> ReplicaSetStatus {
    let spec = set.spec();
    let template_labels = spec.template.pointer("/metadata/labels").and_then(Value::as_object);
    let fully_labeled = |pod: &PodView| {
        template_labels.is_none_or(|wanted| {
            wanted.iter().all(|(name, value)| pod.metadata.labels.get(name).map(String::as_str) == value.as_str())
        })
    };
    let number = |test: &dyn Fn(&PodView) -> bool| count(owned.active.iter().filter(|pod| test(pod)).count());
    let mut conditions = set.status().conditions.clone();
    let failed_before = conditions.iter().any(|condition| condition.kind == REPLICA_FAILURE);
    match failure {
        Some((reason, message)) if !failed_before => conditions.push(Condition {
            kind: REPLICA_FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: now.into(),
            ..Condition::default()
        }),
        Some(_) => {}
        None => conditions.retain(|condition| condition.kind != REPLICA_FAILURE),
    }
    ReplicaSetStatus {
        observed_generation: set.meta().generation,
        replicas: count(owned.active.len()),
        fully_labeled_replicas: number(&fully_labeled),
        ready_replicas: number(&PodView::is_ready),
        available_replicas: number(&|pod| pod.is_available(spec.min_ready_seconds, now)),
        terminating_replicas: S::COUNTS_TERMINATING.then(|| count(owned.terminating)),
        conditions,
    }
}

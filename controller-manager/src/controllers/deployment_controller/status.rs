//! What is said about a deployment: counts over its replica sets and the conditions Available, Progressing and
//! ReplicaFailure, with upstream's reasons and rules for when a condition counts as changed.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::limits::max_unavailable;
use super::model::ReplicaSet;
use crate::framework::backoff::remaining;
use crate::views::meta::{Condition, condition, to_value};
use crate::views::workloads::{DeploymentStatus, DeploymentView};

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const COMPLETE: &str = "NewReplicaSetAvailable";
/// A deadline of this length means "no deadline", as upstream uses the largest int32.
const NO_DEADLINE: i32 = i32::MAX;

/// Sums over the replica sets.
#[derive(Clone, Debug)]
pub struct Totals {
    status: DeploymentStatus,
}

impl Totals {
    /// Counts over `all`, of which `new` is the newest.
    pub fn of<'a>(
        deployment: &DeploymentView,
        all: impl Iterator<Item = &'a ReplicaSet>,
        new: Option<&ReplicaSet>,
    ) -> Self {
        let mut status = DeploymentStatus {
            observed_generation: deployment.metadata.generation,
            updated_replicas: new.map_or(0, |set| set.view.status.replicas),
            collision_count: deployment.status.collision_count,
            terminating_replicas: Some(0),
            ..DeploymentStatus::default()
        };
        let mut wanted = 0;
        for set in all {
            wanted += set.replicas;
            status.replicas += set.view.status.replicas;
            status.ready_replicas += set.view.status.ready_replicas;
            status.available_replicas += set.view.status.available_replicas;
            // Unknown for one is unknown for all.
            let known = if set.meta().uid.is_empty() { Some(0) } else { set.view.status.terminating_replicas };
            status.terminating_replicas = status.terminating_replicas.zip(known).map(|(sum, one)| sum + one);
        }
        status.unavailable_replicas = (wanted - status.available_replicas).max(0);
        Self { status }
    }
}

/// Whether everything wanted is there, new and available.
pub fn is_complete(deployment: &DeploymentView, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.replicas;
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// The conditions while they are recomputed.
#[derive(Clone, Debug)]
pub struct Conditions<'a> {
    deployment: &'a DeploymentView,
    now: Timestamp,
    list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    /// As they are stored.
    pub fn new(deployment: &'a DeploymentView, now: Timestamp) -> Self {
        Self { deployment, now, list: deployment.status.conditions.clone() }
    }

    fn get(&self, kind: &str) -> Option<&Condition> {
        condition(&self.list, kind)
    }

    fn has_deadline(&self) -> bool {
        self.deployment.spec.progress_deadline_seconds.is_some_and(|seconds| seconds != NO_DEADLINE)
    }

    /// Sets a condition. Same status and reason: nothing changes. Same status: the transition time stays.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let before = self.get(kind);
        if before.is_some_and(|before| before.status == status && before.reason == reason) {
            return;
        }
        self.replace(kind, status, reason, message);
    }

    fn replace(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let since = self
            .get(kind)
            .filter(|before| before.status == status)
            .map_or(self.now.into(), |before| before.last_transition_time);
        self.list.retain(|condition| condition.kind != kind);
        self.list.push(Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_update_time: self.now.into(),
            last_transition_time: since,
            ..Condition::default()
        });
    }

    /// Keeps the deadline from running while the deployment is paused.
    pub fn pause(&mut self) {
        let reason = self.get(PROGRESSING).map(|condition| condition.reason.clone());
        if !self.has_deadline() || reason.as_deref() == Some(TIMED_OUT) {
            return;
        }
        let paused_before = reason.as_deref() == Some("DeploymentPaused");
        if self.deployment.spec.paused && !paused_before {
            self.set(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused".to_owned());
        } else if !self.deployment.spec.paused && paused_before {
            self.set(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned());
        }
    }

    /// The replica set of the present template exists already.
    pub fn found_new(&mut self, name: &str) {
        if self.has_deadline() && self.get(PROGRESSING).is_none() {
            self.set(PROGRESSING, "True", "FoundNewReplicaSet", format!("Found new replica set \"{name}\""));
        }
    }

    /// The replica set of the present template is being created.
    pub fn created_new(&mut self, name: &str) {
        if self.has_deadline() {
            self.set(PROGRESSING, "True", "NewReplicaSetCreated", format!("Created new replica set \"{name}\""));
        }
    }

    /// The status change after a failed creation, if the deployment has a deadline.
    pub fn failed_create(mut self, message: &str) -> Option<Value> {
        if !self.has_deadline() {
            return None;
        }
        self.set(PROGRESSING, "False", "ReplicaSetCreateError", message.to_owned());
        (self.list != self.deployment.status.conditions).then(|| json!({"status": {"conditions": self.list}}))
    }

    /// Whether enough pods serve.
    pub fn availability(&mut self, totals: &Totals) {
        let needed = self.deployment.spec.replicas - max_unavailable(self.deployment);
        if totals.status.available_replicas >= needed {
            let message = "Deployment has minimum availability.".to_owned();
            self.set(AVAILABLE, "True", "MinimumReplicasAvailable", message);
        } else {
            let message = "Deployment does not have minimum availability.".to_owned();
            self.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
        }
    }

    /// How the rollout goes; `failure` is a replica set's failure to make pods.
    pub fn rollout(&mut self, totals: &Totals, new: Option<&str>, failure: Option<Condition>) {
        let what = new.map_or_else(
            || format!("Deployment \"{}\"", self.deployment.metadata.name),
            |name| format!("ReplicaSet \"{name}\""),
        );
        let already_complete = totals.status.replicas == totals.status.updated_replicas
            && self.get(PROGRESSING).is_some_and(|progressing| progressing.reason == COMPLETE);
        if self.has_deadline() && !already_complete {
            if is_complete(self.deployment, &totals.status) {
                self.set(PROGRESSING, "True", COMPLETE, format!("{what} has successfully progressed."));
            } else if self.has_progressed(totals) {
                // Always written anew: its update time is what the deadline counts from.
                self.replace(PROGRESSING, "True", "ReplicaSetUpdated", format!("{what} is progressing."));
            } else if self.has_timed_out() {
                self.set(PROGRESSING, "False", TIMED_OUT, format!("{what} has timed out progressing."));
            }
        }
        match failure {
            Some(failure) => self.set(REPLICA_FAILURE, &failure.status, &failure.reason, failure.message.clone()),
            None => self.list.retain(|condition| condition.kind != REPLICA_FAILURE),
        }
    }

    fn has_progressed(&self, totals: &Totals) -> bool {
        let (before, after) = (&self.deployment.status, &totals.status);
        after.updated_replicas > before.updated_replicas
            || after.replicas - after.updated_replicas < before.replicas - before.updated_replicas
            || after.ready_replicas > before.ready_replicas
            || after.available_replicas > before.available_replicas
    }

    fn has_timed_out(&self) -> bool {
        let Some(progressing) = self.get(PROGRESSING) else { return false };
        match progressing.reason.as_str() {
            COMPLETE => false,
            TIMED_OUT => true,
            _ => self.deadline_left(progressing).is_some_and(|left| left.is_zero()),
        }
    }

    fn deadline_left(&self, progressing: &Condition) -> Option<Duration> {
        let seconds = self.deployment.spec.progress_deadline_seconds?;
        Some(remaining(progressing.last_update_time.0?, i64::from(seconds), self.now))
    }

    /// When to look whether the rollout is stuck, if nothing happens until then.
    pub fn stuck_check(&self, totals: &Totals) -> Option<Duration> {
        let progressing = self.get(PROGRESSING)?;
        let settled = is_complete(self.deployment, &totals.status) || progressing.reason == TIMED_OUT;
        if !self.has_deadline() || settled {
            return None;
        }
        Some(self.deadline_left(progressing)? + Duration::from_secs(1))
    }

    /// The status to write; None when it is what is stored.
    pub fn changed_status(&self, totals: &Totals) -> Option<Value> {
        let mut status = totals.status.clone();
        status.conditions = self.list.clone();
        if status == self.deployment.status {
            return None;
        }
        Some(json!({
            "observedGeneration": status.observed_generation,
            "replicas": status.replicas,
            "updatedReplicas": status.updated_replicas,
            "readyReplicas": status.ready_replicas,
            "availableReplicas": status.available_replicas,
            "unavailableReplicas": status.unavailable_replicas,
            "terminatingReplicas": status.terminating_replicas,
            "conditions": status.conditions.iter().map(to_value).collect::<Vec<_>>(),
        }))
    }
}

//! One step of a stateful set, purely. Ordered sets act on one pod at a time: ordinals up when growing, down when
//! shrinking or updating, and never past a pod that does not serve; parallel ones act on all at once.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::claims::{Owners, blocked, existing, hand_over};
use super::identity::{identity_labels, is_itself, missing_claims, ordinal, pod_for};
use crate::controllers::history::HASH_LABEL;
use crate::framework::{Action, EventKind, Plan, Subject, View};
use crate::views::meta::{count, created, is_deleting};
use crate::views::pod::PodView;
use crate::views::volume::ClaimView;
use crate::views::workloads::{StatefulSetStatus, StatefulSetView};

/// A revision by name, and its template.
#[derive(Clone, Debug)]
pub struct Revision {
    /// Name, as pods carry it.
    pub name: String,
    /// Template.
    pub template: Value,
}

/// What a stateful set's next step depends on.
pub struct Snapshot<'a> {
    /// The set.
    pub set: &'a StatefulSetView,
    /// The pods that belong to it.
    pub pods: &'a [Arc<PodView>],
    /// The revision it had.
    pub current: Revision,
    /// The revision it is to have.
    pub update: Revision,
    /// The claims of the namespace, by name.
    pub claims: &'a (dyn Fn(&str) -> Option<Arc<ClaimView>> + Sync),
    /// The time.
    pub now: Timestamp,
}

/// The writes, and the status after them.
pub struct Step {
    /// Writes except the status.
    pub plan: Plan,
    /// The status.
    pub status: StatefulSetStatus,
}

struct Stepper<'a> {
    snapshot: &'a Snapshot<'a>,
    subject: Subject,
    plan: Plan,
    status: StatefulSetStatus,
    ordered: bool,
}

/// The next step.
pub fn reconcile(snapshot: &Snapshot<'_>) -> Step {
    let set = snapshot.set;
    let mut stepper = Stepper {
        snapshot,
        subject: set.subject(),
        plan: Plan::default(),
        status: initial_status(snapshot),
        ordered: set.spec.pod_management_policy != "Parallel",
    };
    if !is_deleting(&set.metadata) {
        stepper.step();
    }
    complete_rollout(set, &mut stepper.status);
    if let Some(left) =
        snapshot.pods.iter().filter_map(|pod| pod.available_in(set.spec.min_ready_seconds, snapshot.now)).min()
    {
        stepper.plan.again(left);
    }
    Step { plan: stepper.plan, status: stepper.status }
}

fn revision_of(pod: &PodView) -> &str {
    pod.metadata.labels.get(HASH_LABEL).map_or("", String::as_str)
}

fn is_running_and_ready(pod: &PodView) -> bool {
    pod.status.phase == "Running" && pod.is_ready()
}

fn wanted(set: &StatefulSetView) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn first_ordinal(set: &StatefulSetView) -> i32 {
    set.spec.ordinals.as_ref().map_or(0, |ordinals| ordinals.start)
}

fn initial_status(snapshot: &Snapshot<'_>) -> StatefulSetStatus {
    let set = snapshot.set;
    let number = |test: &dyn Fn(&PodView) -> bool| count(snapshot.pods.iter().filter(|pod| test(pod)).count());
    let live = |pod: &PodView, revision: &str| !is_deleting(&pod.metadata) && revision_of(pod) == revision;
    StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: count(snapshot.pods.len()),
        ready_replicas: number(&is_running_and_ready),
        available_replicas: number(&|pod| {
            is_running_and_ready(pod) && pod.is_available(set.spec.min_ready_seconds, snapshot.now)
        }),
        current_replicas: number(&|pod| live(pod, &snapshot.current.name)),
        updated_replicas: number(&|pod| live(pod, &snapshot.update.name)),
        current_revision: snapshot.current.name.clone(),
        update_revision: snapshot.update.name.clone(),
        collision_count: Some(set.status.collision_count.unwrap_or(0)),
    }
}

/// When every pod is new and serves, the new revision is the current one.
fn complete_rollout(set: &StatefulSetView, status: &mut StatefulSetStatus) {
    if set.spec.update_strategy.kind == "RollingUpdate"
        && [status.updated_replicas, status.ready_replicas, status.replicas].iter().all(|number| *number == wanted(set))
    {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
}

impl Stepper<'_> {
    fn set(&self) -> &StatefulSetView {
        self.snapshot.set
    }

    fn is_available(&self, pod: &PodView) -> bool {
        pod.is_available(self.set().spec.min_ready_seconds, self.snapshot.now)
    }

    fn step(&mut self) {
        let (first, name) = (first_ordinal(self.set()), self.set().metadata.name.clone());
        let end = first + wanted(self.set());
        let mut slots: Vec<(i32, Option<Arc<PodView>>)> = (first..end).map(|ordinal| (ordinal, None)).collect();
        let mut condemned: Vec<(i32, Arc<PodView>)> = Vec::new();
        for pod in self.snapshot.pods {
            let Some(number) = ordinal(&name, &pod.metadata.name) else { continue };
            match slots.iter_mut().find(|(slot, _)| *slot == number) {
                Some((_, slot)) => *slot = Some(Arc::clone(pod)),
                None => condemned.push((number, Arc::clone(pod))),
            }
        }
        condemned.sort_by_key(|(number, pod)| (std::cmp::Reverse(*number), created(&pod.metadata)));
        for (number, pod) in &slots {
            if self.keep(*number, pod.as_deref()) && self.ordered {
                return;
            }
        }
        if self.shrink(&condemned, self.first_unhealthy(&slots, &condemned).as_deref()) {
            return;
        }
        self.update(&slots);
    }

    /// Brings one wanted pod closer; true when an ordered set must wait for it.
    fn keep(&mut self, number: i32, pod: Option<&PodView>) -> bool {
        let Some(pod) = pod else {
            self.create(number);
            return true;
        };
        if pod.is_terminal() {
            if !is_deleting(&pod.metadata) {
                self.delete(pod);
            }
            return true;
        }
        if pod.status.phase == "Pending" {
            self.create_claims(number);
            self.hand_claims_over(number, pod, false);
        }
        let serves = !is_deleting(&pod.metadata) && is_running_and_ready(pod) && self.is_available(pod);
        if self.ordered && !serves {
            return true;
        }
        let mut changed = self.hand_claims_over(number, pod, false);
        if !is_itself(self.set(), pod, number) {
            let labels = json!(identity_labels(&pod.metadata.name, number));
            let target = pod.target();
            self.plan.change(target, None, json!({"metadata": {"uid": pod.metadata.uid, "labels": labels}}));
            changed = true;
        }
        if changed {
            self.tell("Update", "SuccessfulUpdate", &pod.metadata.name);
        }
        false
    }

    fn tell(&mut self, verb: &str, reason: &'static str, pod: &str) {
        let note = format!("{verb} Pod {pod} in StatefulSet {} successful", self.set().metadata.name);
        self.plan.event(&self.subject, EventKind::Normal, reason, note);
    }

    /// Makes the claims that the pod lacks.
    fn create_claims(&mut self, number: i32) {
        let set = self.snapshot.set;
        for claim in missing_claims(set, &self.subject, number, |name| (self.snapshot.claims)(name).is_some()) {
            let Action::Create { body, .. } = &claim else { continue };
            let name = body["metadata"]["name"].as_str().unwrap_or_default();
            let note = format!("Create Claim {name} Pod {0}-{number} in StatefulSet {0} success", set.metadata.name);
            self.plan.push(claim);
            self.plan.event(&self.subject, EventKind::Normal, "SuccessfulCreate", note);
        }
    }

    /// Lets the pod's claims belong to whom the set's policy says; whether anything had to change.
    fn hand_claims_over(&mut self, number: i32, pod: &PodView, condemned: bool) -> bool {
        let owner = pod.subject();
        let owners = Owners { set: &self.subject, pod: &owner, condemned };
        let claims = existing(self.snapshot.set, number, self.snapshot.claims);
        hand_over(&mut self.plan, self.snapshot.set, &owners, &claims)
    }

    fn create(&mut self, number: i32) {
        let set = self.snapshot.set;
        let name = format!("{}-{number}", set.metadata.name);
        let key = crate::framework::Key::new(&set.metadata.namespace, &name);
        let unborn = Subject { resource: PodView::RESOURCE, key, uid: String::new() };
        let subject = self.subject.clone();
        let owners = Owners { set: &subject, pod: &unborn, condemned: false };
        let claims = existing(set, number, self.snapshot.claims);
        if let Some(reason) = blocked(set, &owners, &claims) {
            // The end of the claim wakes the set.
            if let Some(reason) = reason {
                let note = format!("Create Pod {name} in StatefulSet {} failed error: {reason}", set.metadata.name);
                self.plan.event(&self.subject, EventKind::Warning, "FailedCreate", note);
            }
            return;
        }
        let partition = set.spec.update_strategy.rolling_update.as_ref().map(|rolling| rolling.partition.unwrap_or(0));
        let old_end = match partition {
            Some(partition) => first_ordinal(set).max(0) + partition,
            None => first_ordinal(set) + set.status.current_replicas,
        };
        let rolling = set.spec.update_strategy.kind == "RollingUpdate";
        let revision = if rolling && number < old_end { &self.snapshot.current } else { &self.snapshot.update };
        self.create_claims(number);
        let body = pod_for(set, &self.subject, &revision.template, &revision.name, number);
        let namespace = self.subject.key.namespace.clone();
        self.plan.push(Action::Create { resource: PodView::RESOURCE, namespace, body });
        hand_over(&mut self.plan, set, &owners, &claims);
        self.tell("Create", "SuccessfulCreate", &name);
    }

    fn delete(&mut self, pod: &PodView) {
        self.plan.push(pod.target().delete(&pod.metadata.uid));
        self.tell("Delete", "SuccessfulDelete", &pod.metadata.name);
    }

    /// Removes pods beyond the wanted number, the last one first; true when the step ends here.
    fn shrink(&mut self, condemned: &[(i32, Arc<PodView>)], first_unhealthy: Option<&PodView>) -> bool {
        for (number, pod) in condemned {
            self.hand_claims_over(*number, pod, true);
        }
        for (_, pod) in condemned {
            if is_deleting(&pod.metadata) {
                if self.ordered {
                    return true;
                }
                continue;
            }
            let is_first_unhealthy = first_unhealthy.is_some_and(|other| other.metadata.uid == pod.metadata.uid);
            if self.ordered && !(is_running_and_ready(pod) && self.is_available(pod)) && !is_first_unhealthy {
                return true;
            }
            self.delete(pod);
            if self.ordered {
                return true;
            }
        }
        false
    }

    /// Replaces pods of another revision, the last one first and one at a time, down to the partition.
    fn update(&mut self, slots: &[(i32, Option<Arc<PodView>>)]) {
        let strategy = &self.snapshot.set.spec.update_strategy;
        if strategy.kind != "RollingUpdate" {
            return;
        }
        let partition = strategy.rolling_update.as_ref().and_then(|rolling| rolling.partition).unwrap_or(0);
        let lowest = usize::try_from(partition).unwrap_or(0);
        for (_, pod) in slots.iter().skip(lowest).rev() {
            let Some(pod) = pod else { return };
            let is_old = revision_of(pod) != self.snapshot.update.name && !is_deleting(&pod.metadata);
            if is_old {
                self.delete(pod);
            }
            if is_old || !self.serves(pod) {
                return;
            }
        }
    }

    fn serves(&self, pod: &PodView) -> bool {
        self.is_available(pod) && !is_deleting(&pod.metadata)
    }

    /// The pod with the lowest ordinal that does not serve, wanted ones first.
    fn first_unhealthy(
        &self,
        slots: &[(i32, Option<Arc<PodView>>)],
        condemned: &[(i32, Arc<PodView>)],
    ) -> Option<Arc<PodView>> {
        let wanted = slots.iter().filter_map(|(_, pod)| pod.as_ref());
        wanted.chain(condemned.iter().rev().map(|(_, pod)| pod)).find(|pod| !self.serves(pod)).cloned()
    }
}

/// The status change; None when it is what is stored.
pub fn status_change(set: &StatefulSetView, status: &StatefulSetStatus) -> Option<Value> {
    (*status != set.status).then(|| {
        json!({"status": {
            "observedGeneration": status.observed_generation,
            "replicas": status.replicas,
            "readyReplicas": status.ready_replicas,
            "availableReplicas": status.available_replicas,
            "currentReplicas": status.current_replicas,
            "updatedReplicas": status.updated_replicas,
            "currentRevision": status.current_revision,
            "updateRevision": status.update_revision,
            "collisionCount": status.collision_count,
        }})
    })
}

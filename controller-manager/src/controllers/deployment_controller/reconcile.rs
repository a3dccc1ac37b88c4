//! One step of a deployment, purely: from the deployment, its replica sets and their pods to the writes that bring it
//! closer. The order of decisions is upstream's: pause, scale, then roll; a rollout first grows the new side, and only
//! when there was nothing to grow shrinks the old one.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::limits::{is_rolling, max_surge, max_unavailable, new_size, proportion};
use super::model::{DESIRED_REPLICAS, HASH_LABEL, REVISION, ReplicaSet, by_age};
use super::rollback::{ROLLBACK_TO, roll_back};
use super::status::Conditions;
use crate::controllers::revision::{encode_hash, hash_of};
use crate::framework::claim::claim;
use crate::framework::{Action, EventKind, Key, Plan, Subject, Target, View};
use crate::views::meta::is_deleting;
use crate::views::pod::PodView;
use crate::views::workloads::{DeploymentView, ReplicaSetView};

/// What a deployment's next step depends on.
#[derive(Debug)]
pub struct Snapshot {
    /// The deployment.
    pub deployment: Arc<DeploymentView>,
    /// Replica sets of the namespace that it owns or might adopt.
    pub replica_sets: Vec<Arc<ReplicaSetView>>,
    /// Pods of those replica sets; only needed for `Recreate`.
    pub pods: Vec<Arc<PodView>>,
    /// The time.
    pub now: Timestamp,
}

/// The next step.
pub fn reconcile(snapshot: &Snapshot) -> Plan {
    let deployment = &*snapshot.deployment;
    let subject = deployment.subject();
    if deployment.spec.selector.is_everything() {
        return select_everything(deployment, &subject);
    }
    let claims =
        claim(&subject, &deployment.metadata, &deployment.spec.selector, snapshot.replica_sets.iter().cloned(), |_| {
            true
        });
    let mut rollout = Rollout::new(snapshot, subject, claims.owned);
    rollout.plan.actions = claims.actions;
    rollout.step();
    rollout.finish()
}

/// A selector that selects everything would fight with everybody; upstream warns and does nothing.
fn select_everything(deployment: &DeploymentView, subject: &Subject) -> Plan {
    let mut plan = Plan::default();
    plan.event(
        subject,
        EventKind::Warning,
        "SelectingAll",
        "This deployment is selecting all pods. A non-empty selector is required.",
    );
    if deployment.status.observed_generation < deployment.metadata.generation {
        plan.change(
            deployment.target(),
            Some("status"),
            json!({"status": {"observedGeneration": deployment.metadata.generation}}),
        );
    }
    plan
}

struct Rollout<'a> {
    snapshot: &'a Snapshot,
    deployment: &'a DeploymentView,
    subject: Subject,
    plan: Plan,
    conditions: Conditions<'a>,
    revision: Option<String>,
    new: Option<ReplicaSet>,
    create_new: bool,
    old: Vec<ReplicaSet>,
    events: Vec<String>,
}

impl<'a> Rollout<'a> {
    fn new(snapshot: &'a Snapshot, subject: Subject, owned: Vec<Arc<ReplicaSetView>>) -> Self {
        let deployment = &*snapshot.deployment;
        let mut old: Vec<ReplicaSet> = owned.into_iter().map(ReplicaSet::new).collect();
        old.sort_by(by_age);
        // The oldest of several with the same template counts, so that everyone agrees on which is the new one.
        let new = old.iter().position(|set| set.has_template_of(deployment)).map(|index| old.remove(index));
        Self {
            snapshot,
            deployment,
            subject,
            plan: Plan::default(),
            conditions: Conditions::new(deployment, snapshot.now),
            revision: None,
            new,
            create_new: false,
            old,
            events: Vec::new(),
        }
    }

    fn step(&mut self) {
        if is_deleting(&self.deployment.metadata) {
            self.sync_revision(false);
            return self.conditions.availability(&self.totals());
        }
        self.conditions.pause();
        if let Some(revision) = self.rollback_wanted().filter(|_| !self.deployment.spec.paused) {
            return self.plan.actions.extend(roll_back(self.deployment, &self.subject, revision, self.all()));
        }
        if self.deployment.spec.paused || self.is_scaling() {
            self.sync_revision(false);
            self.scale();
            if self.deployment.spec.paused {
                self.clean_up();
            }
            return self.conditions.availability(&self.totals());
        }
        if is_rolling(self.deployment) {
            self.roll();
        } else {
            self.recreate();
        }
        let totals = self.totals();
        let failure = self.replica_failure();
        self.conditions.availability(&totals);
        self.conditions.rollout(&totals, self.new.as_ref().map(|set| set.meta().name.as_str()), failure);
        if let Some(delay) = self.conditions.stuck_check(&totals) {
            self.plan.again(delay);
        }
    }

    /// The revision that the deprecated annotation asks to go back to; 0 for the last one.
    fn rollback_wanted(&self) -> Option<i64> {
        self.deployment.metadata.annotations.get(ROLLBACK_TO)?.parse().ok()
    }

    fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new)
    }

    fn wanted_by_all(&self) -> i32 {
        self.all().map(|set| set.replicas).sum()
    }

    fn totals(&self) -> super::status::Totals {
        super::status::Totals::of(self.deployment, self.all(), self.new.as_ref())
    }

    fn replica_failure(&self) -> Option<crate::views::meta::Condition> {
        self.new
            .iter()
            .chain(&self.old)
            .flat_map(|set| &set.view.status.conditions)
            .find(|condition| condition.kind == "ReplicaFailure")
            .cloned()
    }

    /// Finds the new replica set (or makes it) and keeps rollout numbers in step.
    fn sync_revision(&mut self, create: bool) {
        let revision = self.old.iter().map(ReplicaSet::revision).max().unwrap_or(0) + 1;
        if let Some(new) = &mut self.new {
            new.note_rollout(self.deployment, revision);
            new.min_ready_seconds = self.deployment.spec.min_ready_seconds;
            self.revision = new.annotations.get(REVISION).cloned();
            self.conditions.found_new(&new.meta().name);
        } else if create {
            let mut new = ReplicaSet::new(Arc::new(self.new_replica_set()));
            new.note_rollout(self.deployment, revision);
            let wanted = self.deployment.spec.replicas;
            new.note_sizes(wanted, wanted + max_surge(self.deployment));
            new.replicas = new_size(self.deployment, self.wanted_by_all(), 0);
            self.conditions.created_new(&new.meta().name);
            self.revision = new.annotations.get(REVISION).cloned();
            if new.replicas > 0 {
                self.events.push(scaled(&new.meta().name, 0, new.replicas));
            }
            self.create_new = true;
            self.new = Some(new);
        }
    }

    /// The replica set for the present template, still without size.
    fn new_replica_set(&self) -> ReplicaSetView {
        let deployment = self.deployment;
        let hash = encode_hash(hash_of(&deployment.spec.template, deployment.status.collision_count.unwrap_or(0)));
        let mut view = ReplicaSetView::default();
        view.metadata.name = named(&deployment.metadata.name, &hash);
        view.metadata.namespace = deployment.metadata.namespace.clone();
        view.spec.replicas = 0;
        view.spec.min_ready_seconds = deployment.spec.min_ready_seconds;
        view.spec.template = deployment.spec.template.clone();
        view.spec.template["metadata"]["labels"][HASH_LABEL] = json!(hash);
        let mut selector = deployment.spec.selector.source.clone();
        selector["matchLabels"][HASH_LABEL] = json!(hash);
        view.spec.selector = crate::views::selector::Selector::new(selector);
        view
    }

    fn creation(&self, set: &ReplicaSet) -> Action {
        let template = &set.view.spec.template;
        Action::Create {
            resource: ReplicaSetView::RESOURCE,
            namespace: self.deployment.metadata.namespace.clone(),
            body: json!({
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": {
                    "name": set.meta().name,
                    "namespace": self.deployment.metadata.namespace,
                    "labels": template["metadata"]["labels"],
                    "annotations": set.annotations,
                    "ownerReferences": [self.subject.controller_reference()],
                },
                "spec": {
                    "replicas": set.replicas,
                    "minReadySeconds": set.min_ready_seconds,
                    "selector": set.view.spec.selector.source,
                    "template": template,
                },
            }),
        }
    }

    /// Whether somebody changed the deployment's size since its replica sets were sized.
    fn is_scaling(&self) -> bool {
        let wanted = self.deployment.spec.replicas;
        self.all()
            .filter(|set| set.replicas > 0)
            .any(|set| set.number_annotation(DESIRED_REPLICAS).is_some_and(|desired| desired != wanted))
    }

    /// Hands the deployment's size to its replica sets without rolling.
    fn scale(&mut self) {
        let wanted = self.deployment.spec.replicas;
        let active: Vec<String> =
            self.all().filter(|set| set.replicas > 0).map(|set| set.meta().name.clone()).collect();
        let single = match active.as_slice() {
            [] => self.new.as_ref().or(self.old.last()).map(|set| set.meta().name.clone()),
            [one] => Some(one.clone()),
            _ => None,
        };
        if let Some(name) = single {
            return self.resize(&name, wanted, true);
        }
        if self.is_saturated() {
            let new = self.new.as_ref().map(|new| new.meta().name.clone());
            for name in active.iter().filter(|name| new.as_ref() != Some(*name)) {
                self.resize(name, 0, true);
            }
            return;
        }
        if is_rolling(self.deployment) {
            self.scale_in_proportion();
        }
    }

    fn is_saturated(&self) -> bool {
        let wanted = self.deployment.spec.replicas;
        self.new.as_ref().is_some_and(|new| {
            new.replicas == wanted
                && new.number_annotation(DESIRED_REPLICAS) == Some(wanted)
                && new.view.status.available_replicas == wanted
        })
    }

    /// In the middle of a rollout each active replica set gets its share; the largest takes what rounding leaves over.
    fn scale_in_proportion(&mut self) {
        let wanted = self.deployment.spec.replicas;
        let allowed = if wanted > 0 { wanted + max_surge(self.deployment) } else { 0 };
        let mut active: Vec<ReplicaSet> = self.all().filter(|set| set.replicas > 0).cloned().collect();
        let to_add = allowed - active.iter().map(|set| set.replicas).sum::<i32>();
        active.sort_by(|a, b| {
            let age = if to_add > 0 { by_age(b, a) } else { by_age(a, b) };
            b.replicas.cmp(&a.replicas).then(age)
        });
        let mut added = 0;
        let mut sizes = Vec::new();
        for set in &active {
            let share = proportion(set, self.deployment, to_add, added);
            added += share;
            sizes.push((set.meta().name.clone(), set.replicas + share));
        }
        if let Some((_, size)) = sizes.first_mut()
            && to_add != 0
        {
            *size = (*size + to_add - added).max(0);
        }
        for (name, size) in sizes {
            self.resize(&name, size, false);
        }
    }

    /// Sets one replica set's size. `only_if_different` leaves the noted sizes alone when the size stays.
    fn resize(&mut self, name: &str, size: i32, only_if_different: bool) {
        let wanted = self.deployment.spec.replicas;
        let max = wanted + max_surge(self.deployment);
        let Some(set) = self.old.iter_mut().chain(&mut self.new).find(|set| set.meta().name == name) else { return };
        if set.replicas == size && only_if_different {
            return;
        }
        set.note_sizes(wanted, max);
        if set.replicas != size {
            self.events.push(scaled(name, set.replicas, size));
            set.replicas = size;
        }
    }

    fn roll(&mut self) {
        self.sync_revision(true);
        if self.create_new || self.grow_new() || self.shrink_old() {
            return;
        }
        if self.is_complete_as_stored() {
            self.clean_up();
        }
    }

    fn grow_new(&mut self) -> bool {
        let Some(new) = &self.new else { return false };
        let (name, before) = (new.meta().name.clone(), new.replicas);
        let size = if before >= self.deployment.spec.replicas {
            self.deployment.spec.replicas
        } else {
            new_size(self.deployment, self.wanted_by_all() + self.not_yet_deleted(), before)
        };
        self.resize(&name, size, true);
        size != before
    }

    /// Pods of old replica sets that are one too many there but still counted: until they are told to end, new ones would
    /// be more than the surge allows.
    fn not_yet_deleted(&self) -> i32 {
        self.old.iter().map(|set| (set.view.status.replicas - set.replicas).max(0)).sum()
    }

    /// Removes unhealthy pods of old replica sets first (they do not count as available), then healthy ones as far as
    /// availability allows.
    fn shrink_old(&mut self) -> bool {
        let all_pods = self.wanted_by_all();
        let Some(new) = &self.new else { return false };
        let min_available = self.deployment.spec.replicas - max_unavailable(self.deployment);
        let new_unavailable = new.replicas - new.view.status.available_replicas;
        let mut allowed = all_pods - min_available - new_unavailable;
        if self.old.iter().all(|set| set.replicas == 0) || allowed <= 0 {
            return false;
        }
        let before = allowed;
        for index in 0..self.old.len() {
            let unhealthy = self.old[index].replicas - self.old[index].view.status.available_replicas;
            allowed -= self.shrink_one(index, unhealthy.min(allowed));
        }
        // A replica set's status lags behind its size: it cannot have more available pods than it wants.
        let available = |set: &ReplicaSet| set.view.status.available_replicas.min(set.replicas);
        let mut healthy_allowed = (self.all().map(available).sum::<i32>() - min_available).min(allowed);
        for index in 0..self.old.len() {
            let cut = self.shrink_one(index, healthy_allowed);
            healthy_allowed -= cut;
            allowed -= cut;
        }
        before > allowed
    }

    /// Takes up to `cut` pods from an old replica set; returns how many.
    fn shrink_one(&mut self, index: usize, cut: i32) -> i32 {
        let (name, size) = (self.old[index].meta().name.clone(), self.old[index].replicas);
        let cut = cut.min(size).max(0);
        self.resize(&name, size - cut, true);
        cut
    }

    fn recreate(&mut self) {
        self.sync_revision(false);
        let active: Vec<String> =
            self.old.iter().filter(|set| set.replicas > 0).map(|set| set.meta().name.clone()).collect();
        if !active.is_empty() {
            return active.iter().for_each(|name| self.resize(name, 0, true));
        }
        if self.old_pods_running() {
            return;
        }
        if self.new.is_none() {
            self.sync_revision(true);
        }
        if let Some(name) = self.new.as_ref().map(|new| new.meta().name.clone()) {
            self.resize(&name, self.deployment.spec.replicas, true);
        }
        if self.is_complete_as_stored() {
            self.clean_up();
        }
    }

    fn old_pods_running(&self) -> bool {
        let new_uid = self.new.as_ref().map(|new| new.meta().uid.as_str());
        self.old.iter().any(|set| set.view.status.replicas > 0)
            || self.snapshot.pods.iter().any(|pod| {
                let owner = crate::framework::plan::controller_of(&pod.metadata).map(|owner| owner.uid.as_str());
                owner != new_uid
                    && self.old.iter().any(|set| owner == Some(set.meta().uid.as_str()))
                    && !pod.is_terminal()
            })
    }

    fn is_complete_as_stored(&self) -> bool {
        super::status::is_complete(self.deployment, &self.deployment.status)
    }

    /// Removes the oldest idle replica sets beyond the history limit.
    fn clean_up(&mut self) {
        let Some(limit) = self.deployment.spec.revision_history_limit else { return };
        let mut cleanable: Vec<&ReplicaSet> = self.old.iter().filter(|set| !is_deleting(set.meta())).collect();
        cleanable.sort_by_key(|set| set.revision());
        let excess = cleanable.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        let removals: Vec<Action> = cleanable
            .into_iter()
            .take(excess)
            .filter(|set| set.is_idle())
            .map(|set| Target::of(&ReplicaSetView::RESOURCE, set.meta()).delete(&set.meta().uid))
            .collect();
        self.plan.actions.extend(removals);
    }

    fn finish(mut self) -> Plan {
        if let Some(new) = &self.new
            && self.create_new
        {
            let creation = self.creation(new);
            self.plan.push(creation);
        }
        let created = self.create_new.then(|| self.new.take()).flatten();
        let changes: Vec<Action> = self.old.iter().chain(&self.new).filter_map(ReplicaSet::change).collect();
        self.plan.actions.extend(changes);
        for note in std::mem::take(&mut self.events) {
            self.plan.event(&self.subject, EventKind::Normal, "ScalingReplicaSet", note);
        }
        if let Some(created) = created {
            self.new = Some(created);
        }
        if let Some(change) = self.status_change() {
            self.plan.change(self.deployment.target(), Some("status"), change);
        }
        self.plan
    }

    fn status_change(&self) -> Option<Value> {
        let mut change = json!({});
        if let Some(status) = self.conditions.changed_status(&self.totals()) {
            change["status"] = status;
        }
        if let Some(revision) = &self.revision
            && self.deployment.metadata.annotations.get(REVISION) != Some(revision)
        {
            change["metadata"]["annotations"][REVISION] = json!(revision);
        }
        if change.as_object().is_none_or(serde_json::Map::is_empty) {
            return None;
        }
        change["metadata"]["resourceVersion"] = json!(self.deployment.metadata.resource_version);
        Some(change)
    }
}

fn scaled(name: &str, from: i32, to: i32) -> String {
    let direction = if to > from { "up" } else { "down" };
    format!("Scaled {direction} replica set {name} from {from} to {to}")
}

/// `DEPLOYMENT-HASH`, the deployment's part shortened so that pods' names still fit.
fn named(deployment: &str, hash: &str) -> String {
    const MAX_NAME_CHARS: usize = 253;
    let room = MAX_NAME_CHARS - hash.len() - 1;
    let base: String = deployment.chars().take(room).collect();
    format!("{base}-{hash}")
}

/// What to do when the name of the new replica set is taken by one that is not it: count the collision, so that the
/// next hash differs. None when the existing one is the very replica set that was to be made (an older cache).
pub fn on_name_taken(deployment: &DeploymentView, existing: &ReplicaSetView) -> Option<Action> {
    let owned = crate::framework::plan::controller_of(&existing.metadata)
        .is_some_and(|owner| owner.uid == deployment.metadata.uid);
    if owned && ReplicaSet::new(Arc::new(existing.clone())).has_template_of(deployment) {
        return None;
    }
    let count = deployment.status.collision_count.unwrap_or(0) + 1;
    Some(Target { resource: DeploymentView::RESOURCE, key: Key::of(&deployment.metadata) }.change_status(json!({
        "metadata": {"resourceVersion": deployment.metadata.resource_version},
        "status": {"collisionCount": count},
    })))
}

/// What to say when the new replica set could not be created.
pub fn on_create_failed(deployment: &DeploymentView, message: &str, now: Timestamp) -> Plan {
    let subject = deployment.subject();
    let mut plan = Plan::default();
    if let Some(status) = Conditions::new(deployment, now).failed_create(message) {
        plan.change(deployment.target(), Some("status"), status);
    }
    plan.event(
        &subject,
        EventKind::Warning,
        "ReplicaSetCreateError",
        format!("Failed to create new replica set: {message}"),
    );
    plan
}

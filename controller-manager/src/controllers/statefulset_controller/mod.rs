//! `statefulset-controller`: pods with names, order and claims of their own.
//!
//! Pods' names follow from their ordinals, so a lagging cache at worst tries to create what exists, which the server
//! refuses.

pub mod claims;
pub mod identity;
pub mod reconcile;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use client::informer::Delta;
use jiff::Timestamp;
use serde_json::json;

use self::identity::{claim_name, ordinal};
use self::reconcile::{Revision, Snapshot, reconcile, status_change};
use super::history::{Counted, HASH_LABEL, Present, clean_up, record, template_of};
use super::wake::{Wake, selecting, watch_dependents, watch_owners};
use crate::framework::claim::claim_from;
use crate::framework::{
    Action, Controller, EventKind, Executor, Expectations, Key, Plan, Queue, Setup, Store, Subject, SyncError,
    SyncResult, View,
};
use crate::views::meta::is_deleting;
use crate::views::pod::PodView;
use crate::views::volume::ClaimView;
use crate::views::workloads::{BY_NAMESPACE, ControllerRevisionView, StatefulSetView};

/// The hash on revisions of stateful sets.
const REVISION_HASH: &str = "controller.kubernetes.io/hash";

/// Registers `statefulset-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("statefulset");
    let sets = setup.stores.of::<StatefulSetView>();
    let pods = setup.stores.of::<PodView>();
    let revisions = setup.stores.of::<ControllerRevisionView>();
    let claims = setup.stores.of::<ClaimView>();
    let unwatched = Arc::new(Expectations::default());
    watch_owners(&sets, &queue, &unwatched);
    let selects = selecting(&sets, |set| &set.spec.selector);
    watch_dependents(&pods, StatefulSetView::RESOURCE.kind.as_ref(), Wake::now(&queue, &unwatched), selects);
    watch_claims(&sets, &claims, &queue);
    let executor = setup.executor("statefulset-controller");
    let workers = setup.config.concurrent.stateful_set;
    setup.workers(queue, workers, StatefulSets { sets, pods, revisions, claims, executor });
}

/// The end of a claim lets a pod be made that waited for it.
fn watch_claims(sets: &Store<StatefulSetView>, claims: &Store<ClaimView>, queue: &Queue) {
    let (sets, queue) = (sets.clone(), queue.clone());
    claims.on(move |delta| {
        let Delta::Deleted(claim) = delta else { return };
        for set in sets.by_index(BY_NAMESPACE, &claim.metadata.namespace) {
            let of_set = |template: &serde_json::Value| {
                let prefix = claim_name(template, &set.metadata.name, 0);
                claim.metadata.name.starts_with(prefix.trim_end_matches('0'))
            };
            if set.spec.volume_claim_templates.iter().any(of_set) {
                queue.add(Key::of(&set.metadata));
            }
        }
    });
}

struct StatefulSets {
    sets: Store<StatefulSetView>,
    pods: Store<PodView>,
    revisions: Store<ControllerRevisionView>,
    claims: Store<ClaimView>,
    executor: Executor,
}

impl Controller for StatefulSets {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else { return Ok(None) };
        let subject = set.subject();
        let owner = (&subject, &set.metadata, &set.spec.selector);
        let owned_revisions = claim_from(&self.executor, &self.revisions, owner, |_| true).await?;
        let named = |pod: &PodView| ordinal(&key.name, &pod.metadata.name).is_some();
        let pods = claim_from(&self.executor, &self.pods, owner, named).await?;
        let now = Present {
            template: &set.spec.template,
            collisions: set.status.collision_count.unwrap_or(0),
            hash_label: REVISION_HASH,
            annotations: json!(set.metadata.annotations),
        };
        let found = record(&self.executor, &subject, &now, &owned_revisions, is_deleting(&set.metadata)).await?;
        let Some(found) = found else { return Ok(None) };
        let update = Revision { name: found.name.clone(), template: set.spec.template.clone() };
        let current =
            owned_revisions.iter().find(|revision| revision.metadata.name == set.status.current_revision).map_or_else(
                || update.clone(),
                |revision| Revision { name: revision.metadata.name.clone(), template: template_of(revision) },
            );
        let find = |name: &str| self.claims.get(&key.namespace, name);
        let snapshot = Snapshot { set: &set, pods: &pods, current, update, claims: &find, now: Timestamp::now() };
        let step = reconcile(&snapshot);
        let again_after = step.plan.again_after;
        let result = self.run(&subject, step.plan).await;
        if let Some(change) = status_change(&set, &step.status) {
            self.executor.apply(set.target().change_status(change)).await?;
        }
        let mut in_use: BTreeSet<&str> =
            pods.iter().filter_map(|pod| pod.metadata.labels.get(HASH_LABEL)).map(String::as_str).collect();
        in_use.insert(&snapshot.current.name);
        let actions = clean_up(&found.old, set.spec.revision_history_limit, &in_use, Counted::Idle);
        self.executor.run(Plan { actions, again_after: None }).await?;
        result.map(|()| again_after)
    }
}

impl StatefulSets {
    async fn run(&self, subject: &Subject, plan: Plan) -> Result<(), SyncError> {
        for action in plan.actions {
            let what = match &action {
                Action::Create { body, .. } => Some((body["kind"].clone(), body["metadata"]["name"].clone())),
                _ => None,
            };
            match (self.executor.apply(action).await, what) {
                // A claim of that name is the pod's; a pod of that name, outside the set, is in the way.
                (Err(error), Some((kind, _))) if error.is_already_exists() && kind == "PersistentVolumeClaim" => {}
                (Err(error), Some((kind, name))) => {
                    if error.is_namespace_terminating() {
                        return Ok(());
                    }
                    let (kind, name) = (kind.as_str().unwrap_or_default(), name.as_str().unwrap_or_default());
                    let note =
                        format!("Create {kind} {name} in StatefulSet {} failed error: {error}", subject.key.name);
                    self.executor.event(subject, EventKind::Warning, "FailedCreate", note);
                    return Err(error);
                }
                (result, _) => result?,
            }
        }
        Ok(())
    }
}

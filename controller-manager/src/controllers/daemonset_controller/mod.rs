//! `daemonset-controller`: one pod on every node where it belongs.

pub mod placement;
pub mod reconcile;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::informer::Delta;
use jiff::Timestamp;

use self::placement::place;
use self::reconcile::{Changes, Snapshot, manage, pod_for, revision_annotations, roll, status_change};
use super::history::{Counted, HASH_LABEL, Present, clean_up, record};
use super::wake::{Wake, selecting, watch_dependents, watch_owners};
use crate::framework::claim::claim_from;
use crate::framework::plan::controller_of;
use crate::framework::pod_control::PodControl;
use crate::framework::{
    Controller, EventKind, Executor, Expectations, Key, Plan, Queue, Setup, Store, Subject, SyncError, SyncResult, View,
};
use crate::views::meta::is_deleting;
use crate::views::node::NodeView;
use crate::views::pod::{self, PodView};
use crate::views::workloads::{ControllerRevisionView, DaemonSetView};

/// At most so many pods are created or deleted in one step.
const BURST_PODS: usize = 250;
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(900);

/// Registers `daemonset-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("daemonset");
    let sets = setup.stores.of::<DaemonSetView>();
    let pods = setup.stores.of::<PodView>();
    let nodes = setup.stores.of::<NodeView>();
    let revisions = setup.stores.of::<ControllerRevisionView>();
    let expectations = Arc::new(Expectations::default());
    watch_owners(&sets, &queue, &expectations);
    let selects = selecting(&sets, |set| &set.spec.selector);
    watch_dependents(&pods, DaemonSetView::RESOURCE.kind.as_ref(), Wake::now(&queue, &expectations), selects);
    let unwatched = Arc::new(Expectations::default());
    watch_dependents(&revisions, DaemonSetView::RESOURCE.kind.as_ref(), Wake::now(&queue, &unwatched), |_| Vec::new());
    watch_nodes(&sets, &nodes, &pods, &queue);
    let executor = setup.executor("daemon-set-controller");
    let workers = setup.config.concurrent.daemon_set;
    let (control, failures) = (PodControl::new(&executor, &expectations), Mutex::default());
    let controller = DaemonSets { sets, pods, nodes, revisions, expectations, executor, control, failures };
    setup.workers(queue, workers, controller);
}

/// A node wakes the sets that have a pod too few or too many there, or pods where none should be. What else it changes
/// in their status is said at their next step, as upstream does.
fn watch_nodes(sets: &Store<DaemonSetView>, nodes: &Store<NodeView>, pods: &Store<PodView>, queue: &Queue) {
    let (sets, queue, pods) = (sets.clone(), queue.clone(), pods.clone());
    nodes.on(move |delta| {
        if let Delta::Updated { old, new } = delta
            && old.metadata.labels == new.metadata.labels
            && old.spec.taints == new.spec.taints
        {
            return;
        }
        let node = delta.object();
        let there = pods.by_index(pod::BY_NODE, &node.metadata.name);
        for set in sets.list() {
            let scheduled =
                there.iter().any(|pod| controller_of(&pod.metadata).is_some_and(|o| o.uid == set.metadata.uid));
            let at = place(node, &set.spec.template);
            let matters = if scheduled { !at.stay || set.status.number_misscheduled > 0 } else { at.run };
            if matters || matches!(delta, Delta::Deleted(_)) {
                queue.add(Key::of(&set.metadata));
            }
        }
    });
}

struct DaemonSets {
    sets: Store<DaemonSetView>,
    pods: Store<PodView>,
    nodes: Store<NodeView>,
    revisions: Store<ControllerRevisionView>,
    expectations: Arc<Expectations>,
    executor: Executor,
    control: PodControl,
    /// When and how often pods of a set failed on a node, by `uid/node`.
    failures: Mutex<HashMap<String, (u32, Timestamp)>>,
}

impl Controller for DaemonSets {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            return Ok(None);
        };
        let subject = set.subject();
        if set.spec.selector.is_everything() {
            let note = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.executor.event(&subject, EventKind::Warning, "SelectingAll", note);
            return Ok(None);
        }
        if is_deleting(&set.metadata) {
            // Its revisions may be gone already, so that nothing can be said about which pods are new.
            return Ok(None);
        }
        let owner = (&subject, &set.metadata, &set.spec.selector);
        let revisions = claim_from(&self.executor, &self.revisions, owner, |_| true).await?;
        let now = Present {
            template: &set.spec.template,
            collisions: set.status.collision_count.unwrap_or(0),
            hash_label: HASH_LABEL,
            annotations: revision_annotations(&set),
        };
        let history = record(&self.executor, &subject, &now, &revisions, false).await?;
        let Some(history) = history else { return Ok(None) };
        let settled = self.expectations.satisfied(key);
        let pods = claim_from(&self.executor, &self.pods, owner, |_| true).await?;
        let nodes = self.nodes.list();
        let snapshot = Snapshot { set: &set, nodes: &nodes, pods: &pods, hash: &history.hash, now: Timestamp::now() };
        let mut acted = Ok(None);
        if settled {
            acted = self.act(&snapshot, &subject).await;
        }
        if settled && acted.is_ok() {
            let in_use: BTreeSet<&str> =
                pods.iter().filter_map(|pod| pod.metadata.labels.get(HASH_LABEL)).map(String::as_str).collect();
            let actions = clean_up(&history.old, set.spec.revision_history_limit, &in_use, Counted::All);
            self.executor.run(Plan { actions, again_after: None }).await?;
        }
        if let Some(change) = status_change(&snapshot, settled) {
            self.executor.apply(set.target().change_status(change)).await?;
        }
        let again = acted?;
        let available = pods.iter().filter_map(|pod| pod.available_in(set.spec.min_ready_seconds, snapshot.now)).min();
        Ok([again, available].into_iter().flatten().min())
    }
}

impl DaemonSets {
    async fn act(&self, snapshot: &Snapshot<'_>, subject: &Subject) -> SyncResult {
        let mut changes = manage(snapshot);
        let again = self.admit_ended(snapshot, subject, &mut changes);
        let idle = changes.create_on.is_empty() && changes.delete.is_empty();
        self.perform(snapshot, subject, changes).await?;
        if idle && snapshot.set.spec.update_strategy.kind == "RollingUpdate" {
            self.perform(snapshot, subject, roll(snapshot)).await?;
        }
        Ok(again)
    }

    /// Ended pods are replaced, with growing pauses per node for those that failed.
    fn admit_ended(&self, snapshot: &Snapshot<'_>, subject: &Subject, changes: &mut Changes) -> Option<Duration> {
        let mut again = None;
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for (reason, pod) in std::mem::take(&mut changes.ended) {
            let node = pod.target_node();
            if reason == "FailedDaemonPod" {
                let entry = failures.entry(format!("{}/{node}", subject.uid)).or_insert((0, Timestamp::UNIX_EPOCH));
                let pause = FIRST_BACKOFF.saturating_mul(1 << entry.0.min(10)).min(LAST_BACKOFF);
                let since = crate::framework::backoff::elapsed(entry.1, snapshot.now);
                if since > LAST_BACKOFF * 2 {
                    entry.0 = 0;
                } else if since < pause {
                    let left = pause - since;
                    again = Some(again.map_or(left, |before: Duration| before.min(left)));
                    continue;
                }
                *entry = (entry.0 + 1, snapshot.now);
                let note = format!("Found failed daemon pod {} on node {node}, will try to kill it", pod.metadata.name);
                self.executor.event(subject, EventKind::Warning, reason, note);
            } else {
                let note =
                    format!("Found succeeded daemon pod {} on node {node}, will try to delete it", pod.metadata.name);
                self.executor.event(subject, EventKind::Normal, reason, note);
            }
            changes.delete.push(pod);
        }
        again
    }

    async fn perform(&self, snapshot: &Snapshot<'_>, subject: &Subject, mut changes: Changes) -> Result<(), SyncError> {
        changes.create_on.truncate(BURST_PODS);
        changes.delete.truncate(BURST_PODS);
        if changes.create_on.is_empty() && changes.delete.is_empty() {
            return Ok(());
        }
        let make = |index: usize| pod_for(snapshot.set, subject, snapshot.hash, &changes.create_on[index]);
        let done = self.control.perform(subject, changes.create_on.len(), make, &changes.delete).await;
        done.error.map_or(Ok(()), Err)
    }
}

//! `replicaset-controller` and `replicationcontroller-controller`: keeps the wanted number of pods.
//!
//! The same code serves both resources; the type parameter says which. Expectations keep a lagging cache from making or
//! deleting the same pods twice.

pub mod reconcile;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;

use self::reconcile::{Manage, Owned, PodSet, manage, sort_out, status_change};
use super::pod_template::pod_from_template;
use super::wake::{Wake, selecting, watch_dependents, watch_owners};
use crate::framework::plan::controller_of;
use crate::framework::pod_control::PodControl;
use crate::framework::{Controller, Executor, Expectations, Key, Plan, Setup, Store, Subject, SyncResult};
use crate::views::meta::is_deleting;
use crate::views::orphans_of;
use crate::views::pod::{self, PodView};
use crate::views::workloads::{self, ReplicaSetView, ReplicationControllerView};

/// Registers `replicaset-controller`.
pub fn replicaset(setup: &mut Setup) {
    let workers = setup.config.concurrent.replica_set;
    register::<ReplicaSetView>(setup, "replicaset", "replicaset-controller", workers);
}

/// Registers `replicationcontroller-controller`.
pub fn replicationcontroller(setup: &mut Setup) {
    let workers = setup.config.concurrent.replication_controller;
    register::<ReplicationControllerView>(setup, "replicationmanager", "replication-controller", workers);
}

fn register<S: PodSet>(setup: &mut Setup, queue_name: &'static str, account: &'static str, workers: usize) {
    let queue = setup.queue(queue_name);
    let sets = setup.stores.of::<S>();
    let pods = setup.stores.of::<PodView>();
    let expectations = Arc::new(Expectations::default());
    watch_owners(&sets, &queue, &expectations);
    let selects = selecting(&sets, |set| &set.spec().selector);
    watch_dependents(&pods, S::RESOURCE.kind.as_ref(), Wake::now(&queue, &expectations), selects);
    let executor = setup.executor(account);
    let control = PodControl::new(&executor, &expectations);
    let controller = ReplicaSets::<S> { sets, pods, expectations, executor, control, kind: PhantomData };
    setup.workers(queue, workers, controller);
}

struct ReplicaSets<S: PodSet> {
    sets: Store<S>,
    pods: Store<PodView>,
    expectations: Arc<Expectations>,
    executor: Executor,
    control: PodControl,
    kind: PhantomData<S>,
}

impl<S: PodSet> Controller for ReplicaSets<S> {
    async fn sync(&self, key: &Key) -> SyncResult {
        self.step(key).await
    }
}

impl<S: PodSet> ReplicaSets<S> {
    async fn step(&self, key: &Key) -> SyncResult {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            return Ok(None);
        };
        let now = Timestamp::now();
        let subject = Subject::of(&S::RESOURCE, set.meta());
        let settled = self.expectations.satisfied(key);
        let mut candidates = self.pods.by_index(pod::BY_OWNER, &subject.uid);
        candidates.extend(self.pods.by_index(pod::BY_OWNER, &orphans_of(&key.namespace)));
        let mut owned = sort_out(&*set, &subject, &candidates);
        self.executor.run(Plan { actions: std::mem::take(&mut owned.actions), again_after: None }).await?;
        let mut failure = None;
        if settled && !is_deleting(set.meta()) {
            let (create, delete, reason) = match manage(&*set, &owned.active, || self.related(set.meta()), now) {
                Manage::Nothing => (0, Vec::new(), ""),
                Manage::Create(count) => (count, Vec::new(), "FailedCreate"),
                Manage::Delete(pods) => (0, pods, "FailedDelete"),
            };
            if create > 0 || !delete.is_empty() {
                let make = |_| pod_from_template(&set.spec().template, &subject);
                let done = self.control.perform(&subject, create, make, &delete).await;
                failure = done.error.map(|error| (reason, error));
            }
        }
        let said = failure.as_ref().map(|(reason, error)| (*reason, error.to_string()));
        if let Some(change) = status_change(&*set, &owned, said, now) {
            self.executor.apply(change).await?;
        }
        match failure {
            Some((_, error)) => Err(error),
            None => Ok(self.next_availability(&*set, &owned, now)),
        }
    }

    /// Pods of all sets with the same controller, for spreading deletions over nodes.
    fn related(&self, meta: &apimachinery::meta::ObjectMeta) -> Vec<Arc<PodView>> {
        let mut uids = HashSet::from([meta.uid.clone()]);
        if let Some(owner) = controller_of(meta) {
            uids.extend(self.sets.by_index(workloads::BY_OWNER, &owner.uid).iter().map(|set| set.meta().uid.clone()));
        }
        uids.iter().flat_map(|uid| self.pods.by_index(pod::BY_OWNER, uid)).collect()
    }

    fn next_availability(&self, set: &S, owned: &Owned, now: Timestamp) -> Option<std::time::Duration> {
        let seconds = set.spec().min_ready_seconds;
        owned.active.iter().filter_map(|pod| pod.available_in(seconds, now)).min()
    }
}

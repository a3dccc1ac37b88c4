//! `deployment-controller`: rolls a deployment's pods from one template to the next through replica sets.
//!
//! Pure parts: [`reconcile`] (what to do), [`limits`] (the arithmetic), [`status`] (what to say). A lagging cache is
//! harmless: names of new replica sets follow from the template, and every resize is conditional on the version seen.

pub mod limits;
pub mod model;
pub mod reconcile;
pub mod rollback;
pub mod status;
#[cfg(test)]
mod tests;

use client::informer::Delta;
use jiff::Timestamp;

use self::reconcile::{Snapshot, on_create_failed, on_name_taken, reconcile};
use crate::framework::plan::controller_of;
use crate::framework::{Action, Controller, Executor, Key, Plan, Queue, Setup, Store, SyncError, SyncResult, View};
use crate::views::orphans_of;
use crate::views::pod::{self, PodView};
use crate::views::workloads::{self, DeploymentView, ReplicaSetView};

/// Registers `deployment-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("deployment");
    let deployments = setup.stores.of::<DeploymentView>();
    let replica_sets = setup.stores.of::<ReplicaSetView>();
    let pods = setup.stores.of::<PodView>();
    deployments.wakes(&queue);
    watch_replica_sets(&deployments, &replica_sets, &queue);
    watch_pods(&deployments, &replica_sets, &pods, &queue);
    let executor = setup.executor("deployment-controller");
    let workers = setup.config.concurrent.deployment;
    setup.workers(queue, workers, Deployments { deployments, replica_sets, pods, executor });
}

fn owner_key(set: &ReplicaSetView) -> Option<Key> {
    controller_of(&set.metadata)
        .filter(|owner| owner.kind == DeploymentView::RESOURCE.kind)
        .map(|owner| Key::new(set.metadata.namespace.as_str(), owner.name.as_str()))
}

/// Replica sets lead to their deployment; orphans to every deployment that selects them.
fn watch_replica_sets(deployments: &Store<DeploymentView>, sets: &Store<ReplicaSetView>, queue: &Queue) {
    let (deployments, queue) = (deployments.clone(), queue.clone());
    sets.on(move |delta| {
        let set = delta.object();
        if let Delta::Updated { old, .. } = delta
            && let Some(key) = owner_key(old)
        {
            queue.add(key);
        }
        if let Some(key) = owner_key(set) {
            return queue.add(key);
        }
        if controller_of(&set.metadata).is_none() && !matches!(delta, Delta::Deleted(_)) {
            for deployment in deployments.by_index(workloads::BY_NAMESPACE, &set.metadata.namespace) {
                if deployment.spec.selector.matches(&set.metadata.labels) {
                    queue.add(Key::of(&deployment.metadata));
                }
            }
        }
    });
}

/// A pod's end matters only to `Recreate`, which waits for the last old one.
fn watch_pods(deployments: &Store<DeploymentView>, sets: &Store<ReplicaSetView>, pods: &Store<PodView>, queue: &Queue) {
    let (deployments, sets, queue) = (deployments.clone(), sets.clone(), queue.clone());
    pods.on(move |delta| {
        let pod = delta.object();
        if !matches!(delta, Delta::Deleted(_)) && !pod.is_terminal() {
            return;
        }
        let key = controller_of(&pod.metadata)
            .and_then(|owner| sets.get(&pod.metadata.namespace, &owner.name))
            .and_then(|set| owner_key(&set));
        if let Some(key) = key
            && deployments
                .get(&key.namespace, &key.name)
                .is_some_and(|deployment| deployment.spec.strategy.kind == "Recreate")
        {
            queue.add(key);
        }
    });
}

struct Deployments {
    deployments: Store<DeploymentView>,
    replica_sets: Store<ReplicaSetView>,
    pods: Store<PodView>,
    executor: Executor,
}

impl Controller for Deployments {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(snapshot) = self.snapshot(key) else { return Ok(None) };
        let plan = reconcile(&snapshot);
        let again_after = plan.again_after;
        for action in plan.actions {
            let created = match &action {
                Action::Create { body, .. } => body["metadata"]["name"].as_str().map(str::to_owned),
                _ => None,
            };
            match (self.executor.apply(action).await, created) {
                (Ok(()), _) => {}
                (Err(error), Some(name)) => return self.creation_failed(&snapshot, &name, error).await,
                (Err(error), None) => return Err(error),
            }
        }
        Ok(again_after)
    }
}

impl Deployments {
    fn snapshot(&self, key: &Key) -> Option<Snapshot> {
        let deployment = self.deployments.get(&key.namespace, &key.name)?;
        let uid = &deployment.metadata.uid;
        let mut replica_sets = self.replica_sets.by_index(workloads::BY_OWNER, uid);
        replica_sets.extend(self.replica_sets.by_index(workloads::BY_OWNER, &orphans_of(&key.namespace)));
        let pods = if deployment.spec.strategy.kind == "Recreate" {
            replica_sets.iter().flat_map(|set| self.pods.by_index(pod::BY_OWNER, &set.metadata.uid)).collect()
        } else {
            Vec::new()
        };
        Some(Snapshot { deployment, replica_sets, pods, now: Timestamp::now() })
    }

    async fn creation_failed(&self, snapshot: &Snapshot, name: &str, error: SyncError) -> SyncResult {
        let deployment = &snapshot.deployment;
        let namespace = deployment.metadata.namespace.as_str();
        if error.is_already_exists() {
            let existing: ReplicaSetView = self.executor.get(namespace, name).await?;
            if let Some(action) = on_name_taken(deployment, &existing) {
                self.executor.apply(action).await?;
            }
        } else if error.is_namespace_terminating() {
            return Ok(None);
        } else {
            let plan: Plan = on_create_failed(deployment, &error.to_string(), snapshot.now);
            self.executor.run(plan).await?;
        }
        Err(error)
    }
}

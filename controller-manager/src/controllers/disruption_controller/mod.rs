//! `disruption-controller`: how many pods of each budget may be evicted now. What the pods' controllers want comes from the
//! workloads' caches, for other kinds from their `scale` subresource. A second queue takes `DisruptionTarget` back from pods
//! that were to end and did not.

pub mod reconcile;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use apimachinery::meta::{ObjectMeta, OwnerReference};
use client::ResourceRef;
use client::informer::Delta;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use self::reconcile::{evicted, expected, failed, needs_scale, of_replica_set, stale_in, status};
use crate::framework::discovery::Kinds;
use crate::framework::plan::controller_of;
use crate::framework::{Controller, EventKind, Executor, Key, Setup, Store, Subject, SyncError, SyncResult, View};
use crate::views::meta::{Condition, to_value};
use crate::views::pod::{BY_NAMESPACE as PODS_BY_NAMESPACE, PodView};
use crate::views::policy::{BY_NAMESPACE, BudgetStatus, BudgetView};
use crate::views::workloads::{DeploymentView, ReplicaSetView, ReplicationControllerView, StatefulSetView};

/// Registers `disruption-controller`.
pub fn register(setup: &mut Setup) {
    let (queue, stale) = (setup.queue("disruption"), setup.queue("stale_pod_disruption"));
    let budgets = setup.stores.of::<BudgetView>();
    let pods = setup.stores.of::<PodView>();
    let executor = setup.executor("disruption-controller");
    budgets.wakes(&queue);
    let (wake, wake_stale, all, events) = (queue.clone(), stale.clone(), budgets.clone(), executor.clone());
    pods.on(move |delta| {
        let pod = delta.object();
        let meta = &pod.metadata;
        if stale_in(pod, Timestamp::now()).is_some() {
            wake_stale.add(Key::of(meta));
        }
        let old = if let Delta::Updated { old, .. } = delta { Some(&old.metadata.labels) } else { None };
        let mut selecting = 0;
        for budget in all.by_index(BY_NAMESPACE, &meta.namespace) {
            let selects = budget.spec.selector.matches(&meta.labels);
            selecting += usize::from(selects);
            if selects || old.is_some_and(|labels| budget.spec.selector.matches(labels)) {
                wake.add(Key::of(&budget.metadata));
            }
        }
        if selecting > 1 && matches!(delta, Delta::Added(_)) {
            let note = format!("Pod {:?}/{:?} matches multiple PodDisruptionBudgets", meta.namespace, meta.name);
            let about = Subject::of(&PodView::RESOURCE, meta);
            events.event(&about, EventKind::Warning, "MultiplePodDisruptionBudgets", note);
        }
    });
    let owners = Owners {
        replica_sets: setup.stores.of(),
        deployments: setup.stores.of(),
        replication_controllers: setup.stores.of(),
        stateful_sets: setup.stores.of(),
        kinds: Kinds::new(executor.client().clone()),
    };
    let targets = StaleTargets { pods: pods.clone(), executor: executor.clone() };
    setup.workers(queue, 1, Disruption { budgets, pods, owners, executor });
    setup.workers(stale, 1, targets);
}

/// Who may control pods, and how many pods they want.
struct Owners {
    replica_sets: Store<ReplicaSetView>,
    deployments: Store<DeploymentView>,
    replication_controllers: Store<ReplicationControllerView>,
    stateful_sets: Store<StatefulSetView>,
    kinds: Kinds,
}

/// The identity of a controller and how many pods it wants.
type Scale = Option<(String, i32)>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct ScaleView {
    metadata: ObjectMeta,
    spec: ScaleSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ScaleSpec {
    replicas: i32,
}

impl Owners {
    /// The controller that decides how many pods there are. None when it is gone (or another one by now).
    async fn scale(&self, namespace: &str, owner: &OwnerReference) -> Result<Scale, SyncError> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let cached = match (group, owner.kind.as_str()) {
            ("apps" | "extensions", "ReplicaSet") => {
                let set = self.replica_sets.get(namespace, &owner.name).filter(|set| set.metadata.uid == owner.uid);
                set.map(|set| of_replica_set(&set, |name| self.deployments.get(namespace, name)))
            }
            ("", "ReplicationController") => self
                .replication_controllers
                .get(namespace, &owner.name)
                .filter(|controller| controller.metadata.uid == owner.uid)
                .map(|controller| (owner.uid.clone(), controller.spec.replicas)),
            ("apps", "StatefulSet") => self
                .stateful_sets
                .get(namespace, &owner.name)
                .filter(|set| set.metadata.uid == owner.uid)
                .map(|set| (owner.uid.clone(), set.spec.replicas.unwrap_or(1))),
            _ => None,
        };
        // As upstream: what the caches do not have is asked for.
        if cached.is_some() { Ok(cached) } else { self.by_subresource(namespace, owner).await }
    }

    async fn by_subresource(&self, namespace: &str, owner: &OwnerReference) -> Result<Scale, SyncError> {
        let unknown = || SyncError::Object(format!("{} {} is of no served kind", owner.kind, owner.name));
        let (resource, scalable): (ResourceRef, bool) =
            self.kinds.find(&owner.api_version, &owner.kind).await?.ok_or_else(unknown)?;
        if !scalable {
            return Err(SyncError::Object(format!("{resource} does not implement the scale subresource")));
        }
        match self.kinds.client().get_sub::<ScaleView>(&resource, Some(namespace), &owner.name, "scale").await {
            Ok(scale) if scale.metadata.uid == owner.uid => Ok(Some((owner.uid.clone(), scale.spec.replicas))),
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

struct Disruption {
    budgets: Store<BudgetView>,
    pods: Store<PodView>,
    owners: Owners,
    executor: Executor,
}

impl Disruption {
    /// How many pods the controllers of `pods` want together. Pods without one are named in an event and not counted.
    async fn scale(&self, about: &Subject, pods: &[Arc<PodView>]) -> Result<i32, SyncError> {
        let (mut scales, mut unmanaged) = (BTreeMap::new(), Vec::new());
        let mut judged = HashSet::new();
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else {
                unmanaged.push(pod.metadata.uid.as_str());
                continue;
            };
            if !judged.insert(owner.uid.as_str()) {
                continue;
            }
            let Some((uid, replicas)) = self.owners.scale(&pod.metadata.namespace, owner).await? else {
                let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
                return Err(SyncError::Object(format!("found no controllers for pod \"{namespace}/{name}\"")));
            };
            scales.insert(uid, replicas);
        }
        if !unmanaged.is_empty() {
            let note = format!(
                "Pods selected by this PodDisruptionBudget were found to be unmanaged, so its status cannot be computed \
                 correctly; set \".spec.minAvailable\" to an integer to count them: {unmanaged:?}"
            );
            self.executor.event(about, EventKind::Warning, "UnmanagedPods", note);
        }
        Ok(scales.values().sum())
    }

    async fn look(&self, budget: &BudgetView, about: &Subject) -> SyncResult {
        let mut pods = self.pods.by_index(PODS_BY_NAMESPACE, &budget.metadata.namespace);
        pods.retain(|pod| budget.spec.selector.matches(&pod.metadata.labels));
        if pods.is_empty() {
            self.executor.event(about, EventKind::Normal, "NoPods", "No matching pods found");
        }
        let now = Timestamp::now();
        let counted = match if needs_scale(budget) { self.scale(about, &pods).await } else { Ok(0) } {
            Ok(scale) => expected(budget, pods.len(), scale).map_err(SyncError::Object),
            Err(error) => Err(error),
        };
        let counted = counted.inspect_err(|error| {
            let note = format!("Failed to calculate the number of expected pods: {error}");
            self.executor.event(about, EventKind::Warning, "CalculateExpectedPodCountFailed", note);
        })?;
        let evicted = evicted(budget, &pods, now);
        for pod in pods.iter().filter(|pod| evicted.overdue.contains(&pod.metadata.name)) {
            let note = format!("Pod was expected by PDB {} to be deleted but it wasn't", about.key);
            let pod = pod.subject();
            self.executor.event(&pod, EventKind::Warning, "NotDeleted", note);
        }
        let status = status(budget, &pods, counted, evicted.pending, now);
        self.write(budget, &status).await?;
        Ok(evicted.again)
    }

    async fn write(&self, budget: &BudgetView, status: &BudgetStatus) -> Result<(), SyncError> {
        if *status == budget.status {
            return Ok(());
        }
        // A merge keeps what is not named: entries that are over must be named with null.
        let mut pods = serde_json::Map::new();
        pods.extend(budget.status.disrupted_pods.keys().map(|name| (name.clone(), Value::Null)));
        pods.extend(status.disrupted_pods.iter().map(|(name, since)| (name.clone(), to_value(since))));
        let change = json!({
            "metadata": {"resourceVersion": budget.metadata.resource_version},
            "status": {
                "observedGeneration": status.observed_generation,
                "disruptionsAllowed": status.disruptions_allowed,
                "currentHealthy": status.current_healthy,
                "desiredHealthy": status.desired_healthy,
                "expectedPods": status.expected_pods,
                "disruptedPods": if pods.is_empty() { Value::Null } else { Value::Object(pods) },
                "conditions": to_value(&status.conditions),
            },
        });
        self.executor.apply(budget.target().change_status(change)).await
    }
}

impl Controller for Disruption {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(budget) = self.budgets.get(&key.namespace, &key.name) else { return Ok(None) };
        let about = budget.subject();
        let result = self.look(&budget, &about).await;
        if let Err(error) = &result
            && !error.is_conflict()
            && !error.is_not_found()
        {
            self.write(&budget, &failed(&budget, &error.to_string(), Timestamp::now())).await?;
        }
        result
    }
}

struct StaleTargets {
    pods: Store<PodView>,
    executor: Executor,
}

impl Controller for StaleTargets {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(None) };
        let now = Timestamp::now();
        let Some(left) = stale_in(&pod, now) else { return Ok(None) };
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let condition = Condition {
            kind: "DisruptionTarget".to_owned(),
            status: "False".to_owned(),
            last_transition_time: now.into(),
            ..Condition::default()
        };
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        let action = pod.target().patch_status(patch);
        self.executor.apply(action).await.map(|()| None)
    }
}

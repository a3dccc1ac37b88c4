//! `pod-garbage-collector-controller`: removes pods that nobody else will remove: those of vanished nodes, terminating
//! ones that were never bound, terminating ones on nodes declared out of service, and ended ones beyond a threshold.
//!
//! Pods of vanished nodes wait 40 s (upstream's quarantine), because the node may only be late in the cache.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::informer::Delta;
use jiff::Timestamp;
use serde_json::json;

use super::disruption_condition;
use crate::framework::backoff::remaining;
use crate::framework::{Action, Controller, Executor, Key, Plan, Setup, Store, SyncResult, View};
use crate::views::meta::{created, is_deleting};
use crate::views::node::NodeView;
use crate::views::pod::PodView;

const QUARANTINE_SECONDS: i64 = 40;
const COLLECT_DELAY: Duration = Duration::from_secs(1);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Registers `pod-garbage-collector-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("orphaned_pods_nodes");
    let pods = setup.stores.of::<PodView>();
    let nodes = setup.stores.of::<NodeView>();
    let (wake, known) = (queue.clone(), nodes.clone());
    pods.on(move |delta| {
        let pod = delta.object();
        let unbound = pod.spec.node_name.is_empty();
        let stranded = !unbound && known.get("", &pod.spec.node_name).is_none();
        if !matches!(delta, Delta::Deleted(_)) && (pod.is_terminal() || is_deleting(&pod.metadata) || stranded) {
            wake.add_after(Key::default(), COLLECT_DELAY);
        }
    });
    let wake = queue.clone();
    nodes.on(move |delta| {
        let declared = delta.object().spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE);
        if declared || matches!(delta, Delta::Deleted(_)) {
            wake.add_after(Key::default(), COLLECT_DELAY);
        }
    });
    let executor = setup.executor("pod-garbage-collector");
    let threshold = setup.config.terminated_pod_gc_threshold;
    setup.workers(queue, 1, PodGc { pods, nodes, executor, threshold, missing_since: Mutex::default() });
}

/// What the collector looks at.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// All pods.
    pub pods: &'a [Arc<PodView>],
    /// Nodes by name.
    pub nodes: &'a HashMap<String, Arc<NodeView>>,
    /// Since when nodes with pods are missing.
    pub missing_since: &'a HashMap<String, Timestamp>,
    /// How many ended pods may stay; 0 for all.
    pub threshold: usize,
    /// The time.
    pub now: Timestamp,
}

/// The pods to remove, and when to look again.
pub fn reconcile(snapshot: &Snapshot<'_>) -> Plan {
    let mut plan = Plan::default();
    for pod in snapshot.pods {
        let node = &pod.spec.node_name;
        let deleting = is_deleting(&pod.metadata);
        if node.is_empty() {
            if deleting {
                remove(&mut plan, pod, None);
            }
            continue;
        }
        match (snapshot.nodes.get(node), snapshot.missing_since.get(node)) {
            (None, Some(since)) => {
                let left = remaining(*since, QUARANTINE_SECONDS, snapshot.now);
                if left.is_zero() {
                    remove(&mut plan, pod, Some("PodGC: node no longer exists"));
                } else {
                    plan.again(left);
                }
            }
            (Some(node), _) if deleting && !node_serves(node) => {
                remove(&mut plan, pod, None);
            }
            _ => {}
        }
    }
    let mut ended: Vec<&Arc<PodView>> = snapshot.pods.iter().filter(|pod| pod.is_terminal()).collect();
    if snapshot.threshold > 0 && ended.len() > snapshot.threshold {
        ended.sort_by_key(|pod| (created(&pod.metadata), pod.metadata.name.clone()));
        for pod in &ended[..ended.len() - snapshot.threshold] {
            remove(&mut plan, pod, None);
        }
    }
    plan
}

fn node_serves(node: &NodeView) -> bool {
    let ready = crate::views::meta::condition(&node.status.conditions, "Ready").is_some_and(|c| c.status == "True");
    ready || node.spec.taints.iter().all(|taint| taint.key != OUT_OF_SERVICE)
}

/// `why` is said in the pod's condition: a pod that lost its node was disrupted, the others were to end anyway.
fn remove(plan: &mut Plan, pod: &PodView, why: Option<&str>) {
    let target = pod.target();
    if !pod.is_terminal() {
        let mut status = why.map_or_else(
            || json!({"metadata": {"uid": pod.metadata.uid}}),
            |why| disruption_condition(pod, "DeletionByPodGC", why, Timestamp::now()),
        );
        status["status"]["phase"] = json!("Failed");
        plan.push(Action::Patch {
            target: target.clone(),
            subresource: Some("status"),
            patch: crate::framework::plan::PatchBody::Strategic(status),
        });
    }
    plan.push(Action::Delete {
        target,
        uid: pod.metadata.uid.clone(),
        grace_period_seconds: Some(0),
        propagation: None,
    });
}

struct PodGc {
    pods: Store<PodView>,
    nodes: Store<NodeView>,
    executor: Executor,
    threshold: usize,
    missing_since: Mutex<HashMap<String, Timestamp>>,
}

impl PodGc {
    fn plan(&self) -> Plan {
        let (pods, now) = (self.pods.list(), Timestamp::now());
        let nodes: HashMap<String, Arc<NodeView>> =
            self.nodes.list().into_iter().map(|node| (node.metadata.name.clone(), node)).collect();
        let mut missing = self.missing_since.lock().unwrap_or_else(PoisonError::into_inner);
        missing.retain(|name, _| !nodes.contains_key(name) && pods.iter().any(|pod| pod.spec.node_name == *name));
        for pod in pods.iter().filter(|pod| !pod.spec.node_name.is_empty()) {
            if !nodes.contains_key(&pod.spec.node_name) {
                missing.entry(pod.spec.node_name.clone()).or_insert(now);
            }
        }
        reconcile(&Snapshot { pods: &pods, nodes: &nodes, missing_since: &missing, threshold: self.threshold, now })
    }
}

impl Controller for PodGc {
    async fn sync(&self, _: &Key) -> SyncResult {
        let plan = self.plan();
        let again_after = plan.again_after;
        self.executor.run(plan).await?;
        Ok(again_after)
    }
}

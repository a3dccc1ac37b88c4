//! `node-lifecycle-controller`: notices nodes that fell silent, says so in their conditions and pods, and taints nodes
//! by their conditions, `NoExecute` ones at a limited rate per zone.
//!
//! A node is looked at when it, or its lease, changes and when its patience runs out, and all are when a zone's health changes:
//! nothing is polled. When no node answers at all, no pod is evicted, and the nodes start anew once one answers.

pub mod health;
pub mod reconcile;
#[cfg(test)]
mod tests;
pub mod zones;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::informer::Delta;
use jiff::Timestamp;

use self::health::{Grace, Memory, observe, patience_left, readiness, silence};
use self::reconcile::{Eviction, labels_change, pod_not_ready, taints_change, wanted_taints};
use self::zones::{Bucket, Rates, Zones, judge, zone_of};
use crate::framework::{Controller, EventKind, Executor, Key, Plan, Queue, Setup, Store, SyncResult, View};
use crate::views::meta::condition;
use crate::views::node::{LeaseView, NodeView};
use crate::views::pod::{BY_NODE, PodView};

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Registers `node-lifecycle-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("node_lifecycle_controller");
    let nodes = setup.stores.of::<NodeView>();
    let pods = setup.stores.of::<PodView>();
    let leases = setup.stores.of::<LeaseView>();
    let executor = setup.executor("node-controller");
    let (wake, recorder) = (queue.clone(), executor.clone());
    let zones_changed = Arc::new(AtomicBool::new(true));
    let changed = Arc::clone(&zones_changed);
    nodes.on(move |delta| {
        let node = delta.object();
        let health = |node: &NodeView| (readiness(node) == "True", zone_of(node), zones::counts(node));
        if !matches!(delta, Delta::Updated { old, new } if health(old) == health(new)) {
            changed.store(true, Ordering::Relaxed);
        }
        let subject = node.subject();
        let name = &node.metadata.name;
        match delta {
            Delta::Added(_) => {
                let note = format!("Node {name} event: Registered Node {name} in Controller");
                recorder.event(&subject, EventKind::Normal, "RegisteredNode", note);
            }
            Delta::Deleted(_) => {
                let note = format!("Node {name} event: Removing Node {name} from Controller");
                recorder.event(&subject, EventKind::Normal, "RemovingNode", note);
            }
            Delta::Updated { .. } => {}
        }
        wake.add(Key::of(&node.metadata));
    });
    let wake = queue.clone();
    leases.on(move |delta| {
        if delta.object().metadata.namespace == LEASE_NAMESPACE {
            wake.add(Key::new("", &delta.object().metadata.name));
        }
    });
    let config = setup.config;
    let controller = NodeLifecycle {
        nodes,
        pods,
        leases,
        executor,
        grace: Grace { running: config.node_monitor_grace_period, starting: config.node_startup_grace_period },
        rates: config.eviction_rates,
        queue: queue.clone(),
        zones_changed,
        state: Mutex::default(),
    };
    setup.workers(queue, 8, controller);
}

#[derive(Default)]
struct State {
    memories: HashMap<String, Memory>,
    buckets: HashMap<String, Bucket>,
    silent: HashMap<String, bool>,
    zones: Zones,
}

struct NodeLifecycle {
    nodes: Store<NodeView>,
    pods: Store<PodView>,
    leases: Store<LeaseView>,
    executor: Executor,
    grace: Grace,
    rates: Rates,
    queue: Queue,
    /// A node came, went, or changed how it counts in its zone.
    zones_changed: Arc<AtomicBool>,
    state: Mutex<State>,
}

impl NodeLifecycle {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, name: &str) {
        let mut state = self.state();
        state.memories.remove(name);
        state.silent.remove(name);
    }

    /// Judges the zones anew where a node changed. All nodes are looked at again when that changes what may be done to them.
    fn judge_zones(&self, now: Timestamp) {
        if !self.zones_changed.swap(false, Ordering::Relaxed) {
            return;
        }
        let nodes = self.nodes.list();
        let zones = judge(nodes.iter().map(AsRef::as_ref), self.rates);
        {
            let mut state = self.state();
            if state.zones == zones {
                return;
            }
            if state.zones.all_down && !zones.all_down {
                // Perhaps it was this side that did not hear them.
                state.memories.values_mut().for_each(|memory| memory.probed = now);
            }
            state.zones = zones;
        }
        nodes.iter().for_each(|node| self.queue.add(Key::of(&node.metadata)));
    }

    /// Asks the zone's bucket, if the node needs an eviction taint at all.
    fn eviction(&self, node: &NodeView, now: Timestamp, plan: &mut Plan) -> Eviction {
        let zone = zone_of(node);
        let mut state = self.state();
        let rate = state.zones.rates.get(&zone).copied().unwrap_or(0.0);
        if state.zones.all_down && rate == 0.0 {
            return Eviction::Off;
        }
        if readiness(node) == "True" || !wanted_taints(node, Eviction::Later, now).1 {
            return Eviction::Later;
        }
        match state.buckets.entry(zone).or_default().take(rate, now) {
            Ok(()) => return Eviction::Now,
            Err(Some(left_ms)) => plan.again(Duration::from_millis(left_ms)),
            // Another rate wakes all nodes.
            Err(None) => {}
        }
        Eviction::Later
    }

    fn plan(&self, node: &Arc<NodeView>, now: Timestamp) -> Plan {
        let name = node.metadata.name.as_str();
        let lease = self.leases.get(LEASE_NAMESPACE, name);
        let memory = {
            let mut state = self.state();
            let memory = observe(state.memories.remove(name), node, lease.as_deref(), now);
            state.memories.insert(name.to_owned(), memory.clone());
            memory
        };
        self.judge_zones(now);
        let mut plan = Plan::default();
        let left = patience_left(&memory, node, self.grace, now);
        if left.is_zero() {
            if let Some(status) = silence(node, now) {
                plan.push(node.target().patch_status(status));
                // The rest follows from the conditions, which are seen changed in a moment.
                return plan;
            }
        } else {
            plan.again(left + Duration::from_millis(100));
        }
        let eviction = self.eviction(node, now, &mut plan);
        plan.actions.extend(taints_change(node, &wanted_taints(node, eviction, now).0));
        plan.actions.extend(labels_change(node));
        self.plan_pods(node, now, &mut plan);
        plan
    }

    fn plan_pods(&self, node: &NodeView, now: Timestamp, plan: &mut Plan) {
        // A kubelet that says its node is not ready says so of its pods too; only a silent one needs help.
        let silent = readiness(node) == "Unknown" && condition(&node.status.conditions, "Ready").is_some();
        let name = node.metadata.name.as_str();
        let was_silent = self.state().silent.insert(name.to_owned(), silent);
        if !silent || was_silent == Some(true) {
            return;
        }
        if was_silent == Some(false) {
            let note = format!("Node {name} status is now: NodeNotReady");
            plan.event(&node.subject(), EventKind::Normal, "NodeNotReady", note);
        }
        plan.actions
            .extend(self.pods.by_index(BY_NODE, name).iter().filter_map(|pod| pod_not_ready(pod, now)).flatten());
    }
}

impl Controller for NodeLifecycle {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(node) = self.nodes.get("", &key.name) else {
            self.forget(&key.name);
            return Ok(None);
        };
        let plan = self.plan(&node, Timestamp::now());
        let again_after = plan.again_after;
        let result = self.executor.run(plan).await;
        if result.is_err() {
            // What was not done for the pods is planned again.
            self.state().silent.remove(&key.name);
        }
        result.map(|()| again_after)
    }
}

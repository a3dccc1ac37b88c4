//! `taint-eviction-controller`: deletes pods that do not bear a `NoExecute` taint of their node, or not for longer.
//!
//! The time a pod is borne counts from when the taint was first seen on its node by this process, as upstream counts.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use client::informer::Delta;
use jiff::Timestamp;

use super::disruption_condition;
use super::node_taints::tolerates;
use crate::framework::backoff::remaining;
use crate::framework::{Controller, EventKind, Executor, Key, Plan, Setup, Store, SyncResult, View};
use crate::views::meta::is_deleting;
use crate::views::node::{NodeView, Taint};
use crate::views::pod::{BY_NODE, PodView, Toleration};

/// Registers `taint-eviction-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("noexec_taint_pod");
    let pods = setup.stores.of::<PodView>();
    let nodes = setup.stores.of::<NodeView>();
    let wake = queue.clone();
    pods.on(move |delta| {
        let relevant = match delta {
            Delta::Updated { old, new } => {
                old.spec.node_name != new.spec.node_name || old.spec.tolerations != new.spec.tolerations
            }
            Delta::Added(_) | Delta::Deleted(_) => true,
        };
        if relevant && !delta.object().spec.node_name.is_empty() {
            wake.add(Key::of(&delta.object().metadata));
        }
    });
    let (wake, on_node) = (queue.clone(), pods.clone());
    nodes.on(move |delta| {
        let before = if let Delta::Updated { old, .. } = delta { no_execute(old) } else { Vec::new() };
        if before != no_execute(delta.object()) {
            for pod in on_node.by_index(BY_NODE, &delta.object().metadata.name) {
                wake.add(Key::of(&pod.metadata));
            }
        }
    });
    let executor = setup.executor("node-controller");
    setup.workers(queue, 8, TaintEviction { pods, nodes, executor, since: Mutex::default() });
}

fn no_execute(node: &NodeView) -> Vec<Taint> {
    node.spec.taints.iter().filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

/// What is to happen to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may stay.
    Stay,
    /// It may stay for so many seconds from when the taints came.
    StayFor(i64),
    /// It must go now.
    Go,
}

/// Judges by the node's `NoExecute` taints.
pub fn judge(taints: &[Taint], tolerations: &[Toleration]) -> Verdict {
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else {
            return Verdict::Go;
        };
        if let Some(seconds) = toleration.toleration_seconds {
            shortest = Some(shortest.map_or(seconds, |before| before.min(seconds)));
        }
    }
    match shortest {
        None => Verdict::Stay,
        Some(seconds) if seconds <= 0 => Verdict::Go,
        Some(seconds) => Verdict::StayFor(seconds),
    }
}

/// How an eviction is explained.
pub struct Why {
    /// Reason of events.
    pub event: &'static str,
    /// Reason of the pod's `DisruptionTarget` condition.
    pub condition: &'static str,
    /// Its message.
    pub message: &'static str,
}

const WHY: Why = Why {
    event: "TaintManagerEviction",
    condition: "DeletionByTaintManager",
    message: "Taint manager: deleting due to NoExecute taint",
};

/// The writes that evict `pod`: an event with `note`, why, in its status, and its deletion.
pub fn evict(pod: &PodView, why: &Why, note: String, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let target = pod.target();
    plan.event(&pod.subject(), EventKind::Normal, why.event, note);
    plan.push(target.clone().patch_status(disruption_condition(pod, why.condition, why.message, now)));
    plan.push(target.delete(&pod.metadata.uid));
    plan
}

struct TaintEviction {
    pods: Store<PodView>,
    nodes: Store<NodeView>,
    executor: Executor,
    /// Since when pods are under notice, by uid.
    since: Mutex<HashMap<String, (Key, Timestamp)>>,
}

impl TaintEviction {
    /// Remembers (or forgets) that a pod is under notice; true if it was before.
    fn note(&self, pod: &PodView, now: Option<Timestamp>) -> (bool, Timestamp) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        match now {
            Some(now) => {
                let known = since.contains_key(&pod.metadata.uid);
                let entry = since.entry(pod.metadata.uid.clone()).or_insert_with(|| (Key::of(&pod.metadata), now));
                (known, entry.1)
            }
            None => (since.remove(&pod.metadata.uid).is_some(), Timestamp::UNIX_EPOCH),
        }
    }

    fn forget(&self, key: &Key) {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, (noted, _)| noted != key);
    }
}

impl Controller for TaintEviction {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else {
            self.forget(key);
            return Ok(None);
        };
        let now = Timestamp::now();
        let taints = self.nodes.get("", &pod.spec.node_name).map(|node| no_execute(&node)).unwrap_or_default();
        if is_deleting(&pod.metadata) {
            self.forget(key);
            return Ok(None);
        }
        match judge(&taints, &pod.spec.tolerations) {
            Verdict::Stay => {
                if self.note(&pod, None).0 {
                    let subject = pod.subject();
                    let note = format!("Cancelling deletion of Pod {key}");
                    self.executor.event(&subject, EventKind::Normal, WHY.event, note);
                }
                return Ok(None);
            }
            Verdict::StayFor(seconds) => {
                let left = remaining(self.note(&pod, Some(now)).1, seconds, now);
                if !left.is_zero() {
                    return Ok(Some(left.max(Duration::from_millis(1))));
                }
            }
            Verdict::Go => {}
        }
        self.executor.run(evict(&pod, &WHY, format!("Marking for deletion Pod {key}"), now)).await?;
        self.forget(key);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::node_taints::taint;

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: key.to_owned(),
            operator: "Exists".to_owned(),
            toleration_seconds: seconds,
            ..Toleration::default()
        }
    }

    #[test]
    fn the_shortest_patience_counts_and_one_unborne_taint_is_enough() {
        let (a, b) = (taint("a", "NoExecute"), taint("b", "NoExecute"));
        assert_eq!(judge(&[], &[]), Verdict::Stay);
        assert_eq!(judge(std::slice::from_ref(&a), &[]), Verdict::Go);
        assert_eq!(judge(std::slice::from_ref(&a), &[toleration("a", None)]), Verdict::Stay);
        let both = [toleration("a", Some(300)), toleration("b", Some(20))];
        assert_eq!(judge(&[a.clone(), b.clone()], &both), Verdict::StayFor(20));
        assert_eq!(judge(&[a.clone(), b], &both[..1]), Verdict::Go);
        assert_eq!(judge(&[a], &[toleration("a", Some(0))]), Verdict::Go);
    }
}

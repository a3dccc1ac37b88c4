//! Whether a node is alive, purely: from what its kubelet said, when it last said anything, and the time.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::framework::backoff::elapsed;
use crate::views::meta::{Condition, condition, created, to_value};
use crate::views::node::{LeaseView, NodeView};

/// How long a silent node is believed.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    /// After it has once spoken.
    pub running: Duration,
    /// Before it has.
    pub starting: Duration,
}

/// What this process remembers of a node. Times are those of this process, so that clocks need not agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    heartbeat: Option<Timestamp>,
    renewal: Option<Timestamp>,
    /// When it last gave a sign of life.
    pub probed: Timestamp,
}

/// The kinds of conditions that a silent node loses.
const OWN_CONDITIONS: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Takes note of signs of life.
pub fn observe(memory: Option<Memory>, node: &NodeView, lease: Option<&LeaseView>, now: Timestamp) -> Memory {
    let ready = condition(&node.status.conditions, "Ready");
    let heartbeat = ready.map(|ready| ready.last_heartbeat_time.0.unwrap_or(Timestamp::UNIX_EPOCH));
    let renewal = lease.and_then(|lease| lease.spec.renew_time.0);
    let Some(mut memory) = memory else {
        let probed = if ready.is_some() { now } else { created(&node.metadata) };
        return Memory { heartbeat, renewal, probed };
    };
    let silenced_by_us = ready.is_some_and(|ready| ready.reason == "NodeStatusUnknown");
    if heartbeat != memory.heartbeat && !silenced_by_us || renewal > memory.renewal {
        memory.probed = now;
    }
    memory.heartbeat = heartbeat;
    memory.renewal = renewal.max(memory.renewal);
    memory
}

/// How long until the node counts as silent; zero when it does.
pub fn patience_left(memory: &Memory, node: &NodeView, grace: Grace, now: Timestamp) -> Duration {
    let spoken = condition(&node.status.conditions, "Ready").is_some();
    let grace = if spoken { grace.running } else { grace.starting };
    grace.saturating_sub(elapsed(memory.probed, now))
}

/// The conditions of a silent node, as a strategic merge patch; None when they say so already.
pub fn silence(node: &NodeView, now: Timestamp) -> Option<Value> {
    let changed: Vec<Value> = OWN_CONDITIONS
        .iter()
        .filter_map(|kind| match condition(&node.status.conditions, kind) {
            None => Some(Condition {
                reason: "NodeStatusNeverUpdated".to_owned(),
                message: "Kubelet never posted node status.".to_owned(),
                last_heartbeat_time: created(&node.metadata).into(),
                ..unknown(kind, now)
            }),
            Some(before) if before.status != "Unknown" => Some(Condition {
                reason: "NodeStatusUnknown".to_owned(),
                message: "Kubelet stopped posting node status.".to_owned(),
                last_heartbeat_time: before.last_heartbeat_time,
                ..unknown(kind, now)
            }),
            Some(_) => None,
        })
        .map(|condition| to_value(&condition))
        .collect();
    (!changed.is_empty()).then(|| json!({"status": {"conditions": changed}}))
}

fn unknown(kind: &str, now: Timestamp) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: "Unknown".to_owned(),
        last_transition_time: now.into(),
        ..Condition::default()
    }
}

/// The status of `Ready`; absent counts as unknown.
pub fn readiness(node: &NodeView) -> &str {
    condition(&node.status.conditions, "Ready").map_or("Unknown", |ready| ready.status.as_str())
}

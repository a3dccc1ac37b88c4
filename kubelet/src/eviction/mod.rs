//! Eviction: when the node runs short of memory, disk or process ids, the node says so and pods are ended, worst first.
//!
//! `decide` is pure: thresholds and observations to pressures and at most one victim per look (upstream's rule, since an
//! eviction takes time to help). Critical pods are never chosen.

mod signals;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::PodSpec;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::cri::{api, labels};
use crate::events::Kind;
use crate::node::manager::Pressure;
use crate::pods::manager::{Message, PodView};
use crate::pods::resources::pod_requests;
use crate::pods::types::Termination;

use signals::{Observation, observe};
pub use signals::{Resource, Threshold, parse};

/// How often the signals are looked at.
const PERIOD: Duration = Duration::from_secs(10);

/// Settings of the eviction loop.
#[derive(Debug, Clone)]
pub struct Settings {
    pub hard: Vec<Threshold>,
    /// How long a pressure stays after its signal ended.
    pub transition: Duration,
}

/// Where the loop looks and what it tells.
pub struct Parts {
    pub context: Arc<Context>,
    pub settings: Settings,
    pub messages: mpsc::Sender<Message>,
    pub pressure: watch::Sender<Pressure>,
}

/// A pod that could be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    uid: String,
    priority: i32,
    requested_bytes: u64,
    used_bytes: u64,
}

/// Crossed thresholds.
fn crossed<'a>(thresholds: &'a [Threshold], seen: &[Observation]) -> Vec<(&'a Threshold, Observation)> {
    let find = |t: &Threshold| seen.iter().find(|o| o.signal == t.signal).cloned();
    thresholds.iter().filter_map(|t| find(t).filter(|o| o.available < t.bound(o.capacity)).map(|o| (t, o))).collect()
}

/// The pod to end: those above their request first, then low priority, then large use.
fn victim(mut candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.sort_by_key(|c| {
        let above = c.used_bytes.saturating_sub(c.requested_bytes);
        (above == 0, c.priority, std::cmp::Reverse(above))
    });
    candidates.into_iter().next()
}

/// Runs until shutdown.
pub async fn run(parts: Parts, shutdown: CancellationToken) {
    if parts.settings.hard.is_empty() {
        return;
    }
    let mut last_seen: HashMap<Resource, Instant> = HashMap::new();
    loop {
        let seen = observe(&parts.context.dirs.root);
        let crossed = crossed(&parts.settings.hard, &seen);
        for (threshold, _) in &crossed {
            last_seen.insert(threshold.signal.resource(), Instant::now());
        }
        let under = |r: Resource| last_seen.get(&r).is_some_and(|at| at.elapsed() < parts.settings.transition);
        let next = Pressure { memory: under(Resource::Memory), disk: under(Resource::Disk), pid: under(Resource::Pid) };
        parts.pressure.send_if_modified(|known| {
            let changed = *known != next;
            *known = next;
            changed
        });
        if let Some((threshold, observation)) = crossed.first() {
            evict(&parts, threshold, observation).await;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

async fn evict(parts: &Parts, threshold: &Threshold, observation: &Observation) {
    let resource = threshold.signal.resource();
    let name = resource.name();
    parts.context.events.node(Kind::Warning, "EvictionThresholdMet", &format!("Attempting to reclaim {name}"));
    let (reply, answer) = oneshot::channel();
    if parts.messages.send(Message::List(reply)).await.is_err() {
        return;
    }
    let Ok(views) = answer.await else { return };
    let usage = usage(&parts.context, resource).await;
    let alive = views.iter().filter(|v| !v.finished && !v.pod.is_critical() && !v.pod.deletion_requested());
    let candidates = alive.map(|v| candidate(v, resource, &usage)).collect();
    let Some(victim) = victim(candidates) else {
        tracing::error!(resource = name, "The node is low on a resource and no pod can be evicted");
        return;
    };
    let message = format!(
        "The node was low on resource: {name}. Threshold quantity: {}, available: {}. ",
        threshold.text,
        human(observation.available)
    );
    tracing::warn!(pod = victim.uid, "Evicting a pod: {message}");
    if let Some(view) = views.iter().find(|v| v.pod.uid() == victim.uid) {
        parts.context.events.pod(&view.pod, Kind::Warning, "Evicted", &message);
    }
    let termination = Termination {
        grace_seconds: 0,
        failed: Some(("Evicted".into(), message.clone())),
        disruption: Some(("TerminationByKubelet".into(), message)),
    };
    let _ = parts.messages.send(Message::Evict { uid: victim.uid, termination }).await;
}

fn human(value: u64) -> String {
    if value >= 1 << 10 { format!("{}Ki", value >> 10) } else { value.to_string() }
}

fn candidate(view: &PodView, resource: Resource, usage: &HashMap<String, u64>) -> Candidate {
    let spec: &PodSpec = &view.pod.spec;
    let name = if resource == Resource::Disk { "ephemeral-storage" } else { "memory" };
    Candidate {
        uid: view.pod.uid().to_owned(),
        priority: spec.priority.unwrap_or(0),
        requested_bytes: pod_requests(spec).get(name).and_then(|r| u64::try_from(*r).ok()).unwrap_or(0),
        used_bytes: usage.get(view.pod.uid()).copied().unwrap_or(0),
    }
}

/// Bytes used per pod uid.
async fn usage(context: &Context, resource: Resource) -> HashMap<String, u64> {
    let mut sums = HashMap::new();
    let stats = context.runtime.list_container_stats(api::ListContainerStatsRequest { filter: None }).await;
    for stat in stats.map(|s| s.stats).unwrap_or_default() {
        let uid = stat.attributes.and_then(|a| a.labels.get(labels::POD_UID).cloned()).unwrap_or_default();
        let used = match resource {
            Resource::Disk => stat.writable_layer.and_then(|l| l.used_bytes),
            Resource::Memory | Resource::Pid => stat.memory.and_then(|m| m.working_set_bytes),
        };
        *sums.entry(uid).or_default() += used.map_or(0, |u| u.value);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::signals::Signal;
    use super::*;

    #[test]
    fn thresholds_and_victims() {
        let hard =
            parse(&[("memory.available".into(), "100Mi".into()), ("nodefs.available".into(), "10%".into())].into());
        let hard = hard.unwrap();
        let seen = |memory: u64, disk: u64| {
            [
                Observation { signal: Signal::MemoryAvailable, available: memory, capacity: 1 << 30 },
                Observation { signal: Signal::NodefsAvailable, available: disk, capacity: 1000 },
            ]
        };
        assert!(crossed(&hard, &seen(1 << 29, 100)).is_empty());
        assert_eq!(crossed(&hard, &seen(1 << 20, 99)).len(), 2);
        let c = |uid: &str, priority, requested_bytes, used_bytes| Candidate {
            uid: uid.into(),
            priority,
            requested_bytes,
            used_bytes,
        };
        let chosen = victim(vec![c("low", 0, 10, 5), c("high", 9, 0, 50), c("mid", 5, 0, 20)]);
        assert_eq!(chosen.unwrap().uid, "mid");
        assert_eq!(victim(vec![c("a", 0, 0, 5), c("b", 0, 0, 9)]).unwrap().uid, "b");
    }
}

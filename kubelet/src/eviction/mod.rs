//! Eviction: when the node runs short of memory, disk or process ids, the node says so and pods are ended, worst first.
//!
//! `decide` is pure: thresholds and observations to pressures and at most one victim per look (upstream's rule, since an
//! eviction takes time to help). Critical pods are never chosen; before pods, unused images go. A soft threshold waits for
//! its grace period. `local_storage` ends pods that use more of the disk than they themselves said.

mod local_storage;
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
use crate::images::gc;
use crate::node::manager::Pressure;
use crate::pods::manager::{Message, PodView};
use crate::pods::resources::pod_requests;
use crate::pods::types::Termination;

use signals::{Observation, observe};
pub use signals::{Resource, Threshold, parse};

/// How often the signals are looked at.
const PERIOD: Duration = Duration::from_secs(10);

/// What a pod gets to end when a hard threshold evicts it; upstream's.
const IMMEDIATE_SECONDS: i64 = 1;

/// Settings of the eviction loop.
#[derive(Debug, Clone)]
pub struct Settings {
    pub thresholds: Vec<Threshold>,
    /// How long a pressure stays after its signal ended.
    pub transition: Duration,
    /// Most seconds that a pod gets when a soft threshold evicts it.
    pub max_grace_seconds: i64,
    /// Whether pods that use more local storage than they may are ended.
    pub local_storage: bool,
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

/// Thresholds that are crossed, with the time since when; updated with each look.
#[derive(Default)]
struct Crossed(HashMap<usize, Instant>);

impl Crossed {
    /// Takes note of a look; the crossed thresholds, and whether they have been for their grace period.
    fn note<'a>(
        &mut self,
        thresholds: &'a [Threshold],
        seen: &[Observation],
        now: Instant,
    ) -> Vec<(&'a Threshold, Observation, bool)> {
        let mut found = Vec::new();
        for (index, threshold) in thresholds.iter().enumerate() {
            let was = self.0.contains_key(&index);
            match seen.iter().find(|o| o.signal == threshold.signal).filter(|o| threshold.crossed(o, was)) {
                Some(seen) => {
                    let since = *self.0.entry(index).or_insert(now);
                    let due = threshold.grace.is_none_or(|grace| now.duration_since(since) >= grace);
                    found.push((threshold, seen.clone(), due));
                }
                None => {
                    self.0.remove(&index);
                }
            }
        }
        found
    }
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
    let mut last_seen: HashMap<Resource, Instant> = HashMap::new();
    let mut crossed = Crossed::default();
    loop {
        let place = gc::place(&parts.context).await;
        let look = || observe(&parts.context.dirs.root, place.as_deref());
        let found = crossed.note(&parts.settings.thresholds, &look(), Instant::now());
        for (threshold, ..) in &found {
            last_seen.insert(threshold.signal.resource(), Instant::now());
        }
        let under = |r: Resource| last_seen.get(&r).is_some_and(|at| at.elapsed() < parts.settings.transition);
        let next = Pressure { memory: under(Resource::Memory), disk: under(Resource::Disk), pid: under(Resource::Pid) };
        parts.pressure.send_if_modified(|known| {
            let changed = *known != next;
            *known = next;
            changed
        });
        let evicted = parts.settings.local_storage && local_storage::enforce(&parts).await;
        if let Some((threshold, observation, _)) = found.into_iter().find(|(.., due)| *due && !evicted) {
            let resource = threshold.signal.resource();
            let text = format!("Attempting to reclaim {}", resource.name());
            parts.context.events.node(Kind::Warning, "EvictionThresholdMet", &text);
            if resource == Resource::Disk {
                // Images that nobody uses are worth less than pods.
                gc::reclaim(&parts.context).await;
            }
            let still = |o: &Observation| o.signal == threshold.signal && threshold.crossed(o, true);
            if look().iter().any(still) {
                evict(&parts, threshold, &observation).await;
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Every pod and its status.
async fn pods(parts: &Parts) -> Vec<PodView> {
    let (reply, answer) = oneshot::channel();
    let sent = parts.messages.send(Message::List(reply)).await;
    if sent.is_ok() { answer.await.unwrap_or_default() } else { Vec::new() }
}

/// Ends a pod, with the words that its status and event show.
async fn end(parts: &Parts, view: &PodView, grace_seconds: i64, message: String) {
    tracing::warn!(pod = %view.pod.full_name(), "Evicting a pod: {message}");
    parts.context.events.pod(&view.pod, Kind::Warning, "Evicted", &message);
    let termination = Termination {
        grace_seconds,
        failed: Some(("Evicted".into(), message.clone())),
        disruption: Some(("TerminationByKubelet".into(), message)),
    };
    let _ = parts.messages.send(Message::Evict { uid: view.pod.uid().to_owned(), termination }).await;
}

async fn evict(parts: &Parts, threshold: &Threshold, observation: &Observation) {
    let resource = threshold.signal.resource();
    let name = resource.name();
    let views = pods(parts).await;
    let usage = usage(&parts.context, resource).await;
    let alive = views.iter().filter(|v| !v.finished && !v.pod.is_critical() && !v.pod.deletion_requested());
    let victim = victim(alive.map(|v| candidate(v, resource, &usage)).collect());
    let Some((victim, view)) =
        victim.and_then(|c| Some((views.iter().find(|v| v.pod.uid() == c.uid)?, c))).map(|(v, c)| (c, v))
    else {
        tracing::error!(resource = name, "The node is low on a resource and no pod can be evicted");
        return;
    };
    let mut message = format!(
        "The node was low on resource: {name}. Threshold quantity: {}, available: {}. ",
        threshold.text,
        human(observation.available)
    );
    if victim.used_bytes > victim.requested_bytes {
        let (used, requested) = (human(victim.used_bytes), human(victim.requested_bytes));
        message
            .push_str(&format!("The pod was using {used}, request is {requested}, has larger consumption of {name}. "));
    }
    let grace = match threshold.grace {
        None => IMMEDIATE_SECONDS,
        Some(_) => parts.settings.max_grace_seconds.min(view.pod.grace_seconds()),
    };
    end(parts, view, grace, message).await;
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
    use serde_json::json;

    #[test]
    fn thresholds_and_victims() {
        let file = json!({"evictionHard": {"memory.available": "100Mi"}, "evictionSoft": {"nodefs.available": "10%"},
            "evictionSoftGracePeriod": {"nodefs.available": "1m"}});
        let thresholds = parse(&serde_json::from_value(file).unwrap()).unwrap();
        let seen = |memory: u64, disk: u64| {
            [
                Observation { signal: Signal::MemoryAvailable, available: memory, capacity: 1 << 30 },
                Observation { signal: Signal::NodefsAvailable, available: disk, capacity: 1000 },
            ]
        };
        let mut crossed = Crossed::default();
        let now = Instant::now();
        assert!(crossed.note(&thresholds, &seen(1 << 29, 100), now).is_empty());
        let due = |found: Vec<(&Threshold, Observation, bool)>| found.into_iter().map(|f| f.2).collect::<Vec<_>>();
        assert_eq!(due(crossed.note(&thresholds, &seen(1 << 20, 99), now)), [true, false]);
        let later = now + Duration::from_secs(60);
        assert_eq!(due(crossed.note(&thresholds, &seen(1 << 29, 99), later)), [true]);
        assert!(crossed.note(&thresholds, &seen(1 << 29, 100), later).is_empty() && crossed.0.is_empty());
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

//! The prober: one task that owns every probe's schedule.
//!
//! Guarantees: a probe runs each periodSeconds after initialDelaySeconds of its container's start; liveness and readiness
//! wait for a successful startup probe; a verdict is reported once per change, after successThreshold or
//! failureThreshold results in a row. At rest there is one timer for the next probe, not one per pod. Checks run as
//! short-lived tasks, one at a time per probe.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use component_base::metrics::{self, Counter, Family, Histogram};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::time::{DelayQueue, delay_queue};

use super::action;
use crate::context::Context;
use crate::events::Kind;
use crate::pods::manager::Message;
use crate::pods::plan::ProbeKind;
use crate::pods::types::Pod;

/// A running container with probes.
#[derive(Debug, Clone)]
pub struct Target {
    pub container: String,
    pub container_id: String,
    pub started_at: Timestamp,
    pub pod_ip: String,
}

/// The containers of one pod to probe; replaces what was known of the pod.
#[derive(Debug)]
pub struct Targets {
    pub pod: Arc<Pod>,
    pub targets: Vec<Target>,
}

type Key = (String, ProbeKind);

/// State of one probe.
struct Entry {
    pod: Arc<Pod>,
    target: Target,
    /// Results in a row, and what they were.
    streak: (bool, i32),
    verdict: Option<bool>,
    timer: Option<delay_queue::Key>,
}

/// A finished check.
struct Checked {
    key: Key,
    result: Result<Option<String>, String>,
    took: Duration,
}

static PROBES: LazyLock<Family<Counter>> = LazyLock::new(|| {
    let help = "Cumulative number of a liveness, readiness or startup probe for a container by result.";
    metrics::counter("prober_probe_total", help, &["probe_type", "result", "container", "pod", "namespace", "pod_uid"])
});
static DURATIONS: LazyLock<Family<Histogram>> = LazyLock::new(|| {
    let help = "Duration in seconds for a probe response.";
    let labels = &["probe_type", "container", "pod", "namespace"];
    metrics::histogram("prober_probe_duration_seconds", help, labels, metrics::DEFAULT_BUCKETS)
});

/// Counts a check, or forgets the figures of a probe that is gone.
fn count(kind: ProbeKind, entry: &Entry, done: Option<(bool, Duration)>) {
    let pod = &entry.pod;
    let place = [kind.name(), &entry.target.container, pod.name(), pod.namespace()];
    let total = |result: &'static str| [place[0], result, place[1], place[2], place[3], pod.uid()];
    match done {
        Some((success, took)) => {
            PROBES.with(&total(if success { "successful" } else { "failed" })).inc();
            DURATIONS.with(&place).observe_duration(took);
        }
        None => {
            PROBES.remove(&total("successful"));
            PROBES.remove(&total("failed"));
            DURATIONS.remove(&place);
        }
    }
}

struct Prober {
    context: Arc<Context>,
    entries: HashMap<Key, Entry>,
    queue: DelayQueue<Key>,
    results: mpsc::Sender<Checked>,
    out: mpsc::Sender<Message>,
}

fn spec<'a>(pod: &'a Pod, target: &Target, kind: ProbeKind) -> Option<(&'a Container, &'a Probe)> {
    let (_, container) = pod.container(&target.container)?;
    let probe = match kind {
        ProbeKind::Startup => &container.startup_probe,
        ProbeKind::Liveness => &container.liveness_probe,
        ProbeKind::Readiness => &container.readiness_probe,
    };
    probe.as_ref().map(|p| (container, p))
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
}

/// Most checks waiting to be taken note of.
const MAX_RESULTS: usize = 256;

/// Runs until shutdown.
pub async fn run(
    context: Arc<Context>,
    mut updates: mpsc::Receiver<Targets>,
    out: mpsc::Sender<Message>,
    shutdown: CancellationToken,
) {
    let (results, mut checked) = mpsc::channel(MAX_RESULTS);
    let mut prober = Prober { context, entries: HashMap::new(), queue: DelayQueue::new(), results, out };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            update = updates.recv() => match update {
                Some(update) => prober.update(update),
                None => return,
            },
            Some(due) = prober.queue.next(), if !prober.queue.is_empty() => prober.start(&due.into_inner()),
            Some(done) = checked.recv() => prober.note(done).await,
        }
    }
}

impl Prober {
    fn update(&mut self, update: Targets) {
        let uid = update.pod.uid().to_owned();
        let mut wanted: HashMap<Key, Target> = HashMap::new();
        for target in update.targets {
            for kind in [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness] {
                if spec(&update.pod, &target, kind).is_some() {
                    wanted.insert((target.container_id.clone(), kind), target.clone());
                }
            }
        }
        let gone: Vec<Key> = self
            .entries
            .iter()
            .filter(|(key, entry)| entry.pod.uid() == uid && !wanted.contains_key(*key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            let Some(entry) = self.entries.remove(&key) else { continue };
            count(key.1, &entry, None);
            if let Some(timer) = entry.timer {
                self.queue.try_remove(&timer);
            }
        }
        for (key, target) in wanted {
            match self.entries.get_mut(&key) {
                Some(entry) => entry.pod = Arc::clone(&update.pod),
                None => self.add(key, Arc::clone(&update.pod), target),
            }
        }
    }

    fn add(&mut self, key: Key, pod: Arc<Pod>, target: Target) {
        let Some((_, probe)) = spec(&pod, &target, key.1) else { return };
        let initial = seconds(probe.initial_delay_seconds, 0);
        let age = Timestamp::now().duration_since(target.started_at);
        let age = Duration::try_from(age).unwrap_or_default();
        let delay = initial.saturating_sub(age);
        let timer = Some(self.queue.insert(key.clone(), delay));
        self.entries.insert(key, Entry { pod, target, streak: (false, 0), verdict: None, timer });
    }

    fn startup_passed(&self, key: &Key) -> bool {
        let startup = self.entries.get(&(key.0.clone(), ProbeKind::Startup));
        startup.is_none_or(|s| s.verdict == Some(true))
    }

    fn start(&mut self, key: &Key) {
        let passed = self.startup_passed(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.timer = None;
        let Some((container, probe)) = spec(&entry.pod, &entry.target, key.1) else { return };
        let done = key.1 == ProbeKind::Startup && entry.verdict == Some(true);
        if done {
            return;
        }
        if key.1 != ProbeKind::Startup && !passed {
            // Looked at again when the startup probe passes.
            return;
        }
        let (container, probe, target) = (container.clone(), probe.clone(), entry.target.clone());
        let (runtime, results, key) = (self.context.runtime.clone(), self.results.clone(), key.clone());
        tokio::spawn(async move {
            let began = Instant::now();
            let result = action::check(&runtime, &probe, &container, &target.container_id, &target.pod_ip).await;
            // A closed channel means that the prober ended.
            let _ = results.send(Checked { key, result, took: began.elapsed() }).await;
        });
    }

    async fn note(&mut self, done: Checked) {
        let kind = done.key.1;
        let Some(entry) = self.entries.get_mut(&done.key) else { return };
        let Some((_, probe)) = spec(&entry.pod, &entry.target, kind) else { return };
        let success = done.result.is_ok();
        count(kind, entry, Some((success, done.took)));
        entry.streak = if entry.streak.0 == success { (success, entry.streak.1 + 1) } else { (success, 1) };
        let threshold =
            if success { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
        let about = match &done.result {
            Ok(None) => None,
            Ok(Some(message)) => Some(("ProbeWarning", format!("{} probe warning: {message}", kind.name()))),
            Err(message) => Some(("Unhealthy", format!("{} probe failed: {message}", kind.name()))),
        };
        if let Some((reason, text)) = about {
            self.context.events.container(&entry.pod, &entry.target.container, Kind::Warning, reason, &text);
        }
        let changed = entry.streak.1 >= threshold.max(1) && entry.verdict != Some(success);
        if changed {
            entry.verdict = Some(success);
        }
        // After a liveness or startup failure the container is killed; there is nothing to ask until the next one.
        let over = changed && !success && kind != ProbeKind::Readiness;
        let finished = kind == ProbeKind::Startup && entry.verdict == Some(true);
        let uid = entry.pod.uid().to_owned();
        if !over && !finished {
            entry.timer = Some(self.queue.insert(done.key.clone(), period));
        }
        if changed {
            if finished {
                self.wake_after_startup(&done.key.0);
            }
            let message = Message::Probe { uid, container_id: done.key.0, kind, success };
            let _ = self.out.send(message).await;
        }
    }

    fn wake_after_startup(&mut self, container_id: &str) {
        for kind in [ProbeKind::Liveness, ProbeKind::Readiness] {
            let key = (container_id.to_owned(), kind);
            if let Some(entry) = self.entries.get_mut(&key).filter(|e| e.timer.is_none()) {
                entry.timer = Some(self.queue.insert(key, Duration::ZERO));
            }
        }
    }
}

//! The scheduler's metrics, under upstream's names.

use std::sync::Arc;
use std::time::Duration;

use component_base::metrics::{self, Counter, Family, Gauge, Histogram};

use crate::queue::{Millis, Queue};

const ATTEMPT_BUCKETS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
const SLI_BUCKETS: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36,
    1310.72, 2621.44, 5242.88,
];

const PREEMPTIONS: &str = "Total preemption attempts in the cluster till now";

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
pub enum Attempt {
    /// Bound.
    Scheduled,
    /// Fits nowhere.
    Unschedulable,
    /// Something went wrong.
    Error,
}

impl Attempt {
    fn label(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unschedulable => "unschedulable",
            Self::Error => "error",
        }
    }
}

/// One gauge per value of a family's only label.
fn gauges<const N: usize>(
    name: &'static str,
    help: &'static str,
    label: &'static [&'static str],
    values: [&str; N],
) -> [Arc<Gauge>; N] {
    let family = metrics::gauge(name, help, label);
    values.map(|v| family.with(&[v]))
}

/// The families that are written.
pub struct Stats {
    attempts: Family<Counter>,
    attempt_seconds: Family<Histogram>,
    algorithm_seconds: Arc<Histogram>,
    pending: [Arc<Gauge>; 4],
    incoming: Family<Counter>,
    cache: [Arc<Gauge>; 3],
    attempts_per_pod: Arc<Histogram>,
    sli_seconds: Family<Histogram>,
    /// Preemptions considered.
    pub preemption_attempts: Arc<Counter>,
    /// Pods chosen to leave, per preemption.
    pub preemption_victims: Arc<Histogram>,
}

impl Stats {
    /// Registers the families.
    pub fn new() -> Self {
        Self {
            attempts: metrics::counter(
                "scheduler_schedule_attempts_total",
                "Number of attempts to schedule pods, by the result.",
                &["profile", "result"],
            ),
            attempt_seconds: metrics::histogram(
                "scheduler_scheduling_attempt_duration_seconds",
                "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
                &["profile", "result"],
                ATTEMPT_BUCKETS,
            ),
            algorithm_seconds: metrics::histogram(
                "scheduler_scheduling_algorithm_duration_seconds",
                "Scheduling algorithm latency in seconds",
                &[],
                ATTEMPT_BUCKETS,
            )
            .one(),
            pending: gauges(
                "scheduler_pending_pods",
                "Number of pending pods, by the queue type.",
                &["queue"],
                ["active", "backoff", "unschedulable", "gated"],
            ),
            incoming: metrics::counter(
                "scheduler_queue_incoming_pods_total",
                "Number of pods added to scheduling queues by event and queue type.",
                &["event", "queue"],
            ),
            cache: gauges(
                "scheduler_cache_size",
                "Number of nodes, pods, and assumed (bound) pods in the scheduler cache.",
                &["type"],
                ["nodes", "pods", "assumed_pods"],
            ),
            attempts_per_pod: metrics::histogram(
                "scheduler_pod_scheduling_attempts",
                "Number of attempts to successfully schedule a pod.",
                &[],
                &[1.0, 2.0, 4.0, 8.0, 16.0],
            )
            .one(),
            sli_seconds: metrics::histogram(
                "scheduler_pod_scheduling_sli_duration_seconds",
                "Latency for a pod being scheduled, from the time the pod enters the scheduling queue.",
                &["attempts"],
                SLI_BUCKETS,
            ),
            preemption_attempts: metrics::counter("scheduler_preemption_attempts_total", PREEMPTIONS, &[]).one(),
            preemption_victims: metrics::histogram(
                "scheduler_preemption_victims",
                "Number of selected preemption victims",
                &[],
                &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
            )
            .one(),
        }
    }

    /// Notes an attempt.
    pub fn attempt(&self, profile: &str, how: Attempt, took: Duration) {
        self.attempts.with(&[profile, how.label()]).inc();
        self.attempt_seconds.with(&[profile, how.label()]).observe_duration(took);
    }

    /// Notes how long a choice took.
    pub fn algorithm(&self, took: Duration) {
        self.algorithm_seconds.observe_duration(took);
    }

    /// Notes a pod that was bound after so many attempts and so long.
    pub fn scheduled(&self, attempts: u32, waited_ms: Millis) {
        self.attempts_per_pod.observe(f64::from(attempts));
        let label = if attempts > 15 { "16+".to_string() } else { attempts.to_string() };
        self.sli_seconds.with(&[&label]).observe(waited_ms as f64 / 1000.0);
    }

    /// Notes that a pod entered a queue.
    pub fn incoming(&self, event: &str, queue: &str, pods: usize) {
        if pods > 0 {
            self.incoming.with(&[event, queue]).add(pods as u64);
        }
    }

    /// Notes what is known: nodes, pods on them, and how many of those are not confirmed yet.
    pub fn known(&self, sizes: [usize; 3]) {
        for (gauge, n) in self.cache.iter().zip(sizes) {
            gauge.set(n as f64);
        }
    }

    /// Notes the length of the queues.
    pub fn pending(&self, queue: &Queue) {
        for (gauge, n) in self.pending.iter().zip(queue.counts()) {
            gauge.set(n as f64);
        }
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}

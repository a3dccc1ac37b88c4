//! What tasks report, and what follows from it.

use client::events::EventType;

use super::Scheduler;
use super::stats::Attempt;
use super::tasks::{Binding, Eviction, reference};
use crate::queue::hints::Event;

/// How a task ended.
pub(super) enum Outcome {
    /// A binding was made, or not.
    Bound { binding: Binding, result: Result<(), String> },
    /// Victims were asked to leave, or not.
    Evicted { eviction: Eviction, result: Result<(), String> },
}

impl Scheduler {
    /// Takes note of an outcome.
    pub(super) fn conclude(&mut self, outcome: Outcome) {
        self.in_flight -= 1;
        match outcome {
            Outcome::Bound { binding, result: Ok(()) } => self.bound(&binding),
            Outcome::Bound { binding, result: Err(why) } => self.not_bound(&binding, &why),
            Outcome::Evicted { eviction, result } => self.evicted(&eviction, result),
        }
    }

    fn bound(&mut self, b: &Binding) {
        let pod = &b.pod;
        let note = format!("Successfully assigned {} to {}", pod.key, b.node);
        tracing::debug!(pod = %pod.key, node = %b.node, "bound");
        self.recorder.event(&reference(pod), EventType::Normal, "Scheduled", "Binding", note);
        let name = self.profiles[b.profile].scheduler_name.clone();
        self.stats.attempt(&name, Attempt::Scheduled, b.began.elapsed());
        self.stats.scheduled(b.attempts, self.now_ms().saturating_sub(b.first_seen_ms));
    }

    fn not_bound(&mut self, b: &Binding, why: &str) {
        let pod = &b.pod;
        tracing::info!(pod = %pod.key, node = %b.node, why, "not bound");
        let name = self.profiles[b.profile].scheduler_name.clone();
        self.stats.attempt(&name, Attempt::Error, b.began.elapsed());
        let world = &mut self.cluster.world;
        for (_, volume) in &b.plan.volumes.bind {
            world.volumes.promised.remove(volume);
        }
        world.devices.take_back(&pod.key.namespace, &b.plan.grants);
        // The informer may know better: that it is placed after all, that it is gone, or another of that name.
        let assumed = self.cluster.placed(&pod.key).is_some_and(|p| p.assumed && p.info.uid == pod.uid);
        if assumed && let Some(placed) = self.cluster.take(&pod.key) {
            self.tell(&Event::PodRemoved(&placed.info));
        }
        let waits = self.queue.get(&pod.key).is_some_and(|e| e.info.uid == pod.uid);
        match self.sources.pods.get(&pod.key.namespace, &pod.key.name) {
            Some(now) if now.info.uid == pod.uid && now.info.node_name.is_empty() && waits && !now.info.terminating => {
                self.error(pod, &format!("binding to {} failed: {why}", b.node));
            }
            _ if assumed => {
                self.queue.remove(&pod.key);
            }
            _ => {}
        }
    }

    fn evicted(&mut self, e: &Eviction, result: Result<(), String>) {
        let now = self.now_ms();
        if self.queue.get(&e.pod.key).is_none_or(|entry| entry.info.uid != e.pod.uid) {
            return;
        }
        if let Err(why) = result {
            self.cluster.nominate(&e.pod, "");
            self.error(&e.pod, &why);
            return;
        }
        self.queue.unschedulable(&e.pod.key, e.rejected_by, now);
        // A victim that left before this was noted can no longer wake the pod.
        if e.victims.iter().any(|v| self.cluster.placed(&v.key).is_none()) {
            self.queue.wake_one(&e.pod.key, now);
        }
    }
}

//! Who is next: pods that wait, in order of priority, and when those that fit nowhere are worth another attempt.
//!
//! A pod is active (to be tried), backing off (to be tried after a while), unschedulable (waits for an event that one of the
//! plugins that rejected it finds promising) or gated (waits for its own update). As upstream's `SchedulerPopFromBackoffQ`
//! does, pods that back off for having been unschedulable are tried early when nothing else is to be done.
//! Pure: the caller tells the time (milliseconds of any clock that does not go back).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub mod hints;

use hints::Event;

use crate::cluster::world::World;
use crate::model::pod::{PodInfo, PodKey};
use crate::plugins::{Plugin, PluginSet};

/// Milliseconds.
pub type Millis = u64;

/// The times of a queue, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Shortest back-off.
    pub initial_backoff_ms: Millis,
    /// Longest back-off.
    pub max_backoff_ms: Millis,
    /// A pod waits for events at most this long before it is tried anyway.
    pub max_unschedulable_ms: Millis,
}

/// Where a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// To be tried.
    Active,
    /// To be tried after a while.
    Backoff,
    /// Waits for an event.
    Unschedulable,
    /// Waits for its gates to go.
    Gated,
    /// Being bound, or waiting for its own preemption to be carried out.
    Held,
}

/// A waiting pod.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The pod.
    pub info: Arc<PodInfo>,
    /// Where it is.
    pub state: State,
    /// Attempts so far.
    pub attempts: u32,
    /// When it was first seen.
    pub first_seen_ms: Millis,
    since_ms: Millis,
    ready_ms: Millis,
    failures: u32,
    errors: u32,
    rejected_by: PluginSet,
}

type Rank = (std::cmp::Reverse<i32>, Millis, PodKey);

/// The queue.
#[derive(Debug)]
pub struct Queue {
    entries: HashMap<PodKey, Entry>,
    active: BTreeSet<Rank>,
    backoff: BTreeSet<(Millis, PodKey)>,
    /// Of those that back off, the ones whose last attempt met no error.
    calm: BTreeSet<Rank>,
    unschedulable: HashMap<PluginSet, BTreeSet<PodKey>>,
    oldest_unschedulable: BTreeSet<(Millis, PodKey)>,
    gated: usize,
    times: Times,
}

fn rank(e: &Entry) -> Rank {
    (std::cmp::Reverse(e.info.priority()), e.since_ms, e.info.key.clone())
}

impl Queue {
    /// An empty queue.
    pub fn new(times: Times) -> Self {
        Self {
            entries: HashMap::new(),
            active: BTreeSet::new(),
            backoff: BTreeSet::new(),
            calm: BTreeSet::new(),
            unschedulable: HashMap::new(),
            oldest_unschedulable: BTreeSet::new(),
            gated: 0,
            times,
        }
    }

    /// A waiting pod.
    pub fn get(&self, key: &PodKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Number of pods in each state: active, backoff, unschedulable, gated.
    pub fn counts(&self) -> [usize; 4] {
        [self.active.len(), self.backoff.len(), self.oldest_unschedulable.len(), self.gated]
    }

    /// Takes a pod as the API has it now. `gated` keeps it out of attempts. Returns true when that moved it.
    pub fn upsert(&mut self, info: &Arc<PodInfo>, gated: bool, now: Millis) -> bool {
        let first = if gated { State::Gated } else { State::Active };
        let Some(old) = self.entries.get(&info.key) else {
            let entry = Entry {
                info: info.clone(),
                state: State::Held,
                attempts: 0,
                first_seen_ms: now,
                since_ms: now,
                ready_ms: now,
                failures: 0,
                errors: 0,
                rejected_by: PluginSet::default(),
            };
            self.entries.insert(info.key.clone(), entry);
            self.put(&info.key, first, now);
            return true;
        };
        let was = old.state;
        let state = match was {
            State::Held => State::Held,
            _ if gated => State::Gated,
            State::Gated => State::Active,
            // A changed pod may fit where it did not before.
            State::Unschedulable if old.info.template != info.template => State::Backoff,
            other => other,
        };
        self.detach(&info.key);
        if let Some(e) = self.entries.get_mut(&info.key) {
            e.info = info.clone();
        }
        self.put(&info.key, state, now);
        state != was
    }

    /// Waiting pods that use a claim of devices.
    pub fn using_claim(&self, namespace: &str, claim: &str) -> Vec<Arc<PodInfo>> {
        let uses = |e: &&Entry| {
            let t = &e.info.template;
            t.namespace == namespace && t.claims.iter().flatten().any(|name| name == claim)
        };
        self.entries.values().filter(uses).map(|e| e.info.clone()).collect()
    }

    /// Forgets a pod.
    pub fn remove(&mut self, key: &PodKey) -> Option<Entry> {
        self.detach(key);
        self.entries.remove(key)
    }

    /// The next pod to try, which is held from now on: it must be put back, or removed.
    pub fn pop(&mut self, now: Millis) -> Option<Entry> {
        self.wake(now);
        let (_, _, key) = self.active.first().or_else(|| self.calm.first())?.clone();
        self.detach(&key);
        let e = self.entries.get_mut(&key)?;
        e.state = State::Held;
        e.attempts += 1;
        Some(e.clone())
    }

    /// When the next pod becomes ready by time alone.
    pub fn next_ready_ms(&self) -> Option<Millis> {
        let backoff = self.backoff.first().map(|(t, _)| *t);
        let flush = self.oldest_unschedulable.first().map(|(t, _)| t + self.times.max_unschedulable_ms);
        backoff.into_iter().chain(flush).min()
    }

    /// Puts a popped pod back: these plugins rejected it, and it waits for what may change their minds.
    pub fn unschedulable(&mut self, key: &PodKey, rejected_by: PluginSet, now: Millis) {
        if let Some(e) = self.entries.get_mut(key) {
            e.rejected_by = rejected_by;
            e.failures += 1;
            e.errors = 0;
        }
        self.set_ready(key, now);
        self.put(key, State::Unschedulable, now);
    }

    /// Puts a popped pod back after an error, to be tried again after a back-off.
    pub fn failed(&mut self, key: &PodKey, now: Millis) {
        if let Some(e) = self.entries.get_mut(key) {
            e.errors += 1;
        }
        self.set_ready(key, now);
        self.put(key, State::Backoff, now);
    }

    /// Lets an unschedulable pod be tried again, whatever it waits for.
    pub fn wake_one(&mut self, key: &PodKey, now: Millis) {
        if self.entries.get(key).is_some_and(|e| e.state == State::Unschedulable) {
            self.detach(key);
            self.put(key, State::Backoff, now);
        }
    }

    /// Something happened: pods whose rejecting plugins find it promising are moved. Returns how many.
    pub fn on_event(&mut self, event: &Event<'_>, world: &World, now: Millis) -> usize {
        let listeners = event.listeners();
        let mut moved: Vec<PodKey> = Vec::new();
        for (plugins, keys) in &self.unschedulable {
            let asked: Vec<Plugin> = plugins.iter().filter(|p| listeners.contains(*p)).collect();
            if asked.is_empty() {
                continue;
            }
            let promising = |k: &&PodKey| {
                self.entries.get(*k).is_some_and(|e| asked.iter().any(|p| hints::promising(*p, event, &e.info, world)))
            };
            moved.extend(keys.iter().filter(promising).cloned());
        }
        for key in &moved {
            self.detach(key);
            self.put(key, State::Backoff, now);
        }
        moved.len()
    }

    fn set_ready(&mut self, key: &PodKey, now: Millis) {
        let (initial, max) = (self.times.initial_backoff_ms, self.times.max_backoff_ms);
        if let Some(e) = self.entries.get_mut(key) {
            let tries = (e.failures + e.errors).max(1) - 1;
            e.since_ms = now;
            e.ready_ms = now + initial.saturating_mul(1 << tries.min(20)).min(max);
        }
    }

    /// Moves pods whose time has come to the active ones.
    fn wake(&mut self, now: Millis) {
        while let Some((_, key)) = self.backoff.first().filter(|(t, _)| *t <= now).cloned() {
            self.detach(&key);
            self.put(&key, State::Active, now);
        }
        let wait = self.times.max_unschedulable_ms;
        let due = |t: Millis| t + wait <= now;
        while let Some((_, key)) = self.oldest_unschedulable.first().filter(|(t, _)| due(*t)).cloned() {
            self.detach(&key);
            self.put(&key, State::Active, now);
        }
    }

    /// Files an entry that is in no list.
    fn put(&mut self, key: &PodKey, state: State, now: Millis) {
        let Some(e) = self.entries.get_mut(key) else { return };
        e.state = if state == State::Backoff && e.ready_ms <= now { State::Active } else { state };
        match e.state {
            State::Active => {
                self.active.insert(rank(e));
            }
            State::Backoff => {
                self.backoff.insert((e.ready_ms, key.clone()));
                if e.errors == 0 {
                    self.calm.insert(rank(e));
                }
            }
            State::Unschedulable => {
                self.unschedulable.entry(e.rejected_by).or_default().insert(key.clone());
                self.oldest_unschedulable.insert((e.since_ms, key.clone()));
            }
            State::Gated => self.gated += 1,
            State::Held => {}
        }
    }

    /// Takes an entry out of its list.
    fn detach(&mut self, key: &PodKey) {
        let Some(e) = self.entries.get(key) else { return };
        match e.state {
            State::Active => {
                self.active.remove(&rank(e));
            }
            State::Backoff => {
                self.backoff.remove(&(e.ready_ms, key.clone()));
                self.calm.remove(&rank(e));
            }
            State::Unschedulable => {
                self.oldest_unschedulable.remove(&(e.since_ms, key.clone()));
                if let Some(keys) = self.unschedulable.get_mut(&e.rejected_by) {
                    keys.remove(key);
                    if keys.is_empty() {
                        self.unschedulable.remove(&e.rejected_by);
                    }
                }
            }
            State::Gated => self.gated -= 1,
            State::Held => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let pod = json!({"metadata": {"name": name, "namespace": "ns"},
            "spec": {"priority": priority, "containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        Arc::new(PodInfo::of(&serde_json::from_value(pod).unwrap()))
    }

    const TIMES: Times = Times { initial_backoff_ms: 1000, max_backoff_ms: 10_000, max_unschedulable_ms: 300_000 };

    fn fit() -> PluginSet {
        [Plugin::NodeResourcesFit].into_iter().collect()
    }

    #[test]
    fn by_priority_then_by_age() {
        let mut q = Queue::new(TIMES);
        for (name, priority, at) in [("old", 0, 1), ("new", 0, 2), ("vip", 9, 3)] {
            q.upsert(&pod(name, priority), false, at);
        }
        let order: Vec<_> = std::iter::from_fn(|| q.pop(5)).map(|e| e.info.key.name.to_string()).collect();
        assert_eq!(order, ["vip", "old", "new"]);
    }

    #[test]
    fn waits_for_a_promising_event_and_backs_off_doubly() {
        let (mut q, world) = (Queue::new(TIMES), World::default());
        let p = pod("p", 0);
        q.upsert(&p, false, 0);
        q.pop(0).unwrap();
        q.unschedulable(&p.key, fit(), 0);
        assert!(q.pop(1).is_none());
        let other = pod("other", 0);
        assert_eq!(q.on_event(&Event::PodRemoved(&other), &world, 10), 1);
        // Nothing else to do: it need not wait out its back-off.
        assert!(q.pop(11).is_some());
        q.failed(&p.key, 20);
        assert!(q.pop(21).is_none(), "errors are waited out");
        assert_eq!(q.next_ready_ms(), Some(20 + 2000));
        assert!(q.pop(2020).is_some());
    }

    #[test]
    fn tried_anyway_after_five_minutes() {
        let mut q = Queue::new(TIMES);
        let p = pod("p", 0);
        q.upsert(&p, false, 0);
        q.pop(0).unwrap();
        q.unschedulable(&p.key, fit(), 0);
        assert!(q.pop(299_999).is_none());
        assert!(q.pop(300_000).is_some());
    }

    #[test]
    fn gates() {
        let mut q = Queue::new(TIMES);
        let p = pod("p", 0);
        q.upsert(&p, true, 0);
        assert!(q.pop(1).is_none());
        assert_eq!(q.counts(), [0, 0, 0, 1]);
        assert!(q.upsert(&p, false, 2));
        assert!(q.pop(3).is_some());
    }
}

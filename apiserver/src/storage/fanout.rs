//! Who hears of an event. Watchers are found through an index (all, namespace, object, indexed field) instead of being
//! asked one by one; an event is encoded once per encoding and shared.
//!
//! A watcher's queue is bounded in bytes. Who cannot keep up is ended, so that the client resumes from where it was; nobody
//! else waits for it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::entry::{Entry, Filter};

/// Queue of one watcher, counted by the objects' sizes.
pub const MAX_QUEUE_BYTES: usize = 16 << 20;

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    /// When.
    pub revision: u64,
    /// The object after the change; for deletions its last state at the deletion's revision.
    pub entry: Arc<Entry>,
    /// The object before the change.
    pub previous: Option<Arc<Entry>>,
    /// The object is gone.
    pub deleted: bool,
    encoded: Mutex<Vec<(Encoding, Delivery, Bytes)>>,
}

/// A form in which events are sent: served `apiVersion`, and a number for the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// `apps/v1`.
    pub api_version: Arc<str>,
    /// Meaningful to the encoder only.
    pub format: u8,
}

/// What the change is to one watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The object appeared, or began to match.
    Added,
    /// The object changed.
    Modified,
    /// The object is gone.
    Deleted,
    /// The object no longer matches: a deletion with its state before the change.
    Unmatched,
}

impl Event {
    /// A change.
    pub fn new(revision: u64, entry: Arc<Entry>, previous: Option<Arc<Entry>>, deleted: bool) -> Self {
        Self { revision, entry, previous, deleted, encoded: Mutex::new(Vec::new()) }
    }

    /// What it is to a watcher with this filter, if anything.
    pub fn seen_through(&self, filter: &Filter) -> Option<Delivery> {
        let before = self.previous.as_ref().is_some_and(|entry| filter.matches(entry));
        if self.deleted {
            return before.then_some(Delivery::Deleted);
        }
        match (before, filter.matches(&self.entry)) {
            (false, true) => Some(Delivery::Added),
            (true, true) => Some(Delivery::Modified),
            (true, false) => Some(Delivery::Unmatched),
            (false, false) => None,
        }
    }

    /// The encoded event; made by the first who asks.
    ///
    /// # Errors
    /// What `encode` fails with.
    pub fn encoded<E>(
        &self,
        encoding: &Encoding,
        delivery: Delivery,
        encode: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        let mut known = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, bytes)) = known.iter().find(|(e, d, _)| *d == delivery && e == encoding) {
            return Ok(bytes.clone());
        }
        let bytes = encode()?;
        known.push((encoding.clone(), delivery, bytes.clone()));
        Ok(bytes)
    }

    /// Bytes that this event keeps in memory, roughly.
    pub fn size_bytes(&self) -> usize {
        self.entry.size_bytes() + self.previous.as_ref().map_or(0, |entry| entry.size_bytes())
    }
}

/// Which objects a watcher can possibly be interested in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Any.
    All,
    /// Those of a namespace.
    Namespace(String),
    /// One object, by its key.
    Object(String),
    /// Those whose indexed field has this value.
    Indexed(String),
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<(Arc<Event>, Delivery)>,
    size_bytes: usize,
    ended: bool,
}

/// One open watch.
#[derive(Debug)]
pub struct Watcher {
    scope: Scope,
    filter: Filter,
    /// Only later events are told; lies in the future when the client asked so.
    after: u64,
    queue: Mutex<Queue>,
    wake: Notify,
}

/// What a watcher finds in its queue.
#[derive(Debug)]
pub enum Next {
    /// A change.
    Event(Arc<Event>, Delivery),
    /// Nothing now.
    Empty,
    /// Nothing any more: the watcher was too slow, or the server stops.
    Ended,
}

impl Watcher {
    /// A watcher that hears nothing yet.
    pub fn new(scope: Scope, filter: Filter, after: u64) -> Self {
        Self { scope, filter, after, queue: Mutex::default(), wake: Notify::new() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an event if it concerns this watcher. `bounded` is false for what lies before the watch began.
    pub fn offer(&self, event: &Arc<Event>, bounded: bool) {
        if event.revision <= self.after {
            return;
        }
        let Some(delivery) = event.seen_through(&self.filter) else { return };
        let mut queue = self.lock();
        if queue.ended {
            return;
        }
        queue.size_bytes += event.entry.size_bytes();
        queue.items.push_back((Arc::clone(event), delivery));
        if bounded && queue.size_bytes > MAX_QUEUE_BYTES {
            queue.ended = true;
            queue.items = VecDeque::new();
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Whether an event could concern this watcher by its scope.
    pub fn covers(&self, event: &Event, indexed: Option<usize>) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Namespace(namespace) => event.entry.namespace() == namespace,
            Scope::Object(key) => *event.entry.key == **key,
            Scope::Indexed(value) => indexed.is_some_and(|field| {
                event.entry.field(field) == value
                    || event.previous.as_ref().is_some_and(|entry| entry.field(field) == value)
            }),
        }
    }

    /// Ends the watch.
    pub fn end(&self) {
        self.lock().ended = true;
        self.wake.notify_one();
    }

    /// Takes the next item.
    pub fn take(&self) -> Next {
        let mut queue = self.lock();
        match queue.items.pop_front() {
            Some((event, delivery)) => {
                queue.size_bytes = queue.size_bytes.saturating_sub(event.entry.size_bytes());
                Next::Event(event, delivery)
            }
            None if queue.ended => Next::Ended,
            None => Next::Empty,
        }
    }

    /// Resolves when there may be something to take.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// What it selects.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }
}

/// The watchers of one resource.
#[derive(Debug, Default)]
pub struct Fanout {
    all: Vec<Arc<Watcher>>,
    by_namespace: HashMap<String, Vec<Arc<Watcher>>>,
    by_key: HashMap<String, Vec<Arc<Watcher>>>,
    by_field: HashMap<String, Vec<Arc<Watcher>>>,
}

impl Fanout {
    fn slot(&mut self, scope: &Scope) -> &mut Vec<Arc<Watcher>> {
        match scope {
            Scope::All => &mut self.all,
            Scope::Namespace(namespace) => self.by_namespace.entry(namespace.clone()).or_default(),
            Scope::Object(key) => self.by_key.entry(key.clone()).or_default(),
            Scope::Indexed(value) => self.by_field.entry(value.clone()).or_default(),
        }
    }

    /// Begins to tell a watcher.
    pub fn add(&mut self, watcher: &Arc<Watcher>) {
        self.slot(&watcher.scope).push(Arc::clone(watcher));
    }

    /// Stops telling a watcher.
    pub fn remove(&mut self, watcher: &Arc<Watcher>) {
        let slot = self.slot(&watcher.scope);
        slot.retain(|other| !Arc::ptr_eq(other, watcher));
        if slot.is_empty() {
            match &watcher.scope {
                Scope::All => {}
                Scope::Namespace(namespace) => drop(self.by_namespace.remove(namespace)),
                Scope::Object(key) => drop(self.by_key.remove(key)),
                Scope::Indexed(value) => drop(self.by_field.remove(value)),
            }
        }
    }

    /// Tells everybody whom an event may concern.
    pub fn publish(&self, event: &Arc<Event>, indexed: Option<usize>) {
        let tell = |watchers: Option<&Vec<Arc<Watcher>>>| {
            for watcher in watchers.into_iter().flatten() {
                watcher.offer(event, true);
            }
        };
        tell(Some(&self.all));
        tell(self.by_namespace.get(event.entry.namespace()));
        tell(self.by_key.get(&*event.entry.key));
        if let Some(field) = indexed.filter(|_| !self.by_field.is_empty()) {
            let now = event.entry.field(field);
            tell(self.by_field.get(now));
            let before = event.previous.as_ref().map(|entry| entry.field(field)).filter(|before| *before != now);
            tell(before.and_then(|before| self.by_field.get(before)));
        }
    }

    /// Ends every watch.
    pub fn end_all(&mut self) {
        let lists = std::mem::take(self);
        let maps = [lists.by_namespace, lists.by_key, lists.by_field];
        let indexed = maps.into_iter().flat_map(HashMap::into_values).flatten();
        lists.all.into_iter().chain(indexed).for_each(|watcher| watcher.end());
    }
}

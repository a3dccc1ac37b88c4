//! All objects of one resource at the present revision, and the recent past.
//!
//! Written by the clock only. Readers get snapshots: the map is persistent, so a list, a page of a continued list and the
//! start of a watch cost nothing however many objects there are. A ring of events, bounded in bytes, serves watches from the
//! past and lists at older revisions.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use imbl::OrdMap;

use super::StorageError;
use super::entry::{Entry, FieldRef, Filter};
use super::fanout::{Event, Fanout, Watcher};
use super::probe::Probe;
use super::terms::Terms;

/// Events of one resource that are kept, counted by the objects' sizes.
const MAX_RING_BYTES: usize = 16 << 20;
/// Older states of one resource that continued lists still need.
const MAX_PINNED: usize = 8;

/// Objects by key.
pub type Map = OrdMap<Arc<str>, Arc<Entry>>;

/// All objects at one revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Everything up to it is in, nothing after it.
    pub revision: u64,
    /// The objects.
    pub map: Map,
    /// Their index; `None` for a state of the past.
    terms: Option<Terms>,
}

impl Snapshot {
    /// The objects, without most of those that the filter does not select where the index tells.
    pub fn narrowed(self, filter: &Filter, cache: &ResourceCache) -> Map {
        self.terms.and_then(|terms| terms.narrowed(filter, cache.indexed())).unwrap_or(self.map)
    }
}

/// etcd's revision 1 is the empty store, of which no server has told a client: like upstream's caches, which begin when the
/// server has written its own objects, ours do not reach back to it.
const FIRST_REVISION: u64 = 2;

/// Called for each event in order, within the clock; must not block.
pub type Subscriber = Box<dyn Fn(&Event) + Send + Sync>;

#[derive(Default)]
struct State {
    map: Map,
    terms: Terms,
    /// Of the last event of this resource.
    revision: u64,
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    /// Every event after this revision is in the ring.
    ring_floor: u64,
    /// States before this revision are gone from etcd, and so they are gone here.
    compacted: u64,
    pinned: VecDeque<Snapshot>,
    fanout: Fanout,
    subscribers: Vec<Subscriber>,
    /// What came before the first list, for a cache that joins a running clock.
    waiting: Option<Vec<(String, Option<Entry>, u64)>>,
}

/// The cache of one resource.
pub struct ResourceCache {
    prefix: String,
    probe: Probe,
    /// The field of [`Probe`] that has an index for watches.
    indexed: Option<usize>,
    state: RwLock<State>,
}

impl std::fmt::Debug for ResourceCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResourceCache").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl ResourceCache {
    /// An empty cache for the keys below `prefix`, which ends with a slash.
    pub fn new(prefix: String, probe: Probe, indexed: Option<&str>) -> Self {
        let indexed = indexed.and_then(|name| probe.index(name));
        Self { prefix, probe, indexed, state: RwLock::default() }
    }

    /// The same, whose events wait until [`ResourceCache::complete`] brings its first list.
    pub fn joining(prefix: String, probe: Probe, indexed: Option<&str>) -> Self {
        let cache = Self::new(prefix, probe, indexed);
        cache.write().waiting = Some(Vec::new());
        cache
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// etcd key prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How labels and fields are read.
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// The field that [`super::fanout::Scope::Indexed`] is about.
    pub fn indexed(&self) -> Option<FieldRef> {
        self.indexed.map(FieldRef::Field)
    }

    /// The object now.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.read().map.get(key).cloned()
    }

    /// The objects whose indexed field has this value, which is not empty.
    pub fn indexed_as(&self, value: &str) -> Map {
        self.read().terms.with_field(value)
    }

    /// All objects now. `clock` is the revision that the clock had published before.
    pub fn snapshot(&self, clock: u64) -> Snapshot {
        let state = self.read();
        state.snapshot(state.revision.max(clock))
    }

    /// All objects as they were at a revision.
    ///
    /// # Errors
    /// That revision is no longer held.
    pub fn snapshot_at(&self, revision: u64) -> Result<Snapshot, StorageError> {
        let state = self.read();
        if revision < state.compacted {
            return Err(StorageError::Expired { asked: revision, oldest: state.compacted });
        }
        if revision >= state.revision {
            return Ok(state.snapshot(revision));
        }
        if let Some(pinned) = state.pinned.iter().find(|pinned| pinned.revision == revision) {
            return Ok(pinned.clone());
        }
        if revision < state.ring_floor {
            return Err(StorageError::Expired { asked: revision, oldest: state.ring_floor });
        }
        let mut map = state.map.clone();
        for event in state.ring.iter().rev().take_while(|event| event.revision > revision) {
            match &event.previous {
                Some(previous) => drop(map.insert(Arc::clone(&previous.key), Arc::clone(previous))),
                None => drop(map.remove(&event.entry.key)),
            }
        }
        Ok(Snapshot { revision, map, terms: None })
    }

    /// Keeps a snapshot for the next page of a list.
    pub fn pin(&self, snapshot: &Snapshot) {
        let mut state = self.write();
        if state.pinned.iter().any(|pinned| pinned.revision == snapshot.revision) {
            return;
        }
        if state.pinned.len() >= MAX_PINNED {
            state.pinned.pop_front();
        }
        state.pinned.push_back(snapshot.clone());
    }

    /// Forgets the states before a revision, also those kept for continued lists.
    pub fn forget_before(&self, revision: u64) {
        let mut state = self.write();
        state.compacted = revision;
        state.pinned.retain(|pinned| pinned.revision >= revision);
    }

    /// Starts to tell a watcher everything that happens after `since` (`None`: after now); gives the state it starts from.
    ///
    /// # Errors
    /// Events since then are no longer held.
    pub fn watch(&self, watcher: &Arc<Watcher>, since: Option<u64>, clock: u64) -> Result<Snapshot, StorageError> {
        let mut state = self.write();
        if let Some(since) = since {
            if since < state.ring_floor {
                return Err(StorageError::Expired { asked: since, oldest: state.ring_floor });
            }
            let first = state.ring.partition_point(|event| event.revision <= since);
            for event in state.ring.iter().skip(first).filter(|event| watcher.covers(event, self.indexed)) {
                watcher.offer(event, false);
            }
        }
        state.fanout.add(watcher);
        Ok(state.snapshot(state.revision.max(clock)))
    }

    /// Stops telling a watcher.
    pub fn unwatch(&self, watcher: &Arc<Watcher>) {
        self.write().fanout.remove(watcher);
    }

    /// Ends all watches.
    pub fn end_watches(&self) {
        self.write().fanout.end_all();
    }

    /// Calls `subscriber` with every present object as an added one, and from then on with every event.
    pub fn subscribe(&self, subscriber: Subscriber) {
        let mut state = self.write();
        for entry in state.map.values() {
            subscriber(&Event::new(entry.revision, Arc::clone(entry), None, false));
        }
        state.subscribers.push(subscriber);
    }

    /// Takes over the first list, before anybody subscribes or watches.
    pub(super) fn fill(&self, entries: impl IntoIterator<Item = Arc<Entry>>, revision: u64) {
        let mut state = self.write();
        state.map = entries.into_iter().map(|entry| (Arc::clone(&entry.key), entry)).collect();
        let State { map, terms, .. } = &mut *state;
        *terms = Terms::default();
        map.values().for_each(|entry| terms.put(entry, None, self.indexed));
        state.revision = revision;
        state.ring_floor = revision.max(FIRST_REVISION);
    }

    /// The first list of a cache that joins, and after it what came since; a second one comes too late.
    pub(super) fn complete(&self, entries: Vec<Entry>, revision: u64) {
        let Some(waiting) = self.write().waiting.take() else { return };
        self.fill(entries.into_iter().map(Arc::new), revision);
        for (key, entry, at) in waiting.into_iter().filter(|(.., at)| *at > revision) {
            self.apply(&key, entry, at);
        }
    }

    /// The object at `key` is now this (`None`: gone), as of `revision`.
    pub(crate) fn apply(&self, key: &str, entry: Option<Entry>, revision: u64) {
        let mut state = self.write();
        if let Some(waiting) = &mut state.waiting {
            return waiting.push((key.to_owned(), entry, revision));
        }
        let previous = state.map.get(key).cloned();
        let event = match (entry, previous) {
            (Some(entry), previous) => {
                let entry = Arc::new(entry);
                state.terms.put(&entry, previous.as_deref(), self.indexed);
                state.map.insert(Arc::clone(&entry.key), Arc::clone(&entry));
                Event::new(revision, entry, previous, false)
            }
            (None, Some(previous)) => {
                state.map.remove(key);
                state.terms.remove(&previous, self.indexed);
                Event::new(revision, Arc::new(previous.at_revision(revision)), Some(previous), true)
            }
            (None, None) => return,
        };
        state.revision = revision;
        state.push(Arc::new(event), self.indexed);
    }

    /// Makes the cache equal to a list at `revision`; what differs becomes events. For a clock that lost its place.
    pub(super) fn replace(&self, entries: Vec<Entry>, revision: u64) {
        let before = self.read().map.clone();
        let kept: std::collections::HashSet<Arc<str>> = entries.iter().map(|entry| Arc::clone(&entry.key)).collect();
        let unknown = |entry: &Entry| before.get(&entry.key).is_none_or(|known| known.revision != entry.revision);
        let mut changed: Vec<Entry> = entries.into_iter().filter(unknown).collect();
        changed.sort_by_key(|entry| entry.revision);
        for entry in changed {
            let (key, at) = (Arc::clone(&entry.key), entry.revision);
            self.apply(&key, Some(entry), at);
        }
        for key in before.keys().filter(|key| !kept.contains(*key)) {
            self.apply(key, None, revision);
        }
        let mut state = self.write();
        state.revision = state.revision.max(revision);
        // What happened in between and was undone again is unknown, so that watches cannot start there.
        state.ring.clear();
        state.ring_bytes = 0;
        state.ring_floor = revision;
    }
}

impl State {
    fn snapshot(&self, revision: u64) -> Snapshot {
        Snapshot { revision, map: self.map.clone(), terms: Some(self.terms.clone()) }
    }

    fn push(&mut self, event: Arc<Event>, indexed: Option<usize>) {
        for subscriber in &self.subscribers {
            subscriber(&event);
        }
        self.fanout.publish(&event, indexed);
        self.ring_bytes += event.size_bytes();
        self.ring.push_back(event);
        while self.ring_bytes > MAX_RING_BYTES && self.ring.len() > 1 {
            if let Some(oldest) = self.ring.pop_front() {
                self.ring_bytes -= oldest.size_bytes();
                self.ring_floor = oldest.revision;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Filter;
    use super::super::fanout::{Delivery, Next, Scope};
    use super::*;

    fn cache() -> ResourceCache {
        ResourceCache::new("/registry/things/".to_owned(), Probe::new(Vec::new()), None)
    }

    fn put(cache: &ResourceCache, key: &str, revision: u64) {
        let json = format!(r#"{{"metadata":{{"name":"{key}","labels":{{"r":"{revision}"}}}}}}"#);
        let entry = Entry::new(key.into(), json.as_bytes(), revision, cache.probe()).unwrap();
        cache.apply(key, Some(entry), revision);
    }

    fn keys(snapshot: &Snapshot) -> Vec<String> {
        snapshot.map.values().map(|entry| format!("{}@{}", entry.key, entry.revision)).collect()
    }

    #[test]
    fn older_states_are_rebuilt() {
        let cache = cache();
        cache.fill([], 1);
        put(&cache, "a/x", 2);
        put(&cache, "a/y", 3);
        put(&cache, "a/x", 4);
        cache.apply("a/y", None, 5);
        assert_eq!(keys(&cache.snapshot(5)), ["a/x@4"]);
        assert_eq!(keys(&cache.snapshot_at(4).unwrap()), ["a/x@4", "a/y@3"]);
        assert_eq!(keys(&cache.snapshot_at(3).unwrap()), ["a/x@2", "a/y@3"]);
        assert!(matches!(cache.snapshot_at(1), Err(StorageError::Expired { .. })));
    }

    #[test]
    fn watchers_hear_what_concerns_them_in_order() {
        let cache = cache();
        cache.fill([], 2);
        put(&cache, "a/x", 3);
        let watcher = Arc::new(Watcher::new(Scope::Namespace("a".into()), Filter::default(), 0));
        cache.watch(&watcher, Some(2), 3).unwrap();
        put(&cache, "b/x", 4);
        put(&cache, "a/x", 5);
        cache.apply("a/x", None, 6);
        let mut heard = Vec::new();
        while let Next::Event(event, delivery) = watcher.take() {
            heard.push((event.revision, delivery));
        }
        assert_eq!(heard, [(3, Delivery::Added), (5, Delivery::Modified), (6, Delivery::Deleted)]);
        let too_old = Arc::new(Watcher::new(Scope::All, Filter::default(), 0));
        assert!(cache.watch(&too_old, Some(0), 5).is_err());
    }

    /// Regression: a continued list never expired as long as nothing else happened to the resource.
    #[test]
    fn compaction_ends_old_states() {
        let cache = cache();
        cache.fill([], 1);
        put(&cache, "x", 2);
        put(&cache, "y", 4);
        for revision in 2..=4 {
            cache.pin(&cache.snapshot_at(revision).unwrap());
        }
        cache.forget_before(4);
        assert!(cache.snapshot_at(3).is_err());
        assert_eq!(keys(&cache.snapshot_at(4).unwrap()), ["x@2", "y@4"]);
        cache.forget_before(6);
        assert!(cache.snapshot_at(5).is_err(), "nothing has happened since, and yet it is gone");
    }

    #[test]
    fn what_joins_has_its_list_and_what_came_since() {
        let cache = ResourceCache::joining("/registry/things/".to_owned(), Probe::new(Vec::new()), None);
        put(&cache, "x", 5);
        put(&cache, "y", 7);
        cache.apply("z", None, 8);
        let entry =
            |key: &str, revision| Entry::new(key.into(), br#"{"metadata":{}}"#, revision, cache.probe()).unwrap();
        cache.complete(vec![entry("w", 2), entry("x", 6), entry("z", 4)], 6);
        assert_eq!(keys(&cache.snapshot(8)), ["w@2", "x@6", "y@7"]);
        cache.complete(Vec::new(), 9);
        assert_eq!(keys(&cache.snapshot(9)), ["w@2", "x@6", "y@7"]);
    }

    #[test]
    fn a_lost_place_neither_loses_nor_invents() {
        let cache = cache();
        cache.fill([], 1);
        put(&cache, "x", 2);
        put(&cache, "y", 3);
        put(&cache, "z", 4);
        let watcher = Arc::new(Watcher::new(Scope::All, Filter::default(), 0));
        cache.watch(&watcher, None, 4).unwrap();
        let entry =
            |key: &str, revision| Entry::new(key.into(), br#"{"metadata":{}}"#, revision, cache.probe()).unwrap();
        cache.replace(vec![entry("w", 8), entry("x", 2), entry("y", 7)], 9);
        let mut heard = Vec::new();
        while let Next::Event(event, delivery) = watcher.take() {
            heard.push((event.entry.key.to_string(), delivery));
        }
        heard.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(
            heard,
            [("w".into(), Delivery::Added), ("y".into(), Delivery::Modified), ("z".into(), Delivery::Deleted)]
        );
        assert_eq!(keys(&cache.snapshot(9)), ["w@8", "x@2", "y@7"]);
    }
}

//! The copy itself, its indexes, and the order in which handlers learn of changes.
//!
//! The informer's task is the only writer. `handlers` is locked around every change and its delivery, so a handler that is
//! added later first sees everything there is and then every change, exactly once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;

use super::Cached;
use crate::resource::ObjectKey;

/// One change of the copy.
#[derive(Debug)]
pub enum Delta<T> {
    /// It was not there before.
    Added(Arc<T>),
    /// It changed.
    Updated {
        /// Before.
        old: Arc<T>,
        /// Now.
        new: Arc<T>,
    },
    /// It is gone. This is the last state known, which may be older than the last state there was.
    Deleted(Arc<T>),
}

impl<T: Cached> Delta<T> {
    /// The object as it is now, or was last.
    pub fn object(&self) -> &Arc<T> {
        match self {
            Self::Added(object) | Self::Deleted(object) | Self::Updated { new: object, .. } => object,
        }
    }

    /// The key of the object.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::of(self.object().meta())
    }
}

pub(super) type IndexFn<T> = Box<dyn Fn(&T) -> Vec<String> + Send + Sync>;
pub(super) type Handler<T> = Box<dyn Fn(&Delta<T>) + Send + Sync>;

struct Index<T> {
    name: &'static str,
    keys_of: IndexFn<T>,
    entries: HashMap<String, HashMap<ObjectKey, Arc<T>>>,
}

struct Store<T> {
    objects: HashMap<ObjectKey, Arc<T>>,
    indexes: Vec<Index<T>>,
}

impl<T> Store<T> {
    fn insert(&mut self, key: ObjectKey, object: Arc<T>) -> Option<Arc<T>> {
        let old = self.remove(&key);
        for index in &mut self.indexes {
            for entry in (index.keys_of)(&object) {
                index.entries.entry(entry).or_default().insert(key.clone(), Arc::clone(&object));
            }
        }
        self.objects.insert(key, object);
        old
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Arc<T>> {
        let old = self.objects.remove(key)?;
        for index in &mut self.indexes {
            for entry in (index.keys_of)(&old) {
                if let Some(found) = index.entries.get_mut(&entry) {
                    found.remove(key);
                    if found.is_empty() {
                        index.entries.remove(&entry);
                    }
                }
            }
        }
        Some(old)
    }
}

pub(super) struct Shared<T> {
    store: RwLock<Store<T>>,
    handlers: Mutex<Vec<Handler<T>>>,
    synced: watch::Sender<bool>,
}

impl<T: Cached> Shared<T> {
    pub(super) fn new(indexes: Vec<(&'static str, IndexFn<T>)>, handlers: Vec<Handler<T>>) -> Self {
        let index = |(name, keys_of)| Index { name, keys_of, entries: HashMap::new() };
        let indexes = indexes.into_iter().map(index).collect();
        Self {
            store: RwLock::new(Store { objects: HashMap::new(), indexes }),
            handlers: Mutex::new(handlers),
            synced: watch::Sender::new(false),
        }
    }

    /// Makes the copy equal to `items`.
    pub(super) fn replace(&self, items: Vec<Arc<T>>) {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let listed: HashSet<ObjectKey> = items.iter().map(|item| ObjectKey::of(item.meta())).collect();
        let gone: Vec<ObjectKey> = {
            let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
            store.objects.keys().filter(|key| !listed.contains(key)).cloned().collect()
        };
        for key in gone {
            let old = self.store.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
            if let Some(old) = old {
                deliver(&handlers, &Delta::Deleted(old));
            }
        }
        for item in items {
            self.put(&handlers, item);
        }
        drop(handlers);
        self.synced.send_replace(true);
    }

    pub(super) fn upsert(&self, object: Arc<T>) {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        self.put(&handlers, object);
    }

    fn put(&self, handlers: &[Handler<T>], new: Arc<T>) {
        let key = ObjectKey::of(new.meta());
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        let same = |old: &Arc<T>| old.meta().resource_version == new.meta().resource_version;
        if store.objects.get(&key).is_some_and(same) {
            return;
        }
        let old = store.insert(key, Arc::clone(&new));
        drop(store);
        match old {
            // Deleted and made again between two looks: two objects, so two changes.
            Some(old) if old.meta().uid != new.meta().uid => {
                deliver(handlers, &Delta::Deleted(old));
                deliver(handlers, &Delta::Added(new));
            }
            Some(old) => deliver(handlers, &Delta::Updated { old, new }),
            None => deliver(handlers, &Delta::Added(new)),
        }
    }

    pub(super) fn remove(&self, object: Arc<T>) {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let key = ObjectKey::of(object.meta());
        let old = self.store.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
        if old.is_some() {
            // The event carries the final state, which is newer than the copy's.
            deliver(&handlers, &Delta::Deleted(object));
        }
    }
}

fn deliver<T>(handlers: &[Handler<T>], delta: &Delta<T>) {
    for handler in handlers {
        handler(delta);
    }
}

/// Reads the copy; cheap to clone.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> std::fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let objects = self.shared.store.read().unwrap_or_else(PoisonError::into_inner).objects.len();
        f.debug_struct("Reader").field("objects", &objects).finish()
    }
}

impl<T: Cached> Reader<T> {
    pub(super) fn new(shared: Arc<Shared<T>>) -> Self {
        Self { shared }
    }

    /// A copy of fixed content, for tests of what reads it.
    pub fn fixed(objects: Vec<T>) -> Self {
        let shared = Shared::new(Vec::new(), Vec::new());
        shared.replace(objects.into_iter().map(Arc::new).collect());
        Self { shared: Arc::new(shared) }
    }

    /// The object of that name; the namespace is empty for cluster-scoped ones.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }

    /// The object of that key.
    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.shared.store.read().unwrap_or_else(PoisonError::into_inner).objects.get(key).cloned()
    }

    /// All objects, in no order.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.shared.store.read().unwrap_or_else(PoisonError::into_inner).objects.values().cloned().collect()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.shared.store.read().unwrap_or_else(PoisonError::into_inner).objects.len()
    }

    /// True without objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects that the index of that name has under `key`; none when there is no such index.
    pub fn by_index(&self, index: &str, key: &str) -> Vec<Arc<T>> {
        let store = self.shared.store.read().unwrap_or_else(PoisonError::into_inner);
        let index = store.indexes.iter().find(|i| i.name == index);
        index.and_then(|i| i.entries.get(key)).map(|found| found.values().cloned().collect()).unwrap_or_default()
    }

    /// Adds a handler after the start: it sees everything there is as added, then every change. It must not block and
    /// must not add handlers itself.
    pub fn on_event(&self, handler: impl Fn(&Delta<T>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        for object in self.list() {
            handler(&Delta::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// Whether the first list is in.
    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Waits for the first list; it has been delivered to the handlers then.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives in `shared`, so waiting cannot fail.
        let _ = synced.wait_for(|synced| *synced).await;
    }
}

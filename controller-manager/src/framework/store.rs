//! One informer per resource, shared by all controllers that look at it.
//!
//! Two phases: while controllers are put together they take [`Store`]s and register handlers; [`Stores::start`] then
//! starts each informer once with all handlers and indexes. A store read before that is empty. Handlers run inside the
//! informer's task and must not block: they put keys into queues.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use client::informer::{Cached, Delta, Informer, Reader};
use client::{Client, ResourceRef};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{Key, Queue, Subject, Target};

/// How objects of `T` are found by something other than their name.
pub type IndexFn<T> = fn(&T) -> Vec<String>;

/// What is kept of one resource's objects.
pub trait View: Cached + Send + Sync + 'static {
    /// Which resource this is a view of.
    const RESOURCE: ResourceRef;

    /// Named indexes over the objects.
    fn indexes() -> Vec<(&'static str, IndexFn<Self>)>
    where
        Self: Sized,
    {
        Vec::new()
    }

    /// The object, to act on.
    fn target(&self) -> Target
    where
        Self: Sized,
    {
        Target::of(&Self::RESOURCE, self.meta())
    }

    /// The object, to speak of.
    fn subject(&self) -> Subject
    where
        Self: Sized,
    {
        Subject::of(&Self::RESOURCE, self.meta())
    }

    /// Restricts what is watched at all.
    fn field_selector() -> Option<&'static str> {
        None
    }
}

type Handler<T> = Box<dyn Fn(&Delta<T>) + Send + Sync>;

struct Slot<T: View> {
    handlers: Mutex<Vec<Handler<T>>>,
    reader: OnceLock<Reader<T>>,
}

/// A read-only view of one resource as the informer last saw it. Cheap to clone.
pub struct Store<T: View> {
    slot: Arc<Slot<T>>,
}

impl<T: View> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self { slot: Arc::clone(&self.slot) }
    }
}

impl<T: View> Store<T> {
    /// Calls `handler` for every change, beginning with the initial objects. Only before the informers start.
    pub fn on(&self, handler: impl Fn(&Delta<T>) + Send + Sync + 'static) {
        self.slot.handlers.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(handler));
    }

    /// Puts the key of every object that changes into `queue`, as [`Self::on`].
    pub fn wakes(&self, queue: &Queue) {
        let queue = queue.clone();
        self.on(move |delta| queue.add(Key::of(delta.object().meta())));
    }

    /// The object, if it exists.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.slot.reader.get().and_then(|reader| reader.get(namespace, name))
    }

    /// All objects, in no particular order.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.slot.reader.get().map(Reader::list).unwrap_or_default()
    }

    /// The objects that `index` files under `key`.
    pub fn by_index(&self, index: &str, key: &str) -> Vec<Arc<T>> {
        self.slot.reader.get().map(|reader| reader.by_index(index, key)).unwrap_or_default()
    }
}

trait Startable: Send + Sync {
    fn start(&self, client: &Client, shutdown: &CancellationToken);
    fn synced(&self) -> BoxFuture<'_, ()>;
}

impl<T: View> Startable for Slot<T> {
    fn start(&self, client: &Client, shutdown: &CancellationToken) {
        let handlers = std::mem::take(&mut *self.handlers.lock().unwrap_or_else(PoisonError::into_inner));
        let mut builder = Informer::<T>::builder(client, T::RESOURCE);
        for (name, index) in T::indexes() {
            builder = builder.index(name, index);
        }
        if let Some(selector) = T::field_selector() {
            builder = builder.field_selector(selector);
        }
        let reader = builder
            .on_event(move |delta| {
                for handler in &handlers {
                    handler(delta);
                }
            })
            .start(shutdown.clone());
        // Started once by `Stores::start`, which consumes the set.
        let _ = self.reader.set(reader);
    }

    fn synced(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(reader) = self.reader.get() {
                reader.synced().await;
            }
        })
    }
}

/// All stores any controller asked for.
#[derive(Default)]
pub struct Stores {
    by_type: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    startable: Vec<Arc<dyn Startable>>,
}

impl Stores {
    /// The store of `T`, made on first use.
    pub fn of<T: View>(&mut self) -> Store<T> {
        if let Some(store) = self.by_type.get(&TypeId::of::<T>()).and_then(|store| store.downcast_ref::<Store<T>>()) {
            return store.clone();
        }
        let slot = Arc::new(Slot::<T> { handlers: Mutex::default(), reader: OnceLock::new() });
        let store = Store { slot: Arc::clone(&slot) };
        self.startable.push(slot);
        self.by_type.insert(TypeId::of::<T>(), Box::new(store.clone()));
        store
    }

    /// Starts every informer and returns when each has its first complete list.
    pub async fn start(self, client: &Client, shutdown: &CancellationToken) {
        for slot in &self.startable {
            slot.start(client, shutdown);
        }
        for slot in &self.startable {
            tokio::select! {
                () = slot.synced() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }
}

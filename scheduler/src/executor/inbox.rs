//! What changed since the scheduler last looked: keys, each once, in order of their first change.
//!
//! Informers put keys in from their own tasks; the scheduler takes all of them and looks at each object as it is. Bounded
//! by the number of objects.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use client::ObjectKey;
use tokio::sync::Notify;

/// Kinds of objects that the scheduler follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are the kinds'
pub enum Kind {
    Pod,
    Node,
    Namespace,
    Budget,
    Service,
    Controller,
    ReplicaSet,
    StatefulSet,
    Claim,
    Volume,
    Class,
    CsiNode,
    CsiDriver,
    Capacity,
    DeviceClaim,
    DeviceClass,
    Slice,
}

/// An object by kind and name.
pub type Changed = (Kind, ObjectKey);

#[derive(Debug, Default)]
struct Keys {
    order: VecDeque<Changed>,
    known: HashSet<Changed>,
}

/// The inbox.
#[derive(Debug, Default)]
pub struct Inbox {
    keys: Mutex<Keys>,
    filled: Notify,
}

impl Inbox {
    /// Notes a change.
    pub fn put(&self, kind: Kind, key: ObjectKey) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.known.insert((kind, key.clone())) {
            keys.order.push_back((kind, key));
            self.filled.notify_one();
        }
    }

    /// Takes all changes.
    pub fn take(&self) -> VecDeque<Changed> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.known.clear();
        std::mem::take(&mut keys.order)
    }

    /// Waits until something changed since the last wait.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }
}

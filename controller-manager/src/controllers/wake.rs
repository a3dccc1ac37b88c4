//! Which changes of dependents lead to which owner: the handlers that most controllers of dependents need.

use std::sync::Arc;
use std::time::Duration;

use client::informer::Delta;

use crate::framework::plan::controller_of;
use crate::framework::{Expectations, Key, Queue, Store, View};
use crate::views::meta::is_deleting;
use crate::views::selector::Selector;
use crate::views::workloads;

/// Changes of an object are work on it.
pub fn watch_owners<T: View>(owners: &Store<T>, queue: &Queue, expectations: &Arc<Expectations>) {
    let (queue, expectations) = (queue.clone(), Arc::clone(expectations));
    owners.on(move |delta| {
        let meta = delta.object().meta();
        match delta {
            Delta::Deleted(_) => expectations.forget(&Key::of(meta)),
            // Deleted and made again under the same name: the old one's expectations do not apply.
            Delta::Updated { old, new } if old.meta().uid != new.meta().uid => expectations.forget(&Key::of(meta)),
            _ => {}
        }
        queue.add(Key::of(meta));
    });
}

/// Finds the owners that select a dependent, for [`watch_dependents`].
pub fn selecting<O: View, D: View>(
    owners: &Store<O>,
    selector: fn(&O) -> &Selector,
) -> impl Fn(&D) -> Vec<Key> + Send + Sync + use<O, D> {
    let owners = owners.clone();
    move |dependent| {
        let mut found = owners.by_index(workloads::BY_NAMESPACE, &dependent.meta().namespace);
        found.retain(|owner| selector(owner).matches(&dependent.meta().labels));
        found.iter().map(|owner| Key::of(owner.meta())).collect()
    }
}

/// Where changes of dependents lead.
pub struct Wake {
    /// The owners' queue.
    pub queue: Queue,
    /// What the owners' controller waits to see.
    pub expectations: Arc<Expectations>,
    /// How long further changes are awaited, so that a burst of them is one step.
    pub delay: Duration,
}

impl Wake {
    /// At once.
    pub fn now(queue: &Queue, expectations: &Arc<Expectations>) -> Self {
        Self { queue: queue.clone(), expectations: Arc::clone(expectations), delay: Duration::ZERO }
    }
}

/// Dependents lead to the controller of kind `owner_kind` that owns them, before and after the change; orphans to those
/// that `selecting` finds.
pub fn watch_dependents<D: View>(
    dependents: &Store<D>,
    owner_kind: &str,
    wake: Wake,
    selecting: impl Fn(&D) -> Vec<Key> + Send + Sync + 'static,
) {
    let owner_kind = owner_kind.to_owned();
    let Wake { queue, expectations, delay } = wake;
    let owner_of = move |object: &D| {
        controller_of(object.meta())
            .filter(|owner| owner.kind == owner_kind)
            .map(|owner| Key::new(&object.meta().namespace, &owner.name))
    };
    dependents.on(move |delta| {
        let object = delta.object();
        let (meta, owner) = (object.meta(), owner_of(object));
        if let Some(key) = &owner {
            if matches!(delta, Delta::Added(_)) {
                expectations.creation_observed(key);
            }
            if matches!(delta, Delta::Deleted(_)) || is_deleting(meta) {
                expectations.deletion_observed(key, &meta.uid);
            }
        }
        if let Delta::Updated { old, .. } = delta
            && let Some(before) = owner_of(old)
            && Some(&before) != owner.as_ref()
        {
            queue.add_after(before, delay);
        }
        if let Some(key) = owner {
            return queue.add_after(key, delay);
        }
        let interesting = match delta {
            Delta::Added(_) => true,
            Delta::Updated { old, new } => {
                old.meta().labels != new.meta().labels || controller_of(old.meta()).is_some()
            }
            Delta::Deleted(_) => false,
        };
        if interesting && controller_of(meta).is_none() {
            selecting(object).into_iter().for_each(|key| queue.add_after(key, delay));
        }
    });
}

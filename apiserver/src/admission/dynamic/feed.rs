//! The configurations as the cluster has them, compiled when first needed.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use serde_json::Value;

use super::GROUP;
use super::policy::Policy;
use super::webhooks::Configuration;
use crate::registry::Registry;
use crate::storage::entry::Entry;

/// Something compiled from an object, once.
pub(super) struct Compiled<T> {
    entry: Arc<Entry>,
    made: OnceLock<T>,
}

impl<T: for<'v> From<&'v Value>> Compiled<T> {
    pub(super) fn get(&self) -> &T {
        self.made.get_or_init(|| T::from(&self.entry.value()))
    }
}

type Items<T> = BTreeMap<Arc<str>, Arc<Compiled<T>>>;

/// The objects of one resource by name.
pub(super) struct Feed<T>(RwLock<Arc<Items<T>>>);

impl<T> Default for Feed<T> {
    fn default() -> Self {
        Self(RwLock::new(Arc::default()))
    }
}

impl<T> Feed<T> {
    /// As they are now, in the order of their names.
    pub(super) fn load(&self) -> Arc<Items<T>> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    #[cfg(test)]
    pub(super) fn insert(&self, object: &Value) {
        let (name, json) = (apimachinery::meta::name(object), object.to_string());
        let probe = crate::storage::probe::Probe::new(Vec::new());
        let entry = Entry::new(name.into(), json.as_bytes(), 1, &probe).map(Arc::new).unwrap();
        self.set(&entry, false);
    }

    fn set(&self, entry: &Arc<Entry>, deleted: bool) {
        let mut items = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let items = Arc::make_mut(&mut items);
        if deleted {
            items.remove(&entry.key);
        } else {
            let made = Compiled { entry: Arc::clone(entry), made: OnceLock::new() };
            items.insert(Arc::clone(&entry.key), Arc::new(made));
        }
    }
}

/// A binding is read as it is.
pub(super) struct Binding {
    pub(super) object: Value,
    pub(super) matcher: super::Matcher,
}

impl From<&Value> for Binding {
    fn from(object: &Value) -> Self {
        Self { matcher: super::Matcher::of(&object["spec"]["matchResources"]), object: object.clone() }
    }
}

impl Binding {
    pub(super) fn name(&self) -> &str {
        apimachinery::meta::name(&self.object)
    }
}

/// Policies and their bindings.
#[derive(Default)]
pub(super) struct Policies {
    pub(super) policies: Feed<Policy>,
    pub(super) bindings: Feed<Binding>,
}

/// All of them.
#[derive(Default)]
pub struct Feeds {
    pub(super) mutating_webhooks: Feed<Configuration>,
    pub(super) validating_webhooks: Feed<Configuration>,
    pub(super) mutating: Policies,
    pub(super) validating: Policies,
}

impl Feeds {
    /// Follows the cluster. Afterwards everything that the caches hold now is here.
    pub fn follow(self: &Arc<Self>, registry: &Registry) {
        macro_rules! subscribe {
            ($plural:literal, $($field:ident).+) => {{
                let feeds = Arc::clone(self);
                registry.subscribe((GROUP, $plural), Box::new(move |event| feeds.$($field).+.set(&event.entry, event.deleted)));
            }};
        }
        subscribe!("mutatingwebhookconfigurations", mutating_webhooks);
        subscribe!("validatingwebhookconfigurations", validating_webhooks);
        subscribe!("mutatingadmissionpolicies", mutating.policies);
        subscribe!("mutatingadmissionpolicybindings", mutating.bindings);
        subscribe!("validatingadmissionpolicies", validating.policies);
        subscribe!("validatingadmissionpolicybindings", validating.bindings);
    }
}

//! Looking objects up inside the API server: what authentication, authorization and admission may know of the cluster.
//!
//! Reads come from the caches (a moment old); [`Objects::get_live`] is for the few places where a stale miss would refuse
//! something that exists. Objects are whole canonical values; the caller must not hold them for long.

use std::sync::Arc;

use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

/// A resource by group and plural name (core group: empty).
pub type ResourceName<'n> = (&'n str, &'n str);

/// Read access to the cluster's objects.
pub trait Objects: Send + Sync {
    /// The cached object, or `None`.
    fn get(&self, resource: ResourceName<'_>, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// All cached objects of a namespace, or of the whole cluster when `namespace` is empty.
    fn list(&self, resource: ResourceName<'_>, namespace: &str) -> Vec<Arc<Value>>;

    /// The object as storage has it now.
    fn get_live<'a>(
        &'a self,
        resource: ResourceName<'a>,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>>;
}

/// The cached object, or on a miss the stored one.
///
/// # Errors
/// Storage cannot be read.
pub async fn find(
    objects: &dyn Objects,
    resource: ResourceName<'_>,
    namespace: &str,
    name: &str,
) -> Result<Option<Arc<Value>>, Status> {
    match objects.get(resource, namespace, name) {
        Some(object) => Ok(Some(object)),
        None => objects.get_live(resource, namespace, name).await,
    }
}

/// No objects, for whoever must work without a cluster.
pub struct Nothing;

impl Objects for Nothing {
    fn get(&self, _: ResourceName, _: &str, _: &str) -> Option<Arc<Value>> {
        None
    }

    fn list(&self, _: ResourceName, _: &str) -> Vec<Arc<Value>> {
        Vec::new()
    }

    fn get_live<'a>(
        &'a self,
        _: ResourceName,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use std::collections::BTreeMap;

    use super::*;

    /// A cluster made of a literal.
    #[derive(Default)]
    pub(crate) struct Fake(BTreeMap<[String; 4], Arc<Value>>);

    fn key((group, plural): ResourceName<'_>, namespace: &str, name: &str) -> [String; 4] {
        [group, plural, namespace, name].map(str::to_owned)
    }

    impl Fake {
        pub(crate) fn with(mut self, resource: ResourceName<'_>, object: Value) -> Self {
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
            self.0.insert(key(resource, text("namespace"), text("name")), Arc::new(object));
            self
        }
    }

    impl Objects for Fake {
        fn get(&self, resource: ResourceName<'_>, namespace: &str, name: &str) -> Option<Arc<Value>> {
            self.0.get(&key(resource, namespace, name)).cloned()
        }

        fn list(&self, resource: ResourceName<'_>, namespace: &str) -> Vec<Arc<Value>> {
            let wanted = |key: &[String; 4]| {
                (key[0].as_str(), key[1].as_str()) == resource && (namespace.is_empty() || key[2] == namespace)
            };
            self.0.iter().filter(|(key, _)| wanted(key)).map(|(_, object)| Arc::clone(object)).collect()
        }

        fn get_live<'a>(
            &'a self,
            resource: ResourceName<'a>,
            namespace: &'a str,
            name: &'a str,
        ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>> {
            Box::pin(std::future::ready(Ok(self.get(resource, namespace, name))))
        }
    }
}

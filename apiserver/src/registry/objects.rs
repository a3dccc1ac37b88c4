//! What the rest of the server may look up: objects from the caches, live ones from etcd, and events for those who keep an
//! index of their own.

use std::sync::Arc;

use apimachinery::meta;
use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

use super::Registry;
use crate::objects::{Objects, ResourceName};
use crate::storage::cache::{ResourceCache, Subscriber};
use crate::storage::etcd::Stored;

fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

impl Registry {
    /// The cache of a resource.
    pub fn cache_of(&self, (group, plural): ResourceName<'_>) -> Option<Arc<ResourceCache>> {
        let table = self.table.load();
        self.cache(table.by_plural(group, plural)?).ok()
    }

    /// Calls `subscriber` for every present object of a resource and then for every event, in order.
    pub fn subscribe(&self, resource: ResourceName<'_>, subscriber: Subscriber) {
        if let Some(cache) = self.cache_of(resource) {
            cache.subscribe(subscriber);
        }
    }
}

impl Objects for Registry {
    fn get(&self, resource: ResourceName<'_>, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let entry = self.cache_of(resource)?.get(&key(namespace, name))?;
        Some(entry.shared_value())
    }

    fn list(&self, resource: ResourceName<'_>, namespace: &str) -> Vec<Arc<Value>> {
        let Some(cache) = self.cache_of(resource) else { return Vec::new() };
        let snapshot = cache.snapshot(0);
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let from = (std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded);
        let entries = snapshot.map.range::<_, str>(from).take_while(|(key, _)| key.starts_with(&prefix));
        entries.map(|(_, entry)| entry.shared_value()).collect()
    }

    fn get_live<'a>(
        &'a self,
        resource: ResourceName<'a>,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>> {
        Box::pin(async move {
            let Some(cache) = self.cache_of(resource) else { return Ok(None) };
            let stored = self.etcd.get(&format!("{}{}", cache.prefix(), key(namespace, name))).await?;
            let read = |stored: Stored| {
                let mut value: Value = serde_json::from_slice(&stored.json).map_err(Status::internal)?;
                meta::set_resource_version(&mut value, &stored.revision.to_string());
                Ok(Arc::new(value))
            };
            stored.map(read).transpose()
        })
    }
}

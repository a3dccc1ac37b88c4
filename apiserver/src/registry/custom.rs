//! Custom objects at the edges of storage: from the version that lies there to that of the request and back, and which
//! custom resources there are.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::meta;
use apimachinery::status::Status;
use serde_json::Value;

use super::{Listing, Registry, caches};
use crate::extension::convert::{self, Conversion};
use crate::registry::metadata::new_uid;
use crate::resources::{Resource, ResourceTable};
use crate::storage::entry::{Entry, Filter};
use crate::storage::fanout::{Delivery, Event};
use crate::webhook;

/// How long a conversion may take.
const CONVERSION: Duration = Duration::from_secs(30);

impl Registry {
    async fn call_conversion(&self, client: &Value, review: &Value) -> Result<Value, Status> {
        let fail = |error: webhook::CallError| Status::internal(format!("conversion webhook failed: {error}"));
        let webhooks = self.webhooks.get().ok_or_else(|| Status::service_unavailable("the server is starting"))?;
        let config = webhook::ClientConfig::parse(client).map_err(fail)?;
        webhooks.call(&config, review, CONVERSION).await.map_err(fail)
    }

    /// Objects in another version, `apiVersion` set.
    async fn converted(&self, resource: &Resource, wanted: &str, objects: Vec<Value>) -> Result<Vec<Value>, Status> {
        let Some(custom) = &resource.custom else { return Ok(objects) };
        let mut objects = objects;
        let Conversion::Webhook { client, review } = &custom.conversion else {
            for object in &mut objects {
                object["apiVersion"] = wanted.into();
            }
            return Ok(objects);
        };
        let others = objects.iter().filter(|object| meta::api_version(object) != wanted);
        let asked: Vec<Value> = others.cloned().collect();
        if asked.is_empty() {
            return Ok(objects);
        }
        let uid = new_uid();
        let answer = self.call_conversion(client, &convert::review(review, &uid, wanted, &asked)).await?;
        let mut got = convert::converted(&answer, &uid, wanted, &asked)?.into_iter();
        for object in objects.iter_mut().filter(|object| meta::api_version(object) != wanted) {
            *object = got.next().unwrap_or_default();
        }
        Ok(objects)
    }

    /// An object from storage in the version of a request, as its schema has it.
    ///
    /// # Errors
    /// 500 when a webhook fails.
    pub async fn to_version(&self, resource: &Resource, version: &str, object: Value) -> Result<Value, Status> {
        if resource.custom.is_none() {
            return Ok(object);
        }
        let wanted = resource.api_version(version);
        let mut object = self.converted(resource, &wanted, vec![object]).await?.pop().unwrap_or_default();
        convert::settle(resource, version, &mut object);
        Ok(object)
    }

    /// An object in the version that is stored.
    pub(super) async fn to_storage(&self, resource: &Resource, object: Value) -> Result<Value, Status> {
        let Some(custom) = &resource.custom else { return Ok(object) };
        let stored = self.converted(resource, &custom.storage_api_version, vec![object]).await?.pop();
        Ok(stored.unwrap_or_default())
    }

    /// Whether the objects of a resource are asked of a webhook before they can be shown in a version.
    fn asks(resource: &Resource) -> bool {
        resource.custom.as_ref().is_some_and(|custom| matches!(custom.conversion, Conversion::Webhook { .. }))
    }

    /// What can be asked of a resource's objects as they are stored, and, where a webhook must convert them before their
    /// fields are those that the selector means, everything that is to be asked after.
    pub(super) fn split(resource: &Resource, filter: Filter) -> (Filter, Option<Filter>) {
        match filter.without_fields().filter(|_| Self::asks(resource)) {
            Some(early) => (early, Some(filter)),
            None => (filter, None),
        }
    }

    async fn entries(&self, resource: &Resource, version: &str, old: &[Arc<Entry>]) -> Result<Vec<Arc<Entry>>, Status> {
        let values = old.iter().map(|entry| entry.value()).collect();
        let values = self.converted(resource, &resource.api_version(version), values).await?;
        let cache = self.cache(resource)?;
        let entry = |(value, entry): (Value, &Arc<Entry>)| {
            let json = serde_json::to_vec(&value).map_err(Status::internal)?;
            Entry::new(Arc::clone(&entry.key), &json, entry.revision, cache.probe()).map(Arc::new).map_err(Status::from)
        };
        values.into_iter().zip(old).map(entry).collect()
    }

    /// A list whose objects can be shown in a version; its webhook is asked once.
    ///
    /// # Errors
    /// 500 when a webhook fails.
    pub async fn listed_as(&self, resource: &Resource, version: &str, list: Listing) -> Result<Listing, Status> {
        if !Self::asks(resource) {
            return Ok(list);
        }
        let (continue_token, remaining, late) = (list.continue_token.clone(), list.remaining, list.late.clone());
        let (revision, old) = list.into_entries();
        let mut entries = self.entries(resource, version, &old).await?;
        entries.retain(|entry| late.as_ref().is_none_or(|filter| filter.matches(entry)));
        let mut shown = Listing::fixed(revision, entries);
        (shown.continue_token, shown.remaining) = (continue_token, remaining);
        Ok(shown)
    }

    /// An event whose object can be shown in a version, and what it is to a watcher that asks `late` of converted objects.
    /// One whose webhook fails is shown as it is stored.
    pub async fn event_as(
        &self,
        resource: &Resource,
        version: &str,
        (event, delivery): (Arc<Event>, Delivery),
        late: Option<&Filter>,
    ) -> Option<(Arc<Event>, Delivery)> {
        if !Self::asks(resource) {
            return Some((event, delivery));
        }
        let old: Vec<Arc<Entry>> = std::iter::once(&event.entry).chain(&event.previous).cloned().collect();
        match self.entries(resource, version, &old).await {
            Ok(entries) => {
                let mut entries = entries.into_iter();
                let entry = entries.next().unwrap_or_else(|| Arc::clone(&event.entry));
                let event = Arc::new(Event::new(event.revision, entry, entries.next(), event.deleted));
                let delivery = late.map_or(Some(delivery), |filter| event.seen_through(filter))?;
                Some((event, delivery))
            }
            Err(error) => {
                tracing::warn!(err = %error, resource = %resource.group_resource(), "An event was not converted");
                Some((event, delivery))
            }
        }
    }

    /// Serves this table from now on: what is new in it is in the caches before, what is no more is forgotten after.
    ///
    /// # Errors
    /// etcd does not answer; what was served before stays.
    pub async fn serve(&self, table: ResourceTable) -> Result<(), Status> {
        let old = self.table.load();
        let prefix = |resource: &Resource| {
            let storage = resource.storage.as_ref().filter(|_| resource.custom.is_some());
            storage.map(|storage| self.etcd.key_prefix(&storage.key_prefix))
        };
        for resource in table.iter() {
            let Some(prefix) = prefix(resource) else { continue };
            let fields = caches::fields_of(resource);
            let before = old.by_plural(&resource.group, &resource.plural);
            let same = before.is_some_and(|before| caches::fields_of(before) == fields);
            if !same || self.clock.cache(&prefix).is_none() {
                self.clock.join(Arc::new(caches::joining(prefix, fields))).await?;
            }
        }
        let gone = old.iter().filter(|resource| table.by_plural(&resource.group, &resource.plural).is_none());
        let gone: Vec<String> = gone.filter_map(|resource| prefix(resource)).collect();
        self.table.store(table);
        gone.iter().for_each(|prefix| self.clock.leave(prefix));
        Ok(())
    }
}

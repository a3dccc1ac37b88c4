//! The one store behind every resource: create, get, list, watch, update, delete.
//!
//! Guarantees: an acknowledged write is in etcd; every write went through admission, defaults, preparation and validation in
//! upstream's order; a write that changes nothing keeps the resource version; what was decided on a stale copy is decided
//! again on the present one before it is refused. Inside, objects are JSON trees in the stored version's form; the served
//! version matters only at the edges. Knows nothing of HTTP.

pub mod allocators;
mod caches;
mod create;
mod custom;
mod delete;
pub mod deletion;
pub mod list;
pub mod metadata;
mod objects;
pub mod ownership;
mod scale;
mod update;
mod watch;

use std::borrow::Cow;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use apimachinery::codec;
use apimachinery::gvk::GroupVersion;
use apimachinery::meta;
use apimachinery::schema::{self, Type};
use apimachinery::status::Status;
use bytes::Bytes;
use serde_json::Value;

use crate::admission::{self, Operation};
use crate::config::ServerOptions;
use crate::extension::convert;
use crate::http::request::RequestContext;
use crate::resources::{HookContext, Resource, ServedVersion, SharedTable, Strategy, Subresource};
use crate::storage::StorageError;
use crate::storage::cache::ResourceCache;
use crate::storage::clock::Clock;
use crate::storage::entry::{self, Encoded, Entry};
use crate::storage::etcd::{Etcd, Stored};
use crate::storage::lease::Leases;
use crate::webhook;

pub use caches::caches;
pub use delete::Deleted;
pub use deletion::DeleteOptions;
pub use list::{Listing, ReadOptions};
pub use scale::ScaleView;
pub use update::{Admission, UpdateOptions, named_as_url};
pub use watch::{Watch, WatchOptions};

/// What a request is about, resolved.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// Who, when, dry run, warnings.
    pub ctx: &'a RequestContext,
    /// The resource.
    pub resource: &'a Resource,
    /// The served version of the request.
    pub version: &'a ServedVersion,
    /// The view of the object, if it is not the object itself.
    pub subresource: Option<&'a Subresource>,
    /// Namespace; empty for cluster-wide.
    pub namespace: &'a str,
    /// Name; empty for collections.
    pub name: &'a str,
}

/// An object as it is stored, ready to be presented: JSON of the stored version with its resource version.
#[derive(Clone, Debug)]
pub struct Object {
    /// The JSON.
    pub bytes: Bytes,
}

/// The object's present state, as far as we know.
struct Current {
    /// With `resourceVersion`.
    value: Value,
    revision: u64,
    /// It lies in storage otherwise than it would be written now: in another version, or under another key.
    stale: bool,
}

/// Computes the wanted object, in the served version's form, from the present one (`None`: there is none).
pub type Change<'c> = &'c (dyn Fn(Option<&Value>) -> Result<Value, Status> + Send + Sync);

/// The store.
pub struct Registry {
    etcd: Etcd,
    clock: Arc<Clock>,
    leases: Leases,
    table: SharedTable,
    options: ServerOptions,
    chain: OnceLock<Arc<admission::Chain>>,
    webhooks: OnceLock<Arc<webhook::Client>>,
    allocators: allocators::Allocators,
}

impl<'a> Target<'a> {
    fn key(&self) -> String {
        if self.resource.namespaced { format!("{}/{}", self.namespace, self.name) } else { self.name.to_owned() }
    }

    fn not_found(&self) -> Status {
        Status::not_found(&self.resource.group_resource(), self.name)
    }

    fn subresource_name(&self) -> &'a str {
        self.subresource.map_or("", |sub| sub.name.as_str())
    }

    fn strategy(&self) -> &'a Strategy {
        self.subresource.map_or(&self.resource.strategy, |sub| &sub.strategy)
    }

    fn behaviour(&self) -> &'a apimachinery::resources::Behaviour {
        self.subresource.map_or(&self.resource.behaviour, |sub| &sub.behaviour)
    }

    fn admission(&self, operation: Operation, old: Option<&'a Value>) -> admission::Request<'a> {
        admission::Request {
            ctx: self.ctx,
            operation,
            group: &self.resource.group,
            resource: &self.resource.plural,
            subresource: self.subresource_name(),
            namespace: self.namespace,
            name: self.name,
            old,
        }
    }

    /// From the served form to the stored one.
    fn to_stored_form(self, object: &mut Value) {
        if let Some(conversion) = self.version.conversion {
            (conversion.to_storage)(object);
        }
    }

    /// The served form of a stored object; the object itself where they are the same.
    fn served_form<'v>(self, object: &'v Value) -> Cow<'v, Value> {
        let Some(conversion) = self.version.conversion else { return Cow::Borrowed(object) };
        let mut object = object.clone();
        (conversion.from_storage)(&mut object);
        Cow::Owned(object)
    }
}

/// The schema of an object in stored form.
fn stored_type<'a>(target: &Target<'a>, object: &Value) -> &'a Type {
    if target.version.conversion.is_none() {
        return &target.version.ty;
    }
    let known = GroupVersion::parse(meta::api_version(object))
        .and_then(|gv| schema::lookup(&gv.group, &gv.version, meta::kind(object)));
    known.unwrap_or(&target.version.ty)
}

/// An object that may be asked for several times and mostly is once: after the first time it is text, for a tree would cost
/// more to copy and to hold.
pub struct Wanted {
    tree: Mutex<Option<Value>>,
    text: Vec<u8>,
}

impl Wanted {
    /// # Errors
    /// The object cannot be encoded.
    pub fn new(object: Value) -> Result<Self, Status> {
        let text = serde_json::to_vec(&object).map_err(Status::internal)?;
        Ok(Self { tree: Mutex::new(Some(object)), text })
    }

    /// The object.
    ///
    /// # Errors
    /// None that can happen: the text is our own.
    pub fn take(&self) -> Result<Value, Status> {
        match self.tree.lock().ok().and_then(|mut tree| tree.take()) {
            Some(object) => Ok(object),
            None => serde_json::from_slice(&self.text).map_err(Status::internal),
        }
    }
}

/// An object on its way to storage. Who has made it lets go of the tree: what waits for etcd are bytes, and the next request
/// finds the tree's memory still warm.
struct Outgoing {
    stored: Encoded,
    /// What the client is told, when that is in another version.
    told: Option<Encoded>,
}

impl Outgoing {
    fn json(&self) -> &[u8] {
        &self.stored.json
    }

    /// What the client is told of the write.
    fn written(&self, revision: u64) -> Object {
        Object { bytes: self.told.as_ref().unwrap_or(&self.stored).at_revision(revision) }
    }
}

impl Object {
    /// As it is, resource version included.
    pub fn of(value: &Value) -> Self {
        Self { bytes: entry::encode(value).unwrap_or_default().into() }
    }

    /// As of a revision, whatever its resource version says.
    ///
    /// # Errors
    /// It has no metadata.
    pub fn at(value: &Value, revision: u64) -> Result<Self, Status> {
        let encoded = Encoded::of(value).map_err(Status::internal)?;
        Ok(Self { bytes: encoded.at_revision(revision) })
    }

    /// The tree.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }
}

impl From<&Entry> for Object {
    fn from(entry: &Entry) -> Self {
        Self { bytes: entry.bytes.clone() }
    }
}

impl Registry {
    /// Over a clock that has started. Events live for `event_ttl`.
    pub fn new(etcd: Etcd, clock: Arc<Clock>, table: SharedTable, options: ServerOptions, event_ttl: Duration) -> Self {
        let leases = Leases::new(etcd.clone(), event_ttl);
        let allocators = allocators::Allocators::new(etcd.clone(), Arc::clone(&clock));
        Self { etcd, clock, leases, table, options, chain: OnceLock::new(), webhooks: OnceLock::new(), allocators }
    }

    /// Sets the admission chain, once, before the first write.
    pub fn admit_through(&self, chain: Arc<admission::Chain>) {
        // a second chain would be a second start-up, which there is none of
        let _ = self.chain.set(chain);
    }

    /// Sets who calls conversion webhooks, once.
    pub fn convert_through(&self, webhooks: Arc<webhook::Client>) {
        let _ = self.webhooks.set(webhooks);
    }

    /// The admission chain.
    ///
    /// # Errors
    /// The server is still starting.
    pub fn chain(&self) -> Result<&admission::Chain, Status> {
        self.chain.get().map(|chain| &**chain).ok_or_else(|| Status::service_unavailable("the server is starting"))
    }

    /// What is served.
    pub fn table(&self) -> &SharedTable {
        &self.table
    }

    /// Who gives out addresses and ports.
    pub fn allocators(&self) -> &allocators::Allocators {
        &self.allocators
    }

    /// The configuration that rules may look at.
    pub fn options(&self) -> &ServerOptions {
        &self.options
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// The cache of a resource.
    ///
    /// # Errors
    /// The resource stores nothing.
    pub fn cache(&self, resource: &Resource) -> Result<Arc<ResourceCache>, Status> {
        let storage = resource.storage.as_ref();
        let cache = storage.and_then(|storage| self.clock.cache(&self.etcd.key_prefix(&storage.key_prefix)));
        cache.ok_or_else(|| Status::method_not_supported(&resource.group_resource(), "storing"))
    }

    fn hooks<'a>(&'a self, target: &Target<'a>) -> HookContext<'a> {
        HookContext {
            request: target.ctx,
            resource: target.resource,
            version: &target.version.version,
            subresource: target.subresource_name(),
            options: &self.options,
            allocators: Some(&self.allocators),
        }
    }

    /// One object.
    ///
    /// # Errors
    /// 404, or storage cannot be read.
    pub async fn get(&self, target: &Target<'_>, resource_version: &str) -> Result<Object, Status> {
        self.reach(resource_version).await?;
        let entry = self.cache(target.resource)?.get(&target.key()).ok_or_else(|| target.not_found())?;
        let wanted = target.resource.api_version(&target.version.version);
        if target.resource.custom.is_some() && convert::needs_webhook(target.resource, &entry.value(), &wanted) {
            let value = self.to_version(target.resource, &target.version.version, entry.value()).await?;
            return Ok(Object::of(&value));
        }
        Ok(Object::from(&*entry))
    }

    /// Makes the caches as new as a read's `resourceVersion` asks for.
    async fn reach(&self, resource_version: &str) -> Result<u64, Status> {
        match resource_version {
            "" => Ok(self.clock.catch_up().await?),
            "0" => Ok(self.clock.revision()),
            text => {
                let revision = list::parse_version(text)?;
                self.clock.wait(revision).await?;
                Ok(self.clock.revision())
            }
        }
    }

    async fn cached(&self, target: &Target<'_>) -> Result<Option<Current>, Status> {
        match self.cache(target.resource)?.get(&target.key()) {
            Some(entry) => self.current(target, entry.value(), entry.revision).await.map(Some),
            None => Ok(None),
        }
    }

    async fn live(&self, target: &Target<'_>, cache: &ResourceCache, key: &str) -> Result<Option<Current>, Status> {
        let stored = self.etcd.get(&format!("{}{key}", cache.prefix())).await?;
        self.found(target, stored.as_ref()).await
    }

    /// What a conditional write found instead of what it expected.
    async fn found(&self, target: &Target<'_>, stored: Option<&Stored>) -> Result<Option<Current>, Status> {
        let Some(stored) = stored else { return Ok(None) };
        let mut value: Value = serde_json::from_slice(&stored.json).map_err(Status::internal)?;
        meta::set_resource_version(&mut value, &stored.revision.to_string());
        let mut current = self.current(target, value, stored.revision).await?;
        let incomplete = target.resource.strategy.completed_on_update && stored.create_revision == stored.revision;
        current.stale |= stored.stale || incomplete;
        Ok(Some(current))
    }

    /// An object from storage; a custom one in the version of the request.
    async fn current(&self, target: &Target<'_>, value: Value, revision: u64) -> Result<Current, Status> {
        let stored_as = target.resource.custom.as_ref().map(|custom| custom.storage_api_version.as_str());
        let stale = stored_as.is_some_and(|version| version != meta::api_version(&value));
        let value = self.to_version(target.resource, &target.version.version, value).await?;
        Ok(Current { value, revision, stale })
    }

    /// What is to be stored of an object.
    async fn outgoing(&self, target: &Target<'_>, object: &Value) -> Result<Outgoing, Status> {
        let encoded = Encoded::of(object).map_err(Status::internal)?;
        let custom = target.resource.custom.as_ref();
        if custom.is_none_or(|custom| custom.storage_api_version == meta::api_version(object)) {
            return Ok(Outgoing { stored: encoded, told: None });
        }
        let stored = self.to_storage(target.resource, object.clone()).await?;
        Ok(Outgoing { stored: Encoded::of(&stored).map_err(Status::internal)?, told: Some(encoded) })
    }

    /// A lease for objects that expire by themselves.
    async fn lease(&self, resource: &Resource) -> Result<Option<i64>, StorageError> {
        if resource.ttl { self.leases.get().await.map(Some) } else { Ok(None) }
    }
}

/// Canonical form of the stored version.
fn canonicalize(target: &Target<'_>, object: &mut Value) {
    let ty = stored_type(target, object);
    codec::canonicalize(ty, object);
}

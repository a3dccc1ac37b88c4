//! What the server serves: one [`Resource`] per group and plural name, made from the table of facts plus a [`Strategy`] of
//! plain functions for what a table cannot say.
//!
//! A kind's file holds `pub const STRATEGY: Strategy = Strategy { validate, ..Strategy::DEFAULT }`, and its line stands in
//! [`kinds`]. Custom resources make the same values at run time and take the same path.

mod admission_registration;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
pub mod check;
pub mod core;
mod discovery;
mod dra;
pub mod edit;
mod flowcontrol;
mod kinds;
mod meta;
mod networking;
mod policy;
pub mod printing;
mod quota;
mod rbac;
mod storage;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use apimachinery::field::{ErrorList, Path};
use apimachinery::gvk::{GroupKind, GroupResource, GroupVersionKind};
use apimachinery::resources::{Behaviour, DefaultCollection, RESOURCES, ResourceFacts, Selectable, SubresourceFacts};
use apimachinery::schema::{self, Held, Type};
use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::config::ServerOptions;
use crate::extension;
use crate::http::request::RequestContext;
use crate::registry::allocators::Allocators;
pub use admission_registration::{client_config, review_versions};
use kinds::{conversion, strategy, subresource_strategy};

/// One resource in all its served versions.
pub struct Resource {
    /// API group; empty for core.
    pub group: String,
    /// Plural name, as in URLs.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Kind.
    pub kind: String,
    /// Kind of lists.
    pub list_kind: String,
    /// Lives in a namespace.
    pub namespaced: bool,
    /// As in discovery.
    pub short_names: Vec<String>,
    /// As in discovery.
    pub categories: Vec<String>,
    /// As in discovery.
    pub verbs: Vec<String>,
    /// Served versions, preferred first.
    pub versions: Vec<ServedVersion>,
    /// Where and as what objects are stored; `None` for reviews and the like.
    pub storage: Option<Storage>,
    /// What requests to the main resource do.
    pub behaviour: Held<Behaviour>,
    /// What deletion does to dependents when the request does not say.
    pub default_collection: DefaultCollection,
    /// Deletion has a grace period (pods).
    pub graceful_delete: bool,
    /// Objects expire by themselves (events).
    pub ttl: bool,
    /// An update that removes the last finalizer in `spec` of a terminating object removes it (namespaces).
    pub finishes_deletion_on_update: bool,
    /// What is below `/{name}/`.
    pub subresources: Vec<Subresource>,
    /// What is particular to the kind.
    pub strategy: Strategy,
    /// For custom resources.
    pub custom: Option<extension::Definition>,
}

/// One served version of a resource.
pub struct ServedVersion {
    /// Its name, e.g. `v1`.
    pub version: String,
    /// Its schema.
    pub ty: Held<Type>,
    /// Field selectors it accepts.
    pub selectable: Vec<(Cow<'static, str>, Selectable)>,
    /// Table columns; empty means name and age.
    pub columns: Vec<Column>,
    /// Fields that server-side apply ignores through the main endpoint.
    pub reset_fields: &'static [&'static str],
    /// How it differs from what is stored; `None` when it does not.
    pub conversion: Option<Conversion>,
    /// For custom resources.
    pub custom: Option<Arc<extension::Version>>,
}

/// Between a served version and the stored one. Both set `apiVersion` and `kind` themselves.
#[derive(Clone, Copy)]
pub struct Conversion {
    /// Stored → served.
    pub from_storage: fn(&mut Value),
    /// Served → stored.
    pub to_storage: fn(&mut Value),
}

/// Where and as what objects are stored.
#[derive(Clone, Debug)]
pub struct Storage {
    /// `apiVersion` of what lies in etcd.
    pub api_version: String,
    /// `kind` of what lies in etcd.
    pub kind: String,
    /// etcd key prefix with its trailing slash, e.g. `/registry/pods/`.
    pub key_prefix: String,
    /// As in discovery.
    pub version_hash: String,
}

/// A Table column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header.
    pub name: Cow<'static, str>,
    /// `string`, `integer`, `date` …
    pub ty: Cow<'static, str>,
    /// `name` for the name column, else usually empty.
    pub format: Cow<'static, str>,
    /// For people.
    pub description: Cow<'static, str>,
    /// 0 is shown always, others with `-o wide`.
    pub priority: i32,
}

/// A part of an object with an endpoint of its own, or an action on it.
pub struct Subresource {
    /// `status`, `scale` …
    pub name: String,
    /// Kind it speaks.
    pub gvk: GroupVersionKind,
    /// Schema of that kind.
    pub ty: Option<Held<Type>>,
    /// As in discovery.
    pub verbs: Vec<String>,
    /// What requests do.
    pub behaviour: Held<Behaviour>,
    /// What is particular to it.
    pub strategy: Strategy,
}

impl Resource {
    /// For messages: `deployments.apps`.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&*self.group, &*self.plural)
    }

    /// For messages: `Deployment.apps`, in the group that it is stored in, where rules apply.
    pub fn group_kind(&self) -> GroupKind {
        let stored = self.storage.as_ref().map(|s| s.api_version.split_once('/').map_or("", |(group, _)| group));
        GroupKind { group: stored.unwrap_or(&self.group).to_owned(), kind: self.kind.clone() }
    }

    /// A served version by name.
    pub fn version(&self, version: &str) -> Option<&ServedVersion> {
        self.versions.iter().find(|v| v.version == version)
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self, version: &str) -> String {
        apimachinery::gvk::GroupVersion::new(&*self.group, version).to_string()
    }
}

/// Which names a kind allows.
#[derive(Clone, Copy)]
pub struct NameRule(pub fn(&str) -> Vec<String>);

/// What a hook may look at besides the object.
pub struct HookContext<'a> {
    /// Who, when, dry run, warnings.
    pub request: &'a RequestContext,
    /// The resource.
    pub resource: &'a Resource,
    /// The served version of the request.
    pub version: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// The server's configuration.
    pub options: &'a ServerOptions,
    /// Gives out addresses and ports; `None` where nothing is written.
    pub allocators: Option<&'a Allocators>,
}

/// Undoes or keeps what [`Strategy::allocate`] reserved. Dropped without [`Rollback::undo`], the reservation stays.
#[derive(Default)]
pub struct Rollback(Option<BoxFuture<'static, ()>>);

impl Rollback {
    /// Nothing was reserved.
    pub fn none() -> Self {
        Self(None)
    }

    /// What to do when the write does not happen.
    pub fn new(undo: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(Box::pin(undo)))
    }

    /// The write did not happen.
    pub async fn undo(self) {
        if let Some(undo) = self.0 {
            undo.await;
        }
    }
}

/// Reserves what the new object needs (second: the stored object on update) before it is validated.
pub type Allocate =
    for<'a> fn(&'a mut Value, Option<&'a Value>, &'a HookContext<'a>) -> BoxFuture<'a, Result<Rollback, Status>>;

/// Gives back what an object that no longer exists had reserved. The new object is given when it was an update.
pub type Release = for<'a> fn(&'a Value, Option<&'a Value>, &'a HookContext<'a>) -> BoxFuture<'a, ()>;

/// What is particular to a kind or subresource: plain functions on the stored version's form.
///
/// The registry itself does what the facts say (fields cleared on create or kept on update, generation, system metadata)
/// before it calls `prepare_*`, and checks metadata again after `validate*`, as upstream does.
#[derive(Clone, Copy)]
pub struct Strategy {
    /// Allowed names.
    pub names: NameRule,
    /// Fills in what the client left out, in the served version's form.
    pub default: fn(&mut Value, &HookContext),
    /// Brings a new object into its first state.
    pub prepare_create: fn(&mut Value, &HookContext),
    /// Brings a changed object in order; second: the stored one.
    pub prepare_update: fn(&mut Value, &Value, &HookContext),
    /// Rules for a new object.
    pub validate: fn(&Value, &HookContext) -> ErrorList,
    /// Rules for a changed object; second: the stored one.
    pub validate_update: fn(&Value, &Value, &HookContext) -> ErrorList,
    /// Sentences for the client; second: the stored object on update.
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// Table cells, one per column; `None` means name and age.
    pub cells: Option<fn(&Value, &HookContext) -> Vec<Value>>,
    /// Conditions of the table row.
    pub row_conditions: fn(&Value) -> Option<Value>,
    /// Annotations that upstream keeps as fields inside, and that metadata-only views therefore lack.
    pub hidden_annotations: &'static [&'static str],
    /// Upstream stores a new object of the kind without what its readers fill in, so that the first update of it always
    /// writes, also one that changes nothing.
    pub completed_on_update: bool,
    /// Reserves addresses, ports …
    pub allocate: Option<Allocate>,
    /// Gives them back.
    pub release: Option<Release>,
}

impl Strategy {
    /// What the table alone can do.
    pub const DEFAULT: Self = Self {
        names: NameRule(apimachinery::validation::dns1123_subdomain),
        default: |object, cx| {
            apimachinery::codec::apply_defaults(&cx.resource.group, cx.version, &cx.resource.kind, object);
        },
        prepare_create: |_, _| {},
        prepare_update: |_, _, _| {},
        validate: |object, cx| {
            let names = cx.resource.strategy.names.0;
            apimachinery::validation::validate_object_meta(
                object,
                cx.resource.namespaced,
                names,
                &Path::new("metadata"),
            )
        },
        validate_update: |object, old, _| {
            apimachinery::validation::validate_object_meta_update(object, old, &Path::new("metadata"))
        },
        warnings: |_, _| Vec::new(),
        cells: None,
        row_conditions: |_| None,
        hidden_annotations: &[],
        completed_on_update: false,
        allocate: None,
        release: None,
    };
}

/// Everything that is served, in discovery order. A snapshot: custom resources come and go by replacing it.
#[derive(Clone, Default)]
pub struct ResourceTable {
    ordered: Vec<Arc<Resource>>,
    by_name: HashMap<(String, String), Arc<Resource>>,
}

impl ResourceTable {
    /// From resources in discovery order; a later one of the same group and plural name replaces an earlier one.
    pub fn new(resources: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let mut table = Self::default();
        for resource in resources {
            let key = (resource.group.clone(), resource.plural.clone());
            if table.by_name.insert(key, Arc::clone(&resource)).is_some() {
                table.ordered.retain(|r| r.group != resource.group || r.plural != resource.plural);
            }
            table.ordered.push(resource);
        }
        table
    }

    /// A resource that is served in this version.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_plural(group, plural).filter(|resource| resource.version(version).is_some())
    }

    /// A resource in any version.
    pub fn by_plural(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_name.get(&(group.to_owned(), plural.to_owned()))
    }

    /// A resource by its kind.
    pub fn by_kind(&self, group: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.ordered.iter().find(|r| r.kind == kind && r.group == group)
    }

    /// All, in discovery order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.ordered.iter()
    }
}

/// The table as it is now; clones share one.
#[derive(Clone, Default)]
pub struct SharedTable(Arc<RwLock<Arc<ResourceTable>>>);

impl SharedTable {
    /// Starts with a table.
    pub fn new(table: ResourceTable) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(table))))
    }

    /// The table now.
    pub fn load(&self) -> Arc<ResourceTable> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the table.
    pub fn store(&self, table: ResourceTable) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

/// Every built-in resource.
pub fn table() -> ResourceTable {
    let mut rows: Vec<Vec<&'static ResourceFacts>> = Vec::new();
    for row in RESOURCES {
        match rows.iter_mut().find(|known| known[0].group == row.group && known[0].plural == row.plural) {
            Some(known) => known.push(row),
            None => rows.push(vec![row]),
        }
    }
    ResourceTable::new(rows.iter().map(|versions| Arc::new(built_in(versions))))
}

fn built_in(rows: &[&'static ResourceFacts]) -> Resource {
    let facts = rows[0];
    let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    Resource {
        group: facts.group.to_owned(),
        plural: facts.plural.to_owned(),
        singular: facts.singular.to_owned(),
        kind: facts.kind.to_owned(),
        list_kind: format!("{}List", facts.kind),
        namespaced: facts.namespaced,
        short_names: own(facts.short_names),
        categories: own(facts.categories),
        verbs: own(facts.verbs),
        versions: rows.iter().filter_map(|row| served(row)).collect(),
        storage: (!facts.etcd_prefix.is_empty()).then(|| Storage {
            api_version: facts.stored_api_version.to_owned(),
            kind: facts.stored_kind.to_owned(),
            key_prefix: facts.etcd_prefix.to_owned(),
            version_hash: facts.storage_version_hash.to_owned(),
        }),
        behaviour: Held::Static(&facts.behaviour),
        default_collection: facts.default_collection,
        graceful_delete: facts.graceful_delete,
        ttl: facts.ttl,
        finishes_deletion_on_update: facts.finishes_deletion_on_update,
        subresources: facts.subresources.iter().map(|sub| subresource(facts, sub)).collect(),
        strategy: strategy(facts.group, facts.plural),
        custom: None,
    }
}

fn served(facts: &'static ResourceFacts) -> Option<ServedVersion> {
    let columns = facts.columns.iter().map(|column| Column {
        name: column.name.into(),
        ty: column.ty.into(),
        format: column.format.into(),
        description: "".into(),
        priority: column.priority,
    });
    Some(ServedVersion {
        version: facts.version.to_owned(),
        ty: Held::Static(facts.ty()?),
        selectable: facts.selectable_fields.iter().map(|(name, how)| ((*name).into(), *how)).collect(),
        columns: columns.collect(),
        reset_fields: facts.behaviour.reset_fields,
        conversion: conversion(facts.group, facts.version, facts.plural),
        custom: None,
    })
}

fn subresource(facts: &'static ResourceFacts, sub: &'static SubresourceFacts) -> Subresource {
    Subresource {
        name: sub.name.to_owned(),
        gvk: GroupVersionKind::new(sub.group, sub.version, sub.kind),
        ty: schema::lookup(sub.group, sub.version, sub.kind).map(Held::Static),
        verbs: sub.verbs.iter().map(|&verb| verb.to_owned()).collect(),
        behaviour: Held::Static(&sub.behaviour),
        strategy: subresource_strategy(facts.group, facts.plural, sub.name),
    }
}

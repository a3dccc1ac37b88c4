//! One row of facts per served resource: names, verbs, storage key, selectable fields, what a write does, Table columns.
//!
//! The rows are data from upstream's v1.36 server. Per-kind behaviour that is more than data lives with the kind.

use crate::schema::{self, Type};

/// One served group/version/resource.
#[derive(Debug)]
pub struct ResourceFacts {
    /// API group; empty for core.
    pub group: &'static str,
    /// Served version.
    pub version: &'static str,
    /// Plural name as in the URL.
    pub plural: &'static str,
    /// Singular name.
    pub singular: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Lives in a namespace.
    pub namespaced: bool,
    /// As in discovery.
    pub verbs: &'static [&'static str],
    /// As in discovery.
    pub short_names: &'static [&'static str],
    /// As in discovery (`all`, `api-extensions`).
    pub categories: &'static [&'static str],
    /// As in discovery; empty when nothing is stored.
    pub storage_version_hash: &'static str,
    /// etcd key prefix with its trailing slash (`/registry/pods/`); empty when nothing is stored.
    pub etcd_prefix: &'static str,
    /// `apiVersion` inside the stored value; empty when nothing is stored.
    pub stored_api_version: &'static str,
    /// `kind` inside the stored value.
    pub stored_kind: &'static str,
    /// Upstream stores this resource as JSON rather than as protobuf.
    pub stored_as_json: bool,
    /// Field selectors that the version accepts.
    pub selectable_fields: &'static [(&'static str, Selectable)],
    /// Selectable fields with an index in the watch cache.
    pub indexed_fields: &'static [&'static str],
    /// What deletion does to dependents when the request does not say.
    pub default_collection: DefaultCollection,
    /// Deletion has a grace period (pods).
    pub graceful_delete: bool,
    /// Objects expire by themselves (events).
    pub ttl: bool,
    /// An update that removes the last finalizer of a terminating object removes the object (namespaces).
    pub finishes_deletion_on_update: bool,
    /// Table columns; empty means name and age.
    pub columns: &'static [Column],
    /// What requests to the main resource do.
    pub behaviour: Behaviour,
    /// Below `/{name}/`.
    pub subresources: &'static [SubresourceFacts],
}

/// A field selector a version accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selectable {
    /// Compares the field of this name.
    Field,
    /// Another name for a selectable field.
    Alias(&'static str),
    /// Accepted; always the empty string.
    Valueless,
}

/// What deletion does to dependents by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultCollection {
    /// Dependents go afterwards.
    Background,
    /// Dependents stay.
    Orphan,
    /// The garbage collector ignores this resource.
    Unsupported,
}

/// A Table column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header.
    pub name: &'static str,
    /// `string`, `integer`, `date` …
    pub ty: &'static str,
    /// `name` for the name column, else usually empty.
    pub format: &'static str,
    /// 0 is shown always, 1 with `-o wide`.
    pub priority: i32,
}

/// What requests to a resource or subresource do to the object.
#[derive(Debug)]
pub struct Behaviour {
    /// Interfaces of upstream's storage: `create`, `namedCreate`, `connect`, `getWithOptions` …
    pub does: &'static [&'static str],
    /// HTTP methods of a `connect` subresource.
    pub connect_methods: &'static [&'static str],
    /// PUT of an absent object creates it.
    pub allow_create_on_update: bool,
    /// PUT without resourceVersion is taken.
    pub allow_unconditional_update: bool,
    /// DELETE answers with the object instead of a Status.
    pub return_deleted_object: bool,
    /// Fields that no manager owns through this endpoint.
    pub reset_fields: &'static [&'static str],
    /// `metadata.generation` of a new object.
    pub generation_after_create: i64,
    /// Top-level fields whose change raises the generation (Go names with a small first letter).
    pub generation_bumped_by: &'static [&'static str],
    /// Top-level fields whose change does not.
    pub generation_not_bumped_by: &'static [&'static str],
    /// Changes ignored on update.
    pub update_keeps_old: &'static [&'static str],
    /// Fields ignored on create.
    pub create_clears: &'static [&'static str],
}

/// A subresource.
#[derive(Debug)]
pub struct SubresourceFacts {
    /// `status`, `scale` …
    pub name: &'static str,
    /// Group of the kind it speaks.
    pub group: &'static str,
    /// Version of the kind it speaks.
    pub version: &'static str,
    /// Kind it speaks.
    pub kind: &'static str,
    /// As in discovery.
    pub verbs: &'static [&'static str],
    /// What requests do.
    pub behaviour: Behaviour,
}

/// A served group.
#[derive(Debug)]
pub struct GroupFacts {
    /// Name; empty for core.
    pub group: &'static str,
    /// Preferred version.
    pub preferred: &'static str,
    /// `groupPriorityMinimum` of its APIService; `None` when it has none.
    pub group_priority_minimum: Option<i64>,
    /// Served versions in order, with the `versionPriority` of the APIService.
    pub versions: &'static [(&'static str, Option<i64>)],
}

impl ResourceFacts {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        crate::gvk::GroupVersion::new(self.group, self.version).to_string()
    }

    /// The kind's type.
    pub fn ty(&self) -> Option<&'static Type> {
        schema::lookup(self.group, self.version, self.kind)
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&SubresourceFacts> {
        self.subresources.iter().find(|sub| sub.name == name)
    }
}

include!(concat!(env!("OUT_DIR"), "/resources.rs"));

/// Every served resource, in discovery order within its group.
pub static RESOURCES: &[ResourceFacts] = &ROWS;

/// Every served group, in aggregated discovery's order.
pub static GROUPS: &[GroupFacts] = &GROUP_ROWS;

/// The row of a resource.
pub fn lookup(group: &str, version: &str, plural: &str) -> Option<&'static ResourceFacts> {
    RESOURCES.iter().find(|r| r.plural == plural && r.group == group && r.version == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_has_a_type_and_merged_facts() {
        assert_eq!(RESOURCES.len(), 68);
        for row in RESOURCES {
            assert!(row.ty().is_some(), "{}", row.kind);
        }
        let pods = lookup("", "v1", "pods").unwrap();
        assert_eq!(pods.etcd_prefix, "/registry/pods/");
        assert!(pods.graceful_delete);
        assert!(pods.selectable_fields.contains(&("spec.host", Selectable::Alias("spec.nodeName"))));
        assert_eq!(pods.subresource("eviction").unwrap().group, "policy");
        assert_eq!(pods.columns[0].name, "Name");
        let deployments = lookup("apps", "v1", "deployments").unwrap();
        assert_eq!(deployments.behaviour.generation_after_create, 1);
        assert_eq!(GROUPS[0].versions, [("v1", Some(1))]);
    }
}

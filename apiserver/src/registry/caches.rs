//! One cache per etcd prefix, with the fields that its resources let clients select by.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::resources::Selectable;
use apimachinery::schema::{Kind, Type};

use crate::resources::{Resource, ResourceTable};
use crate::storage::cache::ResourceCache;
use crate::storage::etcd::Etcd;
use crate::storage::probe::{FieldPath, Probe, Zero};

/// Fields whose value does not stand where their name says.
const ELSEWHERE: [(&str, &str, &[&str]); 2] = [
    ("events", "source", &["source.component", "reportingComponent"]),
    ("jobs", "status.successful", &["status.succeeded"]),
];
/// The field by which watches of many clients differ: every kubelet watches the pods of its node.
const INDEXED: &str = "spec.nodeName";

/// The type of the value at a dotted path decides what its absence counts as.
fn zero(ty: &Type, path: &str) -> Zero {
    if let Some(schema) = &ty.custom {
        let found = path.split('.').try_fold(&**schema, |schema, name| schema.member(name));
        return match found.map_or("", |schema| schema.ty.as_str()) {
            "boolean" => Zero::False,
            "integer" => Zero::Number,
            _ => Zero::Empty,
        };
    }
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    match ty.field(first).map(|field| &field.slot.kind) {
        Some(Kind::Ref(inner)) if !rest.is_empty() => zero(inner, rest),
        Some(Kind::Bool) => Zero::False,
        Some(Kind::Int32 | Kind::Int64) => Zero::Number,
        _ => Zero::Empty,
    }
}

fn fields(resource: &Resource, known: &mut Vec<FieldPath>) {
    for version in &resource.versions {
        let own = version.selectable.iter().filter(|(_, how)| *how == Selectable::Field);
        for (name, _) in own.filter(|(name, _)| !name.starts_with("metadata.")) {
            if known.iter().any(|field| field.name == **name) {
                continue;
            }
            let elsewhere = ELSEWHERE.iter().find(|(plural, field, _)| *plural == resource.plural && field == name);
            let paths = elsewhere
                .map_or_else(|| vec![name.to_string()], |(_, _, at)| at.iter().map(|&p| p.to_owned()).collect());
            let zero = paths.first().map_or(Zero::Empty, |path| zero(&version.ty, path));
            known.push(FieldPath { name: name.to_string(), paths, zero });
        }
    }
}

/// The fields of a resource that clients select by.
pub(super) fn fields_of(resource: &Resource) -> Vec<FieldPath> {
    let mut known = Vec::new();
    fields(resource, &mut known);
    known
}

/// A cache that joins the clock at run time.
pub(super) fn joining(prefix: String, fields: Vec<FieldPath>) -> ResourceCache {
    ResourceCache::joining(prefix, Probe::new(fields), Some(INDEXED))
}

/// The caches of everything that the table stores.
pub fn caches(etcd: &Etcd, table: &ResourceTable) -> Vec<Arc<ResourceCache>> {
    let mut by_prefix: BTreeMap<String, Vec<FieldPath>> = BTreeMap::new();
    for resource in table.iter() {
        if let Some(storage) = &resource.storage {
            fields(resource, by_prefix.entry(etcd.key_prefix(&storage.key_prefix)).or_default());
        }
    }
    let make = |(prefix, fields)| Arc::new(ResourceCache::new(prefix, Probe::new(fields), Some(INDEXED)));
    by_prefix.into_iter().map(make).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_places_and_zeros() {
        let table = crate::resources::table();
        let mut known = Vec::new();
        fields(table.by_plural("", "pods").unwrap(), &mut known);
        let of = |known: &[FieldPath], name: &str| known.iter().find(|field| field.name == name).cloned().unwrap();
        assert_eq!(of(&known, "spec.hostNetwork").zero, Zero::False);
        assert_eq!(of(&known, "spec.nodeName").zero, Zero::Empty);
        let mut known = Vec::new();
        fields(table.by_plural("batch", "jobs").unwrap(), &mut known);
        let field = of(&known, "status.successful");
        assert_eq!((field.paths, field.zero), (vec!["status.succeeded".to_owned()], Zero::Number));
    }
}

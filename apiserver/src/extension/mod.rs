//! Custom resources: what a CustomResourceDefinition makes the server serve.
//!
//! A definition becomes the same [`Resource`] row as a built-in kind, with a strategy that asks the schema of the version.
//! Inside the registry a custom object is always in the version of the request; it is converted when it is read from and
//! written to storage ([`convert`]). [`definition`] is the kind CustomResourceDefinition itself, [`controller`] keeps what is
//! served equal to the definitions that are established.

pub mod columns;
pub mod controller;
pub mod convert;
pub mod definition;
mod names;
pub mod openapi;
mod rules;
mod schemas;
mod strategy;

use std::sync::Arc;

use apimachinery::gvk::{GroupVersion, GroupVersionKind};
use apimachinery::meta;
use apimachinery::resources::{Behaviour, DefaultCollection, Selectable};
use apimachinery::schema::{self, Gvk, Held, Type};
use apimachinery::structural::Schema;
use base64::Engine as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::endpoints::discovery::version_priority;
use crate::resources::{Column, Resource, ServedVersion, Storage, Subresource};

/// Group and plural name of definitions.
pub const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");
/// In upstream's order.
const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const SUBRESOURCE_VERBS: [&str; 3] = ["get", "patch", "update"];

/// What is particular to a custom resource, whatever the version.
#[derive(Debug)]
pub struct Definition {
    /// Of the definition, its generation and whether it is being deleted: as long as they stay, so does this.
    pub identity: (String, i64, bool),
    /// `apiVersion` of what is written to storage.
    pub storage_api_version: String,
    /// How versions become one another.
    pub conversion: convert::Conversion,
}

/// What is particular to a served version of a custom resource.
#[derive(Debug)]
pub struct Version {
    /// Its schema, ready for use.
    pub schema: Arc<Schema>,
    /// Its schema as it was written; null when there is none.
    pub openapi: Value,
    /// Where the cells of its table come from, after the name.
    pub cells: Vec<columns::Path>,
    /// Its rules.
    pub rules: rules::Rules,
    /// Fields that clients may select by.
    pub selectable: Vec<String>,
    /// `status` has an endpoint of its own.
    pub has_status: bool,
    /// Where a Scale is found.
    pub scale: Option<ScalePaths>,
    /// Said to everybody who uses it.
    pub warning: Option<String>,
}

/// Where a custom resource keeps what a Scale shows; dotted, without the first dot.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    /// `specReplicasPath`
    pub spec: String,
    /// `statusReplicasPath`
    pub status: String,
    /// `labelSelectorPath`; empty when there is none.
    pub selector: String,
}

const fn behaviour(status: &'static [&'static str]) -> Behaviour {
    Behaviour {
        does: &["create", "get", "list", "watch", "update", "patch", "delete", "deletecollection"],
        connect_methods: &[],
        allow_create_on_update: false,
        allow_unconditional_update: false,
        return_deleted_object: false,
        reset_fields: status,
        generation_after_create: 1,
        // What raises the generation is decided by the strategy: everything but metadata and status.
        generation_bumped_by: &[],
        generation_not_bumped_by: &[],
        update_keeps_old: &[],
        create_clears: &[],
    }
}

static BEHAVIOUR: Behaviour = behaviour(&[]);
static STATUS_BEHAVIOUR: Behaviour = behaviour(&["spec", "metadata"]);

/// Whether a condition of a definition is true.
pub fn is_true(definition: &Value, condition: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == condition && c["status"] == "True")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The version of a definition that is stored.
fn storage_version(spec: &Value) -> &str {
    let versions = spec["versions"].as_array().into_iter().flatten();
    let stored = versions.into_iter().find(|version| version["storage"] == true);
    stored.and_then(|version| version["name"].as_str()).unwrap_or_default()
}

/// Upstream's hash of what is stored.
fn version_hash(group: &str, version: &str, kind: &str) -> String {
    let digest = Sha256::digest(format!("{group}/{version}/{kind}"));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// `com.example.v1.Thing`: the name under which a kind is published.
fn published_name(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

/// What an established definition makes served.
pub fn resource(definition: &Value) -> Resource {
    let spec = &definition["spec"];
    let names = &definition["status"]["acceptedNames"];
    let (group, plural, kind) = (text(&spec["group"]), text(&names["plural"]), text(&names["kind"]));
    let mut versions: Vec<&Value> =
        spec["versions"].as_array().into_iter().flatten().filter(|version| version["served"] == true).collect();
    versions.sort_by_key(|version| std::cmp::Reverse(version_priority(version["name"].as_str().unwrap_or_default())));
    let stored = storage_version(spec);
    let storage_api_version = GroupVersion::new(&*group, stored).to_string();
    let versions: Vec<ServedVersion> = versions.into_iter().map(|version| served(version, &group, &kind)).collect();
    let has = |wanted: fn(&Version) -> bool| versions.iter().any(|v| v.custom.as_deref().is_some_and(wanted));
    let mut subresources = Vec::new();
    if has(|version| version.has_status) {
        let gvk = GroupVersionKind::new(&*group, stored, &*kind);
        subresources.push(subresource("status", gvk, None));
    }
    if has(|version| version.scale.is_some()) {
        let gvk = GroupVersionKind::new("autoscaling", "v1", "Scale");
        subresources.push(subresource("scale", gvk, schema::lookup("autoscaling", "v1", "Scale").map(Held::Static)));
    }
    Resource {
        storage: Some(Storage {
            api_version: storage_api_version.clone(),
            kind: kind.clone(),
            key_prefix: format!("/registry/{group}/{plural}/"),
            version_hash: version_hash(&group, stored, &kind),
        }),
        custom: Some(Definition {
            identity: identity(definition),
            storage_api_version,
            conversion: convert::Conversion::of(spec),
        }),
        singular: text(&names["singular"]),
        list_kind: text(&names["listKind"]),
        namespaced: spec["scope"] == "Namespaced",
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        verbs: VERBS.map(str::to_owned).to_vec(),
        behaviour: Held::Static(&BEHAVIOUR),
        default_collection: DefaultCollection::Background,
        graceful_delete: false,
        ttl: false,
        finishes_deletion_on_update: false,
        strategy: strategy::STRATEGY,
        group,
        plural,
        kind,
        versions,
        subresources,
    }
}

/// What a served resource depends on, of its definition.
pub fn identity(definition: &Value) -> (String, i64, bool) {
    let terminating = meta::deletion_timestamp(definition).is_some();
    (meta::uid(definition).to_owned(), meta::generation(definition), terminating)
}

fn subresource(name: &str, gvk: GroupVersionKind, ty: Option<Held<Type>>) -> Subresource {
    Subresource {
        name: name.to_owned(),
        gvk,
        ty,
        verbs: SUBRESOURCE_VERBS.map(str::to_owned).to_vec(),
        behaviour: Held::Static(&STATUS_BEHAVIOUR),
        strategy: strategy::STATUS,
    }
}

fn scale_paths(subresources: &Value) -> Option<ScalePaths> {
    let scale = subresources.get("scale").filter(|scale| scale.is_object())?;
    let path = |field: &str| scale[field].as_str().unwrap_or_default().trim_start_matches('.').to_owned();
    let (spec, status) = (path("specReplicasPath"), path("statusReplicasPath"));
    Some(ScalePaths { spec, status, selector: path("labelSelectorPath") })
}

fn served(version: &Value, group: &str, kind: &str) -> ServedVersion {
    let name = text(&version["name"]);
    let openapi = version["schema"]["openAPIV3Schema"].clone();
    let schema = Arc::new(Schema::root(openapi.is_object().then_some(&openapi)));
    let gvk = Gvk { group: group.to_owned().into(), version: name.clone().into(), kind: kind.to_owned().into() };
    let ty = Type::of_custom(published_name(group, &name, kind), vec![gvk], Arc::clone(&schema));
    let (columns, cells) = columns::of(&version["additionalPrinterColumns"]);
    let selectable: Vec<String> = version["selectableFields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|field| field["jsonPath"].as_str())
        .map(|path| path.trim_start_matches('.').to_owned())
        .collect();
    let warning = (version["deprecated"] == true).then(|| {
        let default = || format!("{group}/{name} {kind} is deprecated");
        version["deprecationWarning"].as_str().map_or_else(default, str::to_owned)
    });
    let has_status = version["subresources"]["status"].is_object();
    ServedVersion {
        ty: Held::Shared(Arc::new(ty)),
        selectable: selectable.iter().map(|name| (name.clone().into(), Selectable::Field)).collect(),
        columns,
        reset_fields: if has_status { &["status"] } else { &[] },
        conversion: None,
        custom: Some(Arc::new(Version {
            rules: rules::Rules::compile(&openapi),
            schema,
            openapi,
            cells,
            selectable,
            has_status,
            scale: scale_paths(&version["subresources"]),
            warning,
        })),
        version: name,
    }
}

impl Resource {
    /// The subresources of a version.
    pub fn subresources_of(&self, version: &str) -> impl Iterator<Item = &Subresource> {
        let custom = self.version(version).and_then(|served| served.custom.as_deref());
        self.subresources.iter().filter(move |sub| {
            custom.is_none_or(|custom| if sub.name == "status" { custom.has_status } else { custom.scale.is_some() })
        })
    }
}

/// A column that only people without columns of their own see.
fn age() -> Column {
    Column { name: "Age".into(), ty: "date".into(), format: "".into(), description: "".into(), priority: 0 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn definitions_become_rows() {
        assert_eq!(version_hash("apiextensions.k8s.io", "v1beta1", "CustomResourceDefinition"), "jfWCUB31mvA=");
        let row = resource(&json!({
            "metadata": {"uid": "u", "generation": 2},
            "spec": {"group": "a.example.com", "scope": "Namespaced", "versions": [
                {"name": "v1beta1", "served": true, "storage": true, "subresources": {"status": {}}},
                {"name": "v1", "served": true, "storage": false, "selectableFields": [{"jsonPath": ".spec.c"}]},
                {"name": "v0", "served": false}]},
            "status": {"acceptedNames": {"plural": "things", "kind": "Thing", "listKind": "ThingList", "singular": "thing"}}}));
        let versions: Vec<&str> = row.versions.iter().map(|version| version.version.as_str()).collect();
        assert_eq!(versions, ["v1", "v1beta1"]);
        assert_eq!(&*row.versions[0].ty.name, "com.example.a.v1.Thing");
        assert_eq!(row.subresources_of("v1").count(), 0);
        assert_eq!(row.subresources_of("v1beta1").count(), 1);
        assert_eq!(row.storage.unwrap().api_version, "a.example.com/v1beta1");
    }
}

//! Accessors for `metadata` of an object held as a `Value`, and a small struct for loops that need no more than metadata.
//!
//! Absent, null and wrongly typed members all read as empty: what must not be is refused when an object is decoded.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::time;

static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

fn metadata_text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default()
}

fn metadata_map<'a>(object: &'a Value, key: &str) -> &'a Map<String, Value> {
    object.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_object).unwrap_or(&EMPTY)
}

/// `apiVersion`.
pub fn api_version(object: &Value) -> &str {
    object.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
}

/// `kind`.
pub fn kind(object: &Value) -> &str {
    object.get("kind").and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    metadata_text(object, "name")
}

/// `metadata.generateName`.
pub fn generate_name(object: &Value) -> &str {
    metadata_text(object, "generateName")
}

/// `metadata.namespace`.
pub fn namespace(object: &Value) -> &str {
    metadata_text(object, "namespace")
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> &str {
    metadata_text(object, "uid")
}

/// `metadata.resourceVersion`.
pub fn resource_version(object: &Value) -> &str {
    metadata_text(object, "resourceVersion")
}

/// `metadata.creationTimestamp`.
pub fn creation_timestamp(object: &Value) -> Option<Timestamp> {
    time::parse_time(metadata_text(object, "creationTimestamp"))
}

/// `metadata.deletionTimestamp`; present when the object is terminating.
pub fn deletion_timestamp(object: &Value) -> Option<Timestamp> {
    time::parse_time(metadata_text(object, "deletionTimestamp"))
}

/// `metadata.deletionGracePeriodSeconds`.
pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    object.get("metadata")?.get("deletionGracePeriodSeconds")?.as_i64()
}

/// `metadata.generation`; 0 when absent.
pub fn generation(object: &Value) -> i64 {
    object.get("metadata").and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or_default()
}

/// `metadata.labels`.
pub fn labels(object: &Value) -> &Map<String, Value> {
    metadata_map(object, "labels")
}

/// `metadata.annotations`.
pub fn annotations(object: &Value) -> &Map<String, Value> {
    metadata_map(object, "annotations")
}

/// One annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object).get(key)?.as_str()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    let list = object.get("metadata").and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// `metadata.ownerReferences` as they stand.
pub fn owner_references(object: &Value) -> &[Value] {
    let list = object.get("metadata").and_then(|m| m.get("ownerReferences")).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

/// `metadata`, made when absent. A non-object in its place, or an `object` that is none, is replaced.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    let root = into_object(object);
    into_object(root.entry("metadata").or_insert(Value::Null))
}

/// The map in a value, which becomes an empty map when it holds something else.
fn into_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

fn set_text(object: &mut Value, key: &str, text: &str) {
    let metadata = metadata_mut(object);
    if text.is_empty() {
        metadata.remove(key);
    } else {
        metadata.insert(key.to_owned(), text.into());
    }
}

/// Sets `metadata.name`; empty removes.
pub fn set_name(object: &mut Value, name: &str) {
    set_text(object, "name", name);
}

/// Sets `metadata.namespace`; empty removes.
pub fn set_namespace(object: &mut Value, namespace: &str) {
    set_text(object, "namespace", namespace);
}

/// Sets `metadata.uid`; empty removes.
pub fn set_uid(object: &mut Value, uid: &str) {
    set_text(object, "uid", uid);
}

/// Sets `metadata.resourceVersion`; empty removes.
pub fn set_resource_version(object: &mut Value, resource_version: &str) {
    set_text(object, "resourceVersion", resource_version);
}

/// Sets `metadata.generation`; 0 removes.
pub fn set_generation(object: &mut Value, generation: i64) {
    let metadata = metadata_mut(object);
    if generation == 0 {
        metadata.remove("generation");
    } else {
        metadata.insert("generation".to_owned(), generation.into());
    }
}

/// Sets `metadata.creationTimestamp`.
pub fn set_creation_timestamp(object: &mut Value, at: Timestamp) {
    set_text(object, "creationTimestamp", &time::format_time(at));
}

/// Sets `metadata.deletionTimestamp` and the grace period.
pub fn set_deletion(object: &mut Value, at: Timestamp, grace_period_seconds: i64) {
    set_text(object, "deletionTimestamp", &time::format_time(at));
    metadata_mut(object).insert("deletionGracePeriodSeconds".to_owned(), grace_period_seconds.into());
}

/// Sets a label.
pub fn set_label(object: &mut Value, key: &str, value: &str) {
    into_object(metadata_mut(object).entry("labels").or_insert(Value::Null)).insert(key.to_owned(), value.into());
}

/// Sets an annotation.
pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    into_object(metadata_mut(object).entry("annotations").or_insert(Value::Null)).insert(key.to_owned(), value.into());
}

/// Sets `metadata.finalizers`; none removes.
pub fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    let metadata = metadata_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
}

/// The part of `metadata` that loops need.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Unique in its namespace.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub name: String,
    /// Prefix from which the server makes a name.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub generate_name: String,
    /// Empty for cluster-scoped objects.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub namespace: String,
    /// Unique in space and time.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub uid: String,
    /// Opaque version.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub resource_version: String,
    /// Raised by changes of the desired state.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "or_default")]
    pub generation: i64,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::seconds")]
    pub creation_timestamp: Option<Timestamp>,
    /// When it is to be gone; present when terminating.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::seconds")]
    pub deletion_timestamp: Option<Timestamp>,
    /// Seconds between the request and `deletion_timestamp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_grace_period_seconds: Option<i64>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// Objects on which this one depends.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub owner_references: Vec<OwnerReference>,
    /// Who must agree before it goes.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub finalizers: Vec<String>,
}

/// A reference to an owner in the same namespace (or cluster-scoped).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Owner's `apiVersion`.
    pub api_version: String,
    /// Owner's kind.
    pub kind: String,
    /// Owner's name.
    pub name: String,
    /// Owner's uid.
    pub uid: String,
    /// This owner is the managing controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// A foreground deletion of the owner waits for this object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Null reads as absent, as upstream's decoders do.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl ObjectMeta {
    /// From a whole object.
    pub fn of(object: &Value) -> Self {
        object.get("metadata").and_then(|m| Self::deserialize(m).ok()).unwrap_or_default()
    }

    /// `namespace/name`, or the name alone.
    pub fn key(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }

    /// The owner that manages this object.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller == Some(true))
    }

    /// `true` once deletion was asked for.
    pub fn is_terminating(&self) -> bool {
        self.deletion_timestamp.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_and_writes() {
        let mut object = json!({"metadata": {"name": "a", "labels": null, "finalizers": ["x", "y"], "creationTimestamp": "2024-01-01T00:00:00Z"}});
        assert_eq!(name(&object), "a");
        assert!(labels(&object).is_empty());
        assert_eq!(finalizers(&object).collect::<Vec<_>>(), ["x", "y"]);
        assert!(creation_timestamp(&object).is_some());
        set_label(&mut object, "k", "v");
        set_name(&mut object, "");
        assert_eq!(object["metadata"]["labels"]["k"], "v");
        assert!(object["metadata"].get("name").is_none());
        let mut odd = json!([1]);
        set_uid(&mut odd, "u");
        assert_eq!(uid(&odd), "u");
    }

    #[test]
    fn small_struct_takes_nulls() {
        let meta: ObjectMeta = serde_json::from_value(
            json!({"name": "a", "namespace": "b", "labels": null, "creationTimestamp": null, "selfLink": "x"}),
        )
        .unwrap();
        assert_eq!(meta.key(), "b/a");
        assert!(!meta.is_terminating());
        let text = serde_json::to_value(ObjectMeta {
            creation_timestamp: Some("2024-01-01T00:00:00Z".parse().unwrap()),
            ..meta
        })
        .unwrap();
        assert_eq!(text["creationTimestamp"], "2024-01-01T00:00:00Z");
    }
}

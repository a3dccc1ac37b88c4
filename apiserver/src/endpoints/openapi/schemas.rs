//! OpenAPI schemas of the types in the schema table, for v2 and v3.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::schema::{self, Field, Kind, ListType, MapType, Slot, Special, Type};
use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::operations::META;
use crate::extension::openapi;
use crate::resources::{Resource, ServedVersion};

/// Which OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Swagger 2.0: no defaults, no alternatives.
    V2,
    /// OpenAPI 3.0.
    V3,
}

impl Dialect {
    /// Where schemas live.
    fn prefix(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }

    /// `{"$ref": …}`.
    pub fn reference(self, name: &str) -> Value {
        json!({"$ref": format!("{}{name}", self.prefix())})
    }
}

/// Collects the schemas of types and of all types they refer to.
pub struct Schemas<'t> {
    dialect: Dialect,
    /// Groups and versions under which kinds of every group are shown.
    groups: Vec<(&'t str, &'t str)>,
    found: BTreeMap<String, Value>,
    descriptions: Arc<Descriptions>,
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const DURATION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Duration";
const FIELDS_V1: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const JSON_SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

impl<'t> Schemas<'t> {
    /// For one document.
    pub fn new(dialect: Dialect, groups: Vec<(&'t str, &'t str)>) -> Self {
        Self { dialect, groups, found: BTreeMap::new(), descriptions: Descriptions::get() }
    }

    /// All schemas by name.
    pub fn into_map(self) -> Map<String, Value> {
        self.found.into_iter().collect()
    }

    /// Adds a type by name; custom types that are not in the table are given by `custom`.
    pub fn add(&mut self, name: &str, custom: Option<&Type>) {
        if self.found.contains_key(name) {
            return;
        }
        if let Some(mut schema) = self.leaf(name) {
            if let (Some(map), Some(text)) = (schema.as_object_mut(), self.descriptions.of(name, "")) {
                map.insert("description".to_owned(), text.into());
            }
            self.found.insert(name.to_owned(), schema);
        } else if let Some(ty) = custom.or_else(|| schema::by_name(name)) {
            // Entered before its fields, because schemas refer to themselves.
            self.found.insert(name.to_owned(), Value::Null);
            let schema = self.object(ty);
            self.found.insert(name.to_owned(), schema);
        }
    }

    /// Adds what a version of a resource speaks.
    pub fn add_served(&mut self, resource: &Resource, served: &ServedVersion) {
        let Some(custom) = &served.custom else { return self.add(&served.ty.name, Some(&served.ty)) };
        let dialect = self.dialect;
        let names = (&*resource.group, &*served.version, &*resource.kind, &*resource.list_kind);
        let old = dialect == Dialect::V2;
        let own = |name: &str| dialect.reference(name);
        let made = openapi::schemas(&served.ty.name, names, &custom.openapi, &custom.selectable, old, &own);
        for ((name, mut schema), like) in made.into_iter().zip(["ConfigMap", "ConfigMapList"]) {
            self.describe(&mut schema, &format!("io.k8s.api.core.v1.{like}"));
            self.found.insert(name, schema);
        }
        for name in ["ObjectMeta", "ListMeta"] {
            self.add(&format!("{META}{name}"), None);
        }
    }

    /// Says of the fields that every object has what is said of them in a built-in type.
    fn describe(&self, schema: &mut Value, like: &str) {
        for name in ["apiVersion", "kind", "metadata"] {
            let field = schema.pointer_mut(&format!("/properties/{name}")).and_then(Value::as_object_mut);
            let (Some(field), Some(text)) = (field, self.descriptions.of(like, name)) else { continue };
            if self.dialect == Dialect::V3 {
                wrap_reference(field);
            }
            field.insert("description".to_owned(), text.into());
        }
    }

    fn leaf(&self, name: &str) -> Option<Value> {
        Some(match (name, self.dialect) {
            (QUANTITY, Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            (INT_OR_STRING, Dialect::V3) => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            (INT_OR_STRING, Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
            (QUANTITY | DURATION, _) => json!({"type": "string"}),
            (TIME | MICRO_TIME, _) => json!({"type": "string", "format": "date-time"}),
            (FIELDS_V1 | RAW_EXTENSION | PATCH, _) => json!({"type": "object"}),
            _ => return None,
        })
    }

    fn object(&mut self, ty: &Type) -> Value {
        let description = self.descriptions.of(&ty.name, "").map(Value::from);
        if ty.special != Special::No {
            return description.map_or_else(|| json!({}), |text| json!({"description": text}));
        }
        let mut properties = Map::new();
        let mut required = Vec::new();
        ty.for_each_field(&mut |field| {
            if field.required {
                required.push(Value::from(&*field.json));
            }
            properties.insert(field.json.to_string(), self.property(ty, field));
        });
        let mut schema = Map::new();
        schema.insert("type".to_owned(), "object".into());
        schema.extend(description.map(|text| ("description".to_owned(), text)));
        if !required.is_empty() {
            schema.insert("required".to_owned(), required.into());
        }
        if !properties.is_empty() {
            schema.insert("properties".to_owned(), properties.into());
        }
        let gvks = self.kinds(ty);
        if !gvks.is_empty() {
            schema.insert("x-kubernetes-group-version-kind".to_owned(), gvks.into());
        }
        if ty.map_type == MapType::Atomic {
            schema.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
        }
        if !ty.unions.is_empty() {
            schema.insert("x-kubernetes-unions".to_owned(), ty.unions.iter().map(union).collect());
        }
        schema.into()
    }

    /// The kinds a type is registered as. Delete options and watch events are registered in every group: a document shows
    /// core's and its own.
    fn kinds(&self, ty: &Type) -> Vec<Value> {
        let row = |group: &str, version: &str, kind: &str| json!({"group": group, "kind": kind, "version": version});
        match ty.name.strip_prefix(META) {
            Some(kind @ ("APIResourceList" | "APIGroup" | "APIGroupList" | "APIVersions" | "Status")) => {
                vec![row("", "v1", kind)]
            }
            Some(kind @ ("DeleteOptions" | "WatchEvent")) => {
                self.groups.iter().map(|(group, version)| row(group, version, kind)).collect()
            }
            _ => ty.gvk.iter().map(|gvk| row(&gvk.group, &gvk.version, &gvk.kind)).collect(),
        }
    }

    fn property(&mut self, parent: &Type, field: &Field) -> Value {
        let mut schema = self.slot(&field.slot);
        let description = self.descriptions.of(&parent.name, &field.json).unwrap_or_default();
        if let Value::Object(map) = &mut schema {
            // A reference stands alone in v3; beside a description (all fields but those of schemas have one) it goes into allOf.
            let undescribed = &*parent.name == JSON_SCHEMA_PROPS && &*field.json != "default";
            if self.dialect == Dialect::V3 && !undescribed {
                wrap_reference(map);
            }
            let mut text = |key: &str, value: &str| {
                if !value.is_empty() {
                    map.insert(key.to_owned(), value.into());
                }
            };
            text("description", description);
            text("x-kubernetes-patch-merge-key", &field.patch_merge_key);
            let strategies: Vec<&str> = [
                (field.patch_merge, "merge"),
                (field.patch_retain_keys, "retainKeys"),
                (field.patch_replace, "replace"),
            ]
            .into_iter()
            .filter_map(|(set, name)| set.then_some(name))
            .collect();
            text("x-kubernetes-patch-strategy", &strategies.join(","));
        }
        schema
    }

    fn slot(&mut self, slot: &Slot) -> Value {
        let mut schema = self.kind(&slot.kind);
        let Value::Object(map) = &mut schema else { return schema };
        if self.dialect == Dialect::V3
            && let Some(default) = slot.default.to_value()
        {
            map.insert("default".to_owned(), default);
            wrap_reference(map);
        }
        if !slot.enum_values.is_empty() {
            map.insert("enum".to_owned(), slot.enum_values.to_vec().into());
        }
        let list_type = match slot.list_type {
            ListType::Unset => None,
            ListType::Atomic => Some("atomic"),
            ListType::Set => Some("set"),
            ListType::Map => Some("map"),
        };
        if let Some(list_type) = list_type {
            map.insert("x-kubernetes-list-type".to_owned(), list_type.into());
        }
        if !slot.list_keys.is_empty() {
            map.insert("x-kubernetes-list-map-keys".to_owned(), slot.list_keys.to_vec().into());
        }
        match slot.map_type {
            MapType::Unset => {}
            MapType::Atomic => {
                map.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
            }
            MapType::Granular => {
                map.insert("x-kubernetes-map-type".to_owned(), "granular".into());
            }
        }
        schema
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::String => json!({"type": "string"}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Int32 => json!({"type": "integer", "format": "int32"}),
            Kind::Int64 => json!({"type": "integer", "format": "int64"}),
            Kind::Float64 => json!({"type": "number", "format": "double"}),
            Kind::Bytes => json!({"type": "string", "format": "byte"}),
            Kind::Any => json!({}),
            Kind::Quantity => self.refer(QUANTITY, None),
            Kind::Time => self.refer(TIME, None),
            Kind::MicroTime => self.refer(MICRO_TIME, None),
            Kind::Duration => self.refer(DURATION, None),
            Kind::IntOrString => self.refer(INT_OR_STRING, None),
            Kind::FieldsV1 => self.refer(FIELDS_V1, None),
            Kind::RawExtension => self.refer(RAW_EXTENSION, None),
            Kind::Ref(ty) => self.refer(&ty.name, Some(ty)),
            Kind::List(element) | Kind::WrappedList(element) => {
                json!({"type": "array", "items": self.slot(element)})
            }
            Kind::Map(entry) => json!({"type": "object", "additionalProperties": self.slot(entry)}),
        }
    }

    fn refer(&mut self, name: &str, ty: Option<&Type>) -> Value {
        self.add(name, ty);
        self.dialect.reference(name)
    }
}

/// `{"$ref": x, …}` → `{"allOf": [{"$ref": x}], …}`.
fn wrap_reference(map: &mut Map<String, Value>) {
    if let Some(reference) = map.remove("$ref") {
        map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
    }
}

fn union(union: &schema::Union) -> Value {
    let members: Map<String, Value> = union.1.iter().map(|&(field, value)| (field.to_owned(), value.into())).collect();
    let mut schema = json!({"fields-to-discriminateBy": members});
    if !union.0.is_empty() {
        schema["discriminator"] = union.0.into();
    }
    schema
}

//! Structural schemas of custom resources: what a CustomResourceDefinition says of its objects, made ready for use.
//!
//! One tree drives pruning (`codec`), defaults, validation, the shapes of server-side apply and the types of rules. Made
//! once per version of a definition, from a `JSONSchemaProps` that was validated when it was written; what is malformed
//! nevertheless is treated as absent. Follows upstream's structural schemas.

mod defaults;
pub mod formats;
mod validate;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::schema::{self, ListType, Type};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// A schema, or a part of one.
#[derive(Debug, Default)]
pub struct Schema {
    /// `object`, `array`, `string` …; empty when not given.
    pub ty: String,
    /// Named members.
    pub properties: BTreeMap<String, Schema>,
    /// What the elements of an array are.
    pub items: Option<Box<Schema>>,
    /// What the entries of a map are.
    pub additional: Option<Box<Schema>>,
    /// null is a value.
    pub nullable: bool,
    /// Unknown members stay.
    pub preserve: bool,
    /// The object has `apiVersion`, `kind` and `metadata` of its own.
    pub embedded: bool,
    /// Number or text.
    pub int_or_string: bool,
    /// Fills in for absent.
    pub default: Option<Value>,
    /// How apply merges elements.
    pub list_type: Option<ListType>,
    /// For lists of type map.
    pub list_keys: Vec<String>,
    /// Apply treats the object as one value.
    pub atomic_map: bool,
    /// A type of the table that stands here: the metadata of objects.
    pub typed: Option<&'static Type>,
    checks: Checks,
}

/// One of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// The expression.
    pub rule: String,
    /// Said when it is false.
    pub message: String,
    /// Computes what is said.
    pub message_expression: String,
    /// `FieldValueInvalid` …; empty for that.
    pub reason: String,
    /// Where, relative to the rule.
    pub field_path: String,
    /// Given when the rule says so.
    pub optional_old_self: Option<bool>,
}

/// What values must be beyond their type.
#[derive(Debug, Default)]
struct Checks {
    format: String,
    pattern: Option<Regex>,
    enumeration: Vec<Value>,
    required: Vec<String>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    exclusive_minimum: bool,
    exclusive_maximum: bool,
    multiple_of: Option<f64>,
    /// Of characters, elements or members, whichever the value has.
    lengths: [Option<u64>; 6],
    all_of: Vec<Schema>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    not: Option<Box<Schema>>,
}

/// The names of [`Checks::lengths`]: minima and maxima for text, lists and objects.
const LENGTHS: [&str; 6] = ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"];

fn text(json: &Value, key: &str) -> String {
    json[key].as_str().unwrap_or_default().to_owned()
}

fn flag(json: &Value, key: &str) -> bool {
    json[key].as_bool().unwrap_or_default()
}

fn texts(json: &Value, key: &str) -> Vec<String> {
    json[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn schemas(json: &Value, key: &str) -> Vec<Schema> {
    json[key].as_array().into_iter().flatten().map(Schema::parse).collect()
}

impl Rule {
    fn parse(json: &Value) -> Self {
        Self {
            rule: text(json, "rule"),
            message: text(json, "message"),
            message_expression: text(json, "messageExpression"),
            reason: text(json, "reason"),
            field_path: text(json, "fieldPath"),
            optional_old_self: json["optionalOldSelf"].as_bool(),
        }
    }
}

impl Checks {
    fn parse(json: &Value) -> Self {
        let pattern = json["pattern"].as_str().filter(|p| !p.is_empty());
        Self {
            format: text(json, "format"),
            pattern: pattern.and_then(|pattern| Regex::new(pattern).ok()),
            enumeration: json["enum"].as_array().cloned().unwrap_or_default(),
            required: texts(json, "required"),
            minimum: json["minimum"].as_f64(),
            maximum: json["maximum"].as_f64(),
            exclusive_minimum: flag(json, "exclusiveMinimum"),
            exclusive_maximum: flag(json, "exclusiveMaximum"),
            multiple_of: json["multipleOf"].as_f64().filter(|n| *n > 0.0),
            lengths: LENGTHS.map(|name| json[name].as_u64()),
            all_of: schemas(json, "allOf"),
            any_of: schemas(json, "anyOf"),
            one_of: schemas(json, "oneOf"),
            not: json["not"].is_object().then(|| Box::new(Schema::parse(&json["not"]))),
        }
    }
}

impl Schema {
    /// From a `JSONSchemaProps`; depth is bounded by that of the object it stands in.
    pub fn parse(json: &Value) -> Self {
        let boxed = |json: &Value| json.is_object().then(|| Box::new(Self::parse(json)));
        let properties = json["properties"].as_object().into_iter().flatten();
        let additional = &json["additionalProperties"];
        let mut schema = Self {
            ty: text(json, "type"),
            properties: properties.map(|(name, schema)| (name.clone(), Self::parse(schema))).collect(),
            items: boxed(&json["items"]),
            additional: if additional == &Value::Bool(true) { Some(Box::default()) } else { boxed(additional) },
            nullable: flag(json, "nullable"),
            preserve: flag(json, "x-kubernetes-preserve-unknown-fields"),
            embedded: flag(json, "x-kubernetes-embedded-resource"),
            int_or_string: flag(json, "x-kubernetes-int-or-string"),
            default: json.get("default").filter(|v| !v.is_null()).cloned(),
            list_type: match json["x-kubernetes-list-type"].as_str() {
                Some("set") => Some(ListType::Set),
                Some("map") => Some(ListType::Map),
                _ => None,
            },
            list_keys: texts(json, "x-kubernetes-list-map-keys"),
            atomic_map: json["x-kubernetes-map-type"] == "atomic",
            typed: None,
            checks: Checks::parse(json),
        };
        if schema.embedded {
            schema.become_resource();
        }
        schema
    }

    /// The `x-kubernetes-validations` of a schema as it was written.
    pub fn parse_rules(json: &Value) -> Vec<Rule> {
        json["x-kubernetes-validations"].as_array().into_iter().flatten().map(Rule::parse).collect()
    }

    /// The schema of whole objects; `None` stands for one that says nothing and keeps nothing.
    pub fn root(json: Option<&Value>) -> Self {
        let mut schema = json.map(Self::parse).unwrap_or_default();
        "object".clone_into(&mut schema.ty);
        schema.become_resource();
        schema
    }

    fn become_resource(&mut self) {
        for name in ["apiVersion", "kind"] {
            "string".clone_into(&mut self.properties.entry(name.to_owned()).or_default().ty);
        }
        let metadata = self.properties.entry("metadata".to_owned()).or_default();
        "object".clone_into(&mut metadata.ty);
        metadata.typed = schema::by_name(OBJECT_META);
    }

    /// The schema of a member; unknown ones have none.
    pub fn member(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(self.additional.as_deref())
    }

    /// Values of any shape may stand here, and nothing is known of them.
    pub fn is_open(&self) -> bool {
        self.ty.is_empty() && !self.int_or_string
    }
}

//! How custom kinds are published: the schema as it was written, with what every object has.

use serde_json::{Map, Value, json};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Adds the members of whole objects.
fn become_resource(schema: &mut Map<String, Value>, reference: &dyn Fn(&str) -> Value) {
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    for name in ["apiVersion", "kind"] {
        properties[name] = json!({"type": "string"});
    }
    properties["metadata"] = reference(&format!("{META}ObjectMeta"));
}

/// A schema in the form that documents have. In version 2 what it cannot say is left out.
fn published(schema: &Value, root: bool, old: bool, reference: &dyn Fn(&str) -> Value) -> Value {
    let Some(given) = schema.as_object() else { return json!({"type": "object"}) };
    let flag = |name: &str| schema[name] == true;
    let mut out = Map::new();
    for (name, value) in given {
        let value = match (name.as_str(), value) {
            ("default" | "allOf" | "anyOf" | "oneOf" | "not" | "nullable", _) if old => continue,
            ("properties", Value::Object(properties)) => {
                let below =
                    |(name, schema): (&String, &Value)| (name.clone(), published(schema, false, old, reference));
                Value::Object(properties.iter().map(below).collect())
            }
            ("items" | "additionalProperties", Value::Object(_)) => published(value, false, old, reference),
            _ => value.clone(),
        };
        out.insert(name.clone(), value);
    }
    if old && !root && (flag("nullable") || flag("x-kubernetes-preserve-unknown-fields")) {
        let gone: &[&str] = if flag("nullable") {
            &["type", "items", "properties", "additionalProperties"]
        } else {
            &["items", "properties"]
        };
        gone.iter().for_each(|name| drop(out.remove(*name)));
    } else if flag("x-kubernetes-embedded-resource") || root {
        become_resource(&mut out, reference);
    }
    if old && flag("x-kubernetes-int-or-string") {
        out.remove("type");
    }
    out.into()
}

/// The schemas of a kind and of its lists, by name.
pub fn schemas(
    name: &str,
    (group, version, kind, list_kind): (&str, &str, &str, &str),
    openapi: &Value,
    selectable: &[String],
    old: bool,
    reference: &dyn Fn(&str) -> Value,
) -> [(String, Value); 2] {
    let gvk = |kind: &str| json!([{"group": group, "version": version, "kind": kind}]);
    let preserves_all = openapi["x-kubernetes-preserve-unknown-fields"] == true && old;
    // Members would make clients refuse all others.
    let mut object = if openapi.is_object() && !preserves_all {
        published(openapi, true, old, reference)
    } else {
        json!({"type": "object"})
    };
    object["x-kubernetes-group-version-kind"] = gvk(kind);
    if !selectable.is_empty() {
        let fields = selectable.iter().map(|path| json!({"fieldPath": path}));
        object["x-kubernetes-selectable-fields"] = fields.collect();
    }
    let list = json!({"type": "object", "required": ["items"], "x-kubernetes-group-version-kind": gvk(list_kind),
        "description": format!("{list_kind} is a list of {kind}"),
        "properties": {"apiVersion": {"type": "string"}, "kind": {"type": "string"},
            "metadata": reference(&format!("{META}ListMeta")), "items": {"type": "array", "items": reference(name)}}});
    [(name.to_owned(), object), (format!("{name}List"), list)]
}

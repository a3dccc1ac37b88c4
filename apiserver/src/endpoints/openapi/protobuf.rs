//! The OpenAPI 2.0 document in the protobuf form of gnostic's messages, which client-go's `OpenAPISchema()` insists on:
//! kubectl and helm ask for it when they validate a kind that no version 3 document has.
//!
//! Made from the finished JSON document, merged with those of extension servers, each time it is asked for. A message is a
//! list of fields whose place is their number; what begins with `x-` goes into the number after the last.

use apimachinery::proto::wire::{bytes, double, nested, signed};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value};

use crate::endpoints::route::Documents;

const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// No media type by the grammar, but what clients send.
const MEDIA_TYPE_OF_CLIENTS: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Documents of which `/openapi/v2` can be had in protobuf too.
pub struct WithProtobuf<D>(pub D);

impl<D: Documents> Documents for WithProtobuf<D> {
    fn respond(&self, path: &str, query: &str, headers: &HeaderMap) -> Option<Response<Bytes>> {
        let media = first_media_type(headers);
        if path.trim_matches('/') != "openapi/v2" || ![MEDIA_TYPE, MEDIA_TYPE_OF_CLIENTS].contains(&media) {
            return self.0.respond(path, query, headers);
        }
        let mut as_json = headers.clone();
        as_json.insert(ACCEPT, JSON);
        let mut response = self.0.respond(path, query, &as_json)?;
        if response.status() == StatusCode::OK {
            let whole = serde_json::from_slice(response.body()).ok()?;
            let mut out = Vec::new();
            document(&whole, &mut out);
            *response.body_mut() = out.into();
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        }
        Some(response)
    }
}

/// What the client would rather have; qualities are not weighed.
fn first_media_type(headers: &HeaderMap) -> &str {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split([',', ';']).next().unwrap_or_default().trim()
}

/// Writes a message without its frame.
type Message = fn(&Value, &mut Vec<u8>);

enum Form {
    Text,
    Flag,
    Whole,
    Number,
    Texts,
    /// Anything, as YAML (of which JSON is a part).
    Any,
    Anys,
    One(Message),
    Each(Message),
    /// Named messages, in a message of their own.
    Named(Message),
    /// Not told.
    Skipped,
}
use Form::{Any, Anys, Each, Flag, Named, Number, One, Skipped, Text, Texts, Whole};

type Fields = &'static [(&'static str, Form)];

fn document(value: &Value, out: &mut Vec<u8>) {
    const FIELDS: Fields = &[
        ("swagger", Text),
        ("info", One(info)),
        ("host", Text),
        ("basePath", Text),
        ("schemes", Texts),
        ("consumes", Texts),
        ("produces", Texts),
        ("paths", One(paths)),
        ("definitions", Named(schema)),
        ("parameters", Named(parameter)),
        ("responses", Named(response)),
        ("security", Each(requirement)),
        ("securityDefinitions", Named(security_definition)),
    ];
    fields(value, FIELDS, out);
}

fn info(value: &Value, out: &mut Vec<u8>) {
    fields(value, &[("title", Text), ("version", Text), ("description", Text)], out);
}

fn requirement(value: &Value, out: &mut Vec<u8>) {
    members(value, 1, |value, out| texts(1, value, out), |_| true, out);
}

fn security_definition(value: &Value, out: &mut Vec<u8>) {
    if value["type"] == "apiKey" {
        nested(2, out, |out| {
            fields(value, &[("type", Text), ("name", Text), ("in", Text), ("description", Text)], out);
        });
    }
}

fn paths(value: &Value, out: &mut Vec<u8>) {
    members(value, 2, path_item, |name| !name.starts_with("x-"), out);
}

fn path_item(value: &Value, out: &mut Vec<u8>) {
    const FIELDS: Fields = &[
        ("$ref", Text),
        ("get", One(operation)),
        ("put", One(operation)),
        ("post", One(operation)),
        ("delete", One(operation)),
        ("options", One(operation)),
        ("head", One(operation)),
        ("patch", One(operation)),
        ("parameters", Each(parameter_or_reference)),
    ];
    fields(value, FIELDS, out);
    extensions(value, 10, out);
}

fn operation(value: &Value, out: &mut Vec<u8>) {
    const FIELDS: Fields = &[
        ("tags", Texts),
        ("summary", Text),
        ("description", Text),
        ("externalDocs", Skipped),
        ("operationId", Text),
        ("produces", Texts),
        ("consumes", Texts),
        ("parameters", Each(parameter_or_reference)),
        ("responses", One(responses)),
        ("schemes", Texts),
        ("deprecated", Flag),
        ("security", Each(requirement)),
    ];
    fields(value, FIELDS, out);
    extensions(value, 13, out);
}

fn reference(value: &Value, out: &mut Vec<u8>) {
    fields(value, &[("$ref", Text), ("description", Text)], out);
}

fn parameter_or_reference(value: &Value, out: &mut Vec<u8>) {
    if value.get("$ref").is_some() {
        nested(2, out, |out| reference(value, out));
    } else {
        nested(1, out, |out| parameter(value, out));
    }
}

fn parameter(value: &Value, out: &mut Vec<u8>) {
    const BODY: Fields =
        &[("description", Text), ("name", Text), ("in", Text), ("required", Flag), ("schema", One(schema))];
    // A form or query parameter may be empty, and has a field for that after its name.
    let mut sub_schema = |number: u32, may_be_empty: bool| {
        nested(2, out, |out| {
            nested(number, out, |out| {
                let head: Fields = &[("required", Flag), ("in", Text), ("description", Text), ("name", Text)];
                fields(value, head, out);
                let first = if may_be_empty { 6 } else { 5 };
                if may_be_empty {
                    field(value, 5, &("allowEmptyValue", Flag), out);
                }
                numbered(value, first, PRIMITIVE, out);
            });
        });
    };
    match value["in"].as_str().unwrap_or_default() {
        "body" => nested(1, out, |out| fields(value, BODY, out)),
        "header" => sub_schema(1, false),
        "formData" => sub_schema(2, true),
        "query" => sub_schema(3, true),
        "path" => sub_schema(4, false),
        _ => {}
    }
}

/// What parameters, headers and their items have in common.
const PRIMITIVE: Fields = &[
    ("type", Text),
    ("format", Text),
    ("items", One(primitive)),
    ("collectionFormat", Text),
    ("default", Any),
    ("maximum", Number),
    ("exclusiveMaximum", Flag),
    ("minimum", Number),
    ("exclusiveMinimum", Flag),
    ("maxLength", Whole),
    ("minLength", Whole),
    ("pattern", Text),
    ("maxItems", Whole),
    ("minItems", Whole),
    ("uniqueItems", Flag),
    ("enum", Anys),
    ("multipleOf", Number),
];

fn primitive(value: &Value, out: &mut Vec<u8>) {
    fields(value, PRIMITIVE, out);
}

fn responses(value: &Value, out: &mut Vec<u8>) {
    let each = |value: &Value, out: &mut Vec<u8>| match value.get("$ref") {
        Some(_) => nested(2, out, |out| reference(value, out)),
        None => nested(1, out, |out| response(value, out)),
    };
    members(value, 1, each, |name| !name.starts_with("x-"), out);
}

fn response(value: &Value, out: &mut Vec<u8>) {
    let whole: Message = |value, out| nested(1, out, |out| schema(value, out));
    field(value, 1, &("description", Text), out);
    field(value, 2, &("schema", One(whole)), out);
}

fn schema(value: &Value, out: &mut Vec<u8>) {
    const FIELDS: Fields = &[
        ("$ref", Text),
        ("format", Text),
        ("title", Text),
        ("description", Text),
        ("default", Any),
        ("multipleOf", Number),
        ("maximum", Number),
        ("exclusiveMaximum", Flag),
        ("minimum", Number),
        ("exclusiveMinimum", Flag),
        ("maxLength", Whole),
        ("minLength", Whole),
        ("pattern", Text),
        ("maxItems", Whole),
        ("minItems", Whole),
        ("uniqueItems", Flag),
        ("maxProperties", Whole),
        ("minProperties", Whole),
        ("required", Texts),
        ("enum", Anys),
        ("additionalProperties", One(additional_properties)),
        ("type", One(|value, out| texts(1, value, out))),
        ("items", One(items)),
        ("allOf", Each(schema)),
        ("properties", Named(schema)),
        ("discriminator", Text),
        ("readOnly", Flag),
        ("xml", Skipped),
        ("externalDocs", One(|value, out| fields(value, &[("description", Text), ("url", Text)], out))),
        ("example", Any),
    ];
    fields(value, FIELDS, out);
    extensions(value, 31, out);
}

fn additional_properties(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Bool(allowed) => signed(2, i64::from(*allowed), out),
        _ => nested(1, out, |out| schema(value, out)),
    }
}

/// One schema for all items, or one for each place.
fn items(value: &Value, out: &mut Vec<u8>) {
    let single = std::slice::from_ref(value);
    for item in value.as_array().map_or(single, Vec::as_slice) {
        nested(1, out, |out| schema(item, out));
    }
}

fn fields(value: &Value, of: &[(&str, Form)], out: &mut Vec<u8>) {
    numbered(value, 1, of, out);
}

fn numbered(value: &Value, first: u32, of: &[(&str, Form)], out: &mut Vec<u8>) {
    for (number, of) in (first..).zip(of) {
        field(value, number, of, out);
    }
}

fn field(object: &Value, number: u32, (name, form): &(&str, Form), out: &mut Vec<u8>) {
    let Some(value) = object.get(name) else { return };
    let each = || value.as_array().into_iter().flatten();
    match form {
        Skipped => {}
        Text | Texts => texts(number, value, out),
        Flag => signed(number, i64::from(value.as_bool().unwrap_or_default()), out),
        Whole => signed(number, value.as_i64().unwrap_or_default(), out),
        Number => double(number, value.as_f64().unwrap_or_default(), out),
        Any => nested(number, out, |out| any(value, out)),
        Anys => each().for_each(|value| nested(number, out, |out| any(value, out))),
        One(message) => nested(number, out, |out| message(value, out)),
        Each(message) => each().for_each(|value| nested(number, out, |out| message(value, out))),
        Named(message) => nested(number, out, |out| members(value, 1, message, |_| true, out)),
    }
}

/// A text, or each of a list.
fn texts(number: u32, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(text) => bytes(number, text.as_bytes(), out),
        Value::Array(all) => all.iter().for_each(|text| texts(number, text, out)),
        _ => {}
    }
}

fn any(value: &Value, out: &mut Vec<u8>) {
    bytes(2, value.to_string().as_bytes(), out);
}

fn extensions(value: &Value, number: u32, out: &mut Vec<u8>) {
    let each = |value: &Value, out: &mut Vec<u8>| any(value, out);
    members(value, number, each, |name| name.starts_with("x-"), out);
}

/// The members that `wanted` names, each a record of its name and its message.
fn members(
    value: &Value,
    number: u32,
    message: impl Fn(&Value, &mut Vec<u8>),
    wanted: impl Fn(&str) -> bool,
    out: &mut Vec<u8>,
) {
    for (name, value) in value.as_object().into_iter().flat_map(Map::iter).filter(|(name, _)| wanted(name)) {
        nested(number, out, |out| {
            bytes(1, name.as_bytes(), out);
            nested(2, out, |out| message(value, out));
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn encoded(message: Message, value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        message(value, &mut out);
        out
    }

    /// Bytes as gnostic's own library writes them.
    #[test]
    fn a_schema_has_gnostics_numbers() {
        let value = json!({"type": "object", "required": ["a"], "additionalProperties": true, "x-y": {"k": 1}});
        let mut expected = vec![0x9a, 1, 1, b'a'];
        expected.extend([0xaa, 1, 2, 0x10, 1]);
        expected.extend([0xb2, 1, 8, 0x0a, 6]);
        expected.extend(b"object");
        expected.extend([0xfa, 1, 16, 0x0a, 3]);
        expected.extend(b"x-y");
        expected.extend([0x12, 9, 0x12, 7]);
        expected.extend(b"{\"k\":1}");
        assert_eq!(encoded(schema, &value), expected);
    }

    #[test]
    fn parameters_are_told_apart_by_where_they_stand() {
        let query = encoded(parameter_or_reference, &json!({"in": "query", "name": "n", "type": "string"}));
        // parameter 1, non-body 2, query 3; in 2, name 4, type 6
        assert_eq!(query, b"\x0a\x16\x12\x14\x1a\x12\x12\x05query\x22\x01n\x32\x06string");
        assert_eq!(encoded(parameter_or_reference, &json!({"$ref": "#/a"})), b"\x12\x05\x0a\x03#/a");
    }
}

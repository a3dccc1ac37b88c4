//! Canonical form: what upstream's JSON encoder prints for an object that went through its structs and storage.
//!
//! Fields that Go's `omitempty` leaves out are gone (empty lists, maps, zero scalars, nil pointers), fields that it always
//! writes are there (structs, required scalars, null lists), quantities, times and durations have one spelling.
//! Idempotent; works in place. Values of a wrong type are left alone: `decode` and `conform` refuse them.

use serde_json::{Map, Value};

use super::MAX_DEPTH_LEVELS;
use crate::quantity::Quantity;
use crate::schema::{Field, Kind, Omit, Slot, Special, Type};
use crate::time;

/// Makes an object canonical.
pub fn canonicalize(ty: &Type, value: &mut Value) {
    let Value::Object(map) = value else { return };
    match &ty.custom {
        None => {
            canonical_struct(ty, map, 0);
        }
        // Of a custom resource only the metadata has one form.
        Some(schema) => {
            let metadata = schema.properties.get("metadata").and_then(|metadata| metadata.typed);
            if let (Some(ty), Some(value)) = (metadata, map.get_mut("metadata")) {
                canonicalize(ty, value);
            }
        }
    }
}

/// Says whether it took a field away because its feature is off.
fn canonical_struct(ty: &Type, map: &mut Map<String, Value>, depth: usize) -> bool {
    let mut switched_off = false;
    if depth > MAX_DEPTH_LEVELS {
        return switched_off;
    }
    // A field without a place in the type stays: only decoding drops.
    map.retain(|name, value| {
        let Some(field) = ty.field(name) else { return true };
        switched_off |= field.omit == Omit::Off;
        field.omit != Omit::Off && keep(field, value, depth)
    });
    add_always_written(ty, map, depth);
    switched_off
}

/// Makes a present field canonical; `false` when it is to be left out.
fn keep(field: &Field, value: &mut Value, depth: usize) -> bool {
    if value.is_null() {
        return false;
    }
    let switched_off = canonical_value(&field.slot, value, depth);
    if field.ptr {
        // What held nothing but fields of features that are off was never given.
        return !switched_off || value.as_object().is_none_or(|map| !map.is_empty());
    }
    // A nil and an empty list or map are the same once stored.
    let empty = match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && matches!(field.slot.kind, Kind::Map(_)),
        Value::String(text) => text.is_empty() && matches!(field.slot.kind, Kind::String | Kind::Bytes),
        Value::Bool(set) => !*set && matches!(field.slot.kind, Kind::Bool),
        Value::Number(number) => {
            matches!(field.slot.kind, Kind::Int32 | Kind::Int64 | Kind::Float64) && number.as_f64() == Some(0.0)
        }
    };
    match field.omit {
        Omit::Never => !(empty && matches!(value, Value::Array(_) | Value::Object(_) | Value::Null)),
        Omit::Kept | Omit::Nil => !value.is_null(),
        Omit::Off => false,
        Omit::Empty | Omit::Zero => !empty,
    }
}

fn canonical_value(slot: &Slot, value: &mut Value, depth: usize) -> bool {
    match (&slot.kind, &mut *value) {
        (Kind::Ref(ty), Value::Object(map)) if ty.special == Special::No => {
            return canonical_struct(ty, map, depth + 1);
        }
        (Kind::Ref(ty), inner) if ty.special != Special::Json => canonical_special(ty, inner, depth + 1),
        (Kind::List(element) | Kind::WrappedList(element), Value::Array(items)) => {
            for item in items {
                canonical_element(element, item, depth + 1);
            }
        }
        (Kind::Map(entry), Value::Object(map)) => {
            for item in map.values_mut() {
                canonical_element(entry, item, depth + 1);
            }
        }
        (Kind::Quantity, Value::Number(number)) => {
            if let Ok(quantity) = Quantity::parse(&number.to_string()) {
                *value = quantity.to_string().into();
            }
        }
        (_, Value::String(text)) => {
            if let Some(spelling) = canonical_text(&slot.kind, text) {
                *text = spelling;
            }
        }
        _ => {}
    }
    false
}

/// Another spelling of a text that has one.
fn canonical_text(kind: &Kind, text: &str) -> Option<String> {
    let spelling = match kind {
        Kind::Quantity => Quantity::parse(text).ok()?.to_string(),
        Kind::Time => time::format_time(time::parse_time(text)?),
        Kind::MicroTime => time::format_micro_time(time::parse_time(text)?),
        Kind::Duration => time::format_duration(time::parse_duration(text)?),
        _ => return None,
    };
    (spelling != text).then_some(spelling)
}

/// A null element or entry is the zero value.
fn canonical_element(slot: &Slot, value: &mut Value, depth: usize) {
    if value.is_null() {
        *value = zero(slot, depth).unwrap_or(Value::Null);
    } else {
        canonical_value(slot, value, depth);
    }
}

/// A schema in place of a boolean, a list of schemas, a list of names.
fn canonical_special(ty: &Type, value: &mut Value, depth: usize) {
    for field in ty.fields.iter() {
        match (&field.slot.kind, &mut *value) {
            (Kind::Ref(schema), Value::Object(map)) => {
                canonical_struct(schema, map, depth);
            }
            (Kind::List(_), Value::Array(_)) => {
                canonical_value(&field.slot, value, depth);
            }
            _ => {}
        }
    }
}

/// Adds the fields that are written even when nothing was given.
fn add_always_written(ty: &Type, map: &mut Map<String, Value>, depth: usize) {
    for field in ty.zeroed() {
        if field.inline {
            if let Kind::Ref(inner) = &field.slot.kind {
                add_always_written(inner, map, depth);
            }
            continue;
        }
        // What Go does not take for a struct may be left out empty.
        let special = matches!(&field.slot.kind, Kind::Ref(ty) if ty.special != Special::No);
        if (field.omit != Omit::Empty || !special) && !map.contains_key(&*field.json) {
            let value = if field.ptr { Some(Value::Null) } else { zero(&field.slot, depth + 1) };
            if let Some(value) = value {
                map.insert(field.json.to_string(), value);
            }
        }
    }
}

/// What Go prints for a value that was never set; `None` when a zero cannot be printed.
fn zero(slot: &Slot, depth: usize) -> Option<Value> {
    Some(match &slot.kind {
        Kind::String | Kind::Bytes => "".into(),
        Kind::Bool => false.into(),
        Kind::Int32 | Kind::Int64 | Kind::Float64 | Kind::IntOrString => 0.into(),
        Kind::Quantity => "0".into(),
        Kind::Duration => "0s".into(),
        Kind::Ref(ty) if ty.special == Special::No => {
            let mut map = Map::new();
            canonical_struct(ty, &mut map, depth);
            Value::Object(map)
        }
        Kind::Ref(_) => return None,
        Kind::Any
        | Kind::Time
        | Kind::MicroTime
        | Kind::FieldsV1
        | Kind::RawExtension
        | Kind::List(_)
        | Kind::Map(_)
        | Kind::WrappedList(_) => Value::Null,
    })
}

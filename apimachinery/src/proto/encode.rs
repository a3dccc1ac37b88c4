//! JSON → protobuf.

use base64::Engine as _;
use serde_json::Value;

use super::MAGIC;
use crate::schema::{Field, Kind, Slot, Special, Type};
use crate::time;

/// Levels of nesting of a message; what is deeper is left out.
const MAX_DEPTH_LEVELS: usize = 128;

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(number: u32, wire: u8, out: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | u64::from(wire), out);
}

/// A record of an integer or a boolean.
#[allow(clippy::cast_sign_loss)]
pub fn signed(number: u32, value: i64, out: &mut Vec<u8>) {
    tag(number, 0, out);
    varint(value as u64, out);
}

/// A record of a float.
pub fn double(number: u32, value: f64, out: &mut Vec<u8>) {
    tag(number, 1, out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// A record of bytes, a string or a finished message.
pub fn bytes(number: u32, payload: &[u8], out: &mut Vec<u8>) {
    tag(number, 2, out);
    varint(payload.len() as u64, out);
    out.extend_from_slice(payload);
}

/// A record whose payload `fill` writes.
pub fn nested(number: u32, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut payload = Vec::new();
    fill(&mut payload);
    bytes(number, &payload, out);
}

pub(super) fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = open_envelope(api_version, kind, raw, 0);
    out.extend_from_slice(ENVELOPE_END);
    out
}

/// The envelope's empty content encoding and content type, after the object.
pub(super) const ENVELOPE_END: &[u8] = &[3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// An envelope up to the first bytes of the object, of which `more_bytes` are to follow.
pub(super) fn open_envelope(api_version: &str, kind: &str, raw: &[u8], more_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + 64);
    out.extend_from_slice(MAGIC);
    nested(1, &mut out, |meta| {
        bytes(1, api_version.as_bytes(), meta);
        bytes(2, kind.as_bytes(), meta);
    });
    tag(2, 2, &mut out);
    varint((raw.len() + more_bytes) as u64, &mut out);
    out.extend_from_slice(raw);
    out
}

/// Encodes the fields of a struct, ascending by number.
pub(super) fn message(ty: &Type, object: &Value, out: &mut Vec<u8>, depth: usize) {
    if depth > MAX_DEPTH_LEVELS {
        return;
    }
    if ty.fields.is_sorted_by_key(|field| field.pb) {
        return ty.fields.iter().for_each(|field| field_of(field, object, out, depth));
    }
    let mut fields: Vec<&Field> = ty.fields.iter().collect();
    fields.sort_by_key(|field| field.pb);
    fields.into_iter().for_each(|field| field_of(field, object, out, depth));
}

fn field_of(field: &Field, object: &Value, out: &mut Vec<u8>, depth: usize) {
    match &field.slot.kind {
        _ if field.pb == 0 => {}
        // The struct's fields stand in this object, but it is a message of its own.
        Kind::Ref(inner) if field.inline => nested(field.pb, out, |out| message(inner, object, out, depth + 1)),
        _ => record(field, object.get(&*field.json).unwrap_or(&Value::Null), out, depth),
    }
}

fn record(field: &Field, value: &Value, out: &mut Vec<u8>, depth: usize) {
    match (&field.slot.kind, value) {
        (Kind::List(element), Value::Array(items)) => {
            for item in items {
                single(field.pb, element, item, out, depth);
            }
        }
        (Kind::Map(entry), Value::Object(members)) => {
            let mut keys: Vec<&String> = members.keys().collect();
            keys.sort_unstable();
            for key in keys {
                nested(field.pb, out, |out| {
                    bytes(1, key.as_bytes(), out);
                    single(2, entry, &members[key], out, depth);
                });
            }
        }
        (Kind::List(_) | Kind::Map(_), _) => {}
        (_, Value::Null) if field.ptr => {}
        (Kind::Bytes | Kind::WrappedList(_), Value::Null) => {}
        _ => single(field.pb, &field.slot, value, out, depth),
    }
}

/// One value under a number; null is the zero value.
fn single(number: u32, slot: &Slot, value: &Value, out: &mut Vec<u8>, depth: usize) {
    let text = value.as_str().unwrap_or_default();
    match &slot.kind {
        Kind::String => bytes(number, text.as_bytes(), out),
        Kind::Bool => signed(number, i64::from(value.as_bool().unwrap_or_default()), out),
        Kind::Int32 | Kind::Int64 => signed(number, value.as_i64().unwrap_or_default(), out),
        Kind::Float64 => double(number, value.as_f64().unwrap_or_default(), out),
        Kind::Bytes => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
            bytes(number, &decoded, out);
        }
        Kind::Any => bytes(number, value.to_string().as_bytes(), out),
        Kind::Quantity => {
            let text = if text.is_empty() { "0" } else { text };
            nested(number, out, |out| bytes(1, text.as_bytes(), out));
        }
        Kind::Time | Kind::MicroTime => nested(number, out, |out| {
            if let Some(at) = time::parse_time(text) {
                let whole = at.as_nanosecond().div_euclid(1_000_000_000);
                let nanos = at.as_nanosecond().rem_euclid(1_000_000_000);
                signed(1, i64::try_from(whole).unwrap_or_default(), out);
                let part = if matches!(slot.kind, Kind::Time) { 0 } else { i64::try_from(nanos).unwrap_or_default() };
                signed(2, part, out);
            }
        }),
        Kind::Duration => {
            nested(number, out, |out| signed(1, time::parse_duration(text).unwrap_or_default(), out));
        }
        Kind::IntOrString => nested(number, out, |out| {
            signed(1, i64::from(value.is_string()), out);
            signed(2, value.as_i64().unwrap_or_default(), out);
            bytes(3, text.as_bytes(), out);
        }),
        // Who reads objects to encode them may leave this as the text that it is.
        Kind::FieldsV1 if value.is_string() => nested(number, out, |out| bytes(1, text.as_bytes(), out)),
        Kind::FieldsV1 | Kind::RawExtension => nested(number, out, |out| {
            if !value.is_null() {
                bytes(1, value.to_string().as_bytes(), out);
            }
        }),
        Kind::Ref(ty) if ty.special == Special::No => nested(number, out, |out| message(ty, value, out, depth + 1)),
        Kind::Ref(ty) => nested(number, out, |out| special(ty, value, out, depth + 1)),
        Kind::WrappedList(element) => nested(number, out, |out| {
            for item in value.as_array().into_iter().flatten() {
                single(1, element, item, out, depth + 1);
            }
        }),
        Kind::List(_) | Kind::Map(_) => {}
    }
}

fn special(ty: &Type, value: &Value, out: &mut Vec<u8>, depth: usize) {
    if ty.special == Special::Json {
        if !value.is_null() {
            bytes(1, value.to_string().as_bytes(), out);
        }
        return;
    }
    for field in ty.fields.iter() {
        match (&field.slot.kind, value) {
            (Kind::Bool, Value::Object(_)) => signed(field.pb, 1, out),
            (Kind::Bool, _) => signed(field.pb, i64::from(value.as_bool().unwrap_or_default()), out),
            (Kind::Ref(_), Value::Object(_)) | (Kind::List(_), Value::Array(_)) => record(field, value, out, depth),
            _ => {}
        }
    }
}

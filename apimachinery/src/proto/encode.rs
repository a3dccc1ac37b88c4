//! JSON → protobuf, from the text, without a tree.

use base64::Engine as _;
use smallvec::SmallVec;

use super::MAGIC;
use super::tape::At;
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

/// A record whose payload `fill` writes. The payload's length comes before it, and is known only then.
pub fn nested(number: u32, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    tag(number, 2, out);
    let at = out.len();
    out.push(0);
    fill(out);
    let length = out.len() - at - 1;
    if let Ok(short @ 0..0x80) = u8::try_from(length) {
        out[at] = short;
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    varint(length as u64, &mut prefix);
    out.splice(at..=at, prefix);
}

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

/// Encodes the fields of a struct, ascending by number. Nothing given is a struct whose fields are all absent.
pub(super) fn message(ty: &Type, object: Option<At<'_>>, out: &mut Vec<u8>, depth: usize) {
    if depth > MAX_DEPTH_LEVELS {
        return;
    }
    if ty.fields.is_sorted_by_key(|field| field.pb) {
        return ty.fields.iter().for_each(|field| field_of(field, object, out, depth));
    }
    let mut fields: SmallVec<[&Field; 32]> = ty.fields.iter().collect();
    fields.sort_unstable_by_key(|field| field.pb);
    fields.into_iter().for_each(|field| field_of(field, object, out, depth));
}

fn field_of(field: &Field, object: Option<At<'_>>, out: &mut Vec<u8>, depth: usize) {
    match &field.slot.kind {
        _ if field.pb == 0 => {}
        // The struct's fields stand in this object, but it is a message of its own.
        Kind::Ref(inner) if field.inline => nested(field.pb, out, |out| message(inner, object, out, depth + 1)),
        _ => record(field, object.and_then(|object| object.get(&field.json)), out, depth),
    }
}

fn record(field: &Field, value: Option<At<'_>>, out: &mut Vec<u8>, depth: usize) {
    match (&field.slot.kind, value) {
        (Kind::List(element), Some(items)) => {
            items.elements().for_each(|item| single(field.pb, element, item.given(), out, depth));
        }
        (Kind::Map(entry), Some(members)) => {
            let mut members: Vec<_> = members.members().map(|(key, value)| (key.text(), value)).collect();
            members.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            for (key, value) in members {
                nested(field.pb, out, |out| {
                    bytes(1, key.as_bytes(), out);
                    single(2, entry, value.given(), out, depth);
                });
            }
        }
        (Kind::List(_) | Kind::Map(_) | Kind::Bytes | Kind::WrappedList(_), None) => {}
        (_, None) if field.ptr => {}
        _ => single(field.pb, &field.slot, value, out, depth),
    }
}

fn integer(value: Option<At<'_>>) -> i64 {
    value.and_then(|value| value.raw().parse().ok()).unwrap_or_default()
}

fn truth(value: Option<At<'_>>) -> i64 {
    i64::from(value.is_some_and(|value| value.raw() == "true"))
}

/// One value under a number; nothing given is the zero value.
fn single(number: u32, slot: &Slot, value: Option<At<'_>>, out: &mut Vec<u8>, depth: usize) {
    let text = || value.map(At::text).unwrap_or_default();
    let raw = value.map(At::raw);
    match &slot.kind {
        Kind::String => bytes(number, text().as_bytes(), out),
        Kind::Bool => signed(number, truth(value), out),
        Kind::Int32 | Kind::Int64 => signed(number, integer(value), out),
        Kind::Float64 => double(number, raw.and_then(|raw| raw.parse().ok()).unwrap_or_default(), out),
        Kind::Bytes => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(&*text()).unwrap_or_default();
            bytes(number, &decoded, out);
        }
        Kind::Any => bytes(number, raw.unwrap_or("null").as_bytes(), out),
        Kind::Quantity => {
            let text = text();
            nested(number, out, |out| bytes(1, if text.is_empty() { b"0" } else { text.as_bytes() }, out));
        }
        Kind::Time => nested(number, out, |out| moment(&text(), false, out)),
        Kind::MicroTime => nested(number, out, |out| moment(&text(), true, out)),
        Kind::Duration => {
            nested(number, out, |out| signed(1, time::parse_duration(&text()).unwrap_or_default(), out));
        }
        Kind::IntOrString => nested(number, out, |out| {
            signed(1, i64::from(value.is_some_and(At::is_string)), out);
            signed(2, integer(value), out);
            bytes(3, text().as_bytes(), out);
        }),
        Kind::FieldsV1 | Kind::RawExtension => nested(number, out, |out| {
            raw.into_iter().for_each(|raw| bytes(1, raw.as_bytes(), out));
        }),
        Kind::Ref(ty) if ty.special == Special::No => nested(number, out, |out| message(ty, value, out, depth + 1)),
        Kind::Ref(ty) => nested(number, out, |out| special(ty, value, out, depth + 1)),
        Kind::WrappedList(element) => nested(number, out, |out| {
            for item in value.into_iter().flat_map(At::elements) {
                single(1, element, item.given(), out, depth + 1);
            }
        }),
        Kind::List(_) | Kind::Map(_) => {}
    }
}

/// Seconds and nanoseconds since 1970; nothing for what is no time.
fn moment(text: &str, with_parts: bool, out: &mut Vec<u8>) {
    let Some(at) = time::parse_time(text) else { return };
    let whole = at.as_nanosecond().div_euclid(1_000_000_000);
    let nanos = at.as_nanosecond().rem_euclid(1_000_000_000);
    signed(1, i64::try_from(whole).unwrap_or_default(), out);
    signed(2, if with_parts { i64::try_from(nanos).unwrap_or_default() } else { 0 }, out);
}

fn special(ty: &Type, value: Option<At<'_>>, out: &mut Vec<u8>, depth: usize) {
    if ty.special == Special::Json {
        return value.into_iter().for_each(|value| bytes(1, value.raw().as_bytes(), out));
    }
    let (is_object, is_list) = (value.is_some_and(At::is_object), value.is_some_and(At::is_list));
    for field in ty.fields.iter() {
        match &field.slot.kind {
            Kind::Bool if is_object => signed(field.pb, 1, out),
            Kind::Bool => signed(field.pb, truth(value), out),
            Kind::Ref(_) if is_object => record(field, value, out, depth),
            Kind::List(_) if is_list => record(field, value, out, depth),
            _ => {}
        }
    }
}

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
    let more = (usize::BITS - 1 - length.leading_zeros()) as usize / 7;
    out.resize(out.len() + more, 0);
    out.copy_within(at + 1..at + 1 + length, at + 1 + more);
    for (place, byte) in out[at..=at + more].iter_mut().enumerate() {
        *byte = (length >> (7 * place)) as u8 | if place < more { 0x80 } else { 0 };
    }
}

/// An envelope up to the first bytes of the object, of which `more_bytes` are to follow.
pub(super) fn open_envelope(api_version: &[u8], kind: &[u8], raw: &[u8], more_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + 64);
    out.extend_from_slice(MAGIC);
    nested(1, &mut out, |meta| {
        bytes(1, api_version, meta);
        bytes(2, kind, meta);
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
    let mut values: SmallVec<[Option<At<'_>>; 48]> = SmallVec::from_elem(None, ty.fields.len());
    for (key, value) in object.into_iter().flat_map(At::members) {
        if let Some(at) = ty.position(&key.text()) {
            values[at] = values[at].or(value.given());
        }
    }
    for (at, left_out) in ty.records() {
        let (field, value) = (&ty.fields[at], values[at]);
        match &field.slot.kind {
            _ if left_out && value.is_none() => {}
            // The struct's fields stand in this object, but it is a message of its own.
            Kind::Ref(inner) if field.inline => nested(field.pb, out, |out| message(inner, object, out, depth + 1)),
            _ => record(field, value, out, depth),
        }
    }
}

/// A field that is given, or whose zero value is to be told.
fn record(field: &Field, value: Option<At<'_>>, out: &mut Vec<u8>, depth: usize) {
    match (&field.slot.kind, value) {
        (Kind::List(element), Some(items)) => {
            items.elements().for_each(|item| single(field.pb, element, item.given(), out, depth));
        }
        (Kind::Map(entry), Some(members)) => {
            let mut members: SmallVec<[_; 16]> = members.members().map(|(key, value)| (key.text(), value)).collect();
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            for (key, value) in members {
                nested(field.pb, out, |out| {
                    bytes(1, &key, out);
                    single(2, entry, value.given(), out, depth);
                });
            }
        }
        _ => single(field.pb, &field.slot, value, out, depth),
    }
}

fn number<T: std::str::FromStr + Default>(value: Option<At<'_>>) -> T {
    value.and_then(|value| std::str::from_utf8(value.raw()).ok()?.parse().ok()).unwrap_or_default()
}

fn truth(value: Option<At<'_>>) -> i64 {
    i64::from(value.is_some_and(|value| value.raw() == b"true"))
}

/// One value under a number; nothing given is the zero value.
fn single(pb: u32, slot: &Slot, value: Option<At<'_>>, out: &mut Vec<u8>, depth: usize) {
    let text = || value.map(At::text).unwrap_or_default();
    let raw = value.map(At::raw);
    match &slot.kind {
        Kind::String => bytes(pb, &text(), out),
        Kind::Bool => signed(pb, truth(value), out),
        Kind::Int32 | Kind::Int64 => signed(pb, number(value), out),
        Kind::Float64 => double(pb, number(value), out),
        Kind::Bytes => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(&*text()).unwrap_or_default();
            bytes(pb, &decoded, out);
        }
        Kind::Any => bytes(pb, raw.unwrap_or(b"null"), out),
        Kind::Quantity => {
            let text = text();
            nested(pb, out, |out| bytes(1, if text.is_empty() { b"0" } else { &text }, out));
        }
        Kind::Time => nested(pb, out, |out| moment(&text(), false, out)),
        Kind::MicroTime => nested(pb, out, |out| moment(&text(), true, out)),
        Kind::Duration => {
            nested(pb, out, |out| signed(1, time::parse_duration(utf8(&text())).unwrap_or_default(), out));
        }
        Kind::IntOrString => nested(pb, out, |out| {
            signed(1, i64::from(value.is_some_and(At::is_string)), out);
            signed(2, number(value), out);
            bytes(3, &text(), out);
        }),
        Kind::FieldsV1 | Kind::RawExtension => nested(pb, out, |out| {
            raw.into_iter().for_each(|raw| bytes(1, raw, out));
        }),
        Kind::Ref(ty) if ty.special == Special::No => nested(pb, out, |out| message(ty, value, out, depth + 1)),
        Kind::Ref(ty) => nested(pb, out, |out| special(ty, value, out, depth + 1)),
        Kind::WrappedList(element) => nested(pb, out, |out| {
            for item in value.into_iter().flat_map(At::elements) {
                single(1, element, item.given(), out, depth + 1);
            }
        }),
        Kind::List(_) | Kind::Map(_) => {}
    }
}

fn utf8(text: &[u8]) -> &str {
    std::str::from_utf8(text).unwrap_or_default()
}

/// Seconds and nanoseconds since 1970; nothing for what is no time.
fn moment(text: &[u8], with_parts: bool, out: &mut Vec<u8>) {
    let Some(at) = time::parse_time(utf8(text)) else { return };
    let whole = at.as_nanosecond().div_euclid(1_000_000_000);
    let nanos = at.as_nanosecond().rem_euclid(1_000_000_000);
    signed(1, i64::try_from(whole).unwrap_or_default(), out);
    signed(2, if with_parts { i64::try_from(nanos).unwrap_or_default() } else { 0 }, out);
}

fn special(ty: &Type, value: Option<At<'_>>, out: &mut Vec<u8>, depth: usize) {
    if ty.special == Special::Json {
        return value.into_iter().for_each(|value| bytes(1, value.raw(), out));
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

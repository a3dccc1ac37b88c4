//! Protobuf → JSON.

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::{Envelope, MAGIC};
use crate::quantity::Quantity;
use crate::schema::{Field, Kind, Slot, Special, Type};
use crate::time;

/// Levels of nesting of a message.
const MAX_DEPTH_LEVELS: usize = 128;

/// Why bytes are no object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// The four bytes before the envelope are missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix 6b387300")]
    NoMagic,
    /// A record breaks off or has an impossible tag.
    #[error("malformed protobuf record")]
    Malformed,
    /// Text is not UTF-8.
    #[error("a text field is not UTF-8")]
    NotUtf8,
    /// A quantity or a piece of JSON inside cannot be parsed.
    #[error("a field holds a malformed {0}")]
    BadValue(&'static str),
    /// Too many messages inside each other.
    #[error("messages are nested more than {MAX_DEPTH_LEVELS} levels deep")]
    TooDeep,
}

type Result<T> = std::result::Result<T, ProtoError>;

/// The payload of a record.
#[derive(Clone, Copy)]
enum Payload<'b> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'b [u8]),
}

impl<'b> Payload<'b> {
    fn bytes(self) -> Result<&'b [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtoError::Malformed),
        }
    }

    fn varint(self) -> Result<u64> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(ProtoError::Malformed),
        }
    }

    fn text(self) -> Result<&'b str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtoError::NotUtf8)
    }

    #[allow(clippy::cast_possible_wrap)]
    fn signed(self) -> Result<i64> {
        self.varint().map(|value| value as i64)
    }
}

/// Reads records one after the other.
struct Records<'b>(&'b [u8]);

impl<'b> Records<'b> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(ProtoError::Malformed)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtoError::Malformed)
    }

    fn take(&mut self, count: usize) -> Result<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(ProtoError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next record's field number and payload; groups are refused, 32-bit values skipped.
    fn next(&mut self) -> Result<Option<(u32, Payload<'b>)>> {
        while !self.0.is_empty() {
            let tag = self.varint()?;
            let number = u32::try_from(tag >> 3).map_err(|_| ProtoError::Malformed)?;
            let payload = match tag & 7 {
                0 => Payload::Varint(self.varint()?),
                1 => {
                    let bytes: [u8; 8] = self.take(8)?.try_into().map_err(|_| ProtoError::Malformed)?;
                    Payload::Fixed64(u64::from_le_bytes(bytes))
                }
                2 => {
                    let length = usize::try_from(self.varint()?).map_err(|_| ProtoError::Malformed)?;
                    Payload::Bytes(self.take(length)?)
                }
                5 => {
                    self.take(4)?;
                    continue;
                }
                _ => return Err(ProtoError::Malformed),
            };
            return Ok(Some((number, payload)));
        }
        Ok(None)
    }
}

/// The payloads of fields 1, 2, … of a small message; the last of each.
fn fields<const N: usize>(bytes: &[u8]) -> Result<[Option<Payload<'_>>; N]> {
    let mut found = [None; N];
    let mut records = Records(bytes);
    while let Some((number, payload)) = records.next()? {
        if let Some(slot) = usize::try_from(number).ok().and_then(|n| found.get_mut(n.wrapping_sub(1))) {
            *slot = Some(payload);
        }
    }
    Ok(found)
}

pub(super) fn envelope(bytes: &[u8]) -> Result<Envelope<'_>> {
    let [type_meta, raw] = fields::<2>(bytes.strip_prefix(MAGIC).ok_or(ProtoError::NoMagic)?)?;
    let [api_version, kind] = match type_meta {
        Some(message) => fields::<2>(message.bytes()?)?,
        None => [None; 2],
    };
    let text = |payload: Option<Payload<'_>>| payload.map_or(Ok(String::new()), |p| p.text().map(str::to_owned));
    let raw = raw.map_or(Ok(&[][..]), Payload::bytes)?;
    Ok(Envelope { api_version: text(api_version)?, kind: text(kind)?, raw })
}

/// Decodes the fields of a struct.
pub(super) fn message(ty: &Type, bytes: &[u8], depth: usize) -> Result<Map<String, Value>> {
    if depth > MAX_DEPTH_LEVELS {
        return Err(ProtoError::TooDeep);
    }
    let mut map = Map::new();
    let mut records = Records(bytes);
    while let Some((number, payload)) = records.next()? {
        // Unknown numbers come from newer clients and are skipped, as upstream does.
        if let Some(field) = ty.fields.iter().find(|f| f.pb == number && number != 0) {
            record(field, payload, &mut map, depth)?;
        }
    }
    Ok(map)
}

fn record(field: &Field, payload: Payload<'_>, map: &mut Map<String, Value>, depth: usize) -> Result<()> {
    match &field.slot.kind {
        Kind::Ref(ty) if field.inline => {
            map.extend(message(ty, payload.bytes()?, depth + 1)?);
        }
        Kind::List(element) => {
            let list = map.entry(field.json.to_string()).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(items) = list {
                match (payload, is_varint(&element.kind)) {
                    (Payload::Bytes(packed), true) => {
                        let mut packed = Records(packed);
                        while !packed.0.is_empty() {
                            items.push(value(element, Payload::Varint(packed.varint()?), depth)?);
                        }
                    }
                    _ => items.push(value(element, payload, depth)?),
                }
            }
        }
        Kind::Map(entry) => {
            let [key, item] = fields::<2>(payload.bytes()?)?;
            let key = key.map_or(Ok(""), Payload::text)?.to_owned();
            let item = match item {
                Some(item) => value(entry, item, depth)?,
                // A value that was never set reads as empty.
                None => empty(entry, depth)?,
            };
            let members = map.entry(field.json.to_string()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(members) = members {
                members.insert(key, item);
            }
        }
        _ => {
            map.insert(field.json.to_string(), value(&field.slot, payload, depth)?);
        }
    }
    Ok(())
}

fn is_varint(kind: &Kind) -> bool {
    matches!(kind, Kind::Bool | Kind::Int32 | Kind::Int64)
}

fn empty(slot: &Slot, depth: usize) -> Result<Value> {
    if is_varint(&slot.kind) { value(slot, Payload::Varint(0), depth) } else { value(slot, Payload::Bytes(&[]), depth) }
}

fn value(slot: &Slot, payload: Payload<'_>, depth: usize) -> Result<Value> {
    Ok(match &slot.kind {
        Kind::String => payload.text()?.into(),
        Kind::Bool => (payload.varint()? != 0).into(),
        Kind::Int32 | Kind::Int64 => payload.signed()?.into(),
        Kind::Float64 => match payload {
            Payload::Fixed64(bits) => Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number),
            _ => return Err(ProtoError::Malformed),
        },
        Kind::Bytes => base64::engine::general_purpose::STANDARD.encode(payload.bytes()?).into(),
        Kind::Any => json(payload.bytes()?)?,
        Kind::Quantity => {
            let [text] = fields::<1>(payload.bytes()?)?;
            let text = text.map_or(Ok(""), Payload::text)?;
            if text.is_empty() {
                return Ok("0".into());
            }
            Quantity::parse(text).map_err(|_| ProtoError::BadValue("quantity"))?.to_string().into()
        }
        Kind::Time => timestamp(payload.bytes()?, true)?,
        Kind::MicroTime => timestamp(payload.bytes()?, false)?,
        Kind::Duration => {
            let [nanos] = fields::<1>(payload.bytes()?)?;
            time::format_duration(nanos.map_or(Ok(0), Payload::signed)?).into()
        }
        Kind::IntOrString => {
            let [kind, number, text] = fields::<3>(payload.bytes()?)?;
            if kind.map_or(Ok(0), Payload::signed)? == 0 {
                number.map_or(Ok(0), Payload::signed)?.into()
            } else {
                text.map_or(Ok(""), Payload::text)?.into()
            }
        }
        Kind::FieldsV1 => json(fields::<1>(payload.bytes()?)?[0].map_or(Ok(&[][..]), Payload::bytes)?)?,
        Kind::RawExtension => {
            raw_extension(fields::<1>(payload.bytes()?)?[0].map_or(Ok(&[][..]), Payload::bytes)?, depth)?
        }
        Kind::Ref(ty) if ty.special == Special::No => Value::Object(message(ty, payload.bytes()?, depth + 1)?),
        Kind::Ref(ty) => special(ty, payload.bytes()?, depth + 1)?,
        Kind::WrappedList(element) => {
            let mut items = Vec::new();
            let mut records = Records(payload.bytes()?);
            while let Some((_, item)) = records.next()? {
                items.push(value(element, item, depth + 1)?);
            }
            items.into()
        }
        Kind::List(_) | Kind::Map(_) => return Err(ProtoError::Malformed),
    })
}

fn json(bytes: &[u8]) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).map_err(|_| ProtoError::BadValue("piece of JSON"))
}

/// An empty message is the zero time, which JSON shows as null.
fn timestamp(bytes: &[u8], whole_seconds: bool) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let [seconds, nanos] = fields::<2>(bytes)?;
    let seconds = seconds.map_or(Ok(0), Payload::signed)?;
    let nanos = i32::try_from(nanos.map_or(Ok(0), Payload::signed)?).unwrap_or(0);
    let at = Timestamp::new(seconds, nanos).map_err(|_| ProtoError::BadValue("time"))?;
    Ok(if whole_seconds { time::format_time(at) } else { time::format_micro_time(at) }.into())
}

/// JSON text, or another object in its envelope.
fn raw_extension(bytes: &[u8], depth: usize) -> Result<Value> {
    if !bytes.starts_with(MAGIC) {
        return json(bytes);
    }
    let inner = envelope(bytes)?;
    let ty = super::type_of(&inner.api_version, &inner.kind).ok_or(ProtoError::BadValue("object of unknown kind"))?;
    let mut object = message(ty, inner.raw, depth + 1)?;
    object.insert("apiVersion".to_owned(), inner.api_version.into());
    object.insert("kind".to_owned(), inner.kind.into());
    Ok(Value::Object(object))
}

fn special(ty: &Type, bytes: &[u8], depth: usize) -> Result<Value> {
    if ty.special == Special::Json {
        return json(fields::<1>(bytes)?[0].map_or(Ok(&[][..]), Payload::bytes)?);
    }
    let members = message(ty, bytes, depth)?;
    // A schema wins over the boolean or the list beside it.
    let set = ty.fields.iter().filter_map(|field| Some((field, members.get(&*field.json)?)));
    let schema = set.clone().find(|(field, _)| matches!(field.slot.kind, Kind::Ref(_)));
    Ok(schema.or_else(|| set.into_iter().next()).map(|(_, value)| value.clone()).unwrap_or_default())
}

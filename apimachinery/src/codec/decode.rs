//! Decoding driven by the schema: a serde seed per shape, working on JSON, YAML and `Value` alike.
//!
//! The first value of a wrong type ends decoding, as in upstream's decoder; unknown and duplicate fields are collected.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;

use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::custom::prune;
use super::{MAX_DEPTH_LEVELS, MAX_REPORTED_FIELDS};
use crate::quantity::Quantity;
use crate::schema::{Kind, Slot, Special, Type};
use crate::time;

/// What was found wrong.
pub(super) struct Report {
    collect: bool,
    problems: RefCell<Vec<String>>,
    failure: Cell<Option<String>>,
}

impl Report {
    pub(super) fn new(collect: bool) -> Self {
        Self { collect, problems: RefCell::default(), failure: Cell::default() }
    }

    /// The decoding error without the position that the text format's parser adds.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.take()
    }

    pub(super) fn into_problems(self) -> Vec<String> {
        self.problems.into_inner()
    }

    pub(super) fn problem(&self, what: &str, at: &At<'_>, field: &str) {
        if !self.collect {
            return;
        }
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_REPORTED_FIELDS {
            let text = format!("{what} \"{}\"", At { parent: Some(at), step: Step::Field(field), depth: 0 });
            if !problems.contains(&text) {
                problems.push(text);
            }
        }
    }

    fn fail<E: de::Error>(&self, message: String) -> E {
        let error = E::custom(&message);
        self.failure.set(Some(message));
        error
    }
}

/// Where decoding stands; printed only when something is wrong.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
    depth: usize,
}

/// One step into an object.
#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
}

impl At<'static> {
    pub(super) const ROOT: Self = At { parent: None, step: Step::Root, depth: 0 };
}

impl<'a> At<'a> {
    pub(super) fn below(&'a self, step: Step<'a>) -> At<'a> {
        At { parent: Some(self), step, depth: self.depth + 1 }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Field(name) if self.parent.is_none_or(|p| matches!(p.step, Step::Root)) => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
        }
    }
}

/// Decodes a struct.
pub(super) struct StructSeed<'a> {
    pub(super) ty: &'a Type,
    pub(super) at: At<'a>,
    pub(super) report: &'a Report,
}

impl<'de> DeserializeSeed<'de> for StructSeed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let Some(schema) = &self.ty.custom else { return deserializer.deserialize_any(StructVisitor(&self)) };
        let mut value = AnySeed { at: self.at, report: self.report }.deserialize(deserializer)?;
        if !value.is_object() {
            return Err(self.report.fail("json: cannot unmarshal what is no object into an object".to_owned()));
        }
        prune(schema, &mut value, &self.at, self.report).map_err(de::Error::custom)?;
        Ok(value)
    }
}

struct StructVisitor<'a>(&'a StructSeed<'a>);

impl<'de> Visitor<'de> for StructVisitor<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        read_struct(self.0.ty, access, &self.0.at, self.0.report)
    }
}

fn read_struct<'de, A: MapAccess<'de>>(
    ty: &Type,
    mut access: A,
    at: &At<'_>,
    report: &Report,
) -> Result<Value, A::Error> {
    let mut map = Map::new();
    while let Some(key) = access.next_key_seed(KeySeed)? {
        let Some(field) = ty.field(&key) else {
            report.problem("unknown field", at, &key);
            access.next_value::<IgnoredAny>()?;
            continue;
        };
        let seed = SlotSeed { slot: &field.slot, at: at.below(Step::Field(&key)), report };
        let value = access.next_value_seed(seed)?;
        if map.insert(key.as_ref().to_owned(), value).is_some() {
            report.problem("duplicate field", at, &key);
        }
    }
    Ok(Value::Object(map))
}

/// A map key, borrowed from the input when it has no escapes. YAML keys may be numbers or booleans.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// base64 as Go reads it: bits beyond the last byte may be anything.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_string()))
    }
}

/// Decodes anything.
pub(super) struct AnySeed<'a> {
    pub(super) at: At<'a>,
    pub(super) report: &'a Report,
}

impl<'de> DeserializeSeed<'de> for AnySeed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(SlotVisitor { kind: &Kind::Any, at: &self.at, report: self.report })
    }
}

/// Decodes a field, an element or an entry.
struct SlotSeed<'a> {
    slot: &'a Slot,
    at: At<'a>,
    report: &'a Report,
}

impl<'de> DeserializeSeed<'de> for SlotSeed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.at.depth > MAX_DEPTH_LEVELS {
            return Err(self.report.fail(format!("exceeded max depth of {MAX_DEPTH_LEVELS} levels")));
        }
        deserializer.deserialize_any(SlotVisitor { kind: &self.slot.kind, at: &self.at, report: self.report })
    }
}

struct SlotVisitor<'a> {
    kind: &'a Kind,
    at: &'a At<'a>,
    report: &'a Report,
}

impl SlotVisitor<'_> {
    fn wrong<T, E: de::Error>(&self, what: &str) -> Result<T, E> {
        let expected = go_name(self.kind);
        let message = format!("json: cannot unmarshal {what} into Go struct field {} of type {expected}", self.at);
        Err(self.report.fail(message))
    }

    fn refused<T, E: de::Error>(&self, message: &str) -> Result<T, E> {
        Err(self.report.fail(format!("{}: {message}", self.at)))
    }

    /// A whole number, also one that YAML wrote as a float.
    fn integer<E: de::Error>(&self, number: i64) -> Result<Value, E> {
        match self.kind {
            Kind::Int32 | Kind::IntOrString if i32::try_from(number).is_err() => {
                self.wrong(&format!("number {number}"))
            }
            Kind::Int32 | Kind::IntOrString | Kind::Int64 | Kind::Any | Kind::RawExtension => Ok(number.into()),
            Kind::Float64 => Ok(number.into()),
            Kind::Quantity => self.quantity(&number.to_string()),
            Kind::Ref(ty) if ty.special == Special::Json => Ok(number.into()),
            _ => self.wrong("number"),
        }
    }

    fn quantity<E: de::Error>(&self, text: &str) -> Result<Value, E> {
        match Quantity::parse(text) {
            Ok(quantity) => Ok(quantity.to_string().into()),
            Err(error) => self.refused(&error.to_string()),
        }
    }

    /// Lists of resources know nothing below a thousandth: it is rounded away from zero.
    fn quantity_up_to_milli<E: de::Error>(&self, text: &str) -> Result<Value, E> {
        match Quantity::parse(text) {
            Ok(quantity) => Ok(Quantity::from_milli(quantity.milli(), quantity.format()).to_string().into()),
            Err(error) => self.refused(&error.to_string()),
        }
    }

    fn text<E: de::Error>(&self, text: Cow<'_, str>) -> Result<Value, E> {
        match self.kind {
            Kind::String | Kind::Any | Kind::IntOrString | Kind::RawExtension => Ok(text.into_owned().into()),
            Kind::Quantity => self.quantity(text.trim()),
            Kind::Time => match time::parse_time(&text) {
                Some(at) => Ok(time::format_time(at).into()),
                None => self.refused(&format!("parsing time \"{text}\" as RFC 3339")),
            },
            Kind::MicroTime => match time::parse_micro_time(&text) {
                Some(at) => Ok(time::format_micro_time(at).into()),
                None => self.refused(&format!("parsing time \"{text}\" as RFC 3339 with microseconds")),
            },
            Kind::Duration => match time::parse_duration(&text) {
                Some(nanos) => Ok(time::format_duration(nanos).into()),
                None => self.refused(&format!("time: invalid duration \"{text}\"")),
            },
            Kind::Bytes => self.base64(text),
            Kind::Ref(ty) if ty.special == Special::Json => Ok(text.into_owned().into()),
            _ => self.wrong("string"),
        }
    }

    /// base64 with padding; line breaks are taken out.
    fn base64<E: de::Error>(&self, text: Cow<'_, str>) -> Result<Value, E> {
        let text = if text.contains(['\r', '\n']) { Cow::Owned(text.replace(['\r', '\n'], "")) } else { text };
        let engine = &base64::engine::general_purpose::STANDARD;
        // The value stays as text, unless bits are set that belong to no byte: Go ignores and forgets them.
        if engine.decode(text.as_bytes()).is_ok() {
            return Ok(text.into_owned().into());
        }
        match LENIENT.decode(text.as_bytes()) {
            Ok(bytes) => Ok(engine.encode(bytes).into()),
            Err(_) => self.refused("illegal base64 data"),
        }
    }

    /// The schema that a JSON object in this place has; `None` when any object may stand here.
    fn object_type(&self) -> Option<Option<&Type>> {
        match self.kind {
            Kind::Any | Kind::RawExtension | Kind::FieldsV1 => Some(None),
            Kind::Ref(ty) => match ty.special {
                Special::No => Some(Some(ty)),
                Special::Json => Some(None),
                _ => Some(ty.fields.iter().find_map(|f| match &f.slot.kind {
                    Kind::Ref(schema) => Some(&**schema),
                    _ => None,
                })),
            },
            _ => None,
        }
    }
}

impl<'de> Visitor<'de> for SlotVisitor<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(go_name(self.kind))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        match self.kind {
            Kind::Bool | Kind::Any | Kind::RawExtension => Ok(value.into()),
            Kind::Ref(ty) if matches!(ty.special, Special::Json | Special::SchemaOrBool) => Ok(value.into()),
            _ => self.wrong("bool"),
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        self.integer(number)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        match i64::try_from(number) {
            Ok(number) => self.integer(number),
            Err(_) => match self.kind {
                Kind::Any | Kind::RawExtension | Kind::Float64 => Ok(number.into()),
                Kind::Quantity => self.quantity(&number.to_string()),
                _ => self.wrong(&format!("number {number}")),
            },
        }
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        let any = || Number::from_f64(number).map_or(Value::Null, Value::Number);
        match self.kind {
            Kind::Float64 | Kind::Any | Kind::RawExtension => Ok(any()),
            Kind::Ref(ty) if ty.special == Special::Json => Ok(any()),
            Kind::Quantity => self.quantity(&number.to_string()),
            _ => self.wrong(&format!("number {number}")),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.text(Cow::Borrowed(text))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        self.text(Cow::Owned(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let any;
        let element = match self.kind {
            Kind::List(slot) | Kind::WrappedList(slot) => slot,
            Kind::Any | Kind::RawExtension => {
                any = any_slot();
                &any
            }
            Kind::Ref(ty) => match ty.special {
                Special::Json => {
                    any = any_slot();
                    &any
                }
                Special::SchemaOrArray | Special::SchemaOrStringArray => {
                    let list = ty.fields.iter().find_map(|f| match &f.slot.kind {
                        Kind::List(slot) => Some(slot),
                        _ => None,
                    });
                    match list {
                        Some(slot) => slot,
                        None => return self.wrong("array"),
                    }
                }
                _ => return self.wrong("array"),
            },
            _ => return self.wrong("array"),
        };
        let mut items = Vec::new();
        while let Some(item) = {
            let at = self.at.below(Step::Index(items.len()));
            access.next_element_seed(SlotSeed { slot: element, at, report: self.report })?
        } {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let any;
        let entry = match self.kind {
            Kind::Map(slot) => slot,
            _ => match self.object_type() {
                Some(Some(ty)) => return read_struct(ty, access, self.at, self.report),
                Some(None) => {
                    any = any_slot();
                    &any
                }
                None => return self.wrong("object"),
            },
        };
        let mut map = Map::new();
        while let Some(key) = access.next_key_seed(KeySeed)? {
            let at = self.at.below(Step::Field(&key));
            let mut value = access.next_value_seed(SlotSeed { slot: entry, at, report: self.report })?;
            if let (Kind::Quantity, Some(amount)) = (&entry.kind, value.as_str().filter(|a| a.ends_with(['u', 'n']))) {
                value = self.quantity_up_to_milli(amount)?;
            }
            if map.insert(key.as_ref().to_owned(), value).is_some() {
                self.report.problem("duplicate field", self.at, &key);
            }
        }
        Ok(Value::Object(map))
    }
}

fn any_slot() -> crate::schema::Held<Slot> {
    crate::schema::Held::Static(&crate::schema::ANY)
}

/// The type's name in upstream's error texts.
fn go_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::String => "string",
        Kind::Bool => "bool",
        Kind::Int32 | Kind::IntOrString => "int32",
        Kind::Int64 => "int64",
        Kind::Float64 => "float64",
        Kind::Bytes => "[]uint8",
        Kind::Any | Kind::RawExtension | Kind::FieldsV1 => "interface {}",
        Kind::Quantity => "resource.Quantity",
        Kind::Time => "v1.Time",
        Kind::MicroTime => "v1.MicroTime",
        Kind::Duration => "v1.Duration",
        Kind::Ref(_) => "struct",
        Kind::List(_) | Kind::WrappedList(_) => "slice",
        Kind::Map(_) => "map",
    }
}

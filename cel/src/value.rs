//! Values while an expression runs. JSON is looked at where it stands, through its type, and never copied as a whole.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use apimachinery::quantity::Quantity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Error;
use super::functions::Opaque;
use super::functions::kubernetes::Semver;
use super::types::{DYN, ObjectType, Type};

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(Text<'a>),
    Bytes(Rc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    Type(Rc<str>),
    List(Rc<Vec<Val<'a>>>),
    /// A JSON array and its elements' type.
    JsonList(&'a [Value], &'a Type),
    Map(Rc<BTreeMap<Key<'a>, Val<'a>>>),
    /// A JSON object and its type.
    JsonMap(&'a Map<String, Value>, &'a Type),
    Optional(Option<Rc<Val<'a>>>),
    /// `Name{…}`
    Struct(&'a str, Rc<BTreeMap<Key<'a>, Val<'a>>>),
    Opaque(Rc<Opaque<'a>>),
}

/// Text, borrowed or shared.
#[derive(Clone, Debug)]
pub(crate) enum Text<'a> {
    Borrowed(&'a str),
    Shared(Rc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}
impl Eq for Text<'_> {}
impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

/// A key of a map. Numbers that are equal are the same key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Str(Text<'a>),
}

impl<'a> Key<'a> {
    pub(super) fn of(val: &Val<'a>) -> Option<Self> {
        Some(match val {
            Val::Bool(b) => Self::Bool(*b),
            Val::Int(i) => Self::Int(*i),
            Val::Uint(u) => i64::try_from(*u).map_or(Self::Uint(*u), Self::Int),
            #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
            Val::Double(d) if (*d as i64) as f64 == *d => Self::Int(*d as i64),
            Val::Str(text) => Self::Str(text.clone()),
            _ => return None,
        })
    }

    pub(super) fn val(&self) -> Val<'a> {
        match self {
            Self::Bool(b) => Val::Bool(*b),
            Self::Int(i) => Val::Int(*i),
            Self::Uint(u) => Val::Uint(*u),
            Self::Str(text) => Val::Str(text.clone()),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Bool(b) => b.to_string(),
            Self::Int(i) => i.to_string(),
            Self::Uint(u) => u.to_string(),
            Self::Str(text) => text.to_string(),
        }
    }
}

/// A value put together from parts, some of which JSON cannot say.
#[derive(Clone, Debug)]
pub enum Tree<'a> {
    /// Of which no type is known.
    Json(&'a Value),
    /// A string.
    Text(&'a str),
    /// A truth value.
    Bool(bool),
    /// A quantity; null when it does not parse.
    Quantity(&'a str),
    /// A semantic version; null when it does not parse.
    Version(&'a str),
    /// Several values by name.
    Map(Vec<(&'a str, Tree<'a>)>),
}

impl<'a> Tree<'a> {
    pub(super) fn val(&self) -> Val<'a> {
        match self {
            Self::Json(value) => lift(value, DYN),
            Self::Text(text) => Val::Str(Text::Borrowed(text)),
            Self::Bool(value) => Val::Bool(*value),
            Self::Quantity(text) => {
                Quantity::parse(text).map_or(Val::Null, |q| Val::Opaque(Rc::new(Opaque::Quantity(q))))
            }
            Self::Version(text) => Semver::parse(text).map_or(Val::Null, |v| Val::Opaque(Rc::new(Opaque::Semver(v)))),
            Self::Map(entries) => {
                let entries = entries.iter().map(|(name, value)| (Key::Str(Text::Borrowed(name)), value.val()));
                Val::Map(Rc::new(entries.collect()))
            }
        }
    }
}

/// JSON as its type sees it.
pub(crate) fn lift<'a>(value: &'a Value, ty: &'a Type) -> Val<'a> {
    match (value, ty) {
        (Value::Null, _) => Val::Null,
        (Value::Bool(b), _) => Val::Bool(*b),
        (Value::Number(number), Type::Double) => Val::Double(number.as_f64().unwrap_or_default()),
        (Value::Number(number), _) => match number.as_i64() {
            Some(int) => Val::Int(int),
            None => number.as_u64().map_or_else(|| Val::Double(number.as_f64().unwrap_or_default()), Val::Uint),
        },
        (Value::String(text), ty) => typed_text(text, ty).unwrap_or(Val::Str(Text::Borrowed(text))),
        (Value::Array(items), Type::List(item)) => Val::JsonList(items, item),
        (Value::Array(items), _) => Val::JsonList(items, DYN),
        (Value::Object(map), ty) => Val::JsonMap(map, ty),
    }
}

fn typed_text<'a>(text: &str, ty: &Type) -> Option<Val<'a>> {
    match ty {
        Type::Bytes => STANDARD.decode(text).ok().map(|bytes| Val::Bytes(bytes.into())),
        Type::Duration => apimachinery::time::parse_duration(text).map(Val::Duration),
        Type::Timestamp if text.len() == 10 => format!("{text}T00:00:00Z").parse().ok().map(Val::Timestamp),
        Type::Timestamp => text.parse().ok().map(Val::Timestamp),
        _ => None,
    }
}

fn entry_type<'a>(ty: &'a Type, object: Option<&'a (String, Type)>) -> &'a Type {
    match ty {
        Type::Map(_, value) => value,
        _ => object.map_or(DYN, |(_, ty)| ty),
    }
}

fn property<'a>(ty: &'a Type, name: &str) -> Option<&'a (String, Type)> {
    match ty {
        Type::Object(object) => object.fields.get(name),
        _ => None,
    }
}

fn declared(object: &ObjectType, map: &Map<String, Value>) -> usize {
    object.fields.values().filter(|(json, _)| map.contains_key(json)).count()
}

impl<'a> Val<'a> {
    pub(super) fn string(text: impl Into<Rc<str>>) -> Self {
        Self::Str(Text::Shared(text.into()))
    }

    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(Rc::new(items))
    }

    pub(super) fn some(self) -> Self {
        Self::Optional(Some(Rc::new(self)))
    }

    /// A field, or the value of a text key; `None` when absent.
    pub(super) fn field(&self, name: &str) -> Option<Self> {
        match self {
            Self::JsonMap(map, ty @ Type::Object(_)) => {
                let declared = property(ty, name)?;
                // A null cannot be told from an absent value by rules.
                map.get(&declared.0).filter(|value| !value.is_null()).map(|value| lift(value, &declared.1))
            }
            Self::JsonMap(map, ty) => map.get(name).map(|value| lift(value, entry_type(ty, None))),
            Self::Map(map) | Self::Struct(_, map) => map.get(&Key::Str(Text::Shared(name.into()))).cloned(),
            _ => None,
        }
    }

    /// The element under a key or index; the inner `None` when absent.
    pub(super) fn element(&self, by: &Self) -> Result<Option<Self>, Error> {
        if let Self::List(_) | Self::JsonList(..) = self {
            let Some(Key::Int(at)) = Key::of(by) else { return Err(Error::no_overload("_[_]")) };
            let at = usize::try_from(at).ok();
            return Ok(at.and_then(|at| self.at(at)));
        }
        match (self, Key::of(by)) {
            (Self::JsonMap(..), Some(Key::Str(text))) => Ok(self.field(&text)),
            (Self::JsonMap(..), Some(_)) => Ok(None),
            (Self::Map(map), Some(key)) => Ok(map.get(&key).cloned()),
            _ => Err(Error::no_overload("_[_]")),
        }
    }

    fn at(&self, at: usize) -> Option<Self> {
        match self {
            Self::List(items) => items.get(at).cloned(),
            Self::JsonList(items, ty) => items.get(at).map(|value| lift(value, ty)),
            _ => None,
        }
    }

    /// Elements of a list or entries of a map; characters of a string, bytes.
    pub(super) fn len(&self) -> Option<usize> {
        Some(match self {
            Self::Str(text) => text.chars().count(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(items) => items.len(),
            Self::JsonList(items, _) => items.len(),
            Self::Map(map) => map.len(),
            Self::JsonMap(map, Type::Object(object)) => declared(object, map),
            Self::JsonMap(map, _) => map.len(),
            _ => return None,
        })
    }

    /// The elements of a list.
    pub(super) fn items(&self) -> Option<Vec<Self>> {
        match self {
            Self::List(items) => Some((**items).clone()),
            Self::JsonList(items, ty) => Some(items.iter().map(|value| lift(value, ty)).collect()),
            _ => None,
        }
    }

    /// The entries of a map.
    pub(super) fn entries(&self) -> Option<Vec<(Key<'a>, Self)>> {
        match self {
            Self::Map(map) => Some(map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()),
            Self::JsonMap(map, Type::Object(object)) => {
                let fields = object
                    .fields
                    .iter()
                    .filter_map(|(name, (json, ty))| Some((Key::Str(Text::Borrowed(name)), lift(map.get(json)?, ty))));
                Some(fields.collect())
            }
            Self::JsonMap(map, ty) => {
                Some(map.iter().map(|(k, v)| (Key::Str(Text::Borrowed(k)), lift(v, entry_type(ty, None)))).collect())
            }
            _ => None,
        }
    }

    /// The name `type()` gives.
    pub(super) fn type_name(&self) -> &str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Str(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Type(_) => "type",
            Self::List(_) | Self::JsonList(..) => "list",
            Self::JsonMap(_, Type::Object(object)) => &object.name,
            Self::Map(_) | Self::JsonMap(..) => "map",
            Self::Optional(_) => "optional_type",
            Self::Struct(name, _) => name,
            Self::Opaque(opaque) => opaque.type_name(),
        }
    }

    /// `==`
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (None, None) => true,
                _ => false,
            },
            (Self::Opaque(a), Self::Opaque(b)) => a.equals(b),
            (Self::Struct(a, x), Self::Struct(b, y)) => {
                a == b && x.len() == y.len() && x.iter().zip(y.iter()).all(|((k, v), (l, w))| k == l && v.equals(w))
            }
            (Self::List(_) | Self::JsonList(..), Self::List(_) | Self::JsonList(..)) => {
                let (Some(a), Some(b)) = (self.items(), other.items()) else { return false };
                a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.equals(b))
            }
            (Self::Map(_) | Self::JsonMap(..), Self::Map(_) | Self::JsonMap(..)) => {
                let Some(entries) = self.entries() else { return false };
                self.len() == other.len()
                    && entries
                        .iter()
                        .all(|(k, v)| other.element(&k.val()).is_ok_and(|w| w.is_some_and(|w| v.equals(&w))))
            }
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// Order, where there is one. Numbers of all kinds compare with each other.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Int(_) | Self::Uint(_), Self::Int(_) | Self::Uint(_)) => Some(self.wide()?.cmp(&other.wide()?)),
            (Self::Int(_) | Self::Uint(_) | Self::Double(_), Self::Int(_) | Self::Uint(_) | Self::Double(_)) => {
                self.float()?.partial_cmp(&other.float()?)
            }
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Str(a), Self::Str(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    fn wide(&self) -> Option<i128> {
        match self {
            Self::Int(i) => Some(i128::from(*i)),
            Self::Uint(u) => Some(i128::from(*u)),
            _ => None,
        }
    }

    #[allow(clippy::cast_precision_loss)]
    pub(super) fn float(&self) -> Option<f64> {
        match self {
            Self::Double(d) => Some(*d),
            _ => self.wide().map(|wide| wide as f64),
        }
    }

    /// As JSON.
    pub(super) fn to_json(&self) -> Result<Value, Error> {
        Ok(match self {
            Self::Null | Self::Optional(None) => Value::Null,
            Self::Bool(b) => json!(b),
            Self::Int(i) => json!(i),
            Self::Uint(u) => json!(u),
            Self::Double(d) => json!(d),
            Self::Str(text) => json!(&**text),
            Self::Bytes(bytes) => json!(STANDARD.encode(bytes)),
            Self::Duration(nanos) => json!(apimachinery::time::format_duration(*nanos)),
            Self::Timestamp(time) => json!(time.to_string()),
            Self::Type(name) => json!(&**name),
            Self::List(items) => Value::Array(items.iter().map(Self::to_json).collect::<Result<_, _>>()?),
            Self::JsonList(items, _) => Value::Array(items.to_vec()),
            Self::Map(map) | Self::Struct(_, map) => Value::Object(
                map.iter().map(|(k, v)| Ok((k.text(), v.to_json()?))).collect::<Result<Map<_, _>, Error>>()?,
            ),
            Self::JsonMap(map, _) => Value::Object((*map).clone()),
            Self::Optional(Some(inner)) => inner.to_json()?,
            Self::Opaque(opaque) => match opaque.text() {
                Some(text) => json!(text),
                None => return Err(Error::Runtime(format!("{} is no JSON value", opaque.type_name()))),
            },
        })
    }
}

//! A deserializer over `serde_json::Value` that knows where it is: unknown fields are collected with path and nearest
//! known name, and an error names its field.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::cell::RefCell;
use std::rc::Rc;

/// The value as `T`, and a sentence per unknown field in document order of their parents.
pub(super) fn from_value<T: DeserializeOwned>(value: Value) -> Result<(T, Vec<String>), String> {
    let trace = Rc::new(Trace::default());
    let node = Node { value, path: String::new(), trace: Rc::clone(&trace) };
    let config = T::deserialize(node).map_err(|error| match trace.failed_at.borrow().as_deref() {
        Some("") | None => error.to_string(),
        Some(path) => format!("{path}: {error}"),
    })?;
    let unknown = trace.unknown.take();
    Ok((config, unknown))
}

#[derive(Default)]
struct Trace {
    unknown: RefCell<Vec<String>>,
    failed_at: RefCell<Option<String>>,
}

struct Node {
    value: Value,
    path: String,
    trace: Rc<Trace>,
}

type Error = serde_json::Error;

impl Node {
    /// Remembers the innermost failing field.
    fn note<T>(path: &str, trace: &Trace, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() {
            trace.failed_at.borrow_mut().get_or_insert_with(|| path.to_owned());
        }
        result
    }

    fn map<'de, V: Visitor<'de>>(self, fields: Option<&'static [&'static str]>, visitor: V) -> Result<V::Value, Error> {
        let Value::Object(object) = self.value else {
            // Null is an absent struct, as in Go.
            if self.value.is_null() {
                return visitor.visit_map(MapDeserializer::new(std::iter::empty::<(String, Value)>()));
            }
            return Self::note(&self.path, &self.trace, self.value.deserialize_any_value(visitor));
        };
        let entries: Vec<(String, Value)> = object
            .into_iter()
            .filter(|(key, value)| {
                let known = fields.is_none_or(|fields| fields.contains(&key.as_str()));
                if let (false, Some(fields)) = (known, fields) {
                    let meant = crate::suggest::closest(key, fields.iter().copied());
                    let hint = meant.map(|m| format!(", did you mean {m:?}?")).unwrap_or_default();
                    self.trace.unknown.borrow_mut().push(format!("unknown field \"{}\"{hint}", join(&self.path, key)));
                }
                // Null means "not given", as in Go.
                known && !(value.is_null() && fields.is_some())
            })
            .collect();
        let access = Entries { entries: entries.into_iter(), next: None, path: &self.path, trace: &self.trace };
        Self::note(&self.path, &self.trace, visitor.visit_map(access))
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// `Value`'s own deserializer, under a name that does not clash.
trait AnyValue {
    fn deserialize_any_value<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error>;
}

impl AnyValue for Value {
    fn deserialize_any_value<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        serde::Deserializer::deserialize_any(self, visitor)
    }
}

struct Entries<'a> {
    entries: std::vec::IntoIter<(String, Value)>,
    next: Option<(String, Value)>,
    path: &'a str,
    trace: &'a Rc<Trace>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.next = self.entries.next();
        match &self.next {
            None => Ok(None),
            Some((key, _)) => seed.deserialize(key.clone().into_deserializer()).map(Some),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.next.take().ok_or_else(|| Error::custom("value without a key"))?;
        let path = join(self.path, &key);
        let node = Node { value, path: path.clone(), trace: Rc::clone(self.trace) };
        Node::note(&path, self.trace, seed.deserialize(node))
    }
}

struct Elements<'a> {
    elements: std::iter::Enumerate<std::vec::IntoIter<Value>>,
    path: &'a str,
    trace: &'a Rc<Trace>,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((index, value)) = self.elements.next() else { return Ok(None) };
        let path = format!("{}[{index}]", self.path);
        let node = Node { value, path: path.clone(), trace: Rc::clone(self.trace) };
        Node::note(&path, self.trace, seed.deserialize(node)).map(Some)
    }
}

macro_rules! forward {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let Self { value, path, trace } = self;
            Self::note(&path, &trace, value.$method(visitor))
        }
    )*};
}

impl<'de> serde::Deserializer<'de> for Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Object(_) => self.map(None, visitor),
            Value::Array(_) => self.deserialize_seq(visitor),
            value => value.deserialize_any_value(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.map(Some(fields), visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.map(None, visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Array(elements) => {
                let elements = elements.into_iter().enumerate();
                visitor.visit_seq(Elements { elements, path: &self.path, trace: &self.trace })
            }
            Value::Null => visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<Value>())),
            value => Self::note(&self.path, &self.trace, value.deserialize_any_value(visitor)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Self { value, path, trace } = self;
        Self::note(&path, &trace, value.deserialize_enum(name, variants, visitor))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.value.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    forward! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string
        deserialize_bytes deserialize_byte_buf deserialize_unit deserialize_identifier deserialize_ignored_any
    }
}

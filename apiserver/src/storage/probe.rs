//! Reads labels and selectable fields out of an object's JSON without building a tree of it.
//!
//! Pure. Costs one pass over the bytes; what is not asked for is skipped, not decoded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use memchr::memmem;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// What a field that is absent counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zero {
    /// Text.
    Empty,
    /// A boolean.
    False,
    /// A number.
    Number,
}

impl Zero {
    fn text(self) -> &'static str {
        match self {
            Self::Empty => "",
            Self::False => "false",
            Self::Number => "0",
        }
    }
}

/// One selectable field: its name and where its value stands (the first path that is not empty counts).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath {
    /// As in the selector.
    pub name: String,
    /// Dotted JSON paths.
    pub paths: Vec<String>,
    /// When all are absent.
    pub zero: Zero,
}

#[derive(Debug, Default)]
struct Node {
    slots: Vec<usize>,
    children: Vec<(String, Node)>,
}

impl Node {
    fn insert(&mut self, path: &[&str], slot: usize) {
        let Some((first, rest)) = path.split_first() else {
            self.slots.push(slot);
            return;
        };
        let at = match self.children.iter().position(|(name, _)| name == *first) {
            Some(at) => at,
            None => {
                self.children.push(((*first).to_owned(), Self::default()));
                self.children.len() - 1
            }
        };
        self.children[at].1.insert(rest, slot);
    }

    fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|(child, _)| child == name).map(|(_, node)| node)
    }
}

/// Paths to look for in any object; elements of lists are looked into without a step of their own.
#[derive(Debug)]
pub struct Paths(Node);

impl Paths {
    /// The paths, each as its steps.
    pub fn new(paths: &[&[&str]]) -> Self {
        let mut root = Node::default();
        for (slot, path) in paths.iter().enumerate() {
            root.insert(path, slot);
        }
        Self(root)
    }

    /// Calls `put` with the number of a path and what stands there, in the order of the text; an object counts as empty text.
    ///
    /// # Errors
    /// Not JSON.
    pub fn visit(&self, json: &[u8], put: &mut dyn FnMut(usize, &dyn fmt::Display)) -> Result<(), serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        Seed { node: &self.0, put }.deserialize(&mut deserializer)?;
        deserializer.end()
    }
}

/// Which fields of a resource are looked at.
#[derive(Debug, Default)]
pub struct Probe {
    root: Node,
    fields: Vec<FieldPath>,
    slots: usize,
}

/// What a probe found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// `key\0value\0` for each label, in key order.
    pub labels: Box<str>,
    /// The fields' values in the probe's order, each followed by `\0`.
    pub fields: Box<str>,
    /// Where `metadata` stands, braces included.
    pub metadata: Range<usize>,
    /// `metadata` has a `resourceVersion`.
    pub has_version: bool,
}

type LabelMap<'a> = BTreeMap<Cow<'a, str>, Option<Cow<'a, str>>>;

/// How a `resourceVersion` stands in `metadata`; nothing deeper has such a member.
const VERSION: &[u8] = b"\"resourceVersion\":";

/// The labels in the JSON of `metadata`. What comes after them is not looked at: most of it tells who owns which field.
fn labels(metadata: &str) -> Result<LabelMap<'_>, serde_json::Error> {
    let mut found = None;
    match serde_json::Deserializer::from_str(metadata).deserialize_map(UntilLabels(&mut found)) {
        Err(error) if found.is_none() => Err(error),
        _ => Ok(found.unwrap_or_default()),
    }
}

/// Reads `metadata` up to its labels, where it ends as an error.
struct UntilLabels<'f, 'a>(&'f mut Option<LabelMap<'a>>);

impl<'de> Visitor<'de> for UntilLabels<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == "labels" {
                *self.0 = Some(map.next_value::<Option<LabelMap>>()?.unwrap_or_default());
                return Ok(());
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

impl Probe {
    /// For these fields.
    pub fn new(fields: Vec<FieldPath>) -> Self {
        let mut probe = Self::default();
        for field in &fields {
            for path in &field.paths {
                probe.root.insert(&path.split('.').collect::<Vec<_>>(), probe.slots);
                probe.slots += 1;
            }
        }
        probe.fields = fields;
        probe
    }

    /// The position of a field in [`Found::fields`].
    pub fn index(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }

    /// Looks at one object.
    ///
    /// # Errors
    /// Not a JSON object with `metadata`.
    pub fn look(&self, json: &[u8]) -> Result<Found, serde_json::Error> {
        let mut values = vec![String::new(); self.slots];
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let mut put = |slot: usize, value: &dyn fmt::Display| values[slot] = value.to_string();
        let raw = deserializer.deserialize_map(Top { root: &self.root, put: &mut put })?;
        deserializer.end()?;
        let mut labels = String::new();
        for (key, value) in self::labels(raw.get())? {
            labels.extend([&key, "\0", value.as_deref().unwrap_or_default(), "\0"]);
        }
        let mut fields = String::new();
        let mut slot = 0;
        for field in &self.fields {
            let given = values[slot..slot + field.paths.len()].iter().find(|value| !value.is_empty());
            fields.push_str(given.map_or(field.zero.text(), String::as_str));
            fields.push('\0');
            slot += field.paths.len();
        }
        let start = raw.get().as_ptr().addr() - json.as_ptr().addr();
        Ok(Found {
            labels: labels.into(),
            fields: fields.into(),
            metadata: start..start + raw.get().len(),
            has_version: memmem::find(raw.get().as_bytes(), VERSION).is_some(),
        })
    }
}

/// Reads the outermost object; gives `metadata` as it stands.
struct Top<'p> {
    root: &'p Node,
    put: &'p mut dyn FnMut(usize, &dyn fmt::Display),
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = &'de RawValue;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut metadata = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == "metadata" {
                metadata = Some(map.next_value::<&'de RawValue>()?);
                continue;
            }
            match self.root.child(&key) {
                Some(node) => map.next_value_seed(Seed { node, put: &mut *self.put })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        metadata.ok_or_else(|| serde::de::Error::missing_field("metadata"))
    }
}

/// Reads a value below a node of the wanted paths.
struct Seed<'p> {
    node: &'p Node,
    put: &'p mut dyn FnMut(usize, &dyn fmt::Display),
}

impl Seed<'_> {
    fn put(&mut self, text: &dyn fmt::Display) {
        for slot in &self.node.slots {
            (self.put)(*slot, text);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(mut self, value: bool) -> Result<(), E> {
        self.put(&value);
        Ok(())
    }

    fn visit_i64<E>(mut self, value: i64) -> Result<(), E> {
        self.put(&value);
        Ok(())
    }

    fn visit_u64<E>(mut self, value: u64) -> Result<(), E> {
        self.put(&value);
        Ok(())
    }

    fn visit_f64<E>(mut self, value: f64) -> Result<(), E> {
        self.put(&value);
        Ok(())
    }

    fn visit_str<E>(mut self, value: &str) -> Result<(), E> {
        self.put(&value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Seed { node: self.node, put: &mut *self.put })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.put(&"");
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.node.child(&key) {
                Some(node) => map.next_value_seed(Seed { node, put: &mut *self.put })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> Probe {
        let field = |name: &str, paths: &[&str], zero| FieldPath {
            name: name.to_owned(),
            paths: paths.iter().map(|&p| p.to_owned()).collect(),
            zero,
        };
        Probe::new(vec![
            field("spec.nodeName", &["spec.nodeName"], Zero::Empty),
            field("spec.hostNetwork", &["spec.hostNetwork"], Zero::False),
            field("source", &["source.component", "reportingComponent"], Zero::Empty),
            field("reportingComponent", &["reportingComponent"], Zero::Empty),
            field("status.replicas", &["status.replicas"], Zero::Number),
        ])
    }

    #[test]
    fn finds_labels_and_fields() {
        let json = br#"{"kind":"X","metadata":{"labels":{"b":"2","a":"1"},"name":"n"},"reportingComponent":"r","spec":{"nodeName":"n1","containers":[{"nodeName":"no"}]},"status":{"replicas":3}}"#;
        let found = probe().look(json).unwrap();
        assert_eq!(&*found.labels, "a\x001\0b\x002\0");
        assert_eq!(&*found.fields, "n1\0false\0r\0r\x003\0");
        assert_eq!(&json[found.metadata], br#"{"labels":{"b":"2","a":"1"},"name":"n"}"#);
        assert!(!found.has_version);
        let foreign = br#"{"metadata":{"name":"n","resourceVersion":"3","annotations":{"x":"y"},"labels":{"a":"1"}}}"#;
        let found = probe().look(foreign).unwrap();
        assert_eq!((&*found.labels, found.has_version), ("a\x001\0", true));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for bad in [&b"{}"[..], b"[]", b"{\"metadata\":3}", b"", b"{\"metadata\":{}", br#"{"metadata":{"labels":3}}"#] {
            assert!(probe().look(bad).is_err());
        }
    }
}

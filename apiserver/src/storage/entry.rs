//! One stored object as the caches hold it: its bytes, ready to send, and what selectors ask.

use std::any::Any;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use apimachinery::selector::{FieldOperator, FieldSelector, LabelSelector, Labels, Operator};
use bytes::Bytes;
use serde_json::Value;

use super::StorageError;
use super::probe::Probe;

/// Size of an object up to which a looked-up tree is kept.
const MAX_KEPT_TREE_BYTES: usize = 1 << 10;
/// Room that most objects need; saves growing step by step.
const TYPICAL_BYTES: usize = 4 << 10;

/// An object at a revision. Immutable.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `namespace/name`, or `name` of a cluster-wide object; the order of keys is the order of lists.
    pub key: Arc<str>,
    /// Canonical JSON of the stored version with `resourceVersion` set.
    pub bytes: Bytes,
    /// Of the last change.
    pub revision: u64,
    /// Length of the opening brace, `kind` and `apiVersion`, which come first.
    type_bytes: usize,
    /// Where `metadata` stands, braces included; its first member is the resource version.
    metadata: Range<usize>,
    labels: Box<str>,
    fields: Box<str>,
    /// The tree of a small object that was looked up, so that the next lookup need not decode it.
    tree: OnceLock<Arc<Value>>,
    /// See [`Entry::memo`].
    memo: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// What the object takes as an item of a protobuf list, once somebody has measured it.
    pub protobuf_bytes: OnceLock<usize>,
}

impl Entry {
    /// From what lies in etcd (already transformed back to JSON).
    ///
    /// # Errors
    /// Not an object's JSON.
    pub fn new(key: Arc<str>, json: &[u8], revision: u64, probe: &Probe) -> Result<Self, StorageError> {
        let corrupt = |error: serde_json::Error| StorageError::Corrupt { key: key.to_string(), why: error.to_string() };
        let mut json = with_type_first(json).map_err(corrupt)?;
        let mut found = probe.look(&json).map_err(corrupt)?;
        if found.has_version {
            // Foreign: ours are stored without.
            let tree = serde_json::from_slice(&json).map_err(corrupt)?;
            json = Encoded::of(&tree).map_err(corrupt)?.json.into();
            found = probe.look(&json).map_err(corrupt)?;
        }
        let bytes: Bytes = splice_version(&json, found.metadata.start + 1, revision).into();
        let metadata = found.metadata.start..found.metadata.end + bytes.len() - json.len();
        let type_bytes = type_bytes(&bytes).unwrap_or(1);
        Ok(Self {
            key,
            bytes,
            revision,
            type_bytes,
            metadata,
            labels: found.labels,
            fields: found.fields,
            tree: OnceLock::new(),
            memo: OnceLock::new(),
            protobuf_bytes: OnceLock::new(),
        })
    }

    /// `metadata` as JSON.
    pub fn metadata(&self) -> &[u8] {
        &self.bytes[self.metadata.clone()]
    }

    /// The object's JSON without `metadata`.
    pub fn without_metadata(&self) -> Vec<u8> {
        let member = br#""metadata":"#;
        let (before, after) = (&self.bytes[..self.metadata.start], &self.bytes[self.metadata.end..]);
        let before = before.trim_ascii_end().strip_suffix(member).unwrap_or(before).trim_ascii_end();
        match before.strip_suffix(b",") {
            Some(before) => [before, after].concat(),
            None => [before, after.trim_ascii_start().strip_prefix(b",").unwrap_or(after)].concat(),
        }
    }

    /// Each label as `key\0value\0`.
    pub fn label_terms(&self) -> impl Iterator<Item = &str> {
        let mut rest = &*self.labels;
        std::iter::from_fn(move || {
            let mut ends = rest.match_indices('\0').map(|(at, _)| at + 1);
            let (term, tail) = rest.split_at(ends.nth(1)?);
            rest = tail;
            Some(term)
        })
    }

    /// The JSON after the opening brace, without `kind` and `apiVersion`: what stands in a list.
    pub fn untyped(&self) -> &[u8] {
        &self.bytes[self.type_bytes..]
    }

    /// The same object as of a later revision, for events that tell of its end.
    #[must_use]
    pub fn at_revision(&self, revision: u64) -> Self {
        let bytes = self.bytes_at(revision);
        let metadata = self.metadata.start..self.metadata.end + bytes.len() - self.bytes.len();
        let (key, labels, fields) = (Arc::clone(&self.key), self.labels.clone(), self.fields.clone());
        let (tree, memo, protobuf_bytes) = Default::default();
        Self { key, bytes, revision, type_bytes: self.type_bytes, metadata, labels, fields, tree, memo, protobuf_bytes }
    }

    /// The bytes as of a later revision, for events that tell of its end to those who no longer see it.
    pub fn bytes_at(&self, revision: u64) -> Bytes {
        let (head, tail) = self.bytes.split_at(self.metadata.start + 1);
        let old = version_member(self.revision);
        let tail = tail.strip_prefix(old.as_bytes()).unwrap_or(tail);
        [head, version_member(revision).as_bytes(), tail].concat().into()
    }

    /// The object's namespace; empty when it is cluster-wide.
    pub fn namespace(&self) -> &str {
        self.key.rsplit_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        self.key.rsplit_once('/').map_or(&self.key, |(_, name)| name)
    }

    /// A selectable field by its position in the probe.
    pub fn field(&self, index: usize) -> &str {
        self.fields.split('\0').nth(index).unwrap_or_default()
    }

    /// The whole object as a tree, `resourceVersion` included.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// The same, shared. Kept for small objects: namespaces, service accounts and classes are looked up by nearly every write.
    pub fn shared_value(&self) -> Arc<Value> {
        if self.bytes.len() > MAX_KEPT_TREE_BYTES {
            return Arc::new(self.value());
        }
        Arc::clone(self.tree.get_or_init(|| Arc::new(self.value())))
    }

    /// What is worked out of the object, kept with it; for one type only.
    pub fn memo<T: Send + Sync + 'static>(&self, work_out: impl Fn(&Self) -> T) -> Arc<T> {
        let kept = self.memo.get_or_init(|| Arc::new(work_out(self)));
        Arc::clone(kept).downcast().unwrap_or_else(|_| Arc::new(work_out(self)))
    }

    /// Bytes that this entry keeps in memory, roughly.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + self.labels.len() + self.fields.len() + 128
    }
}

/// An object's JSON with `kind` and `apiVersion` in front of all else, so that lists can leave them out without decoding.
///
/// # Errors
/// The object cannot be encoded.
pub fn encode(object: &Value) -> Result<Vec<u8>, serde_json::Error> {
    encode_with(object, |out, _, value| serde_json::to_writer(out, value))
}

fn encode_with(
    object: &Value,
    mut write: impl FnMut(&mut Vec<u8>, &str, &Value) -> Result<(), serde_json::Error>,
) -> Result<Vec<u8>, serde_json::Error> {
    let Value::Object(map) = object else { return serde_json::to_vec(object) };
    let mut out = Vec::with_capacity(TYPICAL_BYTES);
    out.extend_from_slice(b"{\"kind\":");
    serde_json::to_writer(&mut out, map.get("kind").unwrap_or(&Value::Null))?;
    out.extend_from_slice(b",\"apiVersion\":");
    serde_json::to_writer(&mut out, map.get("apiVersion").unwrap_or(&Value::Null))?;
    for (name, value) in map.iter().filter(|(name, _)| *name != "kind" && *name != "apiVersion") {
        out.push(b',');
        serde_json::to_writer(&mut out, name)?;
        out.push(b':');
        write(&mut out, name, value)?;
    }
    out.push(b'}');
    Ok(out)
}

/// What is stored of an object: all but its resource version, which is etcd's own.
#[derive(Debug)]
pub struct Encoded {
    /// The JSON.
    pub json: Vec<u8>,
    /// Where the first member of `metadata` stands.
    metadata_at: usize,
}

impl Encoded {
    /// Encodes an object, leaving its resource version out.
    ///
    /// # Errors
    /// The object cannot be encoded or has no metadata.
    pub fn of(object: &Value) -> Result<Self, serde_json::Error> {
        let mut metadata_at = None;
        let json = encode_with(object, |out, name, value| {
            let (Value::Object(members), "metadata") = (value, name) else { return serde_json::to_writer(out, value) };
            out.push(b'{');
            metadata_at = Some(out.len());
            let mut separator: &[u8] = b"";
            for (name, value) in members.iter().filter(|(name, _)| *name != "resourceVersion") {
                out.extend_from_slice(separator);
                serde_json::to_writer(&mut *out, name)?;
                out.push(b':');
                serde_json::to_writer(&mut *out, value)?;
                separator = b",";
            }
            out.push(b'}');
            Ok(())
        })?;
        let metadata_at =
            metadata_at.ok_or_else(|| <serde_json::Error as serde::de::Error>::missing_field("metadata"))?;
        Ok(Self { json, metadata_at })
    }

    /// The object's JSON with a resource version.
    pub fn at_revision(&self, revision: u64) -> Bytes {
        splice_version(&self.json, self.metadata_at, revision).into()
    }
}

/// The JSON with the resource version put in as the first member of `metadata`, which begins at `metadata_at`.
fn splice_version(json: &[u8], metadata_at: usize, revision: u64) -> Vec<u8> {
    let (head, tail) = json.split_at(metadata_at);
    let first = tail.iter().find(|byte| !byte.is_ascii_whitespace());
    let comma = if first == Some(&b'}') { "" } else { "," };
    [head, version_member(revision).as_bytes(), comma.as_bytes(), tail].concat()
}

fn version_member(revision: u64) -> String {
    format!("\"resourceVersion\":\"{revision}\"")
}

/// Where the rest of the object begins, if the JSON is in the form of [`encode`].
fn type_bytes(json: &[u8]) -> Option<usize> {
    let text = |rest: &[u8]| -> Option<usize> {
        let end = rest.iter().skip(1).position(|byte| matches!(byte, b'"' | b'\\'))? + 1;
        (rest.first() == Some(&b'"') && rest.get(end) == Some(&b'"')).then_some(end + 1)
    };
    let mut at = b"{\"kind\":".len();
    if !json.starts_with(b"{\"kind\":") {
        return None;
    }
    at += text(json.get(at..)?)?;
    let member = b",\"apiVersion\":";
    if !json.get(at..)?.starts_with(member) {
        return None;
    }
    at += member.len();
    at += text(json.get(at..)?)?;
    (json.get(at) == Some(&b',')).then_some(at + 1)
}

fn with_type_first(json: &[u8]) -> Result<Cow<'_, [u8]>, serde_json::Error> {
    if type_bytes(json).is_some() {
        return Ok(Cow::Borrowed(json));
    }
    encode(&serde_json::from_slice(json)?).map(Cow::Owned)
}

impl Labels for Entry {
    fn label(&self, key: &str) -> Option<&str> {
        let mut rest = &*self.labels;
        while let Some((name, tail)) = rest.split_once('\0') {
            let (value, tail) = tail.split_once('\0')?;
            if name == key {
                return Some(value);
            }
            rest = tail;
        }
        None
    }
}

/// What a field requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldRef {
    /// `metadata.name`.
    Name,
    /// `metadata.namespace`.
    Namespace,
    /// A field of the probe.
    Field(usize),
    /// Always the empty string.
    Valueless,
}

impl FieldRef {
    fn of(self, entry: &Entry) -> &str {
        match self {
            Self::Name => entry.name(),
            Self::Namespace => entry.namespace(),
            Self::Field(index) => entry.field(index),
            Self::Valueless => "",
        }
    }
}

/// A label and a field selector, resolved against a resource.
#[derive(Clone, Debug)]
pub struct Filter {
    labels: LabelSelector,
    fields: Vec<(FieldRef, FieldOperator, String)>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { labels: LabelSelector::everything(), fields: Vec::new() }
    }
}

impl Filter {
    /// Resolves the field names; the error is the field that nobody knows.
    ///
    /// # Errors
    /// The name of an unknown field.
    pub fn new(
        labels: LabelSelector,
        fields: &FieldSelector,
        resolve: impl Fn(&str) -> Option<FieldRef>,
    ) -> Result<Self, String> {
        let fields = fields.requirements.iter().map(|requirement| {
            let field = resolve(&requirement.field).ok_or_else(|| requirement.field.clone())?;
            Ok((field, requirement.operator, requirement.value.clone()))
        });
        Ok(Self { labels, fields: fields.collect::<Result<_, String>>()? })
    }

    /// Whether an object is selected.
    pub fn matches(&self, entry: &Entry) -> bool {
        let field_matches = |(field, operator, value): &(FieldRef, FieldOperator, String)| {
            (field.of(entry) == value) == (*operator == FieldOperator::Eq)
        };
        self.fields.iter().all(field_matches) && (self.labels.is_everything() || self.labels.matches(entry))
    }

    /// The part that does not look into the object; `None` when all of it is such.
    pub fn without_fields(&self) -> Option<Self> {
        let looks_inside = |at: &FieldRef| matches!(at, FieldRef::Field(_));
        if !self.fields.iter().any(|(at, _, _)| looks_inside(at)) {
            return None;
        }
        let fields = self.fields.iter().filter(|(at, _, _)| !looks_inside(at)).cloned().collect();
        Some(Self { labels: self.labels.clone(), fields })
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.fields.is_empty() && self.labels.is_everything()
    }

    /// The labels that must have one value.
    pub fn required_labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.requirements.iter().filter_map(|requirement| match &requirement.operator {
            Operator::In(values) => match values.as_slice() {
                [value] => Some((requirement.key.as_str(), value.as_str())),
                _ => None,
            },
            _ => None,
        })
    }

    /// The value that a field must equal, when the filter says so.
    pub fn required(&self, field: FieldRef) -> Option<&str> {
        let wanted =
            |(at, operator, _): &&(FieldRef, FieldOperator, String)| *at == field && *operator == FieldOperator::Eq;
        self.fields.iter().find(wanted).map(|(_, _, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a selector of a version that a webhook makes was asked of the stored version's fields.
    #[test]
    fn what_looks_into_objects_can_be_put_off() {
        let fields = FieldSelector::parse("metadata.name=a,host=b").unwrap();
        let resolve = |name: &str| if name == "host" { FieldRef::Field(0) } else { FieldRef::Name };
        let whole = Filter::new(LabelSelector::everything(), &fields, |name| Some(resolve(name))).unwrap();
        let early = whole.without_fields().unwrap();
        let entry = |name: &str| Entry::new(name.into(), br#"{"metadata":{}}"#, 1, &Probe::new(Vec::new())).unwrap();
        assert!(early.matches(&entry("a")) && !whole.matches(&entry("a")) && !early.matches(&entry("c")));
        assert!(early.without_fields().is_none(), "nothing is left to put off");
    }

    #[test]
    fn the_type_stands_first_and_can_be_left_out() {
        let probe = Probe::new(Vec::new());
        for json in [
            r#"{"apiVersion":"v1","data":{"kind":"x"},"kind":"ConfigMap","metadata":{"name":"a"}}"#,
            r#"{"kind":"ConfigMap","apiVersion":"v1","data":{"kind":"x"},"metadata":{"name":"a"}}"#,
        ] {
            let entry = Entry::new("n/a".into(), json.as_bytes(), 4, &probe).unwrap();
            let rest = [b"{", entry.untyped()].concat();
            assert_eq!(
                serde_json::from_slice::<Value>(&rest).unwrap(),
                serde_json::json!({"data": {"kind": "x"}, "metadata": {"name": "a", "resourceVersion": "4"}})
            );
            assert_eq!((entry.namespace(), entry.name()), ("n", "a"));
        }
    }

    #[test]
    fn the_version_stands_first_in_the_metadata_and_can_be_replaced() {
        let probe = Probe::new(Vec::new());
        for (json, metadata) in [
            (r#"{"kind":"X","apiVersion":"v1","metadata":{}}"#, r#"{"resourceVersion":"9"}"#),
            (r#"{"kind":"X","apiVersion":"v1","metadata": { } }"#, r#"{"resourceVersion":"9" }"#),
            (r#"{"metadata":{"name":"a","resourceVersion":"3"},"z":1}"#, r#"{"resourceVersion":"9","name":"a"}"#),
        ] {
            let entry = Entry::new("a".into(), json.as_bytes(), 9, &probe).unwrap();
            assert_eq!(std::str::from_utf8(entry.metadata()).unwrap(), metadata);
            let later = entry.at_revision(12);
            assert_eq!(later.metadata(), metadata.replace('9', "12").as_bytes());
            let mut rest = entry.value();
            rest.as_object_mut().unwrap().remove("metadata");
            assert_eq!(serde_json::from_slice::<Value>(&entry.without_metadata()).unwrap(), rest);
            assert_eq!((later.value()["metadata"]["resourceVersion"].as_str(), later.revision), (Some("12"), 12));
        }
    }

    #[test]
    fn labels_come_one_by_one() {
        let json = br#"{"metadata":{"labels":{"a":"","b":"2"}}}"#;
        let entry = Entry::new("x".into(), json, 4, &Probe::new(Vec::new())).unwrap();
        assert_eq!(entry.label_terms().collect::<Vec<_>>(), ["a\0\0", "b\x002\0"]);
    }
}

//! One stored object as the caches hold it: its bytes, ready to send, and what selectors ask.

use std::sync::Arc;

use apimachinery::selector::{FieldOperator, FieldSelector, LabelSelector, Labels};
use bytes::Bytes;
use serde_json::Value;

use super::StorageError;
use super::probe::Probe;

/// An object at a revision. Immutable.
#[derive(Debug)]
pub struct Entry {
    /// `namespace/name`, or `name` of a cluster-wide object; the order of keys is the order of lists.
    pub key: Arc<str>,
    /// Canonical JSON of the stored version with `resourceVersion` set.
    pub bytes: Bytes,
    /// Of the last change.
    pub revision: u64,
    labels: Box<str>,
    fields: Box<str>,
}

impl Entry {
    /// From what lies in etcd (already transformed back to JSON).
    ///
    /// # Errors
    /// Not an object's JSON.
    pub fn new(key: Arc<str>, json: &[u8], revision: u64, probe: &Probe) -> Result<Self, StorageError> {
        let corrupt = |error: serde_json::Error| StorageError::Corrupt { key: key.to_string(), why: error.to_string() };
        let found = probe.look(json).map_err(corrupt)?;
        let bytes = found.with_version(json, revision).map_err(corrupt)?.into();
        Ok(Self { key, bytes, revision, labels: found.labels, fields: found.fields })
    }

    /// The same object as of a later revision, for events that tell of its end.
    ///
    /// # Errors
    /// As for [`Entry::new`].
    pub fn at_revision(&self, revision: u64, probe: &Probe) -> Result<Self, StorageError> {
        Self::new(Arc::clone(&self.key), &self.bytes, revision, probe)
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

    /// Bytes that this entry keeps in memory, roughly.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + self.labels.len() + self.fields.len() + 128
    }
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

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.fields.is_empty() && self.labels.is_everything()
    }

    /// The value that a field must equal, when the filter says so.
    pub fn required(&self, field: FieldRef) -> Option<&str> {
        let wanted =
            |(at, operator, _): &&(FieldRef, FieldOperator, String)| *at == field && *operator == FieldOperator::Eq;
        self.fields.iter().find(wanted).map(|(_, _, value)| value.as_str())
    }
}

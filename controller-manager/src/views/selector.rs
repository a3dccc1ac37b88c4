//! A label selector inside a view: parsed once when the object arrives, matched many times.

use std::collections::BTreeMap;

use apimachinery::selector::LabelSelector;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// Either form the API has: `{matchLabels, matchExpressions}`, or a plain map of labels (Service,
/// ReplicationController). A selector that does not parse, or is absent, matches nothing.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    /// As it was written, for copying into other objects.
    pub source: Value,
    parsed: Option<LabelSelector>,
}

impl Selector {
    /// From the JSON form of either kind.
    pub fn new(source: Value) -> Self {
        let labelled = match &source {
            Value::Object(map) if map.values().any(Value::is_string) => json!({ "matchLabels": map }),
            other => other.clone(),
        };
        let parsed = if source.is_null() { None } else { LabelSelector::from_value(&labelled).ok() };
        Self { source, parsed }
    }

    /// Whether `labels` are selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.parsed.as_ref().is_some_and(|selector| selector.matches(labels))
    }

    /// Whether there is a selector and it has no requirement, so that it selects everything.
    pub fn is_everything(&self) -> bool {
        match &self.source {
            Value::Object(map) => map.values().all(|part| match part {
                Value::Object(labels) => labels.is_empty(),
                Value::Array(expressions) => expressions.is_empty(),
                Value::Null => true,
                _ => false,
            }),
            _ => false,
        }
    }

    /// Whether nothing was given at all.
    pub fn is_absent(&self) -> bool {
        self.source.as_object().is_none_or(serde_json::Map::is_empty)
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::new)
    }
}

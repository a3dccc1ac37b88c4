//! Questions about metadata that every loop asks.

use apimachinery::meta::ObjectMeta;
use apimachinery::time::{format_time, parse_micro_time, parse_time};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Whether deletion has been asked for.
pub fn is_deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// When the object was created; the epoch when that is missing, which sorts it first.
pub fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp.unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A time inside a view. What does not parse is absent, as a view must not fail on one bad field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Option<Timestamp>);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(Self(text.as_deref().and_then(|text| parse_time(text).or_else(|| parse_micro_time(text)))))
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(time) => serializer.serialize_str(&format_time(time)),
            None => serializer.serialize_none(),
        }
    }
}

/// A condition as most kinds carry it. Kinds without `lastUpdateTime` leave it absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// `Ready`, `Progressing` …
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// CamelCase.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The generation this was computed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the reporter last spoke.
    #[serde(skip_serializing_if = "Time::is_absent")]
    pub last_heartbeat_time: Time,
    /// When it was last computed anew.
    #[serde(skip_serializing_if = "Time::is_absent")]
    pub last_update_time: Time,
    /// When it was last probed (jobs).
    #[serde(skip_serializing_if = "Time::is_absent")]
    pub last_probe_time: Time,
    /// When the status last changed.
    #[serde(skip_serializing_if = "Time::is_absent")]
    pub last_transition_time: Time,
}

impl Time {
    /// Whether there is no time.
    pub fn is_absent(&self) -> bool {
        self.0.is_none()
    }
}

impl From<Timestamp> for Time {
    fn from(time: Timestamp) -> Self {
        // The API keeps whole seconds; comparing computed with stored values needs the same.
        Self(Timestamp::from_second(time.as_second()).ok())
    }
}

/// The condition of type `kind`.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// A list element as JSON. Views serialise without failing: they have string keys and no custom serialisers that fail.
pub fn to_value<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// For lists that the API writes as `null` when they are empty.
pub fn or_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A number of pods as the API counts them.
pub fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

//! Trees of stored objects without the largest part of them: who owns which field.
//!
//! More than half of a typical object is `fieldsV1`, which Tables do not show and protobuf carries as text: building a tree of
//! it would cost more than all the rest.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// What becomes of `metadata.managedFields`.
#[derive(Clone, Copy)]
enum Owners {
    /// Left out.
    Dropped,
    /// Kept, with each `fieldsV1` as its JSON text.
    AsText,
}

/// The object without `metadata.managedFields`.
pub fn without_owners(json: &[u8]) -> Value {
    read(json, Owners::Dropped)
}

/// The object with each `fieldsV1` as a string that holds its JSON.
pub fn with_owners_as_text(json: &[u8]) -> Value {
    read(json, Owners::AsText)
}

/// The empty object for what is no JSON: what lies in the caches was parsed before.
fn read(json: &[u8], owners: Owners) -> Value {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Level { is_metadata: false, owners }.deserialize(&mut deserializer).unwrap_or_default()
}

/// The object, or its metadata.
struct Level {
    is_metadata: bool,
    owners: Owners,
}

#[derive(Deserialize)]
struct Owner<'a> {
    #[serde(borrow, rename = "fieldsV1")]
    fields: Option<&'a RawValue>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = match (self.is_metadata, key.as_str(), self.owners) {
                (false, "metadata", owners) => access.next_value_seed(Level { is_metadata: true, owners })?,
                (true, "managedFields", Owners::Dropped) => {
                    access.next_value::<IgnoredAny>()?;
                    continue;
                }
                (true, "managedFields", Owners::AsText) => owners_as_text(&mut access)?,
                _ => access.next_value()?,
            };
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

fn owners_as_text<'de, A: MapAccess<'de>>(access: &mut A) -> Result<Value, A::Error> {
    let owners = access.next_value::<Vec<&'de RawValue>>()?;
    let owner = |raw: &RawValue| {
        let mut owner: Owner<'_> = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
        if let Some(fields) = owner.fields {
            owner.rest.insert("fieldsV1".to_owned(), fields.get().into());
        }
        Ok(Value::Object(owner.rest))
    };
    owners.into_iter().map(owner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn owners_are_dropped_or_kept_as_text() {
        let object = json!({"kind": "Pod", "metadata": {"name": "a", "managedFields": [{"manager": "m", "fieldsV1": {"f:a": {}}}]},
            "spec": {"metadata": {"managedFields": 1}}});
        let json = serde_json::to_vec(&object).unwrap();
        let mut expected = object.clone();
        expected["metadata"]["managedFields"][0]["fieldsV1"] = r#"{"f:a":{}}"#.into();
        assert_eq!(with_owners_as_text(&json), expected);
        expected["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(without_owners(&json), expected);
    }
}

//! Trees of stored objects without the largest part of them: who owns which field.
//!
//! More than half of a typical object is `managedFields`, which Tables do not show: building a tree of it would cost more
//! than all the rest.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// The object without `metadata.managedFields`; the empty one for what is no JSON: what lies in the caches was parsed before.
pub fn without_owners(json: &[u8]) -> Value {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Level { is_metadata: false }.deserialize(&mut deserializer).unwrap_or_default()
}

/// The object, or its metadata.
struct Level {
    is_metadata: bool,
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
            let value = match (self.is_metadata, key.as_str()) {
                (false, "metadata") => access.next_value_seed(Level { is_metadata: true })?,
                (true, "managedFields") => {
                    access.next_value::<IgnoredAny>()?;
                    continue;
                }
                _ => access.next_value()?,
            };
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn owners_are_dropped() {
        let mut object = json!({"kind": "Pod", "metadata": {"name": "a", "managedFields": [{"manager": "m", "fieldsV1": {"f:a": {}}}]},
            "spec": {"metadata": {"managedFields": 1}}});
        let json = serde_json::to_vec(&object).unwrap();
        object["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(without_owners(&json), object);
    }
}

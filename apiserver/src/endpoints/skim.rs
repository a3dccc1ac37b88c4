//! Trees of stored objects without the largest parts that no Table shows: who owns which field, and most of what pods say of
//! their containers. Building a tree of them would cost more than all the rest.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What cells look at; the empty object for what is no JSON: what lies in the caches was parsed before.
pub fn shown(json: &[u8]) -> Value {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Level::Object.deserialize(&mut deserializer).unwrap_or_default()
}

/// Where reading is, as far as it matters.
#[derive(Clone, Copy)]
enum Level {
    Object,
    Metadata,
    Spec,
    /// The containers of a pod, or one of them.
    Container,
}

/// What becomes of a member.
enum Member {
    Skipped,
    Whole,
    Below(Level),
}

impl Level {
    fn member(self, key: &str) -> Member {
        match (self, key) {
            (Self::Object, "metadata") => Member::Below(Self::Metadata),
            (Self::Object, "spec") => Member::Below(Self::Spec),
            (Self::Spec, "containers" | "initContainers") => Member::Below(Self::Container),
            (Self::Metadata, "managedFields") | (Self::Spec, "affinity" | "tolerations" | "volumes") => Member::Skipped,
            (Self::Object | Self::Metadata | Self::Spec, _) | (_, "name" | "restartPolicy") => Member::Whole,
            (Self::Container, _) => Member::Skipped,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = match self.member(&key) {
                Member::Skipped => {
                    access.next_value::<IgnoredAny>()?;
                    continue;
                }
                Member::Whole => access.next_value()?,
                Member::Below(level) => access.next_value_seed(level)?,
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
    fn what_cells_do_not_look_at_is_dropped() {
        let object = json!({"kind": "Pod", "metadata": {"name": "a", "managedFields": [{"manager": "m", "fieldsV1": {"f:a": {}}}]},
            "spec": {"containers": [{"name": "c", "image": "i"}], "nodeName": "n", "metadata": {"managedFields": 1}, "volumes": [{}]},
            "status": {"containers": [{"image": "i"}]}});
        let wanted = json!({"kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c"}], "nodeName": "n", "metadata": {"managedFields": 1}},
            "status": {"containers": [{"image": "i"}]}});
        assert_eq!(shown(&serde_json::to_vec(&object).unwrap()), wanted);
    }
}

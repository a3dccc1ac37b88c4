//! Filling in defaults. Follows upstream: depth first from outside in, null counts as absent where it is no value.

use serde_json::Value;

use super::Schema;

fn is_wrong_null(value: &Value, schema: &Schema) -> bool {
    value.is_null() && !schema.nullable
}

impl Schema {
    /// Fills in what is absent, and drops nulls that are no values.
    pub fn fill(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (name, schema) in &self.properties {
                    if let Some(default) = &schema.default
                        && map.get(name).is_none_or(|value| is_wrong_null(value, schema))
                    {
                        map.insert(name.clone(), default.clone());
                    }
                }
                map.retain(|name, value| {
                    let Some(schema) = self.member(name) else { return true };
                    if is_wrong_null(value, schema) {
                        match &schema.default {
                            Some(default) => *value = default.clone(),
                            None => return false,
                        }
                    }
                    schema.fill(value);
                    true
                });
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                for value in items {
                    if is_wrong_null(value, schema)
                        && let Some(default) = &schema.default
                    {
                        *value = default.clone();
                    }
                    schema.fill(value);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_and_wrong_nulls_are_filled() {
        let schema = Schema::parse(&json!({"type": "object", "properties": {
            "a": {"type": "string", "default": "x"},
            "b": {"type": "object", "default": {}, "properties": {"c": {"type": "integer", "default": 1}}},
            "d": {"type": "string"},
            "e": {"type": "string", "nullable": true, "default": "y"},
            "l": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
            "m": {"type": "object", "additionalProperties": {"type": "integer", "default": 3}}}}));
        let mut value = json!({"a": null, "d": null, "e": null, "l": [{}], "m": {"k": null}, "z": null});
        schema.fill(&mut value);
        assert_eq!(value, json!({"a": "x", "b": {"c": 1}, "e": null, "l": [{"p": "TCP"}], "m": {"k": 3}, "z": null}));
    }
}

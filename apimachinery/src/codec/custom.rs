//! Decoding of custom resources: unknown members are dropped as the schema says, metadata is decoded by its type, and all
//! else stays as it is. Types are a matter of validation, as upstream has it.

use serde::de::DeserializeSeed as _;
use serde_json::{Error, Value};

use super::canonicalize;
use super::decode::{At, Report, Step, StructSeed};
use crate::structural::Schema;

static NOTHING: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(Schema::default);

/// Beyond it floats do not tell whole numbers apart.
const MAX_WHOLE: f64 = 9e15;

/// Drops what the schema does not know.
pub(super) fn prune(schema: &Schema, value: &mut Value, at: &At<'_>, report: &Report) -> Result<(), Error> {
    if let Some(ty) = schema.typed {
        if !value.is_null() {
            *value = StructSeed { ty, at: *at, report }.deserialize(value.take())?;
            canonicalize(ty, value);
        }
        return Ok(());
    }
    match value {
        Value::Object(map) => {
            let mut outcome = Ok(());
            map.retain(|name, inner| match schema.member(name) {
                Some(child) => {
                    if outcome.is_ok() {
                        outcome = prune(child, inner, &at.below(Step::Field(name)), report);
                    }
                    true
                }
                None if schema.preserve => {
                    settle_numbers(inner);
                    true
                }
                None => {
                    report.problem("unknown field", at, name);
                    false
                }
            });
            outcome
        }
        Value::Array(items) if schema.items.is_some() || !schema.preserve => {
            let element = schema.items.as_deref().unwrap_or(&NOTHING);
            for (index, item) in items.iter_mut().enumerate() {
                prune(element, item, &at.below(Step::Index(index)), report)?;
            }
            Ok(())
        }
        _ => {
            settle_numbers(value);
            Ok(())
        }
    }
}

/// Whole numbers are written without a fraction, as upstream's encoder has it.
fn settle_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default();
            if float.fract() == 0.0 && float.abs() < MAX_WHOLE {
                *value = (float as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle_numbers),
        Value::Object(map) => map.values_mut().for_each(settle_numbers),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::codec::{FieldValidation, Media, decode};
    use crate::schema::Type;

    #[test]
    fn what_the_schema_does_not_know_is_dropped_and_told() {
        let schema = Schema::root(Some(&json!({"type": "object", "properties": {
            "a": {"type": "integer"},
            "keep": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"in": {"type": "object", "properties": {"x": {"type": "integer"}}}}},
            "emb": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            "map": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "object"}}}}})));
        let ty = Type::of_custom("T".to_owned(), Vec::new(), Arc::new(schema));
        let given = json!({"metadata": {"name": "n", "nope": 1}, "a": 1.0, "b": 2, "map": {"k": [{"z": 1}]},
            "keep": {"z": {"y": 2.0}, "in": {"x": "any", "w": 1}}, "emb": {"metadata": {"name": "e", "no": 1}, "q": null}});
        let decoded = decode(&ty, given.to_string().as_bytes(), Media::Json, FieldValidation::Warn).unwrap();
        assert_eq!(
            decoded.value,
            json!({"metadata": {"name": "n"}, "a": 1, "map": {"k": [{}]}, "keep": {"z": {"y": 2}, "in": {"x": "any"}},
                "emb": {"metadata": {"name": "e"}, "q": null}})
        );
        let mut told = decoded.warnings;
        told.sort();
        let fields = ["b", "emb.metadata.no", "keep.in.w", "map.k[0].z", "metadata.nope"];
        assert_eq!(told, fields.map(|field| format!("unknown field \"{field}\"")));
        let wrong = json!({"metadata": {"name": 5}}).to_string();
        assert_eq!(decode(&ty, wrong.as_bytes(), Media::Json, FieldValidation::Ignore).unwrap_err().code, 400);
    }
}

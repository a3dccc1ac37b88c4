//! Decoding of custom resources: unknown members are dropped as the schema says, metadata is decoded by its type, and all
//! else stays as it is. Types are a matter of validation, as upstream has it.

use serde::de::DeserializeSeed as _;
use serde_json::{Error, Value};

use super::canonicalize;
use super::decode::{At, Report, Step, StructSeed};
use crate::structural::Schema;

static NOTHING: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(Schema::default);

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
                None if schema.preserve => true,
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
        _ => Ok(()),
    }
}

//! From bytes to an object in canonical form, driven by the schema table.
//!
//! Guarantees: what [`decode`] answers has the types the schema says, no unknown fields, and is canonical: it prints as
//! upstream's encoder would print it (see [`canonicalize`]). Nesting is bounded. Bytes that are no such object are a
//! `400 BadRequest`.

mod canonical;
mod custom;
mod decode;
mod defaults;
#[cfg(test)]
mod tests;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, IgnoredAny};
use serde_json::Value;

use crate::field::{FieldError, Path};
use crate::gvk::GroupKind;
use crate::schema::Type;
use crate::status::Status;

pub use canonical::canonicalize;
pub use defaults::apply_defaults;

/// Levels of nesting of an object.
pub const MAX_DEPTH_LEVELS: usize = 128;
/// Unknown and duplicate fields named in one answer.
pub const MAX_REPORTED_FIELDS: usize = 100;

/// The text form of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`; has no unknown or duplicate fields to tell of.
    Protobuf,
}

/// What happens to unknown and duplicate fields (`fieldValidation=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// The request fails.
    Strict,
    /// They are dropped and named in warnings.
    Warn,
    /// They are dropped.
    Ignore,
}

/// An object and what was dropped from it.
#[derive(Debug)]
pub struct Decoded {
    /// In canonical form.
    pub value: Value,
    /// One per dropped field, for `Warning` headers.
    pub warnings: Vec<String>,
}

/// Decodes bytes as a type.
///
/// # Errors
/// `400 BadRequest` for a syntax error, a value of the wrong type and, when strict, for unknown and duplicate fields.
pub fn decode(ty: &Type, bytes: &[u8], media: Media, validation: FieldValidation) -> Result<Decoded, Status> {
    let refuse = |what: &str| Status::bad_request(cannot_handle(ty, what));
    let report = decode::Report::new(validation != FieldValidation::Ignore);
    let seed = decode::StructSeed { ty, at: decode::At::ROOT, report: &report };
    let outcome = match media {
        Media::Protobuf if ty.custom.is_none() => crate::proto::decode(ty, bytes).map_err(|e| e.to_string()),
        _ => read_text(bytes, media, seed),
    };
    let mut value = outcome.map_err(|error| refuse(report.failure().as_deref().unwrap_or(&error)))?;
    let warnings = report.into_problems();
    if validation == FieldValidation::Strict && !warnings.is_empty() {
        return Err(refuse(&strict(&warnings)));
    }
    canonicalize(ty, &mut value);
    Ok(Decoded { value, warnings })
}

/// Brings a patched value back to its type: drops unknown fields, checks types, makes it canonical.
///
/// # Errors
/// `422 Invalid` about the field `patch`, as upstream answers when a patch yields no such object.
pub fn conform(ty: &Type, value: Value, validation: FieldValidation) -> Result<Decoded, Status> {
    let refuse = |what: &str| {
        let cause = FieldError::invalid(Path::new("patch"), "", cannot_handle(ty, what));
        Status::invalid(&GroupKind::default(), "", &vec![cause])
    };
    let report = decode::Report::new(validation != FieldValidation::Ignore);
    let seed = decode::StructSeed { ty, at: decode::At::ROOT, report: &report };
    let outcome = seed.deserialize(value);
    let mut value = outcome.map_err(|error| refuse(report.failure().as_deref().unwrap_or(&error.to_string())))?;
    let warnings = report.into_problems();
    if validation == FieldValidation::Strict && !warnings.is_empty() {
        return Err(refuse(&strict(&warnings)));
    }
    canonicalize(ty, &mut value);
    Ok(Decoded { value, warnings })
}

/// Parses bytes without a schema (patches, apply configurations); the last of duplicate keys wins.
///
/// # Errors
/// `400 BadRequest` for a syntax error.
pub fn parse(bytes: &[u8], media: Media) -> Result<Value, Status> {
    parse_reporting(bytes, media, FieldValidation::Ignore).map(|decoded| decoded.value)
}

/// The same, telling of duplicate keys in `warnings` unless they are ignored. Nothing is made canonical.
///
/// # Errors
/// `400 BadRequest` for a syntax error.
pub fn parse_reporting(bytes: &[u8], media: Media, validation: FieldValidation) -> Result<Decoded, Status> {
    let report = decode::Report::new(validation != FieldValidation::Ignore);
    let seed = decode::AnySeed { at: decode::At::ROOT, report: &report };
    let outcome = read_text(bytes, media, seed);
    let value = outcome.map_err(|error| Status::bad_request(format!("error decoding the request: {error}")))?;
    Ok(Decoded { value, warnings: report.into_problems() })
}

/// Reads JSON or YAML through a seed.
fn read_text<S>(bytes: &[u8], media: Media, seed: S) -> Result<Value, String>
where
    S: for<'de> DeserializeSeed<'de, Value = Value>,
{
    match media {
        Media::Json => {
            let mut deserializer = serde_json::Deserializer::from_slice(bytes);
            seed.deserialize(&mut deserializer).and_then(|v| deserializer.end().map(|()| v)).map_err(|e| e.to_string())
        }
        Media::Yaml => with_yaml(bytes, |deserializer| seed.deserialize(deserializer)),
        Media::Protobuf => Err("protobuf cannot be read without its type".to_owned()),
    }
}

/// What upstream says of the first key that stands twice in one map of a YAML document.
pub fn yaml_duplicate(bytes: &[u8]) -> Option<String> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    let read = |document: serde_saphyr::Deserializer<'_, '_>| IgnoredAny::deserialize(document).map(|_| ());
    match serde_saphyr::with_deserializer_from_slice_with_options(bytes, options, read) {
        Err(serde_saphyr::Error::DuplicateMappingKey { key, location }) => {
            let (key, line) = (key.unwrap_or_default(), location.line());
            Some(format!(
                "error converting YAML to JSON: yaml: unmarshal errors:\n  line {line}: key {key:?} already set in map"
            ))
        }
        _ => None,
    }
}

fn with_yaml<R>(
    bytes: &[u8],
    read: impl FnOnce(serde_saphyr::Deserializer<'_, '_>) -> Result<R, serde_saphyr::Error>,
) -> Result<R, String> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::with_deserializer_from_slice_with_options(bytes, options, read).map_err(|e| e.to_string())
}

fn strict(problems: &[String]) -> String {
    format!("strict decoding error: {}", problems.join(", "))
}

/// Upstream's frame around a decoding error.
fn cannot_handle(ty: &Type, what: &str) -> String {
    match ty.gvk.first() {
        Some(gvk) => {
            format!("{} in version \"{}\" cannot be handled as a {}: {what}", &*gvk.kind, &*gvk.version, &*gvk.kind)
        }
        None => what.to_owned(),
    }
}

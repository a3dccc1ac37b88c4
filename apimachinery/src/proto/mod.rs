//! Kubernetes protobuf: objects between their protobuf and their JSON form, driven by the schema table.
//!
//! An object on the wire is the magic number and a `runtime.Unknown` envelope that names its kind. Wire types and presence
//! rules are those of upstream's generated code: a scalar that is no pointer is always written, a struct that is no pointer
//! too; records ascend by field number; map entries are sorted by key; repeated scalars are not packed.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::schema::{self, Type};

pub use decode::ProtoError;

/// Starts every object.
pub const MAGIC: &[u8; 4] = b"k8s\0";
/// Media type of objects in this form.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What an envelope says of its contents.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope<'b> {
    /// `apiVersion`; may be empty.
    pub api_version: String,
    /// `kind`; may be empty.
    pub kind: String,
    /// The object's message.
    pub raw: &'b [u8],
}

/// Opens an envelope.
///
/// # Errors
/// The magic number is missing, or what follows is no envelope.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    decode::envelope(bytes)
}

/// Decodes an object of a type, with the `apiVersion` and `kind` of the envelope. Not canonical yet.
///
/// # Errors
/// Malformed bytes, text that is not UTF-8, nesting beyond the bound.
pub fn decode(ty: &Type, bytes: &[u8]) -> Result<Value, ProtoError> {
    let envelope = decode::envelope(bytes)?;
    let mut object = decode::message(ty, envelope.raw, 0)?;
    for (key, value) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
        if !value.is_empty() {
            object.insert(key.to_owned(), value.into());
        }
    }
    Ok(Value::Object(object))
}

/// Encodes an object of a type, in its envelope. Members that do not fit the type are left out.
pub fn encode(ty: &Type, object: &Value) -> Vec<u8> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut raw = Vec::new();
    encode::message(ty, object, &mut raw, 0);
    encode::envelope(text("apiVersion"), text("kind"), &raw)
}

/// Encodes an object whose type its `apiVersion` and `kind` tell; `None` when the table has no protobuf form of it.
pub fn encode_any(object: &Value) -> Option<Vec<u8>> {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    // Statuses and other meta kinds are registered in no group.
    let meta =
        || schema::by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")).filter(|_| api_version == "v1");
    let ty = type_of(api_version, kind).or_else(meta).filter(|ty| ty.proto)?;
    Some(encode(ty, object))
}

/// The type that `apiVersion` and `kind` name.
fn type_of(api_version: &str, kind: &str) -> Option<&'static Type> {
    let version = crate::gvk::GroupVersion::parse(api_version)?;
    schema::lookup(&version.group, &version.version, kind)
}

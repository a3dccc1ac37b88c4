//! Kubernetes protobuf: objects between their protobuf and their JSON form, driven by the schema table.
//!
//! An object on the wire is the magic number and a `runtime.Unknown` envelope that names its kind. Wire types and presence
//! rules are those of upstream's generated code: a scalar that is no pointer is always written, a struct that is no pointer
//! too; records ascend by field number; map entries are sorted by key; repeated scalars are not packed.

mod decode;
mod encode;
mod tape;
#[cfg(test)]
mod tests;

use serde_json::Value;

/// Records, for messages that are not in the schema table.
pub mod wire {
    pub use super::encode::{bytes, double, nested, signed};
}

use crate::schema::{self, Type};

pub use decode::ProtoError;
pub use tape::Scratch;
use tape::{At, Tape};

/// Ends an envelope: follows an object, or the items of a list that [`list_head`] began.
pub const ENVELOPE_END: &[u8] = &[3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// Starts every object.
pub const MAGIC: &[u8; 4] = b"k8s\0";
/// Media type of watches in this form.
pub const STREAM_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";
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

/// Encodes an object's JSON as a type, in its envelope. Members that do not fit the type are left out.
pub fn encode(ty: &Type, json: &[u8]) -> Vec<u8> {
    let mut scratch = Scratch::default();
    let tape = Tape::read(json, &mut scratch);
    let object = tape.as_ref().map(Tape::root);
    let text = |key: &str| object.and_then(|object| object.get(key)).map(At::text).unwrap_or_default();
    let mut raw = Vec::with_capacity(json.len());
    encode::message(ty, object, &mut raw, 0);
    let mut out = encode::open_envelope(&text("apiVersion"), &text("kind"), &raw, 0);
    out.extend_from_slice(ENVELOPE_END);
    out
}

/// Encodes an object whose type its `apiVersion` and `kind` tell; `None` when the table has no protobuf form of it.
pub fn encode_any(object: &Value) -> Option<Vec<u8>> {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let ty = type_or_meta(text("apiVersion").unwrap_or_default(), text("kind")?)?;
    Some(encode(ty, object.to_string().as_bytes()))
}

/// The type of an object, or of a meta kind (a Status, metadata alone), if it has a protobuf form.
fn type_or_meta(api_version: &str, kind: &str) -> Option<&'static Type> {
    // Meta kinds are registered in no group.
    let of_meta = matches!(api_version, "" | "v1") || api_version.starts_with("meta.k8s.io/");
    let meta = || schema::by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")).filter(|_| of_meta);
    type_of(api_version, kind).or_else(meta).filter(|ty| ty.proto)
}

/// Adds one item of a list, given as JSON, to its message.
pub fn push_item(ty: &Type, json: &[u8], scratch: &mut Scratch, out: &mut Vec<u8>) {
    let tape = Tape::read(json, scratch);
    encode::nested(2, out, |out| encode::message(ty, tape.as_ref().map(Tape::root), out, 0));
}

/// A list in its envelope, up to its `items`, which follow as they are: `items_bytes` of what [`push_item`] wrote.
pub fn list_head(api_version: &str, kind: &str, metadata: &Value, items_bytes: usize) -> Vec<u8> {
    let mut message = Vec::new();
    if let Some(ty) = schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta") {
        let text = metadata.to_string();
        let mut scratch = Scratch::default();
        let tape = Tape::read(text.as_bytes(), &mut scratch);
        encode::nested(1, &mut message, |out| encode::message(ty, tape.as_ref().map(Tape::root), out, 0));
    }
    encode::open_envelope(api_version.as_bytes(), kind.as_bytes(), &message, items_bytes)
}

/// An event of a watch as a frame of its stream: the length, then a bare `WatchEvent` with the object in its envelope.
pub fn watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4];
    encode::bytes(1, event.as_bytes(), &mut out);
    encode::nested(2, &mut out, |raw| encode::bytes(1, object, raw));
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// The type that `apiVersion` and `kind` name.
fn type_of(api_version: &str, kind: &str) -> Option<&'static Type> {
    let version = crate::gvk::GroupVersion::parse(api_version)?;
    schema::lookup(&version.group, &version.version, kind)
}

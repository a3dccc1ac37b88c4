//! Between an object's JSON and the bytes in etcd. Today the identity; encryption at rest goes here and nowhere else.

use std::borrow::Cow;

use super::StorageError;

/// How upstream marks protobuf values.
const PROTOBUF_MAGIC: &[u8] = b"k8s\0";
/// How upstream marks encrypted values.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// What is written for an object's JSON.
pub fn to_storage(json: Vec<u8>) -> Vec<u8> {
    json
}

/// The JSON of what was read.
///
/// # Errors
/// The value is in a form that this server does not read.
pub fn from_storage<'a>(key: &str, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, StorageError> {
    let corrupt = |why: &str| StorageError::Corrupt { key: key.to_owned(), why: why.to_owned() };
    if stored.starts_with(PROTOBUF_MAGIC) {
        return Err(corrupt("it is protobuf, written by another API server; only JSON is read"));
    }
    if stored.starts_with(ENCRYPTED) {
        return Err(corrupt("it is encrypted and no key is configured"));
    }
    Ok(Cow::Borrowed(stored))
}

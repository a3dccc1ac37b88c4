//! Patches: JSON patch, JSON merge patch and strategic merge patch.
//!
//! Pure functions from an object and a patch to a new object. The result is not yet checked against the type:
//! `codec::conform` does that. Where upstream's libraries differ from the RFCs, upstream's behaviour is kept.

mod json;
mod strategic;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use json::{MAX_COPIED_BYTES, MAX_OPERATIONS, json_patch};
pub use strategic::strategic_merge;

/// Applies a JSON merge patch (RFC 7386) in place.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            map.remove(key);
        } else {
            merge_patch(map.entry(key.as_str()).or_insert(Value::Null), change);
        }
    }
}

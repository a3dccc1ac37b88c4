//! From JSON to a loop's small struct, with Go's meaning of `null`: as if it were absent.
//!
//! The API server writes `null` for empty lists and maps of fields that are not omitted when empty (`endpoints`, `ports` of an
//! EndpointSlice), and serde takes it for a wrong type. Only an object that was not understood is looked at again.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Decodes JSON; a `null` member counts as absent.
///
/// # Errors
/// What is wrong with the JSON or its types.
pub fn from_slice<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    let first = match serde_json::from_slice(json) {
        Ok(decoded) => return Ok(decoded),
        Err(error) => error,
    };
    let mut value: Value = serde_json::from_slice(json)?;
    if drop_nulls(&mut value) { serde_json::from_value(value) } else { Err(first) }
}

/// Removes members that are `null`, at any depth; tells whether there were any.
fn drop_nulls(value: &mut Value) -> bool {
    match value {
        Value::Object(members) => {
            let before = members.len();
            members.retain(|_, member| !member.is_null());
            let dropped = members.len() != before;
            members.values_mut().fold(dropped, |any, member| drop_nulls(member) | any)
        }
        Value::Array(items) => items.iter_mut().fold(false, |any, item| drop_nulls(item) | any),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug, PartialEq)]
    struct Thing {
        #[serde(default)]
        list: Vec<u8>,
        #[serde(default)]
        inner: Vec<Thing>,
    }

    #[test]
    fn null_is_absent() {
        let thing: Thing = from_slice(br#"{"list":null,"inner":[{"list":[1],"inner":null}]}"#).unwrap();
        assert_eq!(thing.inner[0].list, [1]);
        assert!(from_slice::<Thing>(br#"{"list":"x"}"#).unwrap_err().to_string().contains("sequence"));
        assert!(from_slice::<Thing>(b"{").is_err());
    }
}

//! Short names for what a template says: the hash in replica sets' and controller revisions' names.

use serde_json::Value;

/// Letters and digits that make no words; upstream's alphabet.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a over the canonical JSON (keys sorted) and the number of collisions so far.
pub fn hash_of(template: &Value, collisions: i32) -> u32 {
    let mut hash = 0x811c_9dc5_u32;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    feed(canonical(template).as_bytes());
    if collisions > 0 {
        feed(&collisions.to_le_bytes());
    }
    hash
}

/// The value with sorted keys, whatever order the map keeps.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let members: Vec<String> =
                keys.into_iter().map(|key| format!("{key:?}:{}", canonical(&map[key]))).collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        scalar => scalar.to_string(),
    }
}

/// The decimal digits of the hash in letters that are safe in names.
pub fn encode_hash(hash: u32) -> String {
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn order_of_keys_does_not_matter_but_content_and_collisions_do() {
        let a = json!({"a": 1, "b": {"x": [1, 2]}});
        let b: Value = serde_json::from_str(r#"{"b":{"x":[1,2]},"a":1}"#).unwrap();
        assert_eq!(hash_of(&a, 0), hash_of(&b, 0));
        assert_ne!(hash_of(&a, 0), hash_of(&a, 1));
        assert_ne!(hash_of(&a, 0), hash_of(&json!({"a": 2}), 0));
        assert!(encode_hash(hash_of(&a, 0)).bytes().all(|letter| ALPHABET.contains(&letter)));
    }
}

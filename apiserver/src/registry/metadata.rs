//! What the server itself does to an object's metadata, and to the fields of which the facts say that a write does not touch
//! them. Pure. Follows upstream's `BeforeCreate` and `BeforeUpdate`.

use apimachinery::meta;
use apimachinery::resources::Behaviour;
use apimachinery::time::format_time;
use jiff::Timestamp;
use rand::RngExt;
use serde_json::Value;

/// Letters of generated names: no vowels, nothing that looks alike.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Letters added to `generateName`.
const SUFFIX_LETTERS: usize = 5;
/// Length of generated names.
const MAX_NAME_BYTES: usize = 63;

/// A name from a prefix.
pub fn generate_name(prefix: &str) -> String {
    let mut end = prefix.len().min(MAX_NAME_BYTES - SUFFIX_LETTERS);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    let mut random = rand::rng();
    name.extend((0..SUFFIX_LETTERS).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])));
    name
}

/// A random (version 4) UUID.
pub fn new_uid() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex::encode(bytes);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// System metadata of a new object.
pub fn fill_new(object: &mut Value, now: Timestamp) {
    let metadata = meta::metadata_mut(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), new_uid().into());
    metadata.insert("creationTimestamp".to_owned(), format_time(now).into());
}

/// The fields that a create ignores, and the first generation.
pub fn prepare_new(object: &mut Value, behaviour: &Behaviour) {
    for field in behaviour.create_clears {
        if let Some(map) = object.as_object_mut() {
            map.remove(*field);
        }
    }
    if behaviour.generation_after_create != 0 {
        meta::set_generation(object, behaviour.generation_after_create);
    }
}

fn copy(object: &mut Value, old: &Value, field: &str) {
    let Some(map) = object.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => drop(map.insert(field.to_owned(), value.clone())),
        None => drop(map.remove(field)),
    }
}

/// The composite that the facts name for views that leave user metadata alone.
const USER_METADATA: &str = "metadata.labels+annotations";

/// The fields that an update keeps, and system metadata.
pub fn prepare_changed(object: &mut Value, old: &Value, behaviour: &Behaviour, now: Timestamp) {
    for field in behaviour.update_keeps_old {
        if *field == USER_METADATA {
            let mut metadata = object["metadata"].take();
            copy(&mut metadata, &old["metadata"], "labels");
            copy(&mut metadata, &old["metadata"], "annotations");
            object["metadata"] = metadata;
        } else {
            copy(object, old, field);
        }
    }
    let before = old.get("metadata").and_then(Value::as_object);
    let metadata = meta::metadata_mut(object);
    let mut keep = |field: &str, only_if_absent: bool| {
        let given = metadata.get(field).is_some_and(|value| !value.is_null());
        if let Some(value) = before.and_then(|before| before.get(field)).filter(|_| !given || !only_if_absent) {
            metadata.insert(field.to_owned(), value.clone());
        }
    };
    keep("uid", true);
    keep("creationTimestamp", false);
    keep("deletionTimestamp", false);
    keep("deletionGracePeriodSeconds", true);
    metadata.remove("selfLink");
    if metadata.get("creationTimestamp").is_none_or(Value::is_null) {
        metadata.insert("creationTimestamp".to_owned(), format_time(now).into());
    }
    match before.and_then(|before| before.get("generation")) {
        Some(generation) => drop(metadata.insert("generation".to_owned(), generation.clone())),
        None => drop(metadata.remove("generation")),
    }
}

/// Raises the generation when a field that counts has changed. Runs after the kind's own preparation.
pub fn bump_generation(object: &mut Value, old: &Value, behaviour: &Behaviour) {
    let differs = |field: &str| {
        if let Some(field) = field.strip_prefix("metadata.") {
            return object["metadata"].get(field) != old["metadata"].get(field);
        }
        object.get(field) != old.get(field)
    };
    if behaviour.generation_bumped_by.iter().any(|field| differs(field)) {
        meta::set_generation(object, meta::generation(old) + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_ids() {
        let name = generate_name(&"x".repeat(80));
        assert_eq!(name.len(), 63);
        assert!(generate_name("a-").starts_with("a-"));
        let uid = new_uid();
        assert_eq!((uid.len(), &uid[14..15]), (36, "4"));
    }

    #[test]
    fn updates_keep_system_metadata_and_bump_generations() {
        let behaviour = &apimachinery::resources::lookup("apps", "v1", "deployments").unwrap().behaviour;
        let old = json!({"metadata": {"uid": "u", "creationTimestamp": "c", "generation": 3}, "spec": {"replicas": 1}, "status": {"a": 1}});
        let mut new = json!({"metadata": {"generation": 9}, "spec": {"replicas": 2}, "status": {"a": 2}});
        prepare_changed(&mut new, &old, behaviour, Timestamp::UNIX_EPOCH);
        bump_generation(&mut new, &old, behaviour);
        assert_eq!(
            new,
            json!({"metadata": {"uid": "u", "creationTimestamp": "c", "generation": 4}, "spec": {"replicas": 2}, "status": {"a": 1}})
        );
        let status = &apimachinery::resources::lookup("apps", "v1", "deployments")
            .unwrap()
            .subresource("status")
            .unwrap()
            .behaviour;
        let mut new = json!({"metadata": {"uid": "u", "labels": {"x": "y"}}, "spec": {}, "status": {"a": 2}});
        prepare_changed(&mut new, &old, status, Timestamp::UNIX_EPOCH);
        bump_generation(&mut new, &old, status);
        assert_eq!(new["spec"], old["spec"]);
        assert_eq!(new["status"]["a"], 2);
        assert_eq!(new["metadata"]["generation"], 3);
    }
}

//! Small edits of JSON objects: the verbs that defaults and strategies are written in. They never create a field in
//! something that is not an object.

use serde_json::{Map, Value};

/// Sets a field.
pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(field.to_owned(), value.into());
    }
}

/// Sets a field that is absent, null or the empty string.
pub fn set_default(object: &mut Value, field: &str, value: impl Into<Value>) {
    let unset = object.get(field).is_none_or(|v| v.is_null() || v.as_str() == Some(""));
    if unset {
        set(object, field, value);
    }
}

/// Sets a field that is absent or null: what upstream holds in a pointer or list, where an empty value is a value.
pub fn set_absent(object: &mut Value, field: &str, value: impl Into<Value>) {
    if object.get(field).is_none_or(Value::is_null) {
        set(object, field, value);
    }
}

/// Removes a field, returning what it held.
pub fn remove(object: &mut Value, field: &str) -> Option<Value> {
    object.as_object_mut().and_then(|map| map.remove(field))
}

/// Makes a field what it is in `other`, present or absent.
pub fn copy(object: &mut Value, other: &Value, field: &str) {
    match other.get(field) {
        Some(value) => set(object, field, value.clone()),
        None => drop(remove(object, field)),
    }
}

/// The elements of a list field, none when it is absent.
pub fn array_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut [Value] {
    object.get_mut(field).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// Edits the map at a field, which is made when absent or of another type; an empty result is removed again.
pub fn edit_map(object: &mut Value, field: &str, edit: impl FnOnce(&mut Map<String, Value>)) {
    let mut map = match remove(object, field) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    edit(&mut map);
    if !map.is_empty() {
        set(object, field, map);
    }
}

/// Applies an edit to the object below `path` (dots) if it is there.
pub fn at_mut(object: &mut Value, path: &str, edit: impl FnOnce(&mut Value)) {
    if let Some(target) = path.split('.').try_fold(object, |value, field| value.get_mut(field)) {
        edit(target);
    }
}

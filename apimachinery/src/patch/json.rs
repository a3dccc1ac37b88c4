//! JSON patch (RFC 6902) with the leniencies of the library upstream uses: a pointer's text before its first `/` is
//! ignored, negative indices count from the end, `replace` of an absent member adds it, `copy` of an absent member copies null.

use serde_json::Value;

use crate::status::{Details, Status};

/// Operations in one patch.
pub const MAX_OPERATIONS: usize = 10_000;
/// JSON bytes that all `copy` operations of one patch may add together.
pub const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Applies a JSON patch.
///
/// # Errors
/// `400` when the bytes are no list of operations, `413` when there are too many, `422` when one cannot be applied.
pub fn json_patch(object: &Value, patch: &[u8]) -> Result<Value, Status> {
    let operations: Option<Vec<Option<serde_json::Map<String, Value>>>> =
        serde_json::from_slice(patch).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    let operations = operations.unwrap_or_default();
    if operations.len() > MAX_OPERATIONS {
        let count = operations.len();
        let message = format!("the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}");
        return Err(Status::request_entity_too_large(message));
    }
    let mut result = object.clone();
    let mut copied_bytes = 0;
    for operation in operations {
        apply(&mut result, &operation.unwrap_or_default(), &mut copied_bytes).map_err(|why| {
            let mut status = Status::failure(422, "Invalid", format!("the server rejected our request: {why}"));
            status.details = Some(Box::<Details>::default());
            status
        })?;
    }
    Ok(result)
}

fn apply(
    document: &mut Value,
    operation: &serde_json::Map<String, Value>,
    copied_bytes: &mut usize,
) -> Result<(), String> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let name = text("op").unwrap_or("unknown");
    let path = text("path").ok_or_else(|| format!("{name} operation has no path"))?;
    let value = || operation.get("value").cloned().unwrap_or_default();
    let from = || text("from").ok_or_else(|| format!("{name} operation has no from"));
    match name {
        "add" => add(document, path, value()),
        "remove" => remove(document, path).map(drop),
        "replace" if path.is_empty() => {
            *document = value();
            Ok(())
        }
        "replace" => replace(document, path, value()),
        "move" => {
            let moved = remove(document, from()?)?;
            add(document, path, moved)
        }
        "copy" => {
            let copied = get(document, from()?)?.cloned().unwrap_or_default();
            *copied_bytes += copied.to_string().len();
            if *copied_bytes > MAX_COPIED_BYTES {
                return Err(format!("copy operations add more than {MAX_COPIED_BYTES} bytes"));
            }
            add(document, path, copied)
        }
        "test" => {
            let expected = operation.get("value").unwrap_or(&Value::Null);
            let found = if path.is_empty() { Some(&*document) } else { get(document, path)? };
            if found.unwrap_or(&Value::Null) == expected {
                return Ok(());
            }
            Err(format!("testing value {path} failed"))
        }
        other => Err(format!("unexpected kind: {other}")),
    }
}

fn missing(path: &str) -> String {
    format!("doc is missing path: {path}")
}

/// The container that holds the last step of a pointer, and that step.
fn find<'d>(document: &'d mut Value, path: &str) -> Result<(&'d mut Value, String), String> {
    let mut steps = path.split('/').skip(1).map(|s| s.replace("~1", "/").replace("~0", "~"));
    let mut last = steps.next().ok_or_else(|| missing(path))?;
    let mut container = document;
    for step in steps {
        container = match container {
            Value::Object(map) => map.get_mut(&last),
            Value::Array(items) => position(&last, items.len()).and_then(|at| items.get_mut(at)),
            _ => None,
        }
        .ok_or_else(|| missing(path))?;
        last = step;
    }
    match container {
        Value::Object(_) | Value::Array(_) => Ok((container, last)),
        _ => Err(missing(path)),
    }
}

/// An index into a list of `len` elements; negative ones count from the end.
fn position(step: &str, len: usize) -> Option<usize> {
    let index: i64 = step.parse().ok()?;
    let index = if index < 0 { index.checked_add(i64::try_from(len).ok()?)? } else { index };
    usize::try_from(index).ok()
}

fn get<'d>(document: &'d mut Value, path: &str) -> Result<Option<&'d Value>, String> {
    let (container, step) = find(document, path)?;
    match container {
        Value::Array(items) => {
            let at = position(&step, items.len()).filter(|at| *at < items.len()).ok_or_else(|| missing(path))?;
            Ok(items.get(at))
        }
        object => Ok(object.get(&step)),
    }
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let (container, step) = find(document, path)?;
    match container {
        Value::Array(items) if step == "-" => items.push(value),
        Value::Array(items) => {
            // Counted in the list as it will be.
            let len = items.len() + usize::from(step.starts_with('-'));
            let at = position(&step, len).filter(|at| *at <= items.len());
            items.insert(at.ok_or_else(|| format!("unable to access invalid index: {step}"))?, value);
        }
        Value::Object(map) => {
            map.insert(step, value);
        }
        _ => return Err(missing(path)),
    }
    Ok(())
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let (container, step) = find(document, path)?;
    match container {
        Value::Array(items) => {
            let at = position(&step, items.len());
            *at.and_then(|at| items.get_mut(at)).ok_or_else(|| missing(path))? = value;
        }
        Value::Object(map) => {
            map.insert(step, value);
        }
        _ => return Err(missing(path)),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value, String> {
    let (container, step) = find(document, path)?;
    match container {
        Value::Array(items) => {
            let at = position(&step, items.len()).filter(|at| *at < items.len());
            Ok(items.remove(at.ok_or_else(|| format!("unable to access invalid index: {step}"))?))
        }
        Value::Object(map) => map.remove(&step).ok_or_else(|| format!("unable to remove nonexistent key: {step}")),
        _ => Err(missing(path)),
    }
}

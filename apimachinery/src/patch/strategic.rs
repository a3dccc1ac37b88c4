//! Strategic merge patch: merge by the type's patch strategies and merge keys, with upstream's directives
//! `$patch`, `$retainKeys`, `$setElementOrder/…` and `$deleteFromPrimitiveList/…`.

use serde_json::{Map, Value};

use crate::schema::{Field, Kind, Special, Type};
use crate::status::Status;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

/// Applies a strategic merge patch.
///
/// # Errors
/// `400` for a malformed directive; `500` without a reason, as upstream answers, for one that does not fit the list.
pub fn strategic_merge(ty: &Type, object: &Value, patch: &Value) -> Result<Value, Status> {
    let (Value::Object(original), Value::Object(changes)) = (object, patch) else {
        return Err(Status::bad_request("invalid JSON document: a strategic merge patch is an object"));
    };
    merge_map(original.clone(), changes.clone(), Some(ty)).map(Value::Object)
}

/// Upstream has no status of its own for these.
fn unclassified(message: String) -> Status {
    Status::failure(500, "", message)
}

fn no_merge_key(element: &Value, key: &str) -> Status {
    unclassified(format!("map: {element} does not contain declared merge key: {key}"))
}

/// How a field's list merges.
#[derive(Clone, Copy)]
struct ListRule<'t> {
    merge: bool,
    key: &'t str,
    element: Option<&'t Type>,
}

/// The struct behind a field's value, its elements or its entries.
fn struct_of(kind: &Kind) -> Option<&Type> {
    match kind {
        Kind::Ref(ty) if ty.special == Special::No => Some(ty),
        Kind::List(slot) => struct_of(&slot.kind),
        _ => None,
    }
}

fn list_rule<'t>(field: Option<&'t Field>) -> ListRule<'t> {
    let Some(field) = field else { return ListRule { merge: false, key: "", element: None } };
    ListRule { merge: field.patch_merge, key: &field.patch_merge_key, element: struct_of(&field.slot.kind) }
}

fn merge_map(mut original: Object, mut patch: Object, ty: Option<&Type>) -> Result<Object, Status> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(drop_directives_in_map(patch)),
            Some("delete") => Ok(Object::new()),
            _ => Err(unclassified(format!("unknown patch type [{directive}] in map"))),
        };
    }
    if let Some(keys) = patch.remove(RETAIN_KEYS) {
        retain_keys(&mut original, &patch, &keys)?;
    }
    set_element_order(&mut original, &mut patch, ty)?;
    for (key, change) in patch {
        if let Some(name) = key.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(&mut original, name, &change)?;
            continue;
        }
        if change.is_null() {
            original.remove(&key);
            continue;
        }
        let field = ty.and_then(|ty| ty.field(&key));
        let merged = match (original.remove(&key), change) {
            (Some(Value::Object(old)), Value::Object(new)) if field.is_some_and(|f| f.patch_replace) => {
                drop(old);
                Some(Value::Object(new))
            }
            (Some(Value::Object(old)), Value::Object(new)) => {
                let inner = field.and_then(|f| struct_of(&f.slot.kind));
                Some(Value::Object(merge_map(old, new, inner)?))
            }
            (Some(Value::Array(old)), Value::Array(new)) => Some(Value::Array(merge_list(old, new, list_rule(field))?)),
            (_, change) => drop_directives(change),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

fn retain_keys(original: &mut Object, patch: &Object, keys: &Value) -> Result<(), Status> {
    let bad = || Status::bad_request("invalid patch format of retainKeys");
    let keys: Vec<&str> = keys.as_array().ok_or_else(bad)?.iter().filter_map(Value::as_str).collect();
    if patch.keys().any(|key| !key.starts_with('$') && !keys.contains(&key.as_str())) {
        return Err(bad());
    }
    original.retain(|key, _| keys.contains(&key.as_str()));
    Ok(())
}

fn delete_primitives(original: &mut Object, name: &str, values: &Value) -> Result<(), Status> {
    let values = values.as_array().ok_or_else(|| Status::bad_request("invalid patch format of primitive list"))?;
    if let Some(Value::Array(items)) = original.get_mut(name) {
        items.retain(|item| !values.contains(item));
    }
    Ok(())
}

/// Merges the lists that have an order directive, and takes both out of the patch.
fn set_element_order(original: &mut Object, patch: &mut Object, ty: Option<&Type>) -> Result<(), Status> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let bad = || Status::bad_request("invalid patch format of setElementOrder list");
        let Some(Value::Array(order)) = patch.remove(&directive) else { return Err(bad()) };
        let name = directive.trim_start_matches(SET_ORDER);
        let rule = list_rule(ty.and_then(|ty| ty.field(name)));
        let old = match original.get(name) {
            Some(Value::Array(items)) => Some(items.clone()),
            _ => None,
        };
        let new = match patch.remove(name) {
            Some(Value::Array(items)) => Some(items),
            // A null deletes the list; anything else is merged the ordinary way.
            Some(other) => {
                patch.insert(name.to_owned(), other);
                continue;
            }
            None => None,
        };
        if let Some(new) = &new {
            check_order(new, &order, rule.key)?;
        }
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(drop_directives).collect(),
            (Some(old), Some(new)) => merge_list(old, new, rule)?,
        };
        let ordered = enforce_order(merged, &order, &server_order, rule.key);
        original.insert(name.to_owned(), Value::Array(ordered));
    }
    Ok(())
}

/// Every element of the patch must be in the order list, in the same relative order.
fn check_order(patch: &[Value], order: &[Value], key: &str) -> Result<(), Status> {
    let mut next = 0;
    for item in patch.iter().filter(|item| item.get(PATCH).is_none()) {
        match (next..order.len()).find(|at| same(&order[*at], item, key)) {
            Some(at) => next = at + 1,
            None => {
                let message = "the order in patch list doesn't match $setElementOrder list";
                return Err(unclassified(format!("{message}: {}", Value::from(order))));
            }
        }
    }
    Ok(())
}

/// The same element: equal values, or equal merge keys.
fn same(a: &Value, b: &Value, key: &str) -> bool {
    match (a.get(key), b.get(key)) {
        (Some(a), Some(b)) if !key.is_empty() => a == b,
        _ => a == b,
    }
}

fn merge_list(mut original: Vec<Value>, patch: Vec<Value>, rule: ListRule<'_>) -> Result<Vec<Value>, Status> {
    if !rule.merge {
        return Ok(patch);
    }
    let server_order = original.clone();
    if !original.iter().chain(&patch).any(Value::is_object) {
        let order = patch.clone();
        for item in patch {
            if !original.contains(&item) {
                original.push(item);
            }
        }
        return Ok(enforce_order(original, &order, &server_order, ""));
    }
    let mut replace = false;
    let mut plain = Vec::with_capacity(patch.len());
    for item in patch {
        match item.get(PATCH).and_then(Value::as_str) {
            None => plain.push(item),
            Some("replace") => replace = true,
            Some("delete") => {
                let value = item.get(rule.key).ok_or_else(|| no_merge_key(&item, rule.key))?;
                original.retain(|old| old.get(rule.key) != Some(value));
            }
            Some(other) => return Err(unclassified(format!("unknown patch type [{other}] in list"))),
        }
    }
    if replace {
        return Ok(plain.into_iter().filter_map(drop_directives).collect());
    }
    let order = plain.clone();
    for item in plain {
        let value = item.get(rule.key).ok_or_else(|| no_merge_key(&item, rule.key))?;
        let found = original.iter_mut().find(|old| old.get(rule.key) == Some(value));
        match (found, item) {
            (Some(slot), Value::Object(new)) => {
                let old = match slot.take() {
                    Value::Object(old) => old,
                    _ => Object::new(),
                };
                *slot = Value::Object(merge_map(old, new, rule.element)?);
            }
            (None, item) => original.extend(drop_directives(item)),
            (Some(_), item) => return Err(no_merge_key(&item, rule.key)),
        }
    }
    Ok(enforce_order(original, &order, &server_order, rule.key))
}

/// Puts the elements that the patch names in the patch's order, and the others where the server's order has them relative
/// to those.
fn enforce_order(merged: Vec<Value>, order: &[Value], server_order: &[Value], key: &str) -> Vec<Value> {
    let index = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item, key));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| index(order, item).is_some());
    named.sort_by_key(|item| index(order, item));
    others.sort_by_key(|item| index(server_order, item).unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(left), Some(right)) = (others.peek(), named.peek()) {
        let first = match (index(server_order, left), index(server_order, right)) {
            (Some(left), Some(right)) => left < right,
            _ => false,
        };
        result.extend(if first { others.next() } else { named.next() });
    }
    result.extend(named);
    result.extend(others);
    result
}

/// A value that is new in the object, without directives and nulls; `None` when it asks to be deleted.
fn drop_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.get(PATCH).is_some_and(|d| d == "delete") => None,
        Value::Object(map) => Some(Value::Object(drop_directives_in_map(map))),
        Value::Array(items) => {
            let only_directive = |item: &Value| item.as_object().is_some_and(|o| o.len() == 1 && o.contains_key(PATCH));
            let kept = items.into_iter().filter(|item| !only_directive(item)).filter_map(drop_directives);
            Some(Value::Array(kept.collect()))
        }
        other => Some(other),
    }
}

fn drop_directives_in_map(map: Object) -> Object {
    let directive = |key: &str| {
        key == PATCH || key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_PRIMITIVES)
    };
    let kept = map.into_iter().filter(|(key, value)| !directive(key) && !value.is_null());
    kept.filter_map(|(key, value)| Some((key, drop_directives(value)?))).collect()
}

//! Strategic merge patch: merge by the type's patch strategies and merge keys, with upstream's directives
//! `$patch`, `$retainKeys`, `$setElementOrder/…` and `$deleteFromPrimitiveList/…`.

use serde_json::{Map, Value};

use crate::schema::{Field, Kind, Special, Type};
use crate::status::Status;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList";

type Object = Map<String, Value>;

/// Applies a strategic merge patch.
///
/// # Errors
/// `400` for a malformed directive; `500` without a reason, as upstream answers, for one that does not fit the list.
pub fn strategic_merge(ty: &Type, object: &Value, patch: &Value) -> Result<Value, Status> {
    if patch.is_null() {
        return Ok(object.clone());
    }
    let (Value::Object(original), Value::Object(changes)) = (object, patch) else {
        return Err(Status::bad_request("invalid JSON document: a strategic merge patch is an object"));
    };
    let mut changes = Value::Object(changes.clone());
    whole_numbers(&mut changes);
    let Value::Object(changes) = changes else { return Ok(object.clone()) };
    merge_map(original.clone(), changes, Some(ty)).map(Value::Object)
}

/// Only this kind of patch takes `3.0` for an integer.
fn whole_numbers(value: &mut Value) {
    const MAX_EXACT: f64 = 9e15;
    match value {
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default();
            if float.fract() == 0.0 && float.abs() < MAX_EXACT {
                #[allow(clippy::cast_possible_truncation, reason = "whole, and within the exact range")]
                let whole = float as i64;
                *number = whole.into();
            }
        }
        _ => {}
    }
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
            let bad = || Status::bad_request("invalid patch format of primitive list");
            delete_primitives(&mut original, name.strip_prefix('/').ok_or_else(bad)?, &change)?;
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
    let directive = |key: &str| key.starts_with(SET_ORDER) || key.starts_with(DELETE_PRIMITIVES);
    if patch.iter().any(|(key, value)| !value.is_null() && !directive(key) && !keys.contains(&key.as_str())) {
        return Err(bad());
    }
    original.retain(|key, _| keys.contains(&key.as_str()));
    Ok(())
}

/// A null deletes the list; what is neither is ignored, as upstream does.
fn delete_primitives(original: &mut Object, name: &str, values: &Value) -> Result<(), Status> {
    match (original.get_mut(name), values) {
        (_, Value::Null) => drop(original.remove(name)),
        (Some(Value::Array(items)), Value::Array(values)) => {
            if elements_are_objects(&[items, values])? == Some(true) {
                return Err(unclassified(format!("{DELETE_PRIMITIVES}/{name}: not a list of primitives")));
            }
            items.retain(|item| !values.contains(item));
        }
        _ => {}
    }
    Ok(())
}

/// Are the elements of these lists objects? `None` without elements; an error when they are not of one type.
fn elements_are_objects(lists: &[&[Value]]) -> Result<Option<bool>, Status> {
    let mut elements = lists.iter().copied().flatten();
    let Some(first) = elements.next() else { return Ok(None) };
    if first.is_array() {
        return Err(Status::failure(422, "", "lists of lists are not supported"));
    }
    if elements.any(|other| std::mem::discriminant(other) != std::mem::discriminant(first)) {
        return Err(unclassified("list element types are not identical".to_owned()));
    }
    Ok(Some(first.is_object()))
}

/// Merges the lists that have an order directive, and takes both out of the patch.
fn set_element_order(original: &mut Object, patch: &mut Object, ty: Option<&Type>) -> Result<(), Status> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let bad = || Status::bad_request("invalid patch format of setElementOrder list");
        let order = list(patch.remove(&directive))?.unwrap_or_default();
        let name = directive.trim_start_matches(SET_ORDER).strip_prefix('/').ok_or_else(bad)?;
        let old = list(original.get(name).cloned())?;
        let new = list(patch.get(name).cloned())?;
        let field = ty.and_then(|ty| ty.field(name));
        if field.is_none() {
            return Err(unclassified(format!("unable to find api field for the json field {name:?}")));
        }
        let rule = list_rule(field);
        if let Some(new) = &new {
            check_order(new, &order, rule.key)?;
        }
        let server_order = old.clone().unwrap_or_default();
        if old.is_none() && new.is_none() {
            continue;
        }
        if elements_are_objects(&[&server_order, new.as_deref().unwrap_or_default()])?.is_none() {
            return Err(unclassified("no elements in any of the given slices".to_owned()));
        }
        let merged = match (old, new) {
            (Some(old), Some(new)) => merge_list(old, new, rule)?,
            (old, new) => old.unwrap_or_else(|| new.into_iter().flatten().filter_map(drop_directives).collect()),
        };
        keyed(&merged, rule.key)?;
        keyed(&order, rule.key)?;
        let ordered = enforce_order(merged, &order, &server_order, rule.key);
        original.insert(name.to_owned(), Value::Array(ordered));
        patch.remove(name);
    }
    Ok(())
}

/// The list, if there is a value.
fn list(value: Option<Value>) -> Result<Option<Vec<Value>>, Status> {
    match value {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(other) => Err(unclassified(format!("expected a list, but received {other}"))),
    }
}

/// Where elements have a key, each must name it.
fn keyed(items: &[Value], key: &str) -> Result<(), Status> {
    match items.iter().find(|item| !key.is_empty() && item.get(key).is_none()) {
        Some(item) => Err(no_merge_key(item, key)),
        None => Ok(()),
    }
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
    if elements_are_objects(&[&original, &patch])? != Some(true) {
        let order = patch.clone();
        for item in patch {
            if !original.contains(&item) {
                original.push(item);
            }
        }
        return Ok(enforce_order(original, &order, &server_order, ""));
    }
    if rule.key.is_empty() {
        return Err(unclassified("cannot merge lists without merge key".to_owned()));
    }
    let mut replace = false;
    let mut plain = Vec::with_capacity(patch.len());
    for item in patch {
        match item.get(PATCH).map(|word| word.as_str().unwrap_or_default()) {
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
        keyed(&plain, rule.key)?;
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
            // As it is: upstream leaves directives in new elements, which are unknown fields then.
            (None, item) => original.push(item),
            (Some(_), item) => return Err(no_merge_key(&item, rule.key)),
        }
    }
    keyed(&original, rule.key)?;
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

/// A value that is new in the object, without directives and nulls; `None` when it carries a `$patch`, whatever that says.
fn drop_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => Some(Value::Object(drop_directives_in_map(map))),
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(drop_directives).collect())),
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

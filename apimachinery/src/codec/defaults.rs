//! Static defaults: constants that the server fills in where a field is absent.
//!
//! Covers what a table can say, including conditions on a sibling. Defaults that are computed from other objects or from
//! several fields belong to the kind.

use serde_json::{Map, Value};

use crate::schema::DefaultValue;

/// One field of the tree of defaults.
struct Entry {
    name: &'static str,
    /// Its parent is made when absent.
    create: bool,
    /// Zero is a value, not an absence.
    pointer: bool,
    rule: Rule,
    value: DefaultValue,
    below: &'static [Entry],
}

/// When a default applies.
enum Rule {
    Always,
    /// A sibling has this value.
    When(&'static str, &'static str),
    /// A sibling has another value or none.
    WhenNot(&'static str, &'static str),
    /// A sibling is absent.
    Unless(&'static str),
    /// A sibling is present.
    If(&'static str),
    /// `Always` for images without a tag or with `latest`, else the constant.
    ImageTag(&'static str),
}

const fn entry(
    name: &'static str,
    create: bool,
    pointer: bool,
    rule: Rule,
    value: DefaultValue,
    below: &'static [Entry],
) -> Entry {
    Entry { name, create, pointer, rule, value, below }
}

/// Group, version, kind.
type KindName = (&'static str, &'static str, &'static str);

include!(concat!(env!("OUT_DIR"), "/defaults.rs"));

/// Fills in the defaults of a kind. Expects canonical form; the result is canonical again.
pub fn apply_defaults(group: &str, version: &str, kind: &str, value: &mut Value) {
    let Ok(found) = DEFAULTS.binary_search_by(|(key, _)| key.cmp(&(group, version, kind))) else { return };
    if let Value::Object(map) = value {
        fill(DEFAULTS[found].1, map);
    }
}

fn fill(entries: &[Entry], map: &mut Map<String, Value>) {
    for entry in entries {
        if !applies(&entry.rule, map) {
            continue;
        }
        if let Some(default) = chosen(entry, map)
            && is_absent(entry, map)
        {
            map.insert(entry.name.to_owned(), default);
        }
        if entry.below.is_empty() {
            continue;
        }
        if entry.create && map.get(entry.name).is_none_or(Value::is_null) {
            map.insert(entry.name.to_owned(), Value::Object(Map::new()));
        }
        match map.get_mut(entry.name) {
            Some(Value::Object(inner)) => fill(entry.below, inner),
            Some(Value::Array(items)) => {
                for inner in items.iter_mut().filter_map(Value::as_object_mut) {
                    fill(entry.below, inner);
                }
            }
            _ => {}
        }
    }
}

fn applies(rule: &Rule, map: &Map<String, Value>) -> bool {
    let text = |sibling: &str| map.get(sibling).and_then(Value::as_str);
    let present = |sibling: &str| map.get(sibling).is_some_and(|v| !v.is_null());
    match rule {
        Rule::Always | Rule::ImageTag(_) => true,
        Rule::When(sibling, value) => text(sibling) == Some(value),
        Rule::WhenNot(sibling, value) => text(sibling) != Some(value),
        Rule::Unless(sibling) => !present(sibling),
        Rule::If(sibling) => present(sibling),
    }
}

fn chosen(entry: &Entry, map: &Map<String, Value>) -> Option<Value> {
    match entry.rule {
        Rule::ImageTag(sibling) if takes_latest(map.get(sibling).and_then(Value::as_str).unwrap_or_default()) => {
            Some("Always".into())
        }
        _ => entry.value.to_value(),
    }
}

/// An image reference without tag and digest, or with the tag `latest`.
fn takes_latest(image: &str) -> bool {
    if image.is_empty() {
        return false;
    }
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_none(),
    }
}

fn is_absent(entry: &Entry, map: &Map<String, Value>) -> bool {
    match map.get(entry.name) {
        None | Some(Value::Null) => true,
        _ if entry.pointer => false,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(number)) => number.as_i64() == Some(0),
        Some(_) => false,
    }
}

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

/// An image reference that is well formed, and without tag and digest or with the tag `latest`.
fn takes_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match name[last..].find(':') {
        Some(colon) => (&name[..last + colon], Some(&name[last + colon + 1..])),
        None => (name, None),
    };
    let well_formed = is_repository(name) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest);
    well_formed && tag.map_or(digest.is_none(), |tag| tag == "latest")
}

/// `[registry[:port]/]path`, as the container tools have it; 64 hexadecimal digits are an identifier and no name.
fn is_repository(name: &str) -> bool {
    let is_registry = |text: &str| text.contains(['.', ':']) || text == "localhost" || text != text.to_lowercase();
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (Some(first), rest),
        _ => (None, name),
    };
    let component = |text: &str| {
        let mut parts = text.split(['.', '_', '-']);
        let separators_fit = !text.contains("___") && !text.contains("..") && !text.contains("._");
        let ends_fit = parts.next().is_some_and(|p| !p.is_empty()) && parts.next_back().is_none_or(|p| !p.is_empty());
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        separators_fit && ends_fit && text.bytes().all(letters)
    };
    let host = |text: &str| {
        let (host, port) = text.rsplit_once(':').map_or((text, "0"), |(host, port)| (host, port));
        let labels_fit = host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
        let literal = host.starts_with('[') && host.ends_with(']');
        (labels_fit || literal) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
    };
    let identifier = name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    !identifier && name.len() <= 255 && registry.is_none_or(host) && path.split('/').all(component)
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b".-".contains(&b))
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        let length = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return false,
        };
        hex.len() == length && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
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

#[cfg(test)]
mod tests {
    use super::takes_latest;

    #[test]
    fn only_well_formed_images_without_another_tag_are_the_latest() {
        for image in ["nginx", "nginx:latest", "reg:5000/nginx", "a.example/b/c:latest", "localhost/x_y.z--1"] {
            assert!(takes_latest(image), "{image}");
        }
        let digest = format!("nginx@sha256:{}", "a".repeat(64));
        for image in
            ["", "nginx:1", "reg:5000/nginx:1", "nginx@sha256:ab", &digest, "-x", "../x", "Bad Value!", "A/b/C"]
        {
            assert!(!takes_latest(image), "{image}");
        }
        assert!(!takes_latest(&"a".repeat(300)) && !takes_latest(&"a".repeat(64)));
    }
}

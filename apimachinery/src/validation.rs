//! Name formats and the rules of `metadata`.
//!
//! Each format check answers with the messages of what is wrong; none means valid. Limits and alphabets are upstream's.

use serde_json::{Map, Value};

use crate::field::{ErrorList, FieldError, Path};
use crate::meta;

/// Bytes in a DNS label.
pub const MAX_LABEL_BYTES: usize = 63;
/// Bytes in a DNS subdomain.
pub const MAX_SUBDOMAIN_BYTES: usize = 253;
/// Bytes of all annotations' keys and values together.
pub const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;

const DNS1123_LABEL: &str =
    "must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const DNS1123_SUBDOMAIN: &str = "must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const DNS1035_LABEL: &str = "must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE: &str = "must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

const CONFIG_KEY: &str = "must consist of alphanumeric characters, '-', '_' or '.'";

fn too_long(max_bytes: usize) -> String {
    format!("must be no more than {max_bytes} bytes")
}

/// Lower-case letters and digits, also '-' inside.
fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if plain(first) && plain(last))
        && bytes.iter().all(|b| plain(b) || *b == b'-')
}

/// Letters and digits, also '-', '_' and '.' inside.
fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// What is wrong with a text that may have `max_bytes` and is `what`, of which `rule` says how it must look. Valid text, the
/// usual case, costs nothing.
fn complaints(text: &str, max_bytes: usize, wrong: bool, what: &str, rule: &str) -> Vec<String> {
    let long = (text.len() > max_bytes).then(|| too_long(max_bytes));
    long.into_iter().chain(wrong.then(|| format!("{what} {rule}"))).collect()
}

/// RFC 1123 label, at most 63 bytes.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let wrong = !is_dns_label(text);
    complaints(text, MAX_LABEL_BYTES, wrong, "a lowercase RFC 1123 label", DNS1123_LABEL)
}

/// RFC 1123 subdomain, at most 253 bytes.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let wrong = !text.split('.').all(is_dns_label);
    complaints(text, MAX_SUBDOMAIN_BYTES, wrong, "a lowercase RFC 1123 subdomain", DNS1123_SUBDOMAIN)
}

/// RFC 1123 subdomain that may also hold underscores.
pub fn dns1123_subdomain_with_underscore(text: &str) -> Vec<String> {
    let wrong = !text.split('.').all(|part| is_dns_label(&part.replace('_', "a")));
    complaints(
        text,
        MAX_SUBDOMAIN_BYTES,
        wrong,
        "a lowercase RFC 1123 subdomain (underscores allowed)",
        DNS1123_SUBDOMAIN,
    )
}

/// RFC 1035 label: like RFC 1123, but starts with a letter.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let wrong = !(is_dns_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase()));
    complaints(text, MAX_LABEL_BYTES, wrong, "a DNS-1035 label", DNS1035_LABEL)
}

/// A subdomain, or one after `*.`.
pub fn wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    let rest = text.strip_prefix("*.").unwrap_or("");
    let wrong = rest.is_empty() || !dns1123_subdomain(rest).is_empty();
    complaints(
        text,
        MAX_SUBDOMAIN_BYTES,
        wrong,
        "a wildcard DNS-1123 subdomain must start with '*.' and go on with a valid subdomain, which",
        DNS1123_SUBDOMAIN,
    )
}

/// `[prefix/]name`, as label keys are.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    let name = match text.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                messages.push("prefix part must be non-empty".to_owned());
            } else {
                messages.extend(dns1123_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            messages.push(format!("a qualified name {QUALIFIED_NAME} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"));
            return messages;
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX_LABEL_BYTES {
        messages.push(format!("name part {}", too_long(MAX_LABEL_BYTES)));
    }
    if !is_name_part(name) {
        messages.push(QUALIFIED_NAME.to_owned());
    }
    messages
}

/// A label's value, at most 63 bytes.
pub fn label_value(text: &str) -> Vec<String> {
    complaints(text, MAX_LABEL_BYTES, !text.is_empty() && !is_name_part(text), "a valid label", LABEL_VALUE)
}

/// What may stand between two slashes of a URL.
pub fn path_segment_name(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    let found = ['/', '%'].into_iter().filter(|c| text.contains(*c));
    found.map(|c| format!("may not contain '{c}'")).collect()
}

/// A port number, 1 to 65535.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec!["must be between 1 and 65535, inclusive".to_owned()] }
}

/// A port's name (IANA service name): at most 15 lower-case letters, digits and single hyphens, at least one letter.
pub fn port_name(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > 15 {
        messages.push(too_long(15));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

/// A C identifier.
pub fn c_identifier(text: &str) -> Vec<String> {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let valid = text.bytes().next().is_some_and(letter) && text.bytes().all(|b| letter(b) || b.is_ascii_digit());
    let message = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    if valid { Vec::new() } else { vec![message.to_owned()] }
}

/// A name of an environment variable: printable ASCII without '='.
pub fn env_var_name(text: &str) -> Vec<String> {
    let valid = !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    let message = "a valid environment variable name must consist only of printable ASCII characters other than '='";
    if valid { Vec::new() } else { vec![message.to_owned()] }
}

/// A key of a ConfigMap or Secret, at most 253 bytes.
pub fn config_map_key(text: &str) -> Vec<String> {
    let valid = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let mut messages = complaints(text, MAX_SUBDOMAIN_BYTES, !valid, "a valid config key", CONFIG_KEY);
    if text == "." || text == ".." {
        messages.push(format!("must not be '{text}'"));
    } else if text.starts_with("..") {
        messages.push("must not start with '..'".to_owned());
    }
    messages
}

/// An IP address without leading zeros, IPv4 or IPv6.
pub fn ip_address(text: &str) -> Vec<String> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Vec::new();
    }
    vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
}

/// An HTTP header's name.
pub fn http_header_name(text: &str) -> Vec<String> {
    let valid = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if valid {
        Vec::new()
    } else {
        vec!["a valid HTTP header must consist of alphanumeric characters or '-'".to_owned()]
    }
}

/// `0%` to `100%` and beyond, as text.
pub fn percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or("");
    let valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if valid {
        Vec::new()
    } else {
        vec!["a valid percent string must be a numeric string followed by an ending '%'".to_owned()]
    }
}

/// How a kind's names are checked.
pub type NameFn = fn(&str) -> Vec<String>;

/// Appends one `Invalid` per message.
fn invalid_all(errors: &mut ErrorList, path: &Path, value: &str, messages: Vec<String>) {
    errors.extend(messages.into_iter().map(|m| FieldError::invalid(path.clone(), value, m)));
}

/// A generated name ends in `-` only until its suffix is there.
fn mask_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => prefix.to_owned(),
    }
}

/// Checks `metadata` of a whole object.
pub fn validate_object_meta(object: &Value, namespaced: bool, name_fn: NameFn, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let prefix = meta::generate_name(object);
    if !prefix.is_empty() {
        invalid_all(&mut errors, &path.child("generateName"), prefix, name_fn(&mask_trailing_dash(prefix)));
    }
    let name = meta::name(object);
    if name.is_empty() {
        errors.push(FieldError::required(path.child("name"), "name or generateName is required"));
    } else {
        invalid_all(&mut errors, &path.child("name"), name, name_fn(name));
    }
    let namespace = meta::namespace(object);
    if namespaced && namespace.is_empty() {
        errors.push(FieldError::required(path.child("namespace"), ""));
    } else if namespaced {
        invalid_all(&mut errors, &path.child("namespace"), namespace, dns1123_label(namespace));
    } else if !namespace.is_empty() {
        errors.push(FieldError::forbidden(path.child("namespace"), "not allowed on this type"));
    }
    if meta::generation(object) < 0 {
        errors.push(FieldError::invalid(
            path.child("generation"),
            meta::generation(object),
            "must be greater than or equal to 0",
        ));
    }
    errors.extend(validate_labels(meta::labels(object), &path.child("labels")));
    errors.extend(validate_annotations(meta::annotations(object), &path.child("annotations")));
    errors.extend(validate_owner_references(meta::owner_references(object), &path.child("ownerReferences")));
    errors.extend(validate_finalizers(object, &path.child("finalizers")));
    errors
}

/// Checks keys and values of labels.
pub fn validate_labels(labels: &Map<String, Value>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in labels {
        invalid_all(&mut errors, path, key, qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        invalid_all(&mut errors, path, value, label_value(value));
    }
    errors
}

/// Checks keys of annotations, and their size together.
pub fn validate_annotations(annotations: &Map<String, Value>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut total_bytes = 0;
    for (key, value) in annotations {
        // Keys are matched without regard to case for historical reasons.
        invalid_all(&mut errors, path, key, qualified_name(&key.to_ascii_lowercase()));
        total_bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if total_bytes > MAX_ANNOTATIONS_BYTES {
        errors.push(FieldError::too_long(path.clone(), MAX_ANNOTATIONS_BYTES));
    }
    errors
}

fn validate_owner_references(owners: &[Value], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut controllers = 0;
    for owner in owners {
        let part = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        let api_version = part("apiVersion");
        match crate::gvk::GroupVersion::parse(api_version) {
            None => {
                errors.push(FieldError::invalid(path.child("apiVersion"), api_version, "version must not be empty"));
            }
            Some(gv) if gv.group.is_empty() && part("kind") == "Event" => {
                errors.push(FieldError::invalid(
                    path.clone(),
                    owner.clone(),
                    "v1, Kind=Event is disallowed from being an owner",
                ));
            }
            Some(_) => {}
        }
        for key in ["kind", "name", "uid"] {
            if part(key).is_empty() {
                errors.push(FieldError::invalid(path.child(key), part(key), "must not be empty"));
            }
        }
        controllers += usize::from(owner.get("controller").and_then(Value::as_bool) == Some(true));
    }
    if controllers > 1 {
        let message = "only one reference can have controller set to true";
        errors.push(FieldError::invalid(path.clone(), owners.to_vec(), message));
    }
    errors
}

fn validate_finalizers(object: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for name in meta::finalizers(object) {
        invalid_all(&mut errors, path, name, qualified_name(name));
    }
    let has = |name: &str| meta::finalizers(object).any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let list: Vec<&str> = meta::finalizers(object).collect();
        let message = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path.clone(), list, message));
    }
    errors
}

/// Checks what an update may not change in `metadata`.
pub fn validate_object_meta_update(new: &Value, old: &Value, path: &Path) -> ErrorList {
    const IMMUTABLE: &str = "field is immutable";
    let mut errors = ErrorList::new();
    if meta::deletion_timestamp(old).is_some() {
        let added: Vec<&str> = meta::finalizers(new).filter(|f| !meta::finalizers(old).any(|o| o == *f)).collect();
        if !added.is_empty() {
            let message = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            errors.push(FieldError::forbidden(path.child("finalizers"), message));
        }
    }
    if meta::generation(new) < meta::generation(old) {
        errors.push(FieldError::invalid(path.child("generation"), meta::generation(new), "must not be decremented"));
    }
    let member =
        |object: &Value, key: &str| object.get("metadata").and_then(|m| m.get(key)).cloned().unwrap_or_default();
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (new, old) = (member(new, key), member(old, key));
        if new != old {
            let shown = if new.is_null() { Value::from("") } else { new };
            errors.push(FieldError::invalid(path.child(key), shown, IMMUTABLE));
        }
    }
    errors.extend(validate_labels(meta::labels(new), &path.child("labels")));
    errors.extend(validate_annotations(meta::annotations(new), &path.child("annotations")));
    errors.extend(validate_owner_references(meta::owner_references(new), &path.child("ownerReferences")));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn name_formats() {
        let table: [(NameFn, &[&str], &[&str]); 9] = [
            (dns1123_label, &["a", "a-b", "0a"], &["", "A", "-a", "a-", "a.b", "a_b"]),
            (dns1123_subdomain, &["a.b", "a-1.b"], &["", ".a", "a.", "a..b", "A.b"]),
            (dns1035_label, &["a1", "a-b"], &["1a", "", "a."]),
            (qualified_name, &["a", "A_b.c", "x.io/A"], &["", "/a", "a/", "a/b/c", "X.io/a", "_a"]),
            (label_value, &["", "a", "A.b-c_d"], &["-a", "a ", "a/b"]),
            (path_segment_name, &["a:b", "A"], &[".", "..", "a/b", "a%b"]),
            (port_name, &["http", "a-1"], &["", "1", "a--b", "-a", "A", "abcdefghijklmnop"]),
            (c_identifier, &["_a", "A1"], &["", "1a", "a-b"]),
            (config_map_key, &["a.b", "_"], &["", ".", "..", "..a", "a b"]),
        ];
        for (check, good, bad) in table {
            for text in good {
                assert_eq!(check(text), Vec::<String>::new(), "{text}");
            }
            for text in bad {
                assert!(!check(text).is_empty(), "{text}");
            }
        }
        assert!(!dns1123_label(&"a".repeat(64)).is_empty());
    }

    #[test]
    fn metadata_rules() {
        let path = Path::new("metadata");
        let fields = |errors: ErrorList| errors.iter().map(|e| e.path.to_string()).collect::<Vec<_>>();
        let object = json!({"metadata": {"name": "A", "labels": {"a b": "c d"}, "finalizers": ["x y"], "ownerReferences": [{"kind": "K"}]}});
        assert_eq!(
            fields(validate_object_meta(&object, true, dns1123_label, &path)),
            [
                "metadata.name", "metadata.namespace", "metadata.labels", "metadata.labels",
                "metadata.ownerReferences.apiVersion", "metadata.ownerReferences.name", "metadata.ownerReferences.uid",
                "metadata.finalizers"
            ]
        );
        let old = json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "2024-01-01T00:00:00Z"}});
        let new = json!({"metadata": {"name": "a", "uid": "2", "deletionTimestamp": "2024-01-01T00:00:00Z", "finalizers": ["x/y"]}});
        assert_eq!(fields(validate_object_meta_update(&new, &old, &path)), ["metadata.finalizers", "metadata.uid"]);
    }
}

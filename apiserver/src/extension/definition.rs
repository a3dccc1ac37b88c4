//! The kind CustomResourceDefinition: its defaults, its rules and its status. Follows upstream's strategy and validation,
//! which reports what all versions have in common under paths of the specification itself.

use apimachinery::field::{self, ErrorList, FieldError};
use apimachinery::meta;
use apimachinery::structural::Schema;
use apimachinery::validation::{dns1035_label, dns1123_subdomain};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{is_true, names, rules, schemas, storage_version, texts};
use crate::resources::check::{At, Check};
use crate::resources::{HookContext, NameRule, Strategy, client_config, edit, review_versions};

/// Holds a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Fields that objects of one version can be selected by.
const MAX_SELECTABLE_FIELDS: usize = 8;
/// Length of `deprecationWarning`.
const MAX_WARNING_BYTES: usize = 256;

/// Of definitions.
pub const STRATEGY: Strategy = Strategy {
    names: NameRule(dns1123_subdomain),
    default: |object, cx| {
        let said = object["spec"]["conversion"].clone();
        (Strategy::DEFAULT.default)(object, cx);
        if said["strategy"].is_null() && !said.is_null() {
            // Only an absent conversion is filled in.
            edit::at_mut(object, "spec.conversion", |conversion| drop(edit::remove(conversion, "strategy")));
        }
        edit::at_mut(object, "spec.names", |names| {
            let kind = names["kind"].as_str().unwrap_or_default().to_owned();
            if !kind.is_empty() {
                edit::set_default(names, "singular", kind.to_lowercase());
                edit::set_default(names, "listKind", format!("{kind}List"));
            }
        });
    },
    prepare_create: |object, _| {
        let stored = At::root(object).get("spec.versions").items().find(|version| version.get("storage").flag());
        let stored = stored.map(|version| version.get("name").str().to_owned());
        object["status"] = json!({"storedVersions": Vec::from_iter(stored)});
    },
    prepare_update: |object, _, _| {
        let stored = storage_version(&object["spec"]).to_owned();
        let mut versions = texts(&object["status"]["storedVersions"]);
        if !stored.is_empty() && !versions.contains(&stored) {
            versions.push(stored);
            object["status"]["storedVersions"] = versions.into();
        }
    },
    validate: |object, cx| field::with_paths(|| validate_new(object, cx)),
    validate_update: |object, old, _| field::with_paths(|| validate_changed(object, old)),
    warnings: |object, old| {
        let known = old.map(unknown_formats).unwrap_or_default();
        let new = unknown_formats(object).into_iter().filter(|format| !known.contains(format));
        new.map(|format| format!("unrecognized format {format:?}")).collect()
    },
    ..Strategy::DEFAULT
};

fn validate_new(object: &Value, cx: &HookContext) -> ErrorList {
    let mut errors = (Strategy::DEFAULT.validate)(object, cx);
    let mut check = Check::new();
    let at = At::root(object);
    let (group, plural) = (at.get("spec.group").str(), at.get("spec.names.plural").str());
    for name in ["metadata.name", "metadata.generateName"].map(|field| at.get(field)) {
        if !name.is_empty() && name.str() != format!("{plural}.{group}") {
            check.invalid(&name, "must be spec.names.plural+\".\"+spec.group");
        }
    }
    spec(&at.get("spec"), None, &mut check);
    stored_versions(&at, &mut check);
    approval(object, None, &mut check);
    errors.append(&mut check.errors);
    errors
}

fn validate_changed(object: &Value, old: &Value) -> ErrorList {
    let mut check = Check::new();
    let (at, was) = (At::root(object), At::root(old));
    spec(&at.get("spec"), Some(&was.get("spec")), &mut check);
    let fixed = if is_true(old, "Established") { ["spec.scope", "spec.names.kind"].as_slice() } else { &[] };
    for field in fixed.iter().chain(&["spec.group", "spec.names.plural"]) {
        check.immutable(&at.get(field), &was.get(field));
    }
    name_formats(&at.get("status.acceptedNames"), &mut check);
    stored_versions(&at, &mut check);
    approval(object, Some(old), &mut check);
    check.errors
}

/// Of their status.
pub const STATUS: Strategy = Strategy {
    prepare_update: |object, old, _| edit::copy(object, old, "spec"),
    validate_update: |object, _, _| {
        let mut check = Check::new();
        name_formats(&At::root(object).get("status.acceptedNames"), &mut check);
        check.errors
    },
    ..STRATEGY
};

/// The definition as it waits for its objects to be deleted; `None` when that was said before.
pub fn marked_for_deletion(definition: &Value, now: Timestamp) -> Option<Value> {
    if meta::deletion_timestamp(definition).is_some() {
        return None;
    }
    let mut marked = definition.clone();
    let at = apimachinery::time::format_time(now);
    meta::metadata_mut(&mut marked).insert("deletionTimestamp".to_owned(), at.clone().into());
    let mut finalizers: Vec<String> = meta::finalizers(definition).map(str::to_owned).collect();
    if !finalizers.iter().any(|name| name == CLEANUP) {
        finalizers.push(CLEANUP.to_owned());
    }
    meta::set_finalizers(&mut marked, finalizers);
    let condition = json!({"type": "Terminating", "status": "True", "reason": "InstanceDeletionPending",
        "message": "the objects will be deleted soon", "lastTransitionTime": at});
    match marked["status"]["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => marked["status"]["conditions"] = json!([condition]),
    }
    Some(marked)
}

fn approval(object: &Value, old: Option<&Value>, check: &mut Check) {
    let group = object["spec"]["group"].as_str().unwrap_or_default();
    let state = |object: &Value| names::approval(object).map(|(_, reason, _)| reason);
    if !names::is_protected(group) || old.is_some_and(|old| state(old) == state(object)) {
        return;
    }
    let at = At::root(object).get("metadata.annotations").entry(names::APPROVED);
    match names::approval(object) {
        None => check.invalid(&at, "must be the URL of the approval, or begin with \"unapproved\""),
        Some((_, "MissingAnnotation", message)) => check.required(&at, &message),
        Some(_) => {}
    }
}

fn unknown_formats(definition: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for version in At::root(definition).get("spec.versions").items() {
        schemas::unknown_formats(&version.get("schema.openAPIV3Schema"), &mut found);
    }
    found
}

fn stored_versions(at: &At, check: &mut Check) {
    let stored = at.get("status.storedVersions");
    if stored.is_empty() {
        return check.invalid(&stored, "must have at least one stored version");
    }
    let mut left: Vec<&str> = stored.strings().collect();
    for version in at.get("spec.versions").items() {
        let name = version.get("name").str();
        if version.get("storage").flag() && !left.contains(&name) {
            check.invalid(&stored, format!("must have the storage version {name}"));
        }
        left.retain(|known| *known != name);
    }
    for version in stored.items().filter(|version| left.contains(&version.str())) {
        check.invalid(&version, "must remain in spec.versions as long as objects of it may be stored");
    }
}

fn spec(at: &At, old: Option<&At>, check: &mut Check) {
    let group = at.get("group");
    check.present_format(&group, dns1123_subdomain);
    if !group.str().is_empty() && dns1123_subdomain(group.str()).is_empty() && !group.str().contains('.') {
        check.invalid(&group, "should be a domain with at least one dot");
    }
    check.present_one_of(&at.get("scope"), &["Cluster", "Namespaced"]);
    versions(at, old, check);
    check.present_all(&at.get("names"), &["plural", "singular", "kind", "listKind"]);
    name_formats(&at.get("names"), check);
    conversion(&at.get("conversion"), check);
    if at.get("preserveUnknownFields").flag() {
        check.invalid(
            &at.get("preserveUnknownFields"),
            "must be false: set x-kubernetes-preserve-unknown-fields instead",
        );
    }
}

fn name_formats(names: &At, check: &mut Check) {
    for field in ["plural", "singular"] {
        check.format_if_set(&names.get(field), dns1035_label);
    }
    for field in ["kind", "listKind"] {
        let name = names.get(field);
        if !name.str().is_empty() && !dns1035_label(&name.str().to_lowercase()).is_empty() {
            check.invalid(&name, "may have mixed case, but should otherwise be a DNS-1035 label");
        }
    }
    for field in ["shortNames", "categories"] {
        for name in names.get(field).items() {
            check.format(&name, dns1035_label);
        }
    }
    let (kind, list) = (names.get("kind"), names.get("listKind"));
    if !kind.str().is_empty() && kind.str() == list.str() {
        check.invalid(&list, "kind and listKind may not be the same");
    }
}

/// Whether all versions have the same in a field; what they have is then told of as the specification's own.
fn is_common(versions: &[At], field: &str) -> bool {
    versions.split_first().is_some_and(|(first, others)| {
        let value = first.get(field).value;
        others.iter().all(|other| other.get(field).value == value)
    })
}

fn has_status(version: &At) -> bool {
    version.get("subresources.status").value.is_object()
}

fn versions(at: &At, old: Option<&At>, check: &mut Check) {
    let list = at.get("versions");
    let versions: Vec<At> = list.items().collect();
    if let Some(first) = versions.first() {
        // Upstream's inner field for a single version.
        check.format_if_set(&first.get("name").under(at.path.child("version")), dns1035_label);
    }
    for version in &versions {
        check.format(&version.get("name"), dns1035_label);
        deprecation(version, check);
        let schema = version.get("schema.openAPIV3Schema");
        if !schema.is_set() {
            check.required(&schema, "schemas are required");
        }
    }
    let mut parts = |field: &str, common_path: &str, each: &dyn Fn(&At, &At, &mut Check)| {
        if is_common(&versions, field) {
            if let Some(first) = versions.first() {
                each(first, &first.get(field).under(at.path.child(common_path)), check);
            }
        } else {
            versions.iter().for_each(|version| each(version, &version.get(field), check));
        }
    };
    let any_status = versions.iter().any(has_status);
    let common = is_common(&versions, "schema");
    parts("schema", "validation", &|version, schema, check| {
        let schema = schema.get("openAPIV3Schema");
        if schema.is_set() {
            let before = old.and_then(|old| {
                old.get("versions").items().find(|was| was.get("name").value == version.get("name").value)
            });
            let priced = before.is_none_or(|was| was.get("schema").value != version.get("schema").value);
            schemas::validate(
                &schema,
                if common { any_status } else { has_status(version) },
                priced,
                &mut check.errors,
            );
        }
    });
    parts("subresources", "subresources", &|_, subresources, check| scale(&subresources.get("scale"), check));
    parts("additionalPrinterColumns", "additionalPrinterColumns", &|_, columns, check| {
        columns.items().for_each(|column| printer_column(&column, check));
    });
    parts("selectableFields", "selectableFields", &|version, fields, check| {
        selectable(version.get("schema.openAPIV3Schema").value, fields, check);
    });
    let names: Vec<&str> = versions.iter().map(|version| version.get("name").str()).collect();
    if (1..names.len()).any(|index| names[..index].contains(&names[index])) {
        check.invalid(&list, "must contain unique version names");
    }
    if versions.iter().filter(|version| version.get("storage").flag()).count() != 1 {
        check.invalid(&list, "must have exactly one version marked as storage version");
    }
}

fn deprecation(version: &At, check: &mut Check) {
    let warning = version.get("deprecationWarning");
    if !warning.is_set() {
        return;
    }
    let text = warning.str();
    if !version.get("deprecated").flag() {
        return check.invalid(&warning, "can only be set for deprecated versions");
    }
    for (wrong, detail) in [
        (text.len() > MAX_WARNING_BYTES, "must be <= 256 characters long"),
        (text.is_empty(), "must not be an empty string"),
        (text.chars().any(char::is_control), "must only contain printable UTF-8 characters"),
    ] {
        if wrong {
            check.invalid(&warning, detail);
        }
    }
}

fn scale(scale: &At, check: &mut Check) {
    if !scale.is_set() {
        return;
    }
    let mut path = |field: &str, required: bool, below: &[&str]| {
        let at = scale.get(field);
        let text = at.str();
        if text.is_empty() {
            if required {
                check.required(&at, "");
            }
        } else if !text.starts_with('.') {
            check.invalid(&at, "must be a simple json path starting with .");
        } else if !below.iter().any(|prefix| text.starts_with(prefix)) {
            check.invalid(&at, format!("should be a json path under {}", below.join(" or ")));
        }
    };
    path("specReplicasPath", true, &[".spec."]);
    path("statusReplicasPath", true, &[".status."]);
    path("labelSelectorPath", false, &[".spec.", ".status."]);
}

fn printer_column(column: &At, check: &mut Check) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 9] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "name", "password"];
    check.present(&column.get("name"));
    for (field, known) in [("type", TYPES.as_slice()), ("format", &FORMATS)] {
        let at = column.get(field);
        if !at.str().is_empty() && !known.contains(&at.str()) {
            check.invalid(&at, format!("must be one of {}", known.join(",")));
        }
    }
    check.present(&column.get("type"));
    let path = column.get("jsonPath");
    // Upstream's inner name of the field.
    let path = path.under(column.path.child("JSONPath"));
    if check.present(&path) && !path.str().starts_with('.') {
        check.invalid(&path, "must be a simple json path starting with .");
    }
}

fn selectable(openapi: &Value, fields: &At, check: &mut Check) {
    let schema = Schema::parse(openapi);
    let mut seen: Vec<&str> = Vec::new();
    for field in fields.items() {
        let path = field.get("jsonPath");
        let text = path.str();
        if text.is_empty() {
            check.required(&path, "");
            continue;
        }
        let found = if text.contains('[') { None } else { schemas::at_path(&schema, text) };
        match found {
            None => {
                check.invalid(&path, "is an invalid path");
                continue;
            }
            Some(_) if rules::field_steps(text).is_some_and(|steps| steps[0] == "metadata") => {
                check.invalid(&path, "must not point to fields in metadata");
            }
            Some(found) if !["string", "boolean", "integer"].contains(&found.ty.as_str()) => {
                check.invalid(&path, "must point to a field of type string, boolean or integer");
            }
            Some(_) => {}
        }
        if seen.contains(&text) {
            check.duplicate(&path);
        } else {
            seen.push(text);
        }
    }
    if seen.len() > MAX_SELECTABLE_FIELDS {
        check.errors.push(FieldError::too_many(fields.path.clone(), seen.len(), MAX_SELECTABLE_FIELDS));
    }
}

fn conversion(at: &At, check: &mut Check) {
    if !at.is_set() {
        return;
    }
    check.present_one_of(&at.get("strategy"), &["None", "Webhook"]);
    let webhook = at.get("webhook");
    let client = webhook.get("clientConfig").under(at.path.child("webhookClientConfig"));
    let reviews = webhook.get("conversionReviewVersions").under(at.path.child("conversionReviewVersions"));
    if at.get("strategy").str() != "Webhook" {
        for field in [&client, &reviews] {
            if !field.is_empty() {
                check.forbidden(field, "should not be set when strategy is not set to Webhook");
            }
        }
        return;
    }
    if client.is_set() {
        client_config(check, &client);
    } else {
        check.required(&client, "required when strategy is set to Webhook");
    }
    review_versions(check, &reviews);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_versions(versions: &Value) -> Value {
        json!({"group": "g.example.com", "scope": "Namespaced", "versions": versions,
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "conversion": {"strategy": "None"}})
    }

    #[test]
    fn rules_that_may_cost_too_much_are_refused() {
        let rule = |rule: &str, bound: &Value| {
            let inner = json!({"type": "array", "items": {"type": "integer"}, "maxItems": bound});
            json!({"type": "array", "items": inner, "maxItems": bound, "x-kubernetes-validations": [{"rule": rule}]})
        };
        let nested = "self.all(x, x.all(y, y > 0))";
        for (property, refused) in [
            (rule(nested, &Value::Null), true),
            (rule(nested, &json!(100)), false),
            (rule("self.size() > 0", &Value::Null), false),
            (json!({"type": "string", "x-kubernetes-validations": [{"rule": "self.matches('^[a-z]+$')"}]}), false),
            (
                json!({"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self.contains('x')"}]}}),
                true,
            ),
        ] {
            let places = errors(&with_versions(&json!([version("v1", &json!({"a": property.clone()}))])));
            assert_eq!(
                places.iter().any(|place| place.starts_with("FieldValueForbidden")),
                refused,
                "{property}: {places:?}"
            );
        }
    }

    #[test]
    fn all_rules_of_a_schema_share_a_budget() {
        let costly = json!({"type": "array", "items": {"type": "array", "items": {"type": "string"}},
            "x-kubernetes-validations": [{"rule": "self.all(x, x.all(y, self.all(z, z.all(w, w == y))))"}]});
        let places = errors(&with_versions(&json!([version("v1", &json!({"a": costly}))])));
        let forbidden: Vec<&String> = places.iter().filter(|place| place.starts_with("FieldValueForbidden")).collect();
        assert_eq!(forbidden.len(), 3, "{places:?}");
        assert!(forbidden.iter().any(|place| place.ends_with(".openAPIV3Schema")), "{places:?}");
    }

    fn version(name: &str, properties: &Value) -> Value {
        json!({"name": name, "served": true, "storage": name == "v1",
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    }

    fn errors(spec_value: &Value) -> Vec<String> {
        let mut check = Check::new();
        spec(&At::root(&json!({"spec": spec_value})).get("spec"), None, &mut check);
        let place = |error: &FieldError| format!("{} {}", error.ty.reason(), error.path);
        let mut places: Vec<String> = check.errors.iter().map(place).collect();
        places.sort();
        places
    }

    #[test]
    fn common_parts_are_told_of_once() {
        let bad = json!({"a": {"type": "wrong"}});
        let one = errors(&with_versions(&json!([version("v1", &bad)])));
        assert_eq!(one, ["FieldValueNotSupported spec.validation.openAPIV3Schema.properties[a].type"]);
        let two = errors(&with_versions(&json!([version("v1", &bad), version("v2", &json!({}))])));
        assert_eq!(two, ["FieldValueNotSupported spec.versions[0].schema.openAPIV3Schema.properties[a].type"]);
    }

    #[test]
    fn schemas_must_be_structural() {
        let root = "spec.validation.openAPIV3Schema.properties[a]";
        let cases: [(Value, &[&str]); 8] = [
            (json!({"type": "array"}), &["FieldValueRequired {}.items"]),
            (
                json!({"anyOf": [{"type": "string"}]}),
                &["FieldValueForbidden {}.anyOf[0].type", "FieldValueRequired {}.type"],
            ),
            (
                json!({"type": "object", "allOf": [{"properties": {"x": {"minimum": 1}}}]}),
                &["FieldValueRequired {}.properties[x]"],
            ),
            (json!({"type": "integer", "default": "x"}), &["FieldValueTypeInvalid {}.default"]),
            (json!({"type": "object", "default": {"x": 1}}), &["FieldValueInvalid {}.default"]),
            (json!({"type": "string", "pattern": "("}), &["FieldValueInvalid {}.pattern"]),
            (json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}), &[]),
            (
                json!({"type": "string", "x-kubernetes-validations": [{"rule": "self.size() > 1", "reason": "Bad"}]}),
                &["FieldValueNotSupported {}.x-kubernetes-validations[0].reason"],
            ),
        ];
        for (property, expected) in cases {
            let expected: Vec<String> = expected.iter().map(|place| place.replace("{}", root)).collect();
            assert_eq!(
                errors(&with_versions(&json!([version("v1", &json!({"a": property.clone()}))]))),
                expected,
                "{property}"
            );
        }
    }

    #[test]
    fn specifications_are_checked() {
        let mut bad = with_versions(&json!([version("v1", &json!({})), version("v1", &json!({}))]));
        bad["group"] = "nodots".into();
        bad["names"]["listKind"] = "Thing".into();
        bad["conversion"] = json!({"strategy": "Webhook"});
        assert_eq!(
            errors(&bad),
            [
                "FieldValueInvalid spec.group",
                "FieldValueInvalid spec.names.listKind",
                "FieldValueInvalid spec.versions",
                "FieldValueInvalid spec.versions",
                "FieldValueRequired spec.conversion.conversionReviewVersions",
                "FieldValueRequired spec.conversion.webhookClientConfig",
            ]
        );
    }

    #[test]
    fn deletion_waits_for_the_objects() {
        let marked =
            marked_for_deletion(&json!({"metadata": {"name": "a"}, "status": {}}), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(marked["metadata"]["finalizers"], json!([CLEANUP]));
        assert!(is_true(&marked, "Terminating"));
        assert_eq!(marked_for_deletion(&marked, Timestamp::now()), None);
    }
}

//! What the registry asks about custom objects; the answers come from the schema of the version of the request.

use apimachinery::field::{ErrorList, ErrorType, FieldError, Path};
use apimachinery::meta;
use serde_json::Value;

use super::{Version, columns};
use crate::resources::{HookContext, Strategy, edit};

/// Of the object.
pub const STRATEGY: Strategy = Strategy {
    default: |object, cx| {
        if let Some(version) = version(cx) {
            version.schema.fill(object);
        }
    },
    prepare_create: |object, cx| {
        if has_status(cx) {
            edit::remove(object, "status");
        }
    },
    prepare_update: |object, old, cx| {
        if has_status(cx) {
            edit::copy(object, old, "status");
        }
        bump_generation(object, old);
    },
    validate: |object, cx| {
        let mut errors = (Strategy::DEFAULT.validate)(object, cx);
        validate(object, None, cx, &mut errors);
        errors
    },
    validate_update: |object, old, cx| {
        let mut errors = ErrorList::new();
        validate(object, Some(old), cx, &mut errors);
        errors
    },
    cells: Some(columns::cells),
    warnings: finalizer_warnings,
    ..Strategy::DEFAULT
};

/// New finalizers that another writer might choose as well: without a domain, or a domain without a path.
fn finalizer_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let known = |name: &str| old.is_some_and(|old| meta::finalizers(old).any(|f| f == name));
    let standard = |name: &str| ["kubernetes", "orphan", "foregroundDeletion"].contains(&name);
    meta::finalizers(object)
        .enumerate()
        .filter(|(_, name)| !name.contains('/') && !standard(name) && !known(name))
        .map(|(i, name)| format!("metadata.finalizers[{i}]: {name:?}: prefer a name with a domain and a path"))
        .collect()
}

/// Of its status: nothing else changes through it.
pub const STATUS: Strategy = Strategy {
    prepare_update: |object, old, _| {
        let (status, owners) = (edit::remove(object, "status"), object["metadata"]["managedFields"].take());
        object.clone_from(old);
        edit::remove(object, "status");
        if let Some(status) = status {
            edit::set(object, "status", status);
        }
        let metadata = meta::metadata_mut(object);
        metadata.remove("managedFields");
        if !owners.is_null() {
            metadata.insert("managedFields".to_owned(), owners);
        }
    },
    ..STRATEGY
};

fn version<'a>(cx: &HookContext<'a>) -> Option<&'a Version> {
    cx.resource.version(cx.version).and_then(|served| served.custom.as_deref())
}

fn has_status(cx: &HookContext) -> bool {
    version(cx).is_some_and(|version| version.has_status)
}

/// Any change outside the metadata raises the generation; a status with an endpoint of its own is the old one here.
fn bump_generation(object: &mut Value, old: &Value) {
    let content = |object: &Value| {
        let members = object.as_object().into_iter().flatten();
        members
            .filter(|(name, _)| *name != "metadata")
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<Vec<_>>()
    };
    if content(object) != content(old) {
        meta::set_generation(object, meta::generation(old) + 1);
    }
}

/// What the schema, the scale and the rules say. Rules are not asked about what has no good shape.
fn validate(object: &Value, old: Option<&Value>, cx: &HookContext, errors: &mut ErrorList) {
    let Some(version) = version(cx) else { return };
    let mut found = ErrorList::new();
    version.schema.validate(object, old, &Path::root(), &mut found);
    if let Some(scale) = &version.scale {
        let replicas = scale.spec.split('.').try_fold(object, |value, name| value.get(name));
        // `3.0` is no integer to upstream.
        if let Some(replicas) = replicas.filter(|replicas| replicas.as_i64().is_none_or(|replicas| replicas < 0)) {
            let path = Path::new(&format!(".{}", scale.spec));
            found.push(FieldError::invalid(path, replicas.clone(), "should be a non-negative integer"));
        }
    }
    let blocks = |error: &FieldError| {
        use ErrorType::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
        matches!(error.ty, NotSupported | Required | TooLong | TooMany | TypeInvalid)
    };
    if version.rules.is_empty() {
    } else if found.iter().any(blocks) {
        let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
        found.push(FieldError::invalid(Path::root(), Value::Null, detail));
    } else {
        version.rules.validate(&version.schema, object, old, &mut found);
    }
    for mut error in found {
        if error.path == Path::root() {
            error.path = Path::new("<nil>");
        }
        errors.push(error);
    }
}

//! Metadata rules as the kinds call them. The registry checks metadata of every write once more by itself, as upstream
//! does; the rules here are the second time, which clients see as doubled causes.

use apimachinery::validation::{validate_object_meta, validate_object_meta_update};

use serde_json::Value;

use super::HookContext;
use super::check::{At, Check};

/// `ValidateObjectMeta` with the resource's name rule.
pub fn create(check: &mut Check, object: &At, cx: &HookContext) {
    let (names, path) = (cx.resource.strategy.names.0, object.path.child("metadata"));
    check.errors.extend(validate_object_meta(object.value, cx.resource.namespaced, names, &path));
    kube_finalizers(check, &object.get("metadata"));
}

/// The start of the rules for a new object: its metadata.
pub fn checked(object: &Value, cx: &HookContext) -> Check {
    let mut check = Check::new();
    create(&mut check, &At::root(object), cx);
    check
}

/// `ValidateObjectMetaUpdate`.
pub fn update(check: &mut Check, new: &At, old: &At) {
    let at = new.get("metadata");
    check.errors.extend(validate_object_meta_update(new.value, old.value, &at.path));
    kube_finalizers(check, &at);
}

/// Finalizers of built-in kinds have a domain, or are ones that Kubernetes knows.
fn kube_finalizers(check: &mut Check, meta: &At) {
    for finalizer in meta.get("finalizers").items() {
        let name = finalizer.str();
        if !name.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&name) {
            check.invalid(&finalizer, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
}

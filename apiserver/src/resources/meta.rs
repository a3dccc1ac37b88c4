//! Metadata rules as the kinds call them. The registry checks metadata of every write once more by itself, as upstream
//! does; the rules here are the second time, which clients see as doubled causes.

use apimachinery::validation::{validate_object_meta, validate_object_meta_update};

use serde_json::Value;

use super::HookContext;
use super::check::{At, Check, Format};

/// `ValidateObjectMeta` with the resource's name rule.
pub fn create(check: &mut Check, object: &At, cx: &HookContext) {
    named(check, object, cx, cx.resource.strategy.names.0);
}

/// `ValidateObjectMeta` with another name rule.
pub fn named(check: &mut Check, object: &At, cx: &HookContext, names: Format) {
    let path = object.path.child("metadata");
    check.errors.extend(validate_object_meta(object.value, cx.resource.namespaced, names, &path));
    kube_finalizers(check, object);
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
    kube_finalizers(check, new);
}

/// Finalizers of most built-in kinds have a domain, or are ones that Kubernetes knows.
fn kube_finalizers(check: &mut Check, object: &At) {
    const FREE: [&str; 3] = ["admissionregistration.k8s.io/", "coordination.k8s.io/", "node.k8s.io/"];
    if FREE.iter().any(|group| object.get("apiVersion").str().starts_with(group)) {
        return;
    }
    for finalizer in object.get("metadata.finalizers").items() {
        let name = finalizer.str();
        if !name.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&name) {
            check.invalid(&finalizer, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
}

//! Replication controllers, the older replica sets: a selector that is a plain map and that the template can provide.

use apimachinery::validation as names;
use serde_json::Value;

use super::replica_set::replica_counts;
use super::{runs_forever, status, template_warnings, update};
use crate::resources::check::{At, Check};
use crate::resources::core::pod;
use crate::resources::edit::{at_mut, set};
use crate::resources::printing::{age, containers, labels, name, number};
use crate::resources::{HookContext, NameRule, Strategy, meta};

/// The replicationcontrollers resource.
pub const STRATEGY: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default,
    validate: |object, cx| {
        let mut check = meta::checked(object, cx);
        spec(&mut check, &At::root(object).get("spec"), cx);
        check.errors
    },
    validate_update: |object, old, cx| update(object, old, |check, at| spec(check, at, cx), false),
    // Upstream hands the two over in each other's place when a controller is updated.
    warnings: |object, old| match old {
        Some(old) => template_warnings(old, Some(object)),
        None => template_warnings(object, None),
    },
    cells: Some(|object, cx| {
        let object = At::root(object);
        let (names, images) = containers(&object.get("spec.template.spec"));
        vec![
            name(&object),
            number(&object.get("spec.replicas")),
            number(&object.get("status.replicas")),
            number(&object.get("status.readyReplicas")),
            age(&object, cx.request.now),
            names,
            images,
            labels(&object.get("spec.selector")),
        ]
    }),
    ..Strategy::DEFAULT
};

/// `replicationcontrollers/status`.
pub const STATUS: Strategy =
    Strategy { default, validate_update: |object, old, _| status(object, old, replica_counts), ..Strategy::DEFAULT };

/// The template's labels stand in for an empty selector and for empty labels of the controller.
fn default(object: &mut Value, cx: &HookContext) {
    at_mut(object, "spec.template.spec", pod::defaults::spec);
    let provided = object.pointer("/spec/template/metadata/labels").cloned().filter(|l| !At::root(l).is_empty());
    if let Some(provided) = provided {
        if At::root(object).get("spec.selector").is_empty() {
            at_mut(object, "spec", |spec| set(spec, "selector", provided.clone()));
        }
        if At::root(object).get("metadata.labels").is_empty() {
            at_mut(object, "metadata", |meta| set(meta, "labels", provided));
        }
    }
    (Strategy::DEFAULT.default)(object, cx);
}

fn spec(check: &mut Check, at: &At, cx: &HookContext) {
    let (selector, template) = (at.get("selector"), at.get("template"));
    check.non_negative(&at.get("minReadySeconds"));
    check.present(&selector);
    check.non_negative(&at.get("replicas"));
    if !template.is_set() {
        return check.required(&template, "");
    }
    let labels = template.get("metadata.labels");
    if selector.entries().any(|(key, value)| labels.entry(key).value != value.value) {
        check.invalid(&labels, "`selector` does not match template `labels`");
    }
    pod::template(check, &template, cx);
    runs_forever(check, at);
}

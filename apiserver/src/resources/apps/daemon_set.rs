//! Daemon sets. Follows upstream's `ValidateDaemonSet*` and `printDaemonSet`.

use apimachinery::meta;
use apimachinery::validation as names;
use serde_json::Value;

use super::{
    at_most_all, counts, defaults, is_zero, runs_forever, status, template_matches, template_warnings, update,
};
use crate::resources::check::{At, Check, same};
use crate::resources::core::pod;
use crate::resources::edit::{at_mut, set_absent};
use crate::resources::printing::{age, containers, labels, name, number, selector};
use crate::resources::{HookContext, NameRule, Strategy};

/// Counts the changes of the template; an annotation that was a field once.
const GENERATION: &str = "deprecated.daemonset.template.generation";

/// The daemonsets resource.
pub const STRATEGY: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |object, cx| {
        defaults(object, "updateStrategy", cx);
        at_mut(object, "spec.updateStrategy.rollingUpdate", |rolling| {
            for field in ["maxUnavailable", "maxSurge"] {
                set_absent(rolling, field, 0);
            }
        });
        // Upstream's internal field is always written back, so that every writer owns the annotation.
        if meta::annotation(object, GENERATION).is_none() {
            meta::set_annotation(object, GENERATION, "0");
        }
    },
    prepare_create: |object, _| {
        let given: i64 = meta::annotation(object, GENERATION).and_then(|g| g.parse().ok()).unwrap_or_default();
        meta::set_annotation(object, GENERATION, &given.max(1).to_string());
    },
    hidden_annotations: &[GENERATION],
    prepare_update: |object, old, _| {
        let before: i64 = meta::annotation(old, GENERATION).and_then(|g| g.parse().ok()).unwrap_or(1);
        let changed = !same(&object["spec"]["template"], &old["spec"]["template"]);
        meta::set_annotation(object, GENERATION, &(before + i64::from(changed)).to_string());
    },
    validate: |object, cx| {
        let mut check = crate::resources::meta::checked(object, cx);
        spec(&mut check, &At::root(object).get("spec"), cx);
        check.errors
    },
    validate_update: |object, old, cx| update(object, old, |check, at| spec(check, at, cx), true),
    warnings: template_warnings,
    cells: Some(cells),
    ..Strategy::DEFAULT
};

/// `daemonsets/status`.
pub const STATUS: Strategy = Strategy {
    default: STRATEGY.default,
    validate_update: |object, old, _| {
        const ALL: [&str; 8] = [
            "currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady",
            "observedGeneration", "updatedNumberScheduled", "numberAvailable", "numberUnavailable",
        ];
        status(object, old, |check, at| counts(check, at, &ALL, "", &[]))
    },
    ..Strategy::DEFAULT
};

fn spec(check: &mut Check, at: &At, cx: &HookContext) {
    let selector = at.get("selector");
    check.label_selector(&selector);
    template_matches(check, at);
    if selector.is_set() && selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
        check.invalid(&selector, "empty selector is invalid for daemonset");
    }
    pod::template(check, &at.get("template"), cx);
    runs_forever(check, at);
    check.non_negative(&at.get("minReadySeconds"));
    let strategy = at.get("updateStrategy");
    match strategy.get("type").str() {
        "OnDelete" => {}
        "RollingUpdate" => rolling_update(check, &strategy.get("rollingUpdate")),
        _ => check.not_supported(&strategy.get("type").under(strategy.path.clone()), &["OnDelete", "RollingUpdate"]),
    }
    check.non_negative(&at.get("revisionHistoryLimit"));
}

fn rolling_update(check: &mut Check, at: &At) {
    if !at.is_set() {
        return check.required(at, "");
    }
    let (unavailable, surge) = (at.get("maxUnavailable"), at.get("maxSurge"));
    for amount in [&unavailable, &surge] {
        check.int_or_percent(amount);
        at_most_all(check, amount);
    }
    match (is_zero(&unavailable), is_zero(&surge)) {
        (false, false) => check.invalid(&surge, "may not be set when maxUnavailable is non-zero"),
        (true, true) => check.required(&unavailable, "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

fn cells(object: &Value, cx: &HookContext) -> Vec<Value> {
    let object = At::root(object);
    let (spec, status) = (object.get("spec"), object.get("status"));
    let (names, images) = containers(&spec.get("template.spec"));
    vec![
        name(&object),
        number(&status.get("desiredNumberScheduled")),
        number(&status.get("currentNumberScheduled")),
        number(&status.get("numberReady")),
        number(&status.get("updatedNumberScheduled")),
        number(&status.get("numberAvailable")),
        labels(&spec.get("template.spec.nodeSelector")),
        age(&object, cx.request.now),
        names,
        images,
        selector(&spec.get("selector")),
    ]
}

//! Deployments. Follows upstream's `ValidateDeployment*` and `printDeployment`.

use apimachinery::validation as names;
use serde_json::Value;

use super::{
    at_most_all, counts, defaults, is_zero, runs_forever, selector, status, template_matches, template_warnings, update,
};
use crate::resources::check::{At, Check};
use crate::resources::core::pod;
use crate::resources::edit::{at_mut, copy};
use crate::resources::printing::{age, containers, name, number, selector as query};
use crate::resources::{HookContext, NameRule, Strategy, meta};

/// The deployments resource.
pub const STRATEGY: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |object, cx| defaults(object, "strategy", cx),
    validate: |object, cx| {
        let mut check = meta::checked(object, cx);
        spec(&mut check, &At::root(object).get("spec"), cx);
        check.errors
    },
    validate_update: |object, old, cx| update(object, old, |check, at| spec(check, at, cx), true),
    warnings: template_warnings,
    cells: Some(cells),
    ..Strategy::DEFAULT
};

/// `deployments/status`.
pub const STATUS: Strategy = Strategy {
    default: |object, cx| defaults(object, "strategy", cx),
    // Upstream keeps labels here, and annotations not.
    prepare_update: |object, old, _| at_mut(object, "metadata", |meta| copy(meta, &old["metadata"], "labels")),
    validate_update: |object, old, _| {
        const ALL: [&str; 7] = [
            "observedGeneration", "replicas", "updatedReplicas", "terminatingReplicas", "readyReplicas",
            "availableReplicas", "unavailableReplicas",
        ];
        status(object, old, |check, at| {
            counts(check, at, &ALL, "replicas", &["updatedReplicas", "readyReplicas", "availableReplicas"]);
        })
    },
    ..Strategy::DEFAULT
};

fn spec(check: &mut Check, at: &At, cx: &HookContext) {
    check.non_negative(&at.get("replicas"));
    if selector(check, at) {
        template_matches(check, at);
        pod::template(check, &at.get("template"), cx);
        runs_forever(check, at);
    }
    strategy(check, &at.get("strategy"));
    check.non_negative_all(at, &["minReadySeconds", "revisionHistoryLimit"]);
    let deadline = at.get("progressDeadlineSeconds");
    if deadline.is_set() {
        check.non_negative(&deadline);
        if deadline.number() <= at.get("minReadySeconds").number() {
            check.invalid(&deadline, "must be greater than minReadySeconds");
        }
    }
}

fn strategy(check: &mut Check, at: &At) {
    let rolling = at.get("rollingUpdate");
    match at.get("type").str() {
        "Recreate" if rolling.is_set() => {
            check.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if rolling.is_set() => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            check.int_or_percent(&unavailable);
            check.int_or_percent(&surge);
            if is_zero(&unavailable) && is_zero(&surge) {
                check.invalid(&unavailable, "may not be 0 when `maxSurge` is 0");
            }
            at_most_all(check, &unavailable);
        }
        "RollingUpdate" => check.required(&rolling, "this should be defaulted and never be nil"),
        _ => check.not_supported(&at.get("type").under(at.path.clone()), &["Recreate", "RollingUpdate"]),
    }
}

fn cells(object: &Value, cx: &HookContext) -> Vec<Value> {
    let object = At::root(object);
    let (spec, status) = (object.get("spec"), object.get("status"));
    let (names, images) = containers(&spec.get("template.spec"));
    vec![
        name(&object),
        format!("{}/{}", status.get("readyReplicas").number(), spec.get("replicas").number()).into(),
        number(&status.get("updatedReplicas")),
        number(&status.get("availableReplicas")),
        age(&object, cx.request.now),
        names,
        images,
        query(&spec.get("selector")),
    ]
}

//! Replica sets. Follows upstream's `ValidateReplicaSet*` and `printReplicaSet`.

use apimachinery::validation as names;

use super::{counts, runs_forever, selector, status, template_matches, template_warnings, update};
use crate::resources::check::{At, Check};
use crate::resources::core::pod;
use crate::resources::edit::at_mut;
use crate::resources::printing::{age, containers, name, number, selector as query};
use crate::resources::{HookContext, NameRule, Strategy, meta};

/// The replicasets resource.
pub const STRATEGY: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |object, cx| {
        at_mut(object, "spec.template.spec", pod::defaults::spec);
        (Strategy::DEFAULT.default)(object, cx);
    },
    validate: |object, cx| {
        let mut check = meta::checked(object, cx);
        spec(&mut check, &At::root(object).get("spec"), cx);
        check.errors
    },
    validate_update: |object, old, cx| update(object, old, |check, at| spec(check, at, cx), true),
    warnings: template_warnings,
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
            query(&object.get("spec.selector")),
        ]
    }),
    ..Strategy::DEFAULT
};

/// `replicasets/status`.
pub const STATUS: Strategy = Strategy {
    default: STRATEGY.default,
    validate_update: |object, old, _| status(object, old, replica_counts),
    ..Strategy::DEFAULT
};

/// The counts that replication controllers have as well.
pub fn replica_counts(check: &mut Check, status: &At) {
    const ALL: [&str; 6] = [
        "replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "terminatingReplicas",
        "observedGeneration",
    ];
    counts(check, status, &ALL, "replicas", &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"]);
}

fn spec(check: &mut Check, at: &At, cx: &HookContext) {
    check.non_negative_all(at, &["replicas", "minReadySeconds"]);
    if selector(check, at) {
        template_matches(check, at);
        pod::template(check, &at.get("template"), cx);
        runs_forever(check, at);
    }
}

//! Stateful sets. Follows upstream's `ValidateStatefulSet*` and `printStatefulSet`.

use apimachinery::field::ErrorList;
use apimachinery::validation as names;
use serde_json::{Value, json};

use super::{counts, defaults, runs_forever, selector, status, template_matches, template_warnings, update};
use crate::resources::check::{At, Check, same};
use crate::resources::core::{claims, pod};
use crate::resources::edit::{array_mut, at_mut, copy, remove, set};
use crate::resources::printing::{age, containers, name};
use crate::resources::{HookContext, NameRule, Strategy, meta};

/// The statefulsets resource.
pub const STRATEGY: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default,
    validate: |object, cx| {
        let mut check = meta::checked(object, cx);
        spec(&mut check, &At::root(object).get("spec"), cx);
        check.errors
    },
    validate_update,
    warnings: template_warnings,
    cells: Some(|object, cx| {
        let object = At::root(object);
        let (names, images) = containers(&object.get("spec.template.spec"));
        let (ready, wanted) = (object.get("status.readyReplicas").number(), object.get("spec.replicas").number());
        vec![name(&object), format!("{ready}/{wanted}").into(), age(&object, cx.request.now), names, images]
    }),
    ..Strategy::DEFAULT
};

/// `statefulsets/status`.
pub const STATUS: Strategy = Strategy {
    default,
    validate_update: |object, old, _| {
        const ALL: [&str; 6] = [
            "replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas",
            "observedGeneration",
        ];
        const WITHIN: [&str; 4] = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        status(object, old, |check, at| counts(check, at, &ALL, "replicas", &WITHIN))
    },
    ..Strategy::DEFAULT
};

/// Claims in the set are whole objects: they carry their kind and version.
fn default(object: &mut Value, cx: &HookContext) {
    defaults(object, "updateStrategy", cx);
    // Behind a gate that is off.
    at_mut(object, "spec.updateStrategy.rollingUpdate", |rolling| drop(remove(rolling, "maxUnavailable")));
    at_mut(object, "spec", |spec| {
        for claim in array_mut(spec, "volumeClaimTemplates") {
            set(claim, "apiVersion", "v1");
            set(claim, "kind", "PersistentVolumeClaim");
        }
    });
}

fn spec(check: &mut Check, at: &At, cx: &HookContext) {
    let policy = at.get("podManagementPolicy");
    if check.present(&policy) && !["OrderedReady", "Parallel"].contains(&policy.str()) {
        check.invalid(&policy, "must be 'OrderedReady' or 'Parallel'");
    }
    strategy(check, &at.get("updateStrategy"));
    let retention = at.get("persistentVolumeClaimRetentionPolicy");
    check.one_of(&retention.get("whenDeleted"), &["Delete", "Retain"]);
    check.one_of(&retention.get("whenScaled"), &["Delete", "Retain"]);
    check.non_negative_all(at, &["replicas", "minReadySeconds", "ordinals.start"]);
    check.format_if_set(&at.get("serviceName"), names::dns1123_label);
    if selector(check, at) {
        template_matches(check, at);
        let labels = at.get("template.metadata.labels").under(at.get("template").path.child("labels"));
        check.labels(&labels);
        let annotations = at.get("template.metadata.annotations").under(at.get("template").path.child("annotations"));
        check.annotations(&annotations);
        let template = with_claims(at);
        pod::template(check, &At { value: &template, path: at.get("template").path }, cx);
    }
    runs_forever(check, at);
    for claim in at.get("volumeClaimTemplates").items() {
        claims::spec(check, &claim.get("spec"));
    }
}

/// The template as its pods will be: every claim template is a volume.
fn with_claims(spec: &At) -> Value {
    let mut template = spec.get("template").value.clone();
    let claims: Vec<&str> = spec.get("volumeClaimTemplates").items().map(|c| c.get("metadata.name").str()).collect();
    at_mut(&mut template, "spec", |pod| {
        let mut volumes = pod["volumes"].as_array().cloned().unwrap_or_default();
        volumes.retain(|volume| !claims.iter().any(|claim| volume["name"] == *claim));
        volumes
            .extend(claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})));
        if !volumes.is_empty() {
            set(pod, "volumes", volumes);
        }
    });
    template
}

fn strategy(check: &mut Check, at: &At) {
    let rolling = at.get("rollingUpdate");
    match at.get("type").str() {
        "" => check.required(at, ""),
        "OnDelete" if rolling.is_set() => check.invalid(&rolling, "only allowed for updateStrategy 'RollingUpdate'"),
        "OnDelete" => {}
        "RollingUpdate" => check.non_negative(&rolling.get("partition")),
        _ => check.invalid(at, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn validate_update(object: &Value, old: &Value, cx: &HookContext) -> ErrorList {
    const MUTABLE: [&str; 7] = [
        "replicas", "template", "updateStrategy", "minReadySeconds", "ordinals", "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
    ];
    let mut errors = update(object, old, |check, at| spec(check, at, cx), false);
    let mut munged = object["spec"].clone();
    for field in MUTABLE {
        copy(&mut munged, &old["spec"], field);
    }
    if !same(&munged, &old["spec"]) {
        let mut check = Check::new();
        check.forbidden(&At::root(object).get("spec"), "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
        errors.append(&mut check.errors);
    }
    errors
}

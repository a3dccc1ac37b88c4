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
    names: NameRule(names::dns1123_label),
    default,
    prepare_create: |object, _| drop_max_unavailable(object),
    prepare_update: |object, _, _| drop_max_unavailable(object),
    validate: |object, cx| {
        let mut check = meta::checked(object, cx);
        let at = At::root(object).get("spec");
        check.format_if_set(&at.get("serviceName"), names::dns1123_label);
        claim_templates(&mut check, &at);
        spec(&mut check, &at, cx, true);
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
    let strategy = &object["spec"]["updateStrategy"];
    // Only a strategy that is not given at all gets parameters.
    let bare = strategy["rollingUpdate"].is_null() && !strategy["type"].as_str().unwrap_or_default().is_empty();
    defaults(object, "updateStrategy", cx);
    if bare {
        at_mut(object, "spec.updateStrategy", |strategy| drop(remove(strategy, "rollingUpdate")));
    }
    at_mut(object, "spec", |spec| {
        for claim in array_mut(spec, "volumeClaimTemplates") {
            set(claim, "apiVersion", "v1");
            set(claim, "kind", "PersistentVolumeClaim");
        }
    });
}

/// What cannot change is only looked at in a new set; the template's rules are left out where the set that is there breaks some.
fn spec(check: &mut Check, at: &At, cx: &HookContext, with_pod: bool) {
    let policy = at.get("podManagementPolicy");
    if check.present(&policy) && !["OrderedReady", "Parallel"].contains(&policy.str()) {
        check.invalid(&policy, "must be 'OrderedReady' or 'Parallel'");
    }
    strategy(check, &at.get("updateStrategy"));
    let retention = at.get("persistentVolumeClaimRetentionPolicy");
    check.one_of(&retention.get("whenDeleted"), &["Delete", "Retain"]);
    check.one_of(&retention.get("whenScaled"), &["Delete", "Retain"]);
    check.non_negative_all(at, &["replicas", "minReadySeconds", "ordinals.start"]);
    if selector(check, at) {
        template_matches(check, at);
        let labels = at.get("template.metadata.labels").under(at.get("template").path.child("labels"));
        check.labels(&labels);
        let annotations = at.get("template.metadata.annotations").under(at.get("template").path.child("annotations"));
        check.annotations(&annotations);
        if with_pod {
            let template = as_pods_will_be(at);
            pod::template(check, &At { value: &template, path: at.get("template").path }, cx);
        }
    }
    runs_forever(check, at);
}

/// Behind a gate that is off. What was asked for is owned all the same.
fn drop_max_unavailable(object: &mut Value) {
    at_mut(object, "spec.updateStrategy.rollingUpdate", |rolling| drop(remove(rolling, "maxUnavailable")));
}

fn claim_templates(check: &mut Check, at: &At) {
    for claim in at.get("volumeClaimTemplates").items() {
        claims::spec(check, &claim.get("spec"));
    }
}

/// The template as its pods will be: every claim template is a volume, host name and subdomain are the controller's.
fn as_pods_will_be(spec: &At) -> Value {
    let mut template = spec.get("template").value.clone();
    let claims: Vec<&str> = spec.get("volumeClaimTemplates").items().map(|c| c.get("metadata.name").str()).collect();
    at_mut(&mut template, "spec", |pod| {
        for theirs in ["hostname", "subdomain"] {
            remove(pod, theirs);
        }
        let claimed = claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}));
        let own = array_mut(pod, "volumes").iter().filter(|volume| !claims.iter().any(|c| volume["name"] == *c));
        let volumes: Vec<Value> = claimed.chain(own.cloned()).collect();
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
    let mut before = Check::new();
    spec(&mut before, &At::root(old).get("spec"), cx, true);
    let mut errors = update(object, old, |check, at| spec(check, at, cx, !before.failed()), false);
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

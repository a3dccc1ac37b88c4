//! The pods resource and its subresources' rules. Follows upstream's pod strategy.

use apimachinery::field::ErrorList;
use apimachinery::validation as names;
use serde_json::{Value, json};

use super::{PodRules, cells, defaults, pod_annotations, qos, resize, spec, update, warnings};
use crate::resources::check::{At, Check};
use crate::resources::edit::{array_mut, at_mut, copy, set};
use crate::resources::{HookContext, NameRule, Strategy, meta};

/// The pods resource.
pub const STRATEGY: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    warnings: warnings::pod,
    cells: Some(cells::cells),
    row_conditions: cells::row_conditions,
    ..Strategy::DEFAULT
};

/// `pods/status`.
pub const STATUS: Strategy = Strategy {
    default,
    prepare_update: prepare_status,
    validate_update: |pod, old, cx| view(pod, old, cx, false, update::status),
    ..Strategy::DEFAULT
};

/// `pods/ephemeralcontainers`.
pub const EPHEMERAL_CONTAINERS: Strategy = Strategy {
    default,
    prepare_update: |pod, old, _| {
        keep_all_but(pod, old, |spec, before| {
            let wanted = spec.get("ephemeralContainers").cloned();
            *spec = before.clone();
            set(spec, "ephemeralContainers", wanted.unwrap_or(Value::Null));
        });
    },
    validate_update: |pod, old, cx| view(pod, old, cx, true, update::ephemeral_containers),
    ..Strategy::DEFAULT
};

/// `pods/resize`.
pub const RESIZE: Strategy = Strategy {
    default,
    prepare_update: |pod, old, _| keep_all_but(pod, old, resources_only),
    validate_update: |pod, old, cx| view(pod, old, cx, true, resize::validate),
    ..Strategy::DEFAULT
};

fn default(pod: &mut Value, cx: &HookContext) {
    at_mut(pod, "spec", defaults::spec);
    (Strategy::DEFAULT.default)(pod, cx);
    defaults::pod(pod);
}

fn prepare_create(pod: &mut Value, cx: &HookContext) {
    at_mut(pod, "spec", |spec| {
        defaults::service_account(spec);
        if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
            set(spec, "terminationGracePeriodSeconds", 1);
        }
    });
    // A class that somebody gave is taken for the right one.
    let given = pod["status"]["qosClass"].as_str().filter(|class| !class.is_empty()).map(str::to_owned);
    let class = given.unwrap_or_else(|| qos::class(pod).to_owned());
    let mut status = json!({"phase": "Pending", "qosClass": class});
    if !At::root(pod).get("spec.schedulingGates").is_empty() {
        set(
            &mut status,
            "conditions",
            json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": apimachinery::time::format_time(cx.request.now),
            }]),
        );
    }
    set(pod, "status", status);
    label_keys_to_expressions(pod);
}

fn prepare_update(pod: &mut Value, old: &Value, _: &HookContext) {
    copy(pod, old, "status");
}

/// `matchLabelKeys` of affinity terms and spread constraints become expressions with the pod's own values.
fn label_keys_to_expressions(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let extend = |term: &mut Value| {
        if !term.get("labelSelector").is_some_and(Value::is_object) {
            return;
        }
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            let keys = term.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
            for (key, value) in keys.iter().filter_map(Value::as_str).filter_map(|key| Some((key, labels.get(key)?))) {
                let expression = json!({"key": key, "operator": operator, "values": [value]});
                match term["labelSelector"].get_mut("matchExpressions").and_then(Value::as_array_mut) {
                    Some(list) => list.push(expression),
                    None => set(&mut term["labelSelector"], "matchExpressions", json!([expression])),
                }
            }
        }
    };
    for pods in ["spec.affinity.podAffinity", "spec.affinity.podAntiAffinity"] {
        at_mut(pod, pods, |affinity| {
            array_mut(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter_mut().for_each(extend);
            for term in array_mut(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
                at_mut(term, "podAffinityTerm", extend);
            }
        });
    }
    at_mut(pod, "spec", |spec| array_mut(spec, "topologySpreadConstraints").iter_mut().for_each(extend));
}

fn metadata_and_spec(check: &mut Check, pod: &At, cx: &HookContext) {
    let pod_name = pod.get("metadata.name").str();
    let rules = PodRules { is_pod: true, allow_privileged: cx.options.allow_privileged, pod_name: Some(pod_name) };
    let pod_spec = pod.get("spec");
    pod_annotations(check, &pod.get("metadata.annotations"), &pod_spec);
    spec(check, &pod_spec, &rules);
    if pod_spec.get("serviceAccountName").is_empty() {
        for volume in pod_spec.get("volumes").items() {
            for source in volume.get("projected.sources").items().filter(|s| s.get("serviceAccountToken").is_set()) {
                check.forbidden(
                    &source.get("serviceAccountToken"),
                    "must not be specified when serviceAccountName is not set",
                );
            }
        }
    }
    for container in ["containers", "initContainers"].iter().flat_map(|l| pod_spec.get(l).items().collect::<Vec<_>>()) {
        super::containers::image_padding(check, &container);
    }
}

fn validate(pod: &Value, cx: &HookContext) -> ErrorList {
    let mut check = meta::checked(pod, cx);
    let pod = At::root(pod);
    metadata_and_spec(&mut check, &pod, cx);
    let ephemeral = pod.get("spec.ephemeralContainers");
    if !ephemeral.is_empty() {
        check.forbidden(&ephemeral, "cannot be set on create");
    }
    let node = pod.get("spec.nodeName");
    if !node.is_empty() && !pod.get("spec.schedulingGates").is_empty() {
        check.forbidden(&node, "cannot be set until all schedulingGates have been cleared");
    }
    check.errors
}

fn validate_update(pod: &Value, old: &Value, cx: &HookContext) -> ErrorList {
    view(pod, old, cx, true, update::pod)
}

/// Metadata, frozen annotations, and the rules of one endpoint; `whole` repeats the rules for a new pod.
fn view(pod: &Value, old: &Value, cx: &HookContext, whole: bool, rules: fn(&mut Check, &At, &At)) -> ErrorList {
    let mut check = Check::new();
    let (new, old) = (At::root(pod), At::root(old));
    meta::update(&mut check, &new, &old);
    if whole {
        meta::create(&mut check, &new, cx);
        metadata_and_spec(&mut check, &new, cx);
    }
    let annotations = new.get("metadata.annotations");
    update::annotations(&mut check, &annotations, &old.get("metadata.annotations"));
    pod_annotations(&mut check, &annotations, &new.get("spec"));
    rules(&mut check, &new, &old);
    check.errors
}

fn prepare_status(pod: &mut Value, old: &Value, _: &HookContext) {
    copy(pod, old, "spec");
    at_mut(pod, "metadata", |meta| {
        for field in ["ownerReferences", "deletionTimestamp", "deletionGracePeriodSeconds"] {
            copy(meta, &old["metadata"], field);
        }
    });
    let Some(status) = pod.get_mut("status").filter(|status| status.is_object()) else { return };
    let before = &old["status"];
    if status["qosClass"].as_str().unwrap_or_default().is_empty() {
        copy(status, before, "qosClass");
    }
    keep_observed_generation(status, before);
    let mut kept: Vec<(Value, Value)> = before["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|condition| (condition["type"].clone(), condition.clone()))
        .collect();
    for condition in array_mut(status, "conditions") {
        if let Some(i) = kept.iter().position(|(ty, _)| *ty == condition["type"]) {
            keep_observed_generation(condition, &kept.remove(i).1);
        }
    }
}

fn keep_observed_generation(object: &mut Value, old: &Value) {
    if object["observedGeneration"].as_i64().unwrap_or_default() == 0 {
        copy(object, old, "observedGeneration");
    }
}

/// Everything stays but what `merge` takes over in the spec (and resource version and managed fields).
fn keep_all_but(pod: &mut Value, old: &Value, merge: fn(&mut Value, &Value)) {
    copy(pod, old, "status");
    at_mut(pod, "metadata", |meta| {
        for field in [
            "labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp", "deletionGracePeriodSeconds",
        ] {
            copy(meta, &old["metadata"], field);
        }
    });
    at_mut(pod, "spec", |spec| merge(spec, &old["spec"]));
}

/// Only resources and resize policies of containers that are the same list as before.
fn resources_only(spec: &mut Value, before: &Value) {
    let names = |spec: &Value, list: &str| {
        spec[list].as_array().into_iter().flatten().map(|c| c["name"].clone()).collect::<Vec<_>>()
    };
    if ["containers", "initContainers"].iter().any(|list| names(spec, list) != names(before, list)) {
        return;
    }
    let mut merged = before.clone();
    for list in ["containers", "initContainers"] {
        let wanted = spec[list].as_array().cloned().unwrap_or_default();
        for (container, wish) in array_mut(&mut merged, list).iter_mut().zip(wanted) {
            copy(container, &wish, "resources");
            copy(container, &wish, "resizePolicy");
        }
    }
    copy(&mut merged, spec, "resources");
    *spec = merged;
}

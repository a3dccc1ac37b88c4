//! The `resize` endpoint: cpu and memory of a pod and its containers, within the pod's quality-of-service class. Follows
//! upstream's `ValidatePodResize`.

use apimachinery::field::Path;
use serde_json::Value;

use super::qos;
use crate::resources::check::{At, Check, same};
use crate::resources::edit::{edit_map, remove, set};

const LISTS: [&str; 2] = ["initContainers", "containers"];

/// Rules for a changed pod, after those for every pod.
pub fn validate(check: &mut Check, new: &At, old: &At) {
    let (spec, old_spec) = (new.get("spec"), old.get("spec"));
    let refusal = if old.get("metadata.annotations").entry("kubernetes.io/config.mirror").is_set() {
        Some("static pods cannot be resized")
    } else if old_spec.get("os.name").str() == "windows" {
        Some("windows pods cannot be resized")
    } else {
        None
    };
    if let Some(reason) = refusal {
        check.errors.clear();
        return check.forbidden(&new.under(Path::root()), reason);
    }
    if old.get("status.qosClass").str() != qos::class(new.value) {
        check.invalid(&spec.under(spec.path.clone()), "Pod QOS Class may not change as a result of resizing");
    }
    let running = old.get("status.containerStatuses").items().find(|c| c.get("state.running").is_set());
    if running.is_some_and(|c| !c.get("resources").is_set()) {
        check.forbidden(&spec, "Pod running on node without support for resize");
    }
    let (resources, old_resources) = (spec.get("resources"), old_spec.get("resources"));
    if asks(&resources) || asks(&old_resources) {
        pod_level(check, &spec, &resources, &old_resources);
    }
    let before_order = check.errors.len();
    LISTS.into_iter().rev().for_each(|list| same_order(check, &spec.get(list), &old_spec.get(list), list));
    if check.errors.len() > before_order {
        return;
    }
    for list in LISTS {
        for (now, before) in spec.get(list).items().zip(old_spec.get(list).items()) {
            not_removed(check, &now.get("resources"), &before.get("resources"));
        }
    }
    for (now, before) in spec.get("containers").items().zip(old_spec.get("containers").items()) {
        if !same(&without_compute(now.value), &without_compute(before.value)) {
            check.forbidden(&spec, "only cpu and memory resources are mutable");
        }
    }
    for (now, before) in spec.get("initContainers").items().zip(old_spec.get("initContainers").items()) {
        init_container(check, &now, &before);
    }
    let pod_asks = asks(&resources) || asks(&old_resources);
    if !check.failed() && !pod_asks && !same(resources.value, old_resources.value) {
        check.forbidden(&spec, "only cpu and memory resources are mutable");
    }
}

fn asks(resources: &At) -> bool {
    ["requests", "limits"].iter().any(|list| !resources.get(list).is_empty())
}

fn pod_level(check: &mut Check, spec: &At, now: &At, before: &At) {
    if before.is_set() && !now.is_set() {
        return check.forbidden(now, "pod-level resources cannot be removed");
    }
    not_removed(check, now, before);
    if !same(&compute_dropped(now.value), &compute_dropped(before.value)) || now.is_set() != before.is_set() {
        check.forbidden(spec, "only cpu and memory resources are mutable at pod-level");
    }
}

fn same_order(check: &mut Check, now: &At, before: &At, list: &str) {
    if now.len() != before.len() {
        return check.forbidden(now, &format!("{list} may not be added or removed on resize"));
    }
    for (container, _) in now.items().zip(before.items()).filter(|(n, b)| n.get("name").value != b.get("name").value) {
        check.forbidden(&container.get("name"), &format!("{list} may not be renamed or reordered on resize"));
    }
}

fn not_removed(check: &mut Check, now: &At, before: &At) {
    for list in ["requests", "limits"] {
        if before.get(list).entries().any(|(name, _)| !now.get(list).entry(name).is_set()) {
            check.forbidden(&now.get(list), "resource requests and limits cannot be removed");
        }
    }
}

fn init_container(check: &mut Check, now: &At, before: &At) {
    if !same(&without_compute(now.value), &without_compute(before.value)) {
        check.forbidden(now, "only cpu and memory resources for init or sidecar containers are mutable");
    }
    if now.get("restartPolicy").str() == "Always" || same(now.value, before.value) {
        return;
    }
    for _ in now.get("resizePolicy").items().filter(|p| p.get("restartPolicy").str() == "RestartContainer") {
        check.forbidden(now, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized");
    }
}

/// A container without what a resize may change; claims and other members of its resources are not looked at.
fn without_compute(container: &Value) -> Value {
    let mut container = container.clone();
    let resources = remove(&mut container, "resources").unwrap_or_default();
    let mut kept = compute_dropped(&resources);
    remove(&mut kept, "claims");
    set(&mut container, "resources", kept);
    container
}

fn compute_dropped(resources: &Value) -> Value {
    let mut resources = resources.clone();
    for list in ["requests", "limits"] {
        if resources.get(list).is_some() {
            edit_map(&mut resources, list, |amounts| {
                amounts.remove("cpu");
                amounts.remove("memory");
            });
        }
    }
    resources
}

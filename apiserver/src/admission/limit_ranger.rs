//! LimitRanger: container defaults from the namespace's LimitRanges, and their bounds on containers, pods and claims.
//!
//! The defaults and the checks are pure functions of the object and the ranges. Follows upstream: init containers count by
//! their maximum, sidecars (restartable init containers) add up, updates of pods are not looked at again.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::quantity::Quantity;
use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request, containers, done, map_mut};
use crate::objects::Objects;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The plugin.
pub struct LimitRanger(pub Arc<dyn Objects>);

type Amounts = BTreeMap<String, Quantity>;

/// A map of resource amounts; unreadable ones are validation's to refuse.
pub(crate) fn amounts(value: &Value) -> Amounts {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), amount.as_str()?.parse().ok()?))).collect()
}

fn items<'a>(ranges: &'a [Arc<Value>], kind: &'static str) -> impl Iterator<Item = &'a Value> {
    let all = ranges.iter().flat_map(|range| range["spec"]["limits"].as_array().into_iter().flatten());
    all.filter(move |item| item["type"] == kind)
}

/// Container defaults over all ranges: a later range overrides an earlier one.
fn container_defaults(ranges: &[Arc<Value>]) -> (BTreeMap<String, Value>, BTreeMap<String, Value>) {
    let (mut limits, mut requests) = (BTreeMap::new(), BTreeMap::new());
    for item in items(ranges, "Container") {
        for (field, into) in [("default", &mut limits), ("defaultRequest", &mut requests)] {
            into.extend(
                item[field].as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())),
            );
        }
    }
    (limits, requests)
}

/// Fills one list of a container's resources; the names that were set.
fn fill(container: &mut Value, list: &str, defaults: &BTreeMap<String, Value>) -> Vec<String> {
    if defaults.is_empty() {
        return Vec::new();
    }
    let mut set = Vec::new();
    let resources = map_mut(container, "resources").map(|_| ()).and_then(|()| container.get_mut("resources"));
    if let Some(target) = resources.and_then(|resources| map_mut(resources, list)) {
        for (name, value) in defaults {
            if !target.contains_key(name) {
                target.insert(name.clone(), value.clone());
                set.push(name.clone());
            }
        }
    }
    set
}

fn apply_defaults(pod: &mut Value, ranges: &[Arc<Value>]) {
    let (limits, requests) = container_defaults(ranges);
    let mut notes = Vec::new();
    for (list, what) in [("initContainers", "init container"), ("containers", "container")] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, defaults, kind) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                let set = fill(container, field, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {kind} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty()
        && let Some(annotations) = pod.get_mut("metadata").and_then(|metadata| map_mut(metadata, "annotations"))
    {
        annotations.insert(ANNOTATION.to_owned(), format!("LimitRanger plugin set: {}", notes.join("; ")).into());
    }
}

/// What one item says of one set of requests and limits.
fn violations(item: &Value, kind: &str, requests: &Amounts, limits: &Amounts) -> Vec<String> {
    let mut errors = Vec::new();
    let shown = |amount: Option<&Quantity>| amount.map_or_else(String::new, ToString::to_string);
    for (name, bound) in amounts(&item["min"]) {
        let (request, limit) = (requests.get(&name), limits.get(&name));
        if request.is_none() {
            errors.push(format!("minimum {name} usage per {kind} is {bound}. No request is specified"));
        } else if request.is_some_and(|r| *r < bound) {
            errors.push(format!("minimum {name} usage per {kind} is {bound}, but request is {}", shown(request)));
        } else if limit.is_some_and(|l| *l < bound) {
            errors.push(format!("minimum {name} usage per {kind} is {bound}, but limit is {}", shown(limit)));
        }
    }
    for (name, bound) in amounts(&item["max"]) {
        let (request, limit) = (requests.get(&name), limits.get(&name));
        if limit.is_none() {
            errors.push(format!("maximum {name} usage per {kind} is {bound}. No limit is specified"));
        } else if limit.is_some_and(|l| *l > bound) {
            errors.push(format!("maximum {name} usage per {kind} is {bound}, but limit is {}", shown(limit)));
        } else if request.is_some_and(|r| *r > bound) {
            errors.push(format!("maximum {name} usage per {kind} is {bound}, but request is {}", shown(request)));
        }
    }
    for (name, ratio) in amounts(&item["maxLimitRequestRatio"]) {
        let pair = requests.get(&name).filter(|r| r.milli() > 0).zip(limits.get(&name).filter(|l| l.milli() > 0));
        match pair {
            None => errors.push(format!(
                "{name} max limit to request ratio per {kind} is {ratio}, but no request or limit is specified"
            )),
            Some((request, limit)) => {
                // Exact: limit / request > ratio without dividing.
                let too_much =
                    i128::from(limit.milli()) * 1000 > i128::from(ratio.milli()) * i128::from(request.milli());
                if too_much {
                    errors.push(format!("{name} max limit to request ratio per {kind} is {ratio}, but limit {limit} exceeds it for request {request}"));
                }
            }
        }
    }
    errors
}

/// A pod's own requests or limits: containers and sidecars added up, at least what any init container needs.
pub(crate) fn pod_total(spec: &Value, field: &str) -> Amounts {
    let mut sum = Amounts::new();
    let add = |into: &mut Amounts, more: &Amounts| {
        for (name, amount) in more {
            let total = into.get(name).map_or_else(|| *amount, |own| *own + *amount);
            into.insert(name.clone(), total);
        }
    };
    let raise = |into: &mut Amounts, other: &Amounts| {
        for (name, amount) in other {
            if into.get(name).is_none_or(|own| own < amount) {
                into.insert(name.clone(), *amount);
            }
        }
    };
    for container in containers(spec, &["containers"]) {
        add(&mut sum, &amounts(&container["resources"][field]));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in containers(spec, &["initContainers"]) {
        let own = amounts(&container["resources"][field]);
        let mut here = sidecars.clone();
        add(&mut here, &own);
        if container["restartPolicy"] == "Always" {
            add(&mut sum, &own);
            sidecars = here.clone();
        }
        raise(&mut peak, &here);
    }
    raise(&mut sum, &peak);
    for (name, amount) in amounts(&spec["resources"][field]) {
        sum.insert(name, amount);
    }
    sum
}

fn pod_violations(pod: &Value, ranges: &[Arc<Value>]) -> Vec<String> {
    let mut errors = Vec::new();
    for item in items(ranges, "Container") {
        for container in containers(&pod["spec"], &["containers", "initContainers"]) {
            let resources = &container["resources"];
            errors.extend(violations(
                item,
                "Container",
                &amounts(&resources["requests"]),
                &amounts(&resources["limits"]),
            ));
        }
    }
    for item in items(ranges, "Pod") {
        errors.extend(violations(
            item,
            "Pod",
            &pod_total(&pod["spec"], "requests"),
            &pod_total(&pod["spec"], "limits"),
        ));
    }
    errors
}

fn claim_violations(claim: &Value, ranges: &[Arc<Value>]) -> Vec<String> {
    let requested = claim["spec"]["resources"]["requests"]["storage"].as_str();
    let Some(requested) = requested.and_then(|text| text.parse::<Quantity>().ok()) else { return Vec::new() };
    let mut errors = Vec::new();
    for item in items(ranges, "PersistentVolumeClaim") {
        let bound = |field: &str| item[field]["storage"].as_str().and_then(|text| text.parse::<Quantity>().ok());
        if let Some(min) = bound("min").filter(|min| requested < *min) {
            errors
                .push(format!("minimum storage usage per PersistentVolumeClaim is {min}, but request is {requested}"));
        }
        if let Some(max) = bound("max").filter(|max| requested > *max) {
            errors
                .push(format!("maximum storage usage per PersistentVolumeClaim is {max}, but request is {requested}"));
        }
    }
    errors
}

impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let creates = request.operation == Operation::Create
            && (request.is("", "pods", "") || request.is("", "persistentvolumeclaims", ""));
        let updates = request.operation == Operation::Update
            && (request.is("", "persistentvolumeclaims", "") || request.is("", "pods", "resize"));
        creates || updates
    }

    fn admit<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if let Some(pod) = object.filter(|pod| request.creates("", "pods") && pod["spec"].is_object()) {
            let ranges = self.0.list(("", "limitranges"), request.namespace);
            if !ranges.is_empty() {
                apply_defaults(pod, &ranges);
            }
        }
        done(Ok(()))
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let Some(object) = object else { return done(Ok(())) };
        let ranges = self.0.list(("", "limitranges"), request.namespace);
        if ranges.is_empty() {
            return done(Ok(()));
        }
        let errors = if request.resource == "pods" {
            pod_violations(object, &ranges)
        } else {
            claim_violations(object, &ranges)
        };
        done(match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(request.forbidden(Some(object), one)),
            many => Err(request.forbidden(Some(object), &format!("[{}]", many.join(", ")))),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn range(kind: &str, fields: &Value) -> Vec<Arc<Value>> {
        let mut item = json!({"type": kind});
        item.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        vec![Arc::new(json!({"spec": {"limits": [item]}}))]
    }

    #[test]
    fn defaults() {
        let ranges =
            range("Container", &json!({"default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m", "memory": "1Gi"}}));
        let mut pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "3"}}}]}});
        apply_defaults(&mut pod, &ranges);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "500m", "memory": "1Gi"}})
        );
        assert_eq!(pod["spec"]["containers"][1]["resources"]["requests"], json!({"cpu": "2", "memory": "1Gi"}));
        let note = pod["metadata"]["annotations"][ANNOTATION].as_str().unwrap();
        assert_eq!(
            note,
            "LimitRanger plugin set: cpu, memory request for container a; cpu limit for container a; memory request for container b"
        );
    }

    #[test]
    fn bounds() {
        let with = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        let cases = [
            (range("Container", &json!({"max": {"cpu": "1"}})), with(json!({"limits": {"cpu": "1"}})), 0),
            (range("Container", &json!({"max": {"cpu": "1"}})), with(json!({"limits": {"cpu": "1001m"}})), 1),
            (range("Container", &json!({"max": {"cpu": "1"}})), with(json!({})), 1),
            (range("Container", &json!({"min": {"memory": "1Mi"}})), with(json!({"requests": {"memory": "512Ki"}})), 1),
            (
                range("Container", &json!({"maxLimitRequestRatio": {"cpu": "2"}})),
                with(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}})),
                0,
            ),
            (
                range("Container", &json!({"maxLimitRequestRatio": {"cpu": "2"}})),
                with(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2001m"}})),
                1,
            ),
            (
                range("Pod", &json!({"max": {"cpu": "3"}})),
                json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "2"}}}, {"resources": {"limits": {"cpu": "2"}}}]}}),
                1,
            ),
        ];
        for (ranges, pod, expected) in cases {
            assert_eq!(pod_violations(&pod, &ranges).len(), expected, "{pod}");
        }
        let ranges = range("PersistentVolumeClaim", &json!({"min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}));
        for (size, expected) in [("1Gi", 0), ("512Mi", 1), ("3Gi", 1)] {
            let claim = json!({"spec": {"resources": {"requests": {"storage": size}}}});
            assert_eq!(claim_violations(&claim, &ranges).len(), expected, "{size}");
        }
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
        let spec = json!({
            "containers": [{"resources": cpu("1")}],
            "initContainers": [{"restartPolicy": "Always", "resources": cpu("500m")}, {"resources": cpu("2")}],
        });
        assert_eq!(pod_total(&spec, "requests")["cpu"].milli(), 2500);
    }
}

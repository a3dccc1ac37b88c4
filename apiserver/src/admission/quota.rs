//! ResourceQuota: a namespace may hold only so much. Usage is charged before the object is stored, by compare-and-swap.
//!
//! What an object uses is a pure function of it; a charge is the difference to what the old object used. Quotas that have no
//! recorded usage yet (the quota controller has not been there) refuse what they limit, as upstream. Deletions are given back
//! by the quota controller.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::quantity::{Format, Quantity};
use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::limit_ranger::{amounts, pod_total};
use super::{Operation, Plugin, Request, containers, done};
use crate::objects::Objects;

/// Attempts to charge against quotas that others charge at the same time.
const MAX_ATTEMPTS: usize = 8;

/// Writes `status.used` of a quota if it has not changed since it was read.
pub trait UsageStore: Send + Sync {
    /// Whether it was written; otherwise it had changed or is gone, and must be read again.
    fn write_used<'a>(&'a self, quota: &'a Value) -> BoxFuture<'a, Result<bool, Status>>;

    /// The quotas of a namespace as storage has them now.
    fn quotas<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Value>, Status>>;
}

/// The plugin.
pub struct ResourceQuota {
    objects: Arc<dyn Objects>,
    store: Arc<dyn UsageStore>,
}

type Usage = BTreeMap<String, Quantity>;

fn number(value: i64) -> Quantity {
    Quantity::from_value(value, Format::DecimalSi)
}

fn count() -> Quantity {
    number(1)
}

/// Names under which one object of a resource is counted.
fn count_names(group: &str, resource: &str) -> Vec<String> {
    let full = if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") };
    let mut names = vec![full];
    const PLAIN: [&str; 7] = [
        "configmaps", "secrets", "services", "replicationcontrollers", "resourcequotas", "persistentvolumeclaims",
        "pods",
    ];
    if group.is_empty() && PLAIN.contains(&resource) {
        names.push(resource.to_owned());
    }
    names
}

/// What an object uses. Terminal pods use nothing but their place in `count/pods`.
fn usage(group: &str, resource: &str, object: &Value) -> Usage {
    let mut used: Usage = count_names(group, resource).into_iter().map(|name| (name, count())).collect();
    match (group, resource) {
        ("", "pods") => pod_usage(object, &mut used),
        ("", "services") => service_usage(object, &mut used),
        ("", "persistentvolumeclaims") => claim_usage(object, &mut used),
        ("resource.k8s.io", "resourceclaims") => device_usage(object, &mut used),
        _ => {}
    }
    used
}

fn pod_usage(pod: &Value, used: &mut Usage) {
    if matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
        used.remove("pods");
        return;
    }
    for (field, amounts) in
        [("requests", pod_total(&pod["spec"], "requests")), ("limits", pod_total(&pod["spec"], "limits"))]
    {
        for (name, amount) in amounts {
            // Extended resources are only ever quoted by their requests.
            if field == "requests" && matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                used.insert(name.clone(), amount);
            }
            used.insert(format!("{field}.{name}"), amount);
        }
    }
}

fn service_usage(service: &Value, used: &mut Usage) {
    let ports = service["spec"]["ports"].as_array().map_or(0, Vec::len);
    let ports = number(i64::try_from(ports).unwrap_or(i64::MAX));
    match service["spec"]["type"].as_str() {
        Some("NodePort") => {
            used.insert("services.nodeports".to_owned(), ports);
        }
        Some("LoadBalancer") => {
            used.insert("services.loadbalancers".to_owned(), count());
            if service["spec"]["allocateLoadBalancerNodePorts"] != false {
                used.insert("services.nodeports".to_owned(), ports);
            }
        }
        _ => {}
    }
}

fn claim_usage(claim: &Value, used: &mut Usage) {
    let storage = amounts(&claim["spec"]["resources"]["requests"]).remove("storage");
    let class = super::storage::class_of(claim).filter(|class| !class.is_empty());
    if let Some(class) = class {
        used.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), count());
    }
    if let Some(storage) = storage {
        if let Some(class) = class {
            used.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        }
        used.insert("requests.storage".to_owned(), storage);
    }
}

/// Of each request the most that it can be given of each class; all devices of a class are at most 32.
fn device_usage(claim: &Value, used: &mut Usage) {
    for request in claim["spec"]["devices"]["requests"].as_array().into_iter().flatten() {
        let several = request["firstAvailable"].as_array().into_iter().flatten();
        let mut most = BTreeMap::new();
        for wish in request.get("exactly").into_iter().chain(several) {
            let devices = match wish["allocationMode"].as_str() {
                Some("ExactCount") => wish["count"].as_i64().unwrap_or(0),
                Some("All") => 32,
                _ => 0,
            };
            let class = most.entry(wish["deviceClassName"].as_str().unwrap_or_default()).or_insert(0);
            *class = devices.max(*class);
        }
        for (class, devices) in most {
            let sum = used.entry(format!("{class}.deviceclass.resource.k8s.io/devices")).or_insert(number(0));
            *sum = *sum + number(devices);
        }
    }
}

fn best_effort(pod: &Value) -> bool {
    let none = |value: &Value| {
        let own = amounts(&value["requests"]);
        let limits = amounts(&value["limits"]);
        own.iter()
            .chain(limits.iter())
            .all(|(name, amount)| amount.milli() == 0 || !matches!(name.as_str(), "cpu" | "memory"))
    };
    containers(&pod["spec"], &["initContainers", "containers"]).all(|c| none(&c["resources"]))
        && none(&pod["spec"]["resources"])
}

/// Whether a scope with its operator takes the object in.
fn scope_matches(requirement: &Value, resource: &str, object: &Value) -> bool {
    let values = || requirement["values"].as_array().into_iter().flatten();
    let by_value = |actual: Option<&str>| match requirement["operator"].as_str().unwrap_or("Exists") {
        "In" => actual.is_some_and(|actual| values().any(|v| v == actual)),
        "NotIn" => !actual.is_some_and(|actual| values().any(|v| v == actual)),
        "DoesNotExist" => actual.is_none(),
        _ => actual.is_some(),
    };
    let spec = &object["spec"];
    let text = |value: &'_ Value| value.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    if resource == "persistentvolumeclaims" {
        return requirement["scopeName"] == "VolumeAttributesClass"
            && by_value(text(&spec["volumeAttributesClassName"]).as_deref());
    }
    if resource != "pods" {
        return false;
    }
    let terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    match requirement["scopeName"].as_str().unwrap_or_default() {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(object),
        "NotBestEffort" => !best_effort(object),
        "PriorityClass" => by_value(text(&spec["priorityClassName"]).as_deref()),
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        _ => false,
    }
}

fn crosses_namespaces(spec: &Value) -> bool {
    let term_crosses = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|list| !list.is_empty()) || !term["namespaceSelector"].is_null()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &spec["affinity"][*kind];
        let required = affinity["requiredDuringSchedulingIgnoredDuringExecution"].as_array().into_iter().flatten();
        let preferred = affinity["preferredDuringSchedulingIgnoredDuringExecution"].as_array().into_iter().flatten();
        required.chain(preferred.map(|weighted| &weighted["podAffinityTerm"])).any(term_crosses)
    })
}

fn scopes(quota: &Value) -> Vec<Value> {
    let plain = quota["spec"]["scopes"].as_array().into_iter().flatten();
    let mut all: Vec<Value> = plain.map(|name| json!({"scopeName": name, "operator": "Exists"})).collect();
    all.extend(quota["spec"]["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten().cloned());
    all
}

fn quota_matches(quota: &Value, resource: &str, object: &Value) -> bool {
    scopes(quota).iter().all(|requirement| scope_matches(requirement, resource, object))
}

/// What one quota makes of a charge: the quota with the new usage, nothing to do, or why not.
#[derive(Debug, PartialEq)]
enum Outcome {
    Nothing,
    Charge(Box<Value>),
    Refuse(String),
}

/// Charges a quota. `after` and `before` are what the new and the old object use.
fn charge(
    quota: &Value,
    resource: &str,
    object: &Value,
    old: Option<&Value>,
    after: &Usage,
    before: &Usage,
) -> Outcome {
    let matches_now = quota_matches(quota, resource, object);
    let matched_before = old.is_some_and(|old| quota_matches(quota, resource, old));
    if !matches_now {
        return Outcome::Nothing;
    }
    let hard = amounts(&quota["status"]["hard"]);
    let used = amounts(&quota["status"]["used"]);
    let spec_hard = amounts(&quota["spec"]["hard"]);
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    if let Some(missing) = unlimited(resource, object, &spec_hard) {
        return Outcome::Refuse(format!("failed quota: {name}: must specify {missing}"));
    }
    let zero = number(0);
    let mut deltas: Usage = Usage::new();
    for (resource_name, amount) in after {
        let old_amount = if matched_before { before.get(resource_name).unwrap_or(&zero) } else { &zero };
        if spec_hard.contains_key(resource_name) && amount != old_amount {
            deltas.insert(resource_name.clone(), *amount - *old_amount);
        }
    }
    if deltas.is_empty() {
        return Outcome::Nothing;
    }
    if deltas.keys().any(|resource_name| !hard.contains_key(resource_name) || !used.contains_key(resource_name)) {
        let names = deltas.keys().cloned().collect::<Vec<_>>().join(",");
        return Outcome::Refuse(format!("status unknown for quota: {name}, resources: {names}"));
    }
    let (mut charged, mut exceeded) = (quota.clone(), Vec::new());
    for (resource_name, delta) in &deltas {
        let (limit, current) = (&hard[resource_name], &used[resource_name]);
        let total = *current + *delta;
        if *delta > zero && total > *limit {
            exceeded.push((resource_name, delta, current, limit));
        }
        if let Some(map) = super::map_mut(&mut charged["status"], "used") {
            map.insert(resource_name.clone(), total.to_string().into());
        }
    }
    if exceeded.is_empty() {
        return Outcome::Charge(Box::new(charged));
    }
    let list = |pick: fn(&(&String, &Quantity, &Quantity, &Quantity)) -> String| {
        exceeded.iter().map(pick).collect::<Vec<_>>().join(",")
    };
    let requested = list(|(name, delta, _, _)| format!("{name}={delta}"));
    let in_use = list(|(name, _, used, _)| format!("{name}={used}"));
    let limited = list(|(name, _, _, hard)| format!("{name}={hard}"));
    Outcome::Refuse(format!("exceeded quota: {name}, requested: {requested}, used: {in_use}, limited: {limited}"))
}

/// A quota on compute resources makes every container say how much it wants: what a pod fails to say.
fn unlimited(resource: &str, pod: &Value, hard: &Usage) -> Option<String> {
    if resource != "pods" {
        return None;
    }
    let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in hard.keys() {
        let (field, key) = match name.as_str() {
            "cpu" | "memory" => ("requests", name.as_str()),
            "requests.cpu" | "requests.memory" => ("requests", &name["requests.".len()..]),
            "limits.cpu" | "limits.memory" => ("limits", &name["limits.".len()..]),
            _ => continue,
        };
        if !pod["spec"]["resources"][field][key].is_null() {
            continue;
        }
        for container in containers(&pod["spec"], &["containers", "initContainers"]) {
            if container["resources"][field][key].is_null() {
                let container = container["name"].as_str().unwrap_or_default().to_owned();
                missing.entry(name.clone()).or_default().push(container);
            }
        }
    }
    let list = missing.iter().map(|(name, of)| format!("{name} for: {}", of.join(","))).collect::<Vec<_>>();
    (!list.is_empty()).then(|| list.join("; "))
}

impl ResourceQuota {
    /// With the cluster to read and the store to charge.
    pub fn new(objects: Arc<dyn Objects>, store: Arc<dyn UsageStore>) -> Self {
        Self { objects, store }
    }

    async fn check(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        let (group, resource) = (request.group, request.resource);
        let after = usage(group, resource, object);
        let old = request.old.filter(|_| request.operation == Operation::Update);
        let before = old.map(|old| usage(group, resource, old)).unwrap_or_default();
        if after == before {
            return Ok(());
        }
        for _ in 0..MAX_ATTEMPTS {
            let quotas = self.store.quotas(request.namespace).await?;
            let mut charges = Vec::new();
            for quota in &quotas {
                match charge(quota, resource, object, old, &after, &before) {
                    Outcome::Nothing => {}
                    Outcome::Charge(charged) => charges.push(charged),
                    Outcome::Refuse(why) => return Err(request.forbidden(Some(object), &why)),
                }
            }
            if request.ctx.dry_run || self.write(&charges).await? {
                return Ok(());
            }
        }
        let why = "the quota is charged by too many requests at once; please try again";
        Err(Status::conflict(&request.group_resource(), request.display_name(Some(object)), why))
    }

    /// Writes all charges; `false` when one of the quotas had changed (what was written stays, the controller evens it out).
    async fn write(&self, charges: &[Box<Value>]) -> Result<bool, Status> {
        for charged in charges {
            if !self.store.write_used(charged).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let operation = match request.operation {
            Operation::Create => true,
            // Only these can come to use more by a change.
            Operation::Update => {
                request.group.is_empty() && matches!(request.resource, "pods" | "services" | "persistentvolumeclaims")
            }
            Operation::Delete | Operation::Connect => false,
        };
        let whole = request.subresource.is_empty() || request.is("", "pods", "resize");
        // Events and reviews are never counted.
        operation
            && whole
            && !request.namespace.is_empty()
            && request.resource != "events"
            && request.group != "authorization.k8s.io"
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let Some(object) = object else { return done(Ok(())) };
        if self.objects.list(("", "resourcequotas"), request.namespace).is_empty() {
            return done(Ok(()));
        }
        Box::pin(self.check(request, object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(spec: &Value, used: &Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": spec, "status": {"hard": spec["hard"], "used": used}})
    }

    fn pod(requests: &Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
    }

    fn outcome(quota: &Value, object: &Value, old: Option<&Value>) -> Outcome {
        let before = old.map(|old| usage("", "pods", old)).unwrap_or_default();
        charge(quota, "pods", object, old, &usage("", "pods", object), &before)
    }

    #[test]
    fn charging() {
        let quota =
            quota(&json!({"hard": {"pods": "2", "requests.cpu": "1"}}), &json!({"pods": "1", "requests.cpu": "500m"}));
        let Outcome::Charge(charged) = outcome(&quota, &pod(&json!({"cpu": "250m"})), None) else { panic!() };
        assert_eq!(charged["status"]["used"], json!({"pods": "2", "requests.cpu": "750m"}));
        let refused = |outcome: Outcome, text: &str| matches!(outcome, Outcome::Refuse(why) if why.contains(text));
        assert!(refused(
            outcome(&quota, &pod(&json!({"cpu": "501m"})), None),
            "exceeded quota: q, requested: requests.cpu=501m"
        ));
        assert!(refused(outcome(&quota, &pod(&json!({})), None), "must specify requests.cpu for: c"));
        let more = pod(&json!({"cpu": "600m"}));
        let Outcome::Charge(charged) = outcome(&quota, &more, Some(&pod(&json!({"cpu": "250m"})))) else { panic!() };
        assert_eq!(charged["status"]["used"], json!({"pods": "1", "requests.cpu": "850m"}));
    }

    #[test]
    fn unknown_usage_refuses() {
        let quota = quota(&json!({"hard": {"pods": "2"}}), &json!({}));
        assert!(
            matches!(outcome(&quota, &pod(&json!({})), None), Outcome::Refuse(why) if why.contains("status unknown"))
        );
    }

    #[test]
    fn scoped() {
        let scoped = |scopes: Value| quota(&json!({"hard": {"pods": "0"}, "scopes": scopes}), &json!({"pods": "0"}));
        let mut deadline = pod(&json!({"cpu": "1"}));
        deadline["spec"]["activeDeadlineSeconds"] = 5.into();
        let cases = [
            ("BestEffort", pod(&json!({})), true),
            ("BestEffort", pod(&json!({"cpu": "1"})), false),
            ("NotBestEffort", pod(&json!({"cpu": "1"})), true),
            ("Terminating", deadline.clone(), true),
            ("NotTerminating", deadline, false),
        ];
        for (scope, pod, taken) in cases {
            assert_eq!(outcome(&scoped(json!([scope])), &pod, None) != Outcome::Nothing, taken, "{scope}");
        }
    }

    #[test]
    fn other_kinds() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        let used = usage("", "services", &service);
        assert_eq!(used["services.nodeports"], number(2));
        assert!(used.contains_key("services.loadbalancers") && used.contains_key("count/services"));
        let claim = json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
        assert!(
            usage("", "persistentvolumeclaims", &claim)
                .contains_key("fast.storageclass.storage.k8s.io/requests.storage")
        );
        assert!(usage("apps", "deployments", &json!({})).contains_key("count/deployments.apps"));
        let wish = |mode: &str, count: i64| json!({"deviceClassName": "gpu", "allocationMode": mode, "count": count});
        let requests = json!([{"exactly": wish("ExactCount", 2)},
            {"firstAvailable": [wish("ExactCount", 1), wish("ExactCount", 4)]}, {"exactly": wish("All", 0)}]);
        let claim = json!({"spec": {"devices": {"requests": requests}}});
        let used = usage("resource.k8s.io", "resourceclaims", &claim);
        assert_eq!(used["gpu.deviceclass.resource.k8s.io/devices"], number(2 + 4 + 32));
    }
}

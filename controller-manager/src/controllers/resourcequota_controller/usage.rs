//! What pods, services and claims use of a quota, purely. Upstream's evaluators: a pod that has ended, or should have been
//! gone by now, uses nothing but its place in `count/pods`; extended resources are counted by their requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::quantity::{Format, Quantity};
use jiff::Timestamp;

use crate::framework::backoff::remaining;
use crate::views::devices::ResourceClaimView;
use crate::views::pod::{Container, PodView, Resources};
use crate::views::quota::Scope;
use crate::views::service::ServiceView;
use crate::views::volume::ClaimView;

/// Amounts by name.
pub type Amounts = BTreeMap<String, Quantity>;

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// The most that a claim may be given: what is charged for all devices of a class.
const MAX_DEVICES: usize = 32;
const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Whose usage a name of a quota speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pods.
    Pods,
    /// Services.
    Services,
    /// Claims.
    Claims,
    /// Claims of devices.
    Devices,
    /// Objects of a resource, counted.
    Objects,
}

/// Sorts the names of quotas; None for names that nothing uses.
pub fn kind_of(name: &str) -> Option<Kind> {
    let requested = name.strip_prefix("requests.");
    let compute = |name: &str| COMPUTE.contains(&name) || name.starts_with("hugepages-");
    let extended = |name: &str| name.split_once('/').is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io"));
    match name {
        "pods" | "count/pods" => Some(Kind::Pods),
        "services" | "count/services" | "services.nodeports" | "services.loadbalancers" => Some(Kind::Services),
        "persistentvolumeclaims" | "count/persistentvolumeclaims" | "requests.storage" => Some(Kind::Claims),
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => Some(Kind::Objects),
        _ if name.starts_with("count/") => Some(Kind::Objects),
        _ if name.ends_with(DEVICE_CLASS) => Some(Kind::Devices),
        _ if name.contains(STORAGE_CLASS) => Some(Kind::Claims),
        _ if compute(name) || requested.is_some_and(|name| compute(name) || extended(name)) => Some(Kind::Pods),
        _ if name.strip_prefix("limits.").is_some_and(|name| COMPUTE.contains(&name)) => Some(Kind::Pods),
        _ => None,
    }
}

/// The resource (group and plural) whose objects a name of [`Kind::Objects`] counts.
pub fn counted(name: &str) -> (&str, &str) {
    let name = name.strip_prefix("count/").unwrap_or(name);
    name.split_once('.').map_or(("", name), |(plural, group)| (group, plural))
}

/// A whole number.
pub fn number(count: usize) -> Quantity {
    Quantity::from_value(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi)
}

fn add(all: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = all.get(name).map_or(*amount, |before| *before + *amount);
        all.insert(name.clone(), sum);
    }
}

fn parsed(texts: &BTreeMap<String, String>) -> Amounts {
    texts.iter().filter_map(|(name, text)| Some((name.clone(), Quantity::parse(text).ok()?))).collect()
}

/// What a whole pod reserves (or may use): containers and sidecars together, or what any init container needs beside the
/// sidecars before it, whichever is more; the pod's own figures in place of that; and its overhead.
fn pod_total(pod: &PodView, of: fn(&Resources) -> &BTreeMap<String, String>, limits: bool) -> Amounts {
    let (mut total, mut sidecars, mut first) = (Amounts::new(), Amounts::new(), Amounts::new());
    let own = |container: &Container| parsed(of(&container.resources));
    pod.spec.containers.iter().for_each(|container| add(&mut total, &own(container)));
    for container in &pod.spec.init_containers {
        let mut needs = own(container);
        if container.restart_policy == "Always" {
            add(&mut total, &needs);
            add(&mut sidecars, &needs);
            needs.clone_from(&sidecars);
        } else {
            add(&mut needs, &sidecars);
        }
        raise(&mut first, needs);
    }
    raise(&mut total, first);
    total.extend(parsed(of(&pod.spec.resources)));
    let mut overhead = parsed(&pod.spec.overhead);
    overhead.retain(|name, _| !limits || total.get(name).is_some_and(|limit| !limit.is_zero()));
    add(&mut total, &overhead);
    total
}

fn raise(all: &mut Amounts, to: Amounts) {
    for (name, amount) in to {
        let most = all.get(&name).map_or(amount, |before| amount.max(*before));
        all.insert(name, most);
    }
}

/// Whether the pod counts as running.
pub fn is_charged(pod: &PodView, now: Timestamp) -> bool {
    let overdue = pod.metadata.deletion_timestamp.is_some_and(|end| {
        let grace = pod.metadata.deletion_grace_period_seconds;
        grace.is_some_and(|seconds| remaining(end, seconds, now).is_zero())
    });
    !pod.is_terminal() && !overdue
}

/// What a pod uses.
pub fn of_pod(pod: &PodView, now: Timestamp) -> Amounts {
    let mut used = Amounts::from([("count/pods".to_owned(), number(1))]);
    if !is_charged(pod, now) {
        return used;
    }
    used.insert("pods".to_owned(), number(1));
    for (name, amount) in pod_total(pod, |resources| &resources.requests, false) {
        used.insert(format!("requests.{name}"), amount);
        if COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-") {
            used.insert(name, amount);
        }
    }
    for (name, amount) in pod_total(pod, |resources| &resources.limits, true) {
        used.insert(format!("limits.{name}"), amount);
    }
    used
}

/// What a service uses.
pub fn of_service(service: &ServiceView) -> Amounts {
    let spec = &service.spec;
    let (ports, explicit) = (spec.ports.len(), spec.ports.iter().filter(|port| port.node_port != 0).count());
    let (balancers, node_ports) = match spec.kind.as_str() {
        "NodePort" => (0, ports),
        "LoadBalancer" if spec.allocate_load_balancer_node_ports == Some(false) => (1, explicit),
        "LoadBalancer" => (1, ports),
        _ => (0, 0),
    };
    [("services", 1), ("count/services", 1), ("services.loadbalancers", balancers), ("services.nodeports", node_ports)]
        .map(|(name, count)| (name.to_owned(), number(count)))
        .into()
}

/// What a claim uses: what it asks for, or what it has where that is more.
pub fn of_claim(claim: &ClaimView) -> Amounts {
    let names = ["persistentvolumeclaims", "count/persistentvolumeclaims"];
    let mut used: Amounts = names.map(|name| (name.to_owned(), number(1))).into();
    let amount = |texts: &BTreeMap<String, String>| parsed(texts).remove("storage");
    let (asked, has) = (amount(&claim.spec.resources.requests), amount(&claim.status.allocated_resources));
    let storage = asked.map(|asked| has.map_or(asked, |has| has.max(asked)));
    if let Some(storage) = storage {
        used.insert("requests.storage".to_owned(), storage);
    }
    let annotated = claim.metadata.annotations.get("volume.beta.kubernetes.io/storage-class");
    if let Some(class) = annotated.or(claim.spec.storage_class_name.as_ref()).filter(|class| !class.is_empty()) {
        used.insert(format!("{class}{STORAGE_CLASS}persistentvolumeclaims"), number(1));
        if let Some(storage) = storage {
            used.insert(format!("{class}{STORAGE_CLASS}requests.storage"), storage);
        }
    }
    used
}

/// What a claim of devices uses: of each request the most that it can be given of each class.
pub fn of_devices(claim: &ResourceClaimView) -> Amounts {
    let mut used = Amounts::new();
    for request in &claim.spec.devices.requests {
        let mut most = Amounts::new();
        for wish in request.exactly.iter().chain(&request.first_available) {
            let devices = match wish.allocation_mode.as_str() {
                "ExactCount" => wish.count,
                "All" => MAX_DEVICES,
                _ => 0,
            };
            raise(&mut most, [(format!("{}{DEVICE_CLASS}", wish.device_class_name), number(devices))].into());
        }
        add(&mut used, &most);
    }
    used
}

fn by_value(scope: &Scope, actual: &str) -> bool {
    let listed = scope.values.iter().any(|value| value == actual);
    match scope.operator.as_str() {
        "In" => !actual.is_empty() && listed,
        "NotIn" => !listed,
        "DoesNotExist" => actual.is_empty(),
        _ => !actual.is_empty(),
    }
}

fn is_best_effort(pod: &PodView) -> bool {
    let nothing = |resources: &Resources| {
        [&resources.requests, &resources.limits].into_iter().all(|amounts| {
            let amounts = parsed(amounts);
            COMPUTE[..2].iter().all(|name| amounts.get(*name).is_none_or(Quantity::is_zero))
        })
    };
    let mut containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    containers.all(|container| nothing(&container.resources)) && nothing(&pod.spec.resources)
}

/// Whether a pod is in a scope.
pub fn pod_in(scope: &Scope, pod: &PodView) -> bool {
    let ends = pod.spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
    match scope.scope_name.as_str() {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => by_value(scope, &pod.spec.priority_class_name),
        "CrossNamespacePodAffinity" => pod.spec.affinity.crosses_namespaces(),
        _ => false,
    }
}

/// Whether a claim is in a scope: it is in that of any volume attributes class that it has, wants or is being given.
pub fn claim_in(scope: &Scope, claim: &ClaimView) -> bool {
    let (spec, status) = (&claim.spec, &claim.status);
    let classes = [
        &spec.volume_attributes_class_name,
        &status.current_volume_attributes_class_name,
        &status.modify_volume_status.target_volume_attributes_class_name,
    ];
    let mut set = classes.into_iter().filter(|class| !class.is_empty()).peekable();
    let none = set.peek().is_none();
    scope.scope_name == "VolumeAttributesClass"
        && if none { by_value(scope, "") } else { set.any(|class| by_value(scope, class)) }
}

/// What all objects that are in all scopes use together, of the names of one kind; names that nothing uses are zero.
pub fn sum<T>(
    names: &[&String],
    objects: &[Arc<T>],
    scopes: &[Scope],
    is_in: impl Fn(&Scope, &T) -> bool,
    of: impl Fn(&T) -> Amounts,
) -> Amounts {
    let mut all: Amounts = names.iter().map(|name| ((*name).clone(), number(0))).collect();
    for object in objects.iter().filter(|object| scopes.iter().all(|scope| is_in(scope, object))) {
        let mut used = of(object);
        used.retain(|name, _| all.contains_key(name));
        add(&mut all, &used);
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: &Value) -> Arc<PodView> {
        Arc::new(serde_json::from_value(json!({"spec": spec, "status": {"phase": "Running"}})).unwrap())
    }

    fn text(amounts: &Amounts, name: &str) -> Option<String> {
        amounts.get(name).map(ToString::to_string)
    }

    #[test]
    fn pods_reserve_the_larger_of_start_and_run() {
        let cpu =
            |amount: &str| json!({"requests": {"cpu": amount, "example.com/gpu": "1"}, "limits": {"cpu": amount}});
        let pod = pod(&json!({
            "containers": [{"resources": cpu("100m")}, {"resources": cpu("200m")}],
            "initContainers": [{"resources": cpu("50m"), "restartPolicy": "Always"}, {"resources": cpu("400m")}],
            "overhead": {"cpu": "10m", "memory": "1Mi"},
        }));
        let used = of_pod(&pod, Timestamp::UNIX_EPOCH);
        for (name, wanted) in [
            ("requests.cpu", Some("460m")),
            ("cpu", Some("460m")),
            ("limits.cpu", Some("460m")),
            ("memory", Some("1Mi")),
            ("limits.memory", None),
            ("requests.example.com/gpu", Some("3")),
            ("example.com/gpu", None),
            ("pods", Some("1")),
        ] {
            assert_eq!(text(&used, name).as_deref(), wanted, "{name}");
        }
    }

    #[test]
    fn a_claim_counts_with_the_larger_of_asked_and_allocated() {
        for (allocated, wanted) in
            [(json!({}), "2Gi"), (json!({"storage": "3Gi"}), "3Gi"), (json!({"storage": "1"}), "2Gi")]
        {
            let claim = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}, "status": {"allocatedResources": allocated}});
            let used = of_claim(&serde_json::from_value(claim).unwrap());
            assert_eq!(text(&used, "requests.storage").as_deref(), Some(wanted));
        }
    }

    #[test]
    fn devices_are_charged_by_class_for_the_worst_case() {
        let wish = |class: &str, mode: &str, count: i32| json!({"deviceClassName": class, "allocationMode": mode, "count": count});
        let requests = json!([
            {"name": "a", "exactly": wish("gpu", "ExactCount", 2)},
            {"name": "b", "firstAvailable": [wish("gpu", "ExactCount", 1), wish("gpu", "ExactCount", 4), wish("nic", "All", 0)]},
            {"name": "c", "exactly": wish("gpu", "of the future", 9)},
        ]);
        let claim = json!({"spec": {"devices": {"requests": requests}}});
        let used = of_devices(&serde_json::from_value(claim).unwrap());
        assert_eq!(text(&used, "gpu.deviceclass.resource.k8s.io/devices").as_deref(), Some("6"));
        assert_eq!(text(&used, "nic.deviceclass.resource.k8s.io/devices").as_deref(), Some("32"));
    }

    #[test]
    fn names_and_scopes() {
        for (name, kind) in [
            ("pods", Some(Kind::Pods)),
            ("requests.nvidia.com/gpu", Some(Kind::Pods)),
            ("limits.cpu", Some(Kind::Pods)),
            ("hugepages-2Mi", Some(Kind::Pods)),
            ("requests.storage", Some(Kind::Claims)),
            ("gold.storageclass.storage.k8s.io/requests.storage", Some(Kind::Claims)),
            ("gpu.deviceclass.resource.k8s.io/devices", Some(Kind::Devices)),
            ("count/resourceclaims.resource.k8s.io", Some(Kind::Objects)),
            ("count/jobs.batch", Some(Kind::Objects)),
            ("secrets", Some(Kind::Objects)),
            ("nonsense", None),
            ("limits.nvidia.com/gpu", None),
            ("services.nodeports", Some(Kind::Services)),
        ] {
            assert_eq!(kind_of(name), kind, "{name}");
        }
        assert_eq!(counted("count/jobs.batch"), ("batch", "jobs"));
        assert_eq!(counted("secrets"), ("", "secrets"));
        let scope = |name: &str, operator: &str, values: &[&str]| Scope {
            scope_name: name.to_owned(),
            operator: operator.to_owned(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        let plain = pod(&json!({"containers": [{}]}));
        let high = pod(&json!({"containers": [{"resources": {"limits": {"cpu": "1"}}}], "priorityClassName": "high",
            "activeDeadlineSeconds": 5, "affinity": {"podAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{"namespaces": ["x"]}]}}}));
        for (scope, in_plain, in_high) in [
            (scope("BestEffort", "Exists", &[]), true, false),
            (scope("NotBestEffort", "Exists", &[]), false, true),
            (scope("Terminating", "Exists", &[]), false, true),
            (scope("PriorityClass", "In", &["high"]), false, true),
            (scope("PriorityClass", "NotIn", &["high"]), true, false),
            (scope("PriorityClass", "DoesNotExist", &[]), true, false),
            (scope("CrossNamespacePodAffinity", "Exists", &[]), false, true),
        ] {
            assert_eq!((pod_in(&scope, &plain), pod_in(&scope, &high)), (in_plain, in_high), "{scope:?}");
        }
        let names = ["pods".to_owned(), "cpu".to_owned()];
        let names: Vec<&String> = names.iter().collect();
        let best_effort = [scope("BestEffort", "Exists", &[])];
        let used = sum(&names, &[plain, high], &best_effort, pod_in, |pod| of_pod(pod, Timestamp::UNIX_EPOCH));
        assert_eq!((text(&used, "pods").as_deref(), text(&used, "cpu").as_deref()), (Some("1"), Some("0")));
    }
}

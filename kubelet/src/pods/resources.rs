//! Resource arithmetic of pods: sums, QoS class, and the numbers the runtime wants. Pure.
//!
//! Amounts are CPU in thousandths of a core and everything else in whole units (bytes, counts).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::types::is_sidecar;
use crate::cri::api;

/// Resource name → amount.
pub type Amounts = BTreeMap<String, i64>;
type Quantities = BTreeMap<String, ApiQuantity>;

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA_MICROSECONDS: i64 = 1000;

/// A quantity as thousandths for `cpu`, whole units (rounded up) else; unreadable ones count as zero, since the API
/// does not accept them.
pub fn amount(resource: &str, quantity: &ApiQuantity) -> i64 {
    let Ok(quantity) = quantity.0.parse::<apimachinery::quantity::Quantity>() else { return 0 };
    if resource == "cpu" { quantity.milli() } else { quantity.value() }
}

fn amounts(quantities: Option<&Quantities>) -> Amounts {
    quantities.into_iter().flatten().map(|(name, quantity)| (name.clone(), amount(name, quantity))).collect()
}

fn add(into: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        *into.entry(name.clone()).or_default() += amount;
    }
}

fn at_least(into: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = into.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

/// Which side of the requirements.
type Side = fn(&ResourceRequirements) -> Option<&Quantities>;

fn requests(r: &ResourceRequirements) -> Option<&Quantities> {
    r.requests.as_ref()
}

fn limits(r: &ResourceRequirements) -> Option<&Quantities> {
    r.limits.as_ref()
}

fn of_container(container: &Container, side: Side) -> Amounts {
    amounts(container.resources.as_ref().and_then(side))
}

/// The containers' sum: regular ones and sidecars together, or the largest moment of initialization.
fn containers_total(spec: &PodSpec, side: Side) -> Amounts {
    let mut sum = Amounts::new();
    for container in &spec.containers {
        add(&mut sum, &of_container(container, side));
    }
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let own = of_container(container, side);
        if is_sidecar(container) {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            at_least(&mut peak, &sidecars);
        } else {
            let mut moment = own;
            add(&mut moment, &sidecars);
            at_least(&mut peak, &moment);
        }
    }
    at_least(&mut sum, &peak);
    sum
}

/// The pod's sum: its containers', replaced by pod-level values, plus overhead.
fn total(spec: &PodSpec, side: Side) -> Amounts {
    let mut sum = containers_total(spec, side);
    sum.extend(amounts(spec.resources.as_ref().and_then(side)));
    for (name, amount) in amounts(spec.overhead.as_ref()) {
        if std::ptr::fn_addr_eq(side, requests as Side) || sum.contains_key(&name) {
            *sum.entry(name).or_default() += amount;
        }
    }
    sum
}

/// What the pod asks for.
pub fn pod_requests(spec: &PodSpec) -> Amounts {
    total(spec, requests)
}

/// The limits that containers have, added up, or the pod's own.
pub fn sum_of_limits(spec: &PodSpec) -> Amounts {
    total(spec, limits)
}

/// What the pod may use; a resource is listed only when every container limits it, or the pod does.
pub fn pod_limits(spec: &PodSpec) -> Amounts {
    let mut sum = total(spec, limits);
    let pod_level = amounts(spec.resources.as_ref().and_then(limits));
    sum.retain(|name, _| {
        pod_level.contains_key(name) || spec.containers.iter().all(|c| of_container(c, limits).contains_key(name))
    });
    sum
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let relevant = |amounts: Amounts| -> Amounts {
        amounts.into_iter().filter(|(n, v)| matches!(n.as_str(), "cpu" | "memory") && *v > 0).collect()
    };
    let sides: Vec<(Amounts, Amounts)> = match &spec.resources {
        Some(r) if r.requests.is_some() || r.limits.is_some() => {
            vec![(relevant(amounts(r.requests.as_ref())), relevant(amounts(r.limits.as_ref())))]
        }
        _ => spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .map(|c| (relevant(of_container(c, requests)), relevant(of_container(c, limits))))
            .collect(),
    };
    if sides.iter().all(|(r, l)| r.is_empty() && l.is_empty()) {
        "BestEffort"
    } else if sides.iter().all(|(r, l)| l.len() == 2 && (r.is_empty() || r == l)) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// CPU shares of a request in thousandths of a core.
pub fn cpu_shares(milli: i64) -> i64 {
    if milli == 0 { MIN_SHARES } else { (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

/// CFS quota in microseconds per period; zero means none.
pub fn cpu_quota(milli: i64, period_microseconds: i64) -> i64 {
    if milli == 0 { 0 } else { (milli * period_microseconds / 1000).max(MIN_QUOTA_MICROSECONDS) }
}

/// The node's settings that container limits depend on.
#[derive(Debug, Clone, Default)]
pub struct LimitOptions {
    pub cfs_quota: bool,
    pub cfs_period_microseconds: i64,
    pub memory_capacity_bytes: i64,
    /// Names of the kernel's huge page sizes as cgroups have them (`2MB`).
    pub huge_pages: Vec<String>,
    /// The kernel ends a container whole when it runs out of memory.
    pub group_oom_kill: bool,
}

/// A container's limits as the runtime wants them; what it does not limit itself, its pod limits.
pub fn linux_resources(spec: &PodSpec, container: &Container, options: &LimitOptions) -> api::LinuxContainerResources {
    let requests = of_container(container, requests);
    let mut bounds = amounts(spec.resources.as_ref().and_then(limits));
    bounds.extend(of_container(container, limits).into_iter().filter(|(_, amount)| *amount > 0));
    let limit = |name: &str| bounds.get(name).copied().unwrap_or(0);
    let cpu_limit = limit("cpu");
    let cpu_request = requests.get("cpu").copied().unwrap_or(cpu_limit);
    let mut result = api::LinuxContainerResources {
        cpu_shares: cpu_shares(cpu_request),
        memory_limit_in_bytes: limit("memory"),
        oom_score_adj: oom_score_adj(spec, container, options.memory_capacity_bytes),
        ..Default::default()
    };
    if options.cfs_quota {
        result.cpu_period = options.cfs_period_microseconds;
        result.cpu_quota = cpu_quota(cpu_limit, options.cfs_period_microseconds);
    }
    if options.group_oom_kill {
        result.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    let pages = |size: &String| {
        let wanted = bounds.iter().find(|(name, _)| huge_page_size(name).as_ref() == Some(size));
        let bytes = wanted.and_then(|(_, bytes)| u64::try_from(*bytes).ok());
        api::HugepageLimit { page_size: size.clone(), limit: bytes.unwrap_or(0) }
    };
    result.hugepage_limits = options.huge_pages.iter().map(pages).collect();
    result
}

/// The cgroup name of the page size in a resource's name: `hugepages-2Mi` is `2MB`.
fn huge_page_size(resource: &str) -> Option<String> {
    let size = resource.strip_prefix("hugepages-")?.parse::<apimachinery::quantity::Quantity>().ok()?;
    Some(huge_page_name(size.value()))
}

/// The cgroup name of a page size in bytes.
pub fn huge_page_name(bytes: i64) -> String {
    let units = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    let unit = units.into_iter().find(|(unit, _)| bytes % unit == 0 && bytes > 0);
    unit.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

/// How early the kernel kills the container when memory runs out.
///
/// What a pod asks for beyond its containers is shared among them; a sidecar lives as long as the regular container that
/// asks for least.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, capacity_bytes: i64) -> i64 {
    if spec.priority_class_name.as_deref() == Some("system-node-critical") {
        return -997;
    }
    match qos_class(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let own = |c: &Container| of_container(c, requests).get("memory").copied().unwrap_or(0);
            let init = spec.init_containers.as_deref().unwrap_or_default();
            let whole = amounts(spec.resources.as_ref().and_then(requests)).get("memory").copied().unwrap_or(0);
            let count = i64::try_from(spec.containers.len() + init.len()).unwrap_or(i64::MAX).max(1);
            let extra = if whole > 0 {
                (whole - containers_total(spec, requests).get("memory").copied().unwrap_or(0)) / count
            } else {
                0
            };
            let mut request = own(container);
            if is_sidecar(container) && init.iter().any(|c| c.name == container.name) {
                request = request.max(spec.containers.iter().map(own).min().unwrap_or(0));
            }
            let share = if capacity_bytes > 0 { 1000 * (request + extra) / capacity_bytes } else { 0 };
            (1000 - share).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::types::tests::pod;
    use serde_json::json;

    fn spec(containers: &serde_json::Value) -> PodSpec {
        pod(json!({"spec": containers})).spec
    }

    #[test]
    fn classes() {
        let r = |requests: serde_json::Value, limits: serde_json::Value| {
            spec(&json!({"containers": [{"name": "a", "resources": {"requests": requests, "limits": limits}}]}))
        };
        assert_eq!(qos_class(&r(json!({}), json!({}))), "BestEffort");
        assert_eq!(qos_class(&r(json!({"cpu": "1"}), json!({}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&r(both.clone(), both.clone())), "Guaranteed");
        assert_eq!(qos_class(&r(json!({"cpu": "500m", "memory": "1Gi"}), both)), "Burstable");
        assert_eq!(qos_class(&r(json!({"example.com/x": "1"}), json!({"example.com/x": "1"}))), "BestEffort");
    }

    #[test]
    fn sums() {
        let spec = spec(&json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}},
                           {"name": "b", "resources": {"requests": {"cpu": "0.2"}}}],
            "initContainers": [{"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                               {"name": "i", "resources": {"requests": {"cpu": "1"}}}],
            "overhead": {"cpu": "10m"}}));
        assert_eq!(pod_requests(&spec)["cpu"], 1060);
    }

    #[test]
    fn numbers_for_the_runtime() {
        let spec = spec(&json!({"containers": [{"name": "a", "resources":
            {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"cpu": "1500m", "memory": "2Gi"}}}]}));
        let options = LimitOptions {
            cfs_quota: true,
            cfs_period_microseconds: 100_000,
            memory_capacity_bytes: 4 << 30,
            huge_pages: vec!["2MB".into(), "1GB".into()],
            group_oom_kill: true,
        };
        let r = linux_resources(&spec, &spec.containers[0], &options);
        assert_eq!((r.cpu_shares, r.cpu_quota, r.memory_limit_in_bytes, r.oom_score_adj), (256, 150_000, 2 << 30, 750));
        assert_eq!(r.unified["memory.oom.group"], "1");
        let pages: Vec<_> = r.hugepage_limits.iter().map(|l| (l.page_size.as_str(), l.limit)).collect();
        assert_eq!(pages, [("2MB", 0), ("1GB", 0)]);
    }

    #[test]
    fn containers_inherit_from_their_pod() {
        let spec = spec(&json!({"resources": {"requests": {"memory": "2Gi"},
            "limits": {"cpu": "2", "memory": "3Gi", "hugepages-2Mi": "4Mi"}},
            "containers": [{"name": "a", "resources": {"requests": {"memory": "1Gi"}, "limits": {"cpu": "1"}}}],
            "initContainers": [{"name": "s", "restartPolicy": "Always"}]}));
        let options = LimitOptions {
            cfs_quota: true,
            cfs_period_microseconds: 100_000,
            memory_capacity_bytes: 10 << 30,
            huge_pages: vec!["2MB".into()],
            group_oom_kill: false,
        };
        let r = linux_resources(&spec, &spec.containers[0], &options);
        assert_eq!((r.cpu_shares, r.cpu_quota, r.memory_limit_in_bytes), (1024, 100_000, 3 << 30));
        assert_eq!((r.hugepage_limits[0].limit, r.oom_score_adj), (4 << 20, 850));
        let sidecar = &spec.init_containers.as_ref().unwrap()[0];
        assert_eq!(oom_score_adj(&spec, sidecar, 10 << 30), 850);
    }
}

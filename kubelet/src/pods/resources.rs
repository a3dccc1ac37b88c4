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

/// The pod's sum: regular containers and sidecars together, or the largest moment of initialization, plus overhead;
/// pod-level values replace it.
fn total(spec: &PodSpec, side: Side) -> Amounts {
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
#[derive(Debug, Clone, Copy)]
pub struct LimitOptions {
    pub cfs_quota: bool,
    pub cfs_period_microseconds: i64,
    pub memory_capacity_bytes: i64,
}

/// A container's limits as the runtime wants them.
pub fn linux_resources(spec: &PodSpec, container: &Container, options: &LimitOptions) -> api::LinuxContainerResources {
    let requests = of_container(container, requests);
    let limits = of_container(container, limits);
    let get = |from: &Amounts, name: &str| from.get(name).copied();
    let cpu_limit = get(&limits, "cpu").unwrap_or(0);
    let cpu_request = get(&requests, "cpu").unwrap_or(cpu_limit);
    let mut result = api::LinuxContainerResources {
        cpu_shares: cpu_shares(cpu_request),
        memory_limit_in_bytes: get(&limits, "memory").unwrap_or(0),
        oom_score_adj: oom_score_adj(spec, container, options.memory_capacity_bytes),
        ..Default::default()
    };
    if options.cfs_quota && cpu_limit > 0 {
        result.cpu_period = options.cfs_period_microseconds;
        result.cpu_quota = cpu_quota(cpu_limit, options.cfs_period_microseconds);
    }
    result.hugepage_limits = limits
        .iter()
        .filter_map(|(name, bytes)| {
            let size = name.strip_prefix("hugepages-")?;
            Some(api::HugepageLimit { page_size: format!("{size}B"), limit: u64::try_from(*bytes).unwrap_or(0) })
        })
        .collect();
    result
}

/// How early the kernel kills the container when memory runs out.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, capacity_bytes: i64) -> i64 {
    if spec.priority.is_some_and(|p| p >= 2_000_001_000) {
        return -997;
    }
    match qos_class(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = of_container(container, requests).get("memory").copied().unwrap_or(0);
            let share = if capacity_bytes > 0 { 1000 * request / capacity_bytes } else { 0 };
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
        let options =
            LimitOptions { cfs_quota: true, cfs_period_microseconds: 100_000, memory_capacity_bytes: 4 << 30 };
        let r = linux_resources(&spec, &spec.containers[0], &options);
        assert_eq!((r.cpu_shares, r.cpu_quota, r.memory_limit_in_bytes, r.oom_score_adj), (256, 150_000, 2 << 30, 750));
    }
}

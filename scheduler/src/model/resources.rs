//! Resource amounts and what a pod requests.
//!
//! CPU is in milli-cores, everything else in whole units, rounded up, as upstream does. The request of a pod is the larger
//! of what its containers need together and what any init container needs beside the sidecars started before it, replaced
//! by pod-level resources where given, plus overhead.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;

use crate::objects::pod::{Container, ContainerStatus, Pod, ResourceList, ResourceRequirements};

/// Upstream's assumed CPU request of a container that names none, for scoring only, in milli-cores.
pub const DEFAULT_CPU_MILLI: i64 = 100;
/// Upstream's assumed memory request of a container that names none, for scoring only, in bytes.
pub const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts of resources.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// CPU in milli-cores.
    pub cpu_milli: i64,
    /// Memory in bytes.
    pub memory_bytes: i64,
    /// Ephemeral storage in bytes.
    pub ephemeral_bytes: i64,
    /// Extended resources, huge pages and the like.
    pub scalars: BTreeMap<Box<str>, i64>,
}

impl Resources {
    /// Reads a list of quantities. What cannot be parsed counts as nothing: the API server admits only valid ones.
    pub fn from_list(list: &ResourceList) -> Self {
        let mut r = Self::default();
        for (name, text) in list {
            match name.as_str() {
                "cpu" => r.cpu_milli = milli(text),
                "memory" => r.memory_bytes = whole(text),
                "ephemeral-storage" => r.ephemeral_bytes = whole(text),
                name if is_scalar(name) => {
                    r.scalars.insert(name.into(), whole(text));
                }
                _ => {}
            }
        }
        r
    }

    /// The amount of a resource by its API name.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu_milli,
            "memory" => self.memory_bytes,
            "ephemeral-storage" => self.ephemeral_bytes,
            _ => self.scalars.get(name).copied().unwrap_or(0),
        }
    }

    /// Adds `other` times `sign` (1 or -1).
    pub fn add(&mut self, other: &Self, sign: i64) {
        self.cpu_milli += sign * other.cpu_milli;
        self.memory_bytes += sign * other.memory_bytes;
        self.ephemeral_bytes += sign * other.ephemeral_bytes;
        for (name, n) in &other.scalars {
            *self.scalars.entry(name.clone()).or_default() += sign * n;
        }
    }

    fn raise_to(&mut self, other: &Self) {
        self.cpu_milli = self.cpu_milli.max(other.cpu_milli);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        self.ephemeral_bytes = self.ephemeral_bytes.max(other.ephemeral_bytes);
        for (name, n) in &other.scalars {
            let mine = self.scalars.entry(name.clone()).or_default();
            *mine = (*mine).max(*n);
        }
    }
}

/// Whether a resource name is counted besides CPU, memory and ephemeral storage: extended resources (with a domain),
/// huge pages and attachable volumes.
pub fn is_scalar(name: &str) -> bool {
    name.contains('/') || name.starts_with("hugepages-") || name.starts_with("attachable-volumes-")
}

/// Whether a name is that of an extended resource: with a domain, and not one of kubernetes.io.
pub fn is_extended(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io") && !domain.starts_with("requests."))
}

/// Parses a quantity to whole units, rounded up; zero if it is not one.
pub fn whole(text: &str) -> i64 {
    text.parse::<Quantity>().map_or(0, |q| q.value())
}

fn milli(text: &str) -> i64 {
    text.parse::<Quantity>().map_or(0, |q| q.milli())
}

/// What a pod requests, and its CPU and memory with upstream's assumed minimum for containers that name none: as its
/// node holds them, and as they are scored, which is without pod-level resources.
pub fn of_pod(pod: &Pod) -> (Resources, (i64, i64), (i64, i64)) {
    let assumed = |level: Option<&ResourceRequirements>| {
        let total = total(pod, level, true);
        (total.cpu_milli, total.memory_bytes)
    };
    let level = pod.spec.resources.as_ref();
    (total(pod, level, false), assumed(level), assumed(None))
}

fn total(pod: &Pod, level: Option<&ResourceRequirements>, assume: bool) -> Resources {
    let mut sum = Resources::default();
    for c in &pod.spec.containers {
        sum.add(&of_container(c, &pod.status.container_statuses, assume), 1);
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for c in &pod.spec.init_containers {
        let mut needs = of_container(c, &pod.status.init_container_statuses, assume);
        if c.restart_policy == "Always" {
            sum.add(&needs, 1);
            sidecars.add(&needs, 1);
            needs = sidecars.clone();
        } else {
            needs.add(&sidecars, 1);
        }
        peak.raise_to(&needs);
    }
    sum.raise_to(&peak);
    if let Some(level) = level {
        apply_pod_level(&mut sum, &Resources::from_list(&level.requests), &level.requests);
    }
    sum.add(&Resources::from_list(&pod.spec.overhead), 1);
    sum
}

fn apply_pod_level(sum: &mut Resources, level: &Resources, named: &ResourceList) {
    for name in named.keys() {
        match name.as_str() {
            "cpu" => sum.cpu_milli = level.cpu_milli,
            "memory" => sum.memory_bytes = level.memory_bytes,
            name if name.starts_with("hugepages-") => {
                sum.scalars.insert(name.into(), level.get(name));
            }
            _ => {}
        }
    }
}

fn of_container(c: &Container, statuses: &[ContainerStatus], assume: bool) -> Resources {
    let mut r = Resources::from_list(&c.resources.requests);
    // While a resize is under way the larger of the wanted and the actual amounts is held.
    if let Some(status) = statuses.iter().find(|s| s.name == c.name) {
        if let Some(actual) = &status.resources {
            r.raise_to(&Resources::from_list(&actual.requests));
        }
        r.raise_to(&Resources::from_list(&status.allocated_resources));
    }
    if assume {
        if !c.resources.requests.contains_key("cpu") {
            r.cpu_milli = DEFAULT_CPU_MILLI;
        }
        if !c.resources.requests.contains_key("memory") {
            r.memory_bytes = DEFAULT_MEMORY_BYTES;
        }
    }
    r
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::needless_pass_by_value)] // calls read better with json!(…) in place
    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn cpu(spec: serde_json::Value) -> i64 {
        of_pod(&pod(spec)).0.cpu_milli
    }

    #[test]
    fn init_containers_and_sidecars() {
        let one = |n: &str, cpu: &str| serde_json::json!({"name": n, "resources": {"requests": {"cpu": cpu}}});
        let side = |n: &str, cpu: &str| serde_json::json!({"name": n, "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        assert_eq!(cpu(serde_json::json!({"containers": [one("c", "1")], "initContainers": [one("i", "3")]})), 3000);
        let before =
            serde_json::json!({"containers": [one("c", "1")], "initContainers": [side("s", "2"), one("i", "1500m")]});
        assert_eq!(cpu(before), 3500);
        let after =
            serde_json::json!({"containers": [one("c", "1")], "initContainers": [one("i", "3"), side("s", "2")]});
        assert_eq!(cpu(after), 3000);
    }

    #[test]
    fn overhead_and_pod_level() {
        let c = serde_json::json!([{"name": "c", "resources": {"requests": {"cpu": "1"}}}]);
        assert_eq!(cpu(serde_json::json!({"containers": c, "overhead": {"cpu": "250m"}})), 1250);
        let level =
            serde_json::json!({"containers": c, "resources": {"requests": {"cpu": "2"}}, "overhead": {"cpu": "1"}});
        assert_eq!(cpu(level.clone()), 3000);
        let (_, held, scored) = of_pod(&pod(level));
        assert_eq!((held.0, scored.0), (3000, 2000), "scored by its containers");
    }

    #[test]
    fn assumed_requests_only_where_absent() {
        let p = pod(
            serde_json::json!({"containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "0"}}}]}),
        );
        let (plain, assumed, _) = of_pod(&p);
        assert_eq!(plain, Resources::default());
        assert_eq!(assumed, (100, 2 * DEFAULT_MEMORY_BYTES));
    }
}

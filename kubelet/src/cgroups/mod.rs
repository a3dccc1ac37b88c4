//! The cgroups around pods: `kubepods`, one per QoS class, one per pod; on v1 (every controller) and v2.
//!
//! With the cgroupfs driver the kubelet makes and removes them; with the systemd driver it only names slices, which
//! systemd makes when the runtime starts a scope in them. With `--cgroups-per-qos=false` pods go where the runtime puts
//! them. A controller that the kernel does not let us write to is skipped: limits of containers are the runtime's.

pub mod fs;

use crate::pods::resources::{self, LimitOptions};
use crate::pods::types::Pod;

pub use fs::Hierarchy;

/// How cgroups are named and made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

/// The node's cgroup settings.
#[derive(Debug, Clone)]
pub struct Cgroups {
    driver: Driver,
    /// Names below the root, such as `["kubepods"]`; none when there are no QoS cgroups.
    root: Option<Vec<String>>,
    hierarchy: Hierarchy,
    pids_limit: Option<i64>,
}

/// Limits of one cgroup; zero and none mean unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: i64,
    pub cpu_quota_microseconds: i64,
    pub cpu_period_microseconds: i64,
    pub memory_bytes: i64,
    pub pids: Option<i64>,
}

impl Cgroups {
    /// Settings for a node; `root` is `--cgroup-root`.
    pub fn new(driver: Driver, per_qos: bool, root: &str, pids_limit: i64) -> Self {
        let mut names: Vec<String> = root.split('/').filter(|p| !p.is_empty()).map(str::to_owned).collect();
        names.push("kubepods".into());
        Self {
            driver,
            root: per_qos.then_some(names),
            hierarchy: Hierarchy::detect(),
            pids_limit: (pids_limit > 0).then_some(pids_limit),
        }
    }

    /// Whether the kernel's cgroups are version 2 only.
    pub fn is_v2(&self) -> bool {
        self.hierarchy.is_v2()
    }

    fn pod_names(&self, pod: &Pod) -> Option<Vec<String>> {
        let mut names = self.root.clone()?;
        match resources::qos_class(&pod.spec) {
            "BestEffort" => names.push("besteffort".into()),
            "Burstable" => names.push("burstable".into()),
            _ => {}
        }
        names.push(format!("pod{}", pod.uid()));
        Some(names)
    }

    /// What the runtime is told as the parent of a pod's containers; empty leaves it to the runtime.
    pub fn parent(&self, pod: &Pod) -> String {
        let Some(names) = self.pod_names(pod) else { return String::new() };
        match self.driver {
            Driver::Cgroupfs => format!("/{}", names.join("/")),
            Driver::Systemd => slice(&names),
        }
    }

    /// Makes the `kubepods` and QoS cgroups; `allocatable` bounds all pods together.
    ///
    /// # Errors
    /// The cgroup that cannot be made.
    pub fn set_up_node(&self, allocatable: Option<Limits>) -> Result<(), String> {
        let (Some(root), Driver::Cgroupfs) = (&self.root, self.driver) else { return Ok(()) };
        self.hierarchy.make(root, &allocatable.unwrap_or_default())?;
        self.share_cpu(0)
    }

    /// Gives the burstable pods together the CPU that they ask for, in thousandths of a core; best-effort ones share what
    /// others leave.
    ///
    /// # Errors
    /// The cgroup that cannot be made.
    pub fn share_cpu(&self, burstable_milli: i64) -> Result<(), String> {
        let (Some(root), Driver::Cgroupfs) = (&self.root, self.driver) else { return Ok(()) };
        let shares = resources::cpu_shares(burstable_milli);
        for (class, cpu_shares) in [("burstable", shares), ("besteffort", resources::cpu_shares(0))] {
            let names: Vec<String> = root.iter().cloned().chain([class.to_owned()]).collect();
            self.hierarchy.make(&names, &Limits { cpu_shares, ..Limits::default() })?;
        }
        Ok(())
    }

    /// Makes the pod's cgroup with the pod's limits. Idempotent.
    ///
    /// # Errors
    /// The cgroup that cannot be made.
    pub fn set_up_pod(&self, pod: &Pod, options: &LimitOptions) -> Result<(), String> {
        let (Some(names), Driver::Cgroupfs) = (self.pod_names(pod), self.driver) else { return Ok(()) };
        self.hierarchy.make(&names, &pod_limits(pod, options, self.pids_limit))
    }

    /// Ends what is left in the pod's cgroup and removes it. Idempotent.
    ///
    /// # Errors
    /// A cgroup that is still in use.
    pub fn remove_pod(&self, uid: &str) -> Result<(), String> {
        let (Some(root), Driver::Cgroupfs) = (&self.root, self.driver) else { return Ok(()) };
        for class in ["", "burstable", "besteffort"] {
            let class = (!class.is_empty()).then(|| class.to_owned());
            let names: Vec<String> = root.iter().cloned().chain(class).chain([format!("pod{uid}")]).collect();
            self.hierarchy.remove(&names)?;
        }
        Ok(())
    }
}

fn pod_limits(pod: &Pod, options: &LimitOptions, pids: Option<i64>) -> Limits {
    let requests = resources::pod_requests(&pod.spec);
    let limits = resources::pod_limits(&pod.spec);
    let get = |from: &resources::Amounts, name: &str| from.get(name).copied().unwrap_or(0);
    let cpu_limit = get(&limits, "cpu");
    let request = if get(&requests, "cpu") == 0 { cpu_limit } else { get(&requests, "cpu") };
    let period = options.cfs_period_microseconds;
    Limits {
        cpu_shares: resources::cpu_shares(request),
        cpu_quota_microseconds: if options.cfs_quota { resources::cpu_quota(cpu_limit, period) } else { 0 },
        cpu_period_microseconds: period,
        memory_bytes: get(&limits, "memory"),
        pids,
    }
}

/// systemd's name of nested slices: each carries its parents' names, dashes escaped to underscores in uids.
fn slice(names: &[String]) -> String {
    let parts: Vec<String> = names.iter().map(|n| n.replace('-', "_")).collect();
    format!("{}.slice", parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::types::tests::pod;
    use serde_json::json;

    #[test]
    fn names_and_limits() {
        let pod = pod(json!({"metadata": {"uid": "a-b"}, "spec": {"containers": [{"name": "c",
            "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}}]}}));
        let cgroups = |driver| Cgroups::new(driver, true, "/n1", -1);
        assert_eq!(cgroups(Driver::Cgroupfs).parent(&pod), "/n1/kubepods/burstable/poda-b");
        let systemd = Cgroups::new(Driver::Systemd, true, "/", -1);
        assert_eq!(systemd.parent(&pod), "kubepods-burstable-poda_b.slice");
        assert_eq!(Cgroups::new(Driver::Cgroupfs, false, "/", -1).parent(&pod), "");
        let options = LimitOptions { cfs_quota: true, cfs_period_microseconds: 100_000, ..LimitOptions::default() };
        let limits = pod_limits(&pod, &options, None);
        assert_eq!((limits.cpu_shares, limits.cpu_quota_microseconds, limits.memory_bytes), (102, 50_000, 64 << 20));
    }
}

//! In-place resize: which running containers have other resources than their spec asks for. Pure.
//!
//! What a container has is what its status told before (the API keeps it over a restart of the kubelet), or what was
//! applied since. A resource whose resize policy is `RestartContainer` makes the container start anew instead.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container as Spec, PodStatus, ResourceRequirements};

use super::resources::{Amounts, amount, pod_requests};
use super::types::Pod;

/// Resources applied to running containers since their last status, by container id.
pub type Applied = HashMap<String, ResourceRequirements>;

/// What has to be done for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Update,
    Restart,
}

/// The resources that a running container has, when they are known.
pub fn current<'a>(id: &str, told: &'a PodStatus, applied: &'a Applied) -> Option<&'a ResourceRequirements> {
    let lists = [&told.init_container_statuses, &told.container_statuses];
    let known = || {
        let mut all = lists.into_iter().flatten().flatten();
        let own = all.find(|s| s.container_id.as_deref().is_some_and(|c| c.ends_with(id)))?;
        own.resources.as_ref()
    };
    applied.get(id).or_else(known)
}

/// The step that brings a running container to its spec, if one is needed.
pub fn step(spec: &Spec, current: &ResourceRequirements) -> Option<Step> {
    let empty = ResourceRequirements::default();
    let wanted = spec.resources.as_ref().unwrap_or(&empty);
    let differs = |resource: &str| {
        let of = |r: &ResourceRequirements| {
            [&r.requests, &r.limits].map(|q| q.as_ref()?.get(resource).map(|q| amount(resource, q)))
        };
        of(wanted) != of(current)
    };
    let changed: Vec<&str> = ["cpu", "memory"].into_iter().filter(|r| differs(r)).collect();
    if changed.is_empty() {
        return None;
    }
    let mut policies = spec.resize_policy.iter().flatten();
    let restart =
        policies.any(|p| p.restart_policy == "RestartContainer" && changed.contains(&p.resource_name.as_str()));
    Some(if restart { Step::Restart } else { Step::Update })
}

/// Why the node can never give what the pod now asks for.
pub fn infeasible(pod: &Pod, allocatable: &Amounts) -> Option<String> {
    let requests = pod_requests(&pod.spec);
    let over = requests.iter().find(|(name, wanted)| allocatable.get(*name).is_some_and(|have| *wanted > have));
    let (name, wanted) = over?;
    let have = allocatable.get(name).copied().unwrap_or(0);
    Some(format!("Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {have}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::types::tests::pod;
    use serde_json::json;

    #[test]
    fn steps() {
        let pod = pod(json!({"spec": {"containers": [{"name": "a",
            "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}},
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]},
            "status": {"containerStatuses": [{"name": "a", "containerID": "containerd://x", "image": "", "imageID": "",
                "ready": true, "restartCount": 0, "resources": {"requests": {"cpu": "0.1", "memory": "1024Mi"}}}]}}));
        let spec = &pod.spec.containers[0];
        let applied = Applied::new();
        assert_eq!(step(spec, current("x", &pod.status, &applied).unwrap()), Some(Step::Update));
        assert!(current("y", &pod.status, &applied).is_none());
        let applied = Applied::from([("x".to_owned(), spec.resources.clone().unwrap())]);
        assert_eq!(step(spec, current("x", &pod.status, &applied).unwrap()), None);
        assert_eq!(step(spec, &ResourceRequirements::default()), Some(Step::Restart));
        assert!(infeasible(&pod, &Amounts::from([("cpu".into(), 100)])).is_some());
        assert!(infeasible(&pod, &Amounts::from([("cpu".into(), 200)])).is_none());
    }
}

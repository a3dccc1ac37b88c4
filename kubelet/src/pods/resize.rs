//! In-place resize: which running containers have other resources than their spec asks for. Pure.
//!
//! What a container has is what its status told before (the API keeps it over a restart of the kubelet), or what was
//! applied since. A resource whose resize policy is `RestartContainer` makes the container start anew instead.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container as Spec, PodStatus, ResourceRequirements};

use serde_json::json;

use super::admission::lacking;
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

/// Why what a pod asks for by now is not done: `Deferred` until others make room, or `Infeasible` on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub reason: &'static str,
    pub message: String,
}

/// Whether a running pod may have what it asks for by now, beside the others.
pub fn consider<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod>, allocatable: &Amounts) -> Option<Refused> {
    let requests = pod_requests(&pod.spec);
    if let Some((name, wanted)) = requests.iter().find(|(n, w)| allocatable.get(*n).is_some_and(|have| *w > have)) {
        let have = allocatable.get(name).copied().unwrap_or(0);
        let message = format!("Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {have}");
        return Some(Refused { reason: "Infeasible", message });
    }
    lacking(pod, others, allocatable).map(|(_, message)| Refused { reason: "Deferred", message })
}

/// The pod with the resources of another picture of it; the same one when they are equal.
pub fn with_resources_of(pod: &Arc<Pod>, other: &Pod) -> Arc<Pod> {
    let find = |name: &str| other.container(name).map(|(_, c)| c.resources.clone());
    with_resources(pod, other.spec.resources.clone(), find)
}

/// The pod with the resources that its status says were given to it.
pub fn as_told(pod: &Arc<Pod>) -> Arc<Pod> {
    let lists = [&pod.status.init_container_statuses, &pod.status.container_statuses];
    let find = |name: &str| {
        let status = lists.into_iter().flatten().flatten().find(|s| s.name == name && s.container_id.is_some())?;
        let actual = status.resources.as_ref()?;
        let requests = status.allocated_resources.clone().or_else(|| actual.requests.clone());
        Some(Some(ResourceRequirements { requests, ..actual.clone() }))
    };
    with_resources(pod, pod.spec.resources.clone(), find)
}

fn with_resources(
    pod: &Arc<Pod>,
    whole: Option<ResourceRequirements>,
    find: impl Fn(&str) -> Option<Option<ResourceRequirements>>,
) -> Arc<Pod> {
    let mut changed = Pod::clone(pod);
    changed.spec.resources = whole;
    let lists = [Some(&mut changed.spec.containers), changed.spec.init_containers.as_mut()];
    for container in lists.into_iter().flatten().flatten() {
        let Some(found) = find(&container.name) else { continue };
        let has = found.clone().unwrap_or_default();
        if step(container, &has).is_some() {
            container.resources = found;
        }
    }
    if changed.spec == pod.spec { Arc::clone(pod) } else { Arc::new(changed) }
}

/// What the resize events say of the pod.
pub fn summary(pod: &Pod, words: &str, error: &str) -> String {
    let list = |containers: &[Spec]| -> Vec<_> {
        containers
            .iter()
            .map(|c| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()}))
            .collect()
    };
    let mut about = json!({"containers": list(&pod.spec.containers), "generation": pod.metadata.generation});
    if !pod.init_containers().is_empty() {
        about["initContainers"] = json!(list(pod.init_containers()));
    }
    if !error.is_empty() {
        about["error"] = json!(error);
    }
    format!("Pod resize {words}: {about}")
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
        let with = |cpu| {
            consider(&pod, std::iter::once(&pod), &Amounts::from([("cpu".into(), cpu), ("memory".into(), 1 << 40)]))
        };
        assert_eq!(with(100).unwrap().reason, "Infeasible");
        assert_eq!(with(399).unwrap().reason, "Deferred");
        assert_eq!(with(400), None);
        let pod = Arc::new(pod);
        let told = as_told(&pod);
        assert_eq!(
            step(&pod.spec.containers[0], told.spec.containers[0].resources.as_ref().unwrap()),
            Some(Step::Update)
        );
        assert!(Arc::ptr_eq(&with_resources_of(&told, &told), &told));
        assert_eq!(with_resources_of(&pod, &told).spec, told.spec);
    }
}

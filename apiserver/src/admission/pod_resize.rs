//! What a change of a running pod's resources asks of its node: PodResizeValidator (a Linux node with room enough) and
//! NodeDeclaredFeatureValidator (a kubelet that says that it can do it).

use std::sync::Arc;

use apimachinery::quantity::Quantity;
use apimachinery::status::{Cause, Status};
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request, done};
use crate::objects::{Objects, find};
use crate::resources::check::{At, quantity, same};
use crate::resources::core::pod::qos;

/// Refuses what the node has no room for.
pub struct PodResizeValidator(pub Arc<dyn Objects>);

/// Refuses what the node's kubelet does not know.
pub struct NodeDeclaredFeatureValidator(pub Arc<dyn Objects>);

/// The changed pod and its former self, if it is bound and its spec changed.
fn changed<'a>(request: &'a Request<'_>, object: Option<&'a Value>) -> Option<(&'a Value, &'a Value)> {
    let (pod, old) = (object?, request.old?);
    let bound = pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    (bound && pod["metadata"]["generation"] != old["metadata"]["generation"]).then_some((pod, old))
}

async fn node(objects: &dyn Objects, request: &Request<'_>, pod: &Value) -> Result<Arc<Value>, Status> {
    let name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let found = find(objects, ("", "nodes"), "", name).await?;
    found.ok_or_else(|| request.forbidden(Some(pod), &format!("node {name:?} not found")))
}

impl PodResizeValidator {
    async fn check(&self, request: &Request<'_>, pod: &Value) -> Result<(), Status> {
        let node = node(&*self.0, request, pod).await?;
        let refuse = |why: &str, reason: &str| {
            let mut status = request.forbidden(Some(pod), why);
            let cause = Cause { reason: reason.to_owned(), ..Cause::default() };
            status.details.get_or_insert_default().causes.push(cause);
            Err(status)
        };
        let system = node["metadata"]["labels"]["kubernetes.io/os"].as_str();
        if let Some(system) = system.filter(|system| *system != "linux") {
            return refuse(
                &format!("pods are resized on linux nodes only, this one is {system}"),
                "UnsupportedPlatform",
            );
        }
        let allocatable = |resource: &str| quantity(&node["status"]["allocatable"][resource]);
        let too_much =
            ["cpu", "memory"].into_iter().filter(|resource| requested(pod, resource) > allocatable(resource));
        let too_much: Vec<&str> = too_much.collect();
        if too_much.is_empty() {
            return Ok(());
        }
        refuse(&format!("node didn't have enough allocatable resources: {}", too_much.join("; ")), "NodeCapacity")
    }
}

/// What a pod asks for: what it says itself, else what its containers ask for together; and its overhead.
fn requested(pod: &Value, resource: &str) -> Quantity {
    let spec = At::root(pod).get("spec");
    let own = spec.get("resources.requests").entry(resource);
    let total =
        if own.is_set() { own.quantity() } else { qos::container_requests(&spec).remove(resource).unwrap_or_default() };
    total + spec.get("overhead").entry(resource).quantity()
}

impl Plugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Update && request.is("", "pods", "resize")
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        match changed(request, object) {
            Some((pod, _)) => Box::pin(self.check(request, pod)),
            None => done(Ok(())),
        }
    }
}

/// The features that a change needs of the kubelet, by upstream's names.
fn needed_features(pod: &Value, old: &Value) -> Vec<&'static str> {
    let mut needed = Vec::new();
    if !same(&pod["spec"]["resources"], &old["spec"]["resources"]) {
        needed.push("InPlacePodLevelResourcesVerticalScaling");
    }
    let init = |pod: &Value| pod["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
    let resized = |(now, before): (Value, Value)| {
        before["restartPolicy"] != "Always" && !same(&now["resources"], &before["resources"])
    };
    if init(pod).into_iter().zip(init(old)).any(resized) {
        needed.push("InPlacePodVerticalScalingInitContainers");
    }
    needed
}

impl Plugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let spec = request.is("", "pods", "") || request.is("", "pods", "resize");
        request.operation == Operation::Update && spec
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let Some((pod, old)) = changed(request, object) else { return done(Ok(())) };
        let needed = needed_features(pod, old);
        if needed.is_empty() {
            return done(Ok(()));
        }
        Box::pin(async move {
            let node = node(&*self.0, request, pod).await?;
            let declared = At::root(&node).get("status.declaredFeatures");
            let lacking: Vec<&str> = needed.into_iter().filter(|f| !declared.strings().any(|d| d == *f)).collect();
            if lacking.is_empty() {
                return Ok(());
            }
            let why = format!("pod update requires features {} that its node does not declare", lacking.join(", "));
            Err(request.forbidden(Some(pod), &why))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_asks_for_its_own_requests_or_those_of_its_containers_and_for_its_overhead() {
        let mut pod = json!({"spec": {
            "containers": [{"resources": {"requests": {"cpu": "1"}}}, {"resources": {"requests": {"cpu": "2"}}}],
            "overhead": {"cpu": "500m"},
        }});
        assert_eq!(requested(&pod, "cpu").milli(), 3500);
        pod["spec"]["resources"] = json!({"requests": {"cpu": "5"}});
        assert_eq!(requested(&pod, "cpu").milli(), 5500);
        assert!(requested(&pod, "memory").is_zero());
    }

    #[test]
    fn resizing_pods_and_init_containers_needs_features() {
        let pod = |cpu: &str, policy: Option<&str>| json!({"spec": {"initContainers": [{"restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}}]}});
        assert_eq!(needed_features(&pod("1", None), &pod("2", None)), ["InPlacePodVerticalScalingInitContainers"]);
        assert!(needed_features(&pod("1", Some("Always")), &pod("2", Some("Always"))).is_empty());
        let whole = json!({"spec": {"resources": {"limits": {"cpu": "1"}}}});
        assert_eq!(needed_features(&whole, &json!({"spec": {}})), ["InPlacePodLevelResourcesVerticalScaling"]);
    }
}

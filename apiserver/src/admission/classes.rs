//! Plugins of a few lines each: default storage and ingress classes, AlwaysPullImages, DenyServiceExternalIPs, AlwaysDeny.

use std::sync::Arc;

use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

use super::storage::class_of;
use super::{ALL_CONTAINERS, Operation, Plugin, Request, done, set};
use crate::objects::{Objects, ResourceName};

/// The newest object that carries one of the annotations as `true`; of the same age the first by name.
fn default_of(objects: &dyn Objects, resource: ResourceName, annotations: &[&str]) -> Option<String> {
    let marked = |object: &Value| annotations.iter().any(|key| object["metadata"]["annotations"][*key] == "true");
    let mut found: Vec<_> = objects.list(resource, "").into_iter().filter(|object| marked(object)).collect();
    let text = |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    found.sort_by(|a, b| {
        let newest = text(b, "creationTimestamp").cmp(&text(a, "creationTimestamp"));
        newest.then_with(|| text(a, "name").cmp(&text(b, "name")))
    });
    found.first().map(|object| text(object, "name"))
}

/// Gives claims without a class the default one.
pub struct DefaultStorageClass(pub Arc<dyn Objects>);

impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "persistentvolumeclaims")
    }

    fn admit<'a>(&'a self, _: &'a Request<'_>, object: Option<&'a mut Value>) -> BoxFuture<'a, Result<(), Status>> {
        let Some(claim) = object.filter(|claim| class_of(claim).is_none() && claim["spec"].is_object()) else {
            return done(Ok(()));
        };
        let annotations =
            ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
        if let Some(class) = default_of(&*self.0, ("storage.k8s.io", "storageclasses"), &annotations) {
            set(&mut claim["spec"], "storageClassName", class);
        }
        done(Ok(()))
    }
}

/// Gives ingresses without a class the default one.
pub struct DefaultIngressClass(pub Arc<dyn Objects>);

impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("networking.k8s.io", "ingresses")
    }

    fn admit<'a>(&'a self, _: &'a Request<'_>, object: Option<&'a mut Value>) -> BoxFuture<'a, Result<(), Status>> {
        let classless = |ingress: &Value| {
            ingress["spec"]["ingressClassName"].is_null()
                && ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_null()
                && ingress["spec"].is_object()
        };
        let Some(ingress) = object.filter(|ingress| classless(ingress)) else { return done(Ok(())) };
        let annotation = ["ingressclass.kubernetes.io/is-default-class"];
        if let Some(class) = default_of(&*self.0, ("networking.k8s.io", "ingressclasses"), &annotation) {
            set(&mut ingress["spec"], "ingressClassName", class);
        }
        done(Ok(()))
    }
}

/// Makes every container pull its image, so that nobody runs a private image that happens to lie on the node.
pub struct AlwaysPullImages;

impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update)
            && (request.is("", "pods", "") || request.is("", "pods", "ephemeralcontainers"))
    }

    fn admit<'a>(&'a self, _: &'a Request<'_>, object: Option<&'a mut Value>) -> BoxFuture<'a, Result<(), Status>> {
        if let Some(spec) = object.and_then(|pod| pod.get_mut("spec")) {
            for list in ALL_CONTAINERS {
                for container in spec.get_mut(*list).and_then(Value::as_array_mut).into_iter().flatten() {
                    set(container, "imagePullPolicy", "Always");
                }
            }
        }
        done(Ok(()))
    }
}

/// Refuses new external addresses on services.
pub struct DenyServiceExternalIps;

impl Plugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update) && request.is("", "services", "")
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let Some(service) = object else { return done(Ok(())) };
        let addresses = |service: &Value| service["spec"]["externalIPs"].as_array().cloned().unwrap_or_default();
        let old = request.old.map(addresses).unwrap_or_default();
        if addresses(service).iter().all(|address| old.contains(address)) {
            return done(Ok(()));
        }
        done(Err(request.forbidden(Some(service), "Use of external IPs is denied by admission control")))
    }
}

/// Refuses every write (for tests of a cluster's behaviour).
pub struct AlwaysDeny;

impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn handles(&self, _: &Request<'_>) -> bool {
        true
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        done(Err(request.forbidden(object, "admission control is denying all modifications")))
    }
}

//! RuntimeClass: a pod that names one gets its overhead, node selector and tolerations.

use std::sync::Arc;

use apimachinery::status::Status;
use apimachinery::validation;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request, done, list_mut, map_mut, set};
use crate::objects::{Objects, find};

/// The plugin.
pub struct RuntimeClass(pub Arc<dyn Objects>);

impl RuntimeClass {
    async fn class(&self, request: &Request<'_>, pod: &Value) -> Result<Option<Arc<Value>>, Status> {
        let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
        // Upstream asks for the class as a client does, which does not ask for everything.
        if name.is_empty() {
            return Err(Status::failure(500, "", "resource name may not be empty"));
        }
        let complaints = validation::path_segment_name(name);
        if !complaints.is_empty() {
            return Err(Status::failure(500, "", format!("invalid resource name {name:?}: {complaints:?}")));
        }
        match find(&*self.0, ("node.k8s.io", "runtimeclasses"), "", name).await? {
            Some(class) => Ok(Some(class)),
            None => Err(request.forbidden(Some(pod), &format!("pod rejected: RuntimeClass {name:?} not found"))),
        }
    }

    async fn apply(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        let Some(class) = self.class(request, pod).await? else { return Ok(()) };
        let overhead = &class["overhead"]["podFixed"];
        if overhead.is_object() {
            let given = &pod["spec"]["overhead"];
            if !given.is_null() && given != overhead {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return Err(request.forbidden(Some(pod), why));
            }
            set(&mut pod["spec"], "overhead", overhead.clone());
        }
        let scheduling = &class["scheduling"];
        for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
            let given = &pod["spec"]["nodeSelector"][key];
            if !given.is_null() && given != value {
                let why = format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {given}"
                );
                return Err(request.forbidden(Some(pod), &why));
            }
            if let Some(selector) = map_mut(&mut pod["spec"], "nodeSelector") {
                selector.insert(key.clone(), value.clone());
            }
        }
        for toleration in scheduling["tolerations"].as_array().into_iter().flatten() {
            if let Some(list) = list_mut(&mut pod["spec"], "tolerations")
                && !list.contains(toleration)
            {
                list.push(toleration.clone());
            }
        }
        Ok(())
    }
}

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.is("", "pods", "")
    }

    fn admit<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        match object.filter(|pod| !pod["spec"]["runtimeClassName"].is_null()) {
            Some(pod) => Box::pin(self.apply(request, pod)),
            None => done(Ok(())),
        }
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let Some(pod) = object.filter(|pod| !pod["spec"]["overhead"].is_null()) else { return done(Ok(())) };
        Box::pin(async move {
            let class = self.class(request, pod).await?;
            if class.is_some_and(|class| class["overhead"]["podFixed"].is_object()) {
                return Ok(());
            }
            Err(request.forbidden(
                Some(pod),
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ))
        })
    }
}

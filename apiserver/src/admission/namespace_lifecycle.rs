//! NamespaceLifecycle: nothing is made in a namespace that is absent or going; three namespaces cannot be deleted.
//!
//! A namespace that the cache says is absent is looked up in storage, so that creating it and something in it right after works.

use std::sync::Arc;

use apimachinery::gvk::GroupResource;
use apimachinery::status::{Cause, Status};
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::objects::{Objects, find};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plugin.
pub struct NamespaceLifecycle(pub Arc<dyn Objects>);

impl NamespaceLifecycle {
    async fn check(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        if request.operation == Operation::Delete {
            return Err(Status::forbidden(
                &request.group_resource(),
                request.name,
                "this namespace may not be deleted",
            ));
        }
        let namespace = request.namespace;
        let Some(found) = find(&*self.0, ("", "namespaces"), "", namespace).await? else {
            return Err(Status::not_found(&GroupResource::new("", "namespaces"), namespace));
        };
        if request.operation != Operation::Create || found["status"]["phase"] != "Terminating" {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut status = request.forbidden(object, &why);
        status.details.get_or_insert_default().causes.push(Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        });
        Err(status)
    }
}

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        if request.group.is_empty() && request.resource == "namespaces" {
            return request.operation == Operation::Delete && IMMORTAL.contains(&request.name);
        }
        // Reviews must work anywhere; removing must work always.
        !request.namespace.is_empty()
            && request.operation != Operation::Delete
            && request.group != "authorization.k8s.io"
    }

    fn admit<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move { self.check(request, object.as_deref()).await })
    }
}

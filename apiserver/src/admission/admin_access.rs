//! The guard on claims of devices with administrators' access: only in namespaces that carry the label for it. Upstream asks
//! in the strategies of the kinds; here it is asked where other objects can be looked up.

use std::sync::Arc;

use apimachinery::field::{FieldError, Path};
use apimachinery::gvk::GroupKind;
use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request, done};
use crate::objects::{Objects, find};

const LABEL: &str = "resource.kubernetes.io/admin-access";

/// The guard.
pub(super) struct AdminAccess(pub(super) Arc<dyn Objects>);

/// The index of the first request that asks for it.
fn asks(object: &Value) -> Option<usize> {
    let spec = &object["spec"];
    let devices = if spec["spec"].is_object() { &spec["spec"]["devices"] } else { &spec["devices"] };
    devices["requests"].as_array()?.iter().position(|request| request["exactly"]["adminAccess"] == true)
}

impl AdminAccess {
    async fn check(&self, request: &Request<'_>, object: &Value, index: usize) -> Result<(), Status> {
        let namespace = find(&*self.0, ("", "namespaces"), "", request.namespace).await?;
        if namespace.is_some_and(|namespace| namespace["metadata"]["labels"][LABEL] == "true") {
            return Ok(());
        }
        // The same path for claims and their templates, as upstream has it.
        let path = Path::new("spec").child("devices").child("requests").index(index).child("adminAccess");
        let why = format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
        let kind =
            GroupKind { group: request.group.to_owned(), kind: object["kind"].as_str().unwrap_or_default().to_owned() };
        Err(Status::invalid(&kind, request.display_name(Some(object)), &vec![FieldError::forbidden(path, why)]))
    }
}

impl Plugin for AdminAccess {
    fn name(&self) -> &'static str {
        "DeviceAdminAccess"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create
            && request.group == "resource.k8s.io"
            && ["resourceclaims", "resourceclaimtemplates"].contains(&request.resource)
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        match object.and_then(|object| Some((object, asks(object)?))) {
            Some((object, index)) => Box::pin(self.check(request, object, index)),
            None => done(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::asks;

    #[test]
    fn claims_and_templates_may_ask() {
        let devices = json!({"devices": {"requests": [{"exactly": {}}, {"exactly": {"adminAccess": true}}]}});
        assert_eq!(asks(&json!({ "spec": devices })), Some(1));
        assert_eq!(asks(&json!({"spec": {"spec": devices}})), Some(1));
        assert_eq!(asks(&json!({"spec": {"devices": {"requests": [{"exactly": {"adminAccess": false}}]}}})), None);
    }
}

//! The guard on writes of roles and bindings; see [`crate::authz::escalation`].

use std::sync::Arc;

use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request, done};
use crate::authz::Union;
use crate::authz::escalation::{Write, check};

/// The guard.
pub(super) struct Escalation(pub(super) Arc<Union>);

impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.group == "rbac.authorization.k8s.io"
            && request.subresource.is_empty()
            && matches!(request.operation, Operation::Create | Operation::Update)
    }

    /// Refuses before validation would tell what is wrong with the object, as upstream.
    fn admit<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let Some(object) = object else { return done(Ok(())) };
        Box::pin(async move {
            let object = &*object;
            let write = Write {
                user: &request.ctx.user,
                resource: request.resource,
                namespace: request.namespace,
                name: request.display_name(Some(object)),
                object,
                old: request.old,
            };
            check(&self.0, &write).await
        })
    }
}

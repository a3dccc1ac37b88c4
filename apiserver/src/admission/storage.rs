//! StorageObjectInUseProtection and PersistentVolumeClaimResize.

use std::sync::Arc;

use apimachinery::quantity::Quantity;
use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request, done, list_mut};
use crate::objects::{Objects, find};

/// Puts a finalizer on volumes, claims and volume attribute classes, which a controller removes when nobody uses them.
pub struct InUseProtection;

fn finalizer(request: &Request<'_>) -> Option<&'static str> {
    match (request.group, request.resource) {
        ("", "persistentvolumes") => Some("kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims") => Some("kubernetes.io/pvc-protection"),
        ("storage.k8s.io", "volumeattributesclasses") => Some("kubernetes.io/vac-protection"),
        _ => None,
    }
}

impl Plugin for InUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.subresource.is_empty() && finalizer(request).is_some()
    }

    fn admit<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let metadata = object.and_then(|object| object.get_mut("metadata"));
        if let (Some(finalizer), Some(list)) =
            (finalizer(request), metadata.and_then(|metadata| list_mut(metadata, "finalizers")))
            && !list.iter().any(|f| f == finalizer)
        {
            list.push(finalizer.into());
        }
        done(Ok(()))
    }
}

/// A claim may grow only when it is bound and its storage class can expand volumes.
pub struct ClaimResize(pub Arc<dyn Objects>);

fn requested(claim: &Value) -> Option<Quantity> {
    claim["spec"]["resources"]["requests"]["storage"].as_str().and_then(|text| text.parse().ok())
}

/// The claim's class, by field or by the old annotation.
pub(crate) fn class_of(claim: &Value) -> Option<&str> {
    claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"]
        .as_str()
        .or_else(|| claim["spec"]["storageClassName"].as_str())
}

impl Plugin for ClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Update && request.is("", "persistentvolumeclaims", "")
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let (Some(claim), Some(old)) = (object, request.old) else { return done(Ok(())) };
        let grows = match (requested(old), requested(claim)) {
            (Some(before), Some(after)) => after > before,
            _ => false,
        };
        if !grows {
            return done(Ok(()));
        }
        if old["status"]["phase"] != "Bound" {
            return done(Err(request.forbidden(Some(claim), "Only bound persistent volume claims can be expanded")));
        }
        Box::pin(async move {
            let class = class_of(claim).unwrap_or_default();
            let found = find(&*self.0, ("storage.k8s.io", "storageclasses"), "", class).await?;
            if found.is_some_and(|class| class["allowVolumeExpansion"] == true) {
                return Ok(());
            }
            let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
            Err(request.forbidden(Some(claim), why))
        })
    }
}

//! Quota usage in the registry: read consistently, written by compare-and-swap on the resource version.

use apimachinery::status::Status;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;

use super::quota::UsageStore;
use crate::http::request::RequestContext;
use crate::objects::Objects;
use crate::registry::{Registry, Target, UpdateOptions};

impl UsageStore for Registry {
    fn write_used<'a>(&'a self, quota: &'a Value) -> BoxFuture<'a, Result<bool, Status>> {
        Box::pin(async move {
            let table = self.table().load();
            let Some(resource) = table.by_plural("", "resourcequotas") else { return Ok(true) };
            let Some(version) = resource.version("v1") else { return Ok(true) };
            let ctx = RequestContext::internal(Timestamp::now());
            let target = Target {
                ctx: &ctx,
                resource,
                version,
                subresource: resource.subresource("status"),
                namespace: apimachinery::meta::namespace(quota),
                name: apimachinery::meta::name(quota),
            };
            match self.update(&target, &|_| Ok(quota.clone()), UpdateOptions::default()).await {
                Ok(_) => Ok(true),
                Err(status) if matches!(status.reason.as_str(), "Conflict" | "NotFound") => Ok(false),
                Err(status) => Err(status),
            }
        })
    }

    fn quotas<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Value>, Status>> {
        Box::pin(async move {
            self.clock().catch_up().await?;
            Ok(Objects::list(self, ("", "resourcequotas"), namespace).iter().map(|quota| Value::clone(quota)).collect())
        })
    }
}

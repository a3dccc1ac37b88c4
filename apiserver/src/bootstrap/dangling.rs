//! The condition `Dangling` of flow schemas: whether the priority level that a schema names exists.
//!
//! Level-driven: looks at all schemas whenever a schema or a level changed. Written as upstream writes it, by server-side
//! apply of the status under the name of its configuration consumer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use apimachinery::time::format_time;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::http::request::RequestContext;
use crate::objects::{Objects, ResourceName};
use crate::registry::{Registry, Target, UpdateOptions, ownership};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: ResourceName = (GROUP, "flowschemas");
const LEVELS: ResourceName = (GROUP, "prioritylevelconfigurations");
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// The apply that makes a schema's condition right; `None` when it is.
fn plan(schema: &Value, levels: &HashSet<String>, now: Timestamp) -> Option<Value> {
    let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
    let (status, reason, message) = if levels.contains(level) {
        ("False", "Found", format!("this FlowSchema uses the PriorityLevelConfiguration named {level:?}"))
    } else {
        ("True", "NotFound", format!("there is no PriorityLevelConfiguration named {level:?} for this FlowSchema"))
    };
    let there = schema["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Dangling");
    if there.is_some_and(|there| there["status"] == status && there["reason"] == reason) {
        return None;
    }
    let condition = json!({"type": "Dangling", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": format_time(now)});
    Some(json!({"apiVersion": schema["apiVersion"], "kind": "FlowSchema",
        "metadata": {"name": schema["metadata"]["name"], "uid": schema["metadata"]["uid"]},
        "status": {"conditions": [condition]}}))
}

/// Keeps the conditions right until `stop`.
pub async fn run(registry: Arc<Registry>, stop: CancellationToken) {
    let changed = Arc::new(Notify::new());
    for resource in [SCHEMAS, LEVELS] {
        let changed = Arc::clone(&changed);
        registry.subscribe(resource, Box::new(move |_| changed.notify_one()));
    }
    loop {
        let retry = match sweep(&registry).await {
            Ok(()) => Duration::MAX,
            Err(error) => {
                tracing::debug!(%error, "Not writing the status of a flow schema");
                RETRY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
            () = tokio::time::sleep(retry) => {}
        }
    }
}

async fn sweep(registry: &Registry) -> Result<(), Status> {
    let name = |level: &Arc<Value>| level["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let levels: HashSet<String> = Objects::list(registry, LEVELS, "").iter().map(name).collect();
    let mut outcome = Ok(());
    for schema in Objects::list(registry, SCHEMAS, "") {
        if let Some(config) = plan(&schema, &levels, Timestamp::now()) {
            let done = write(registry, &config).await;
            outcome = outcome.and(done.or_else(|error| if error.code == 404 { Ok(()) } else { Err(error) }));
        }
    }
    outcome
}

async fn write(registry: &Registry, config: &Value) -> Result<(), Status> {
    let ctx = RequestContext { field_manager: MANAGER.to_owned(), ..RequestContext::internal(Timestamp::now()) };
    let table = registry.table().load();
    let resource = table.by_plural(SCHEMAS.0, SCHEMAS.1).ok_or_else(Status::no_such_path)?;
    let version = resource.versions.first().ok_or_else(Status::no_such_path)?;
    let name = config["metadata"]["name"].as_str().unwrap_or_default();
    let subresource = resource.subresource("status");
    let target = Target { ctx: &ctx, resource, version, subresource, namespace: "", name };
    let change = |now: Option<&Value>| match now {
        Some(now) => ownership::apply(&target, Some(now), config, true),
        None => Err(Status::not_found(&resource.group_resource(), name)),
    };
    registry
        .update(&target, &change, UpdateOptions { applied: true, patched: true, ..UpdateOptions::default() })
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_dangles_without_its_level() {
        let mut schema = json!({"apiVersion": "x/v1", "metadata": {"name": "s"}, "spec": {"priorityLevelConfiguration": {"name": "l"}}});
        let of = |schema: &Value, levels: &[&str]| {
            let levels = levels.iter().map(|&level| level.to_owned()).collect();
            plan(schema, &levels, Timestamp::UNIX_EPOCH).map(|config| config["status"]["conditions"].clone())
        };
        let dangling = of(&schema, &[]).unwrap();
        assert_eq!((&dangling[0]["status"], &dangling[0]["reason"]), (&json!("True"), &json!("NotFound")));
        schema["status"]["conditions"] = dangling;
        assert!(of(&schema, &[]).is_none());
        assert_eq!(of(&schema, &["l"]).unwrap()[0]["status"], "False");
    }
}

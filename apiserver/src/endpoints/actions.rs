//! Subresources that are actions on their object: posted, carried out, answered with a Status.

use std::sync::Arc;

use apimachinery::gvk::GroupResource;
use apimachinery::meta;
use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::eviction::evict;
use crate::admission;
use crate::http::request::{RequestContext, RequestInfo};
use crate::registry::{Admission, Registry, Target, UpdateOptions};
use crate::resources::Resource;

/// Carries an action out.
pub type Action =
    for<'a> fn(&'a Arc<Registry>, &'a RequestContext, &'a Arc<Resource>, Value) -> BoxFuture<'a, Result<Value, Status>>;

/// The action that a request asks for.
pub fn find(info: &RequestInfo) -> Option<Action> {
    match (info.api_group.as_str(), info.resource.as_str(), info.subresource.as_str()) {
        ("", "pods", "binding") | ("", "bindings", "") => {
            Some(|registry, ctx, _, body| Box::pin(bind(registry, ctx, body)))
        }
        ("", "pods", "eviction") => Some(|registry, ctx, pods, body| {
            Box::pin(async move {
                evict(registry, ctx, pods, body).await?;
                Ok(success(201))
            })
        }),
        _ => None,
    }
}

fn success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}

/// Puts a pod on a node, once. Follows upstream's `assignPod`.
async fn bind(registry: &Arc<Registry>, ctx: &RequestContext, mut binding: Value) -> Result<Value, Status> {
    let pods = GroupResource::new("", "pods");
    let name = if ctx.info.subresource.is_empty() { meta::name(&binding) } else { ctx.info.name.as_str() }.to_owned();
    let name = name.as_str();
    let given = meta::name(&binding);
    if !given.is_empty() && given != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let request = admission::Request {
        ctx,
        operation: admission::Operation::Create,
        group: "",
        resource: &ctx.info.resource,
        subresource: &ctx.info.subresource,
        namespace: &ctx.info.namespace,
        name,
        old: None,
    };
    registry.chain()?.admit(&request, Some(&mut binding)).await?;
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    check_target(node, kind)?;
    registry.chain()?.validate(&request, Some(&binding)).await?;
    let table = registry.table().load();
    let resource = table.by_plural("", "pods").ok_or_else(Status::no_such_path)?;
    let version = resource.version("v1").ok_or_else(Status::no_such_path)?;
    let subresource = resource.subresource("binding");
    let namespace = ctx.info.namespace.as_str();
    let target = Target { ctx, resource, version, subresource, namespace, name };
    let conflict = |why: String| Status::conflict(&GroupResource::new("", "pods/binding"), name, &why);
    let change = |now: Option<&Value>| {
        let Some(now) = now else { return Err(Status::not_found(&pods, name)) };
        for (wanted, there) in
            [(meta::uid(&binding), meta::uid(now)), (meta::resource_version(&binding), meta::resource_version(now))]
        {
            if !wanted.is_empty() && wanted != there {
                let why = format!("Precondition failed: {wanted} in precondition, {there} in object meta");
                return Err(Status::conflict(&pods, name, &why));
            }
        }
        if meta::deletion_timestamp(now).is_some() {
            return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        let there = now["spec"]["nodeName"].as_str().unwrap_or_default();
        if !there.is_empty() {
            return Err(conflict(format!("pod {name} is already assigned to node {there:?}")));
        }
        if now["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        Ok(assigned(now, &binding, node, ctx))
    };
    let options = UpdateOptions { admission: Admission::Done, ..UpdateOptions::default() };
    registry.update(&target, &change, options).await?;
    Ok(success(201))
}

fn check_target(node: &str, kind: &str) -> Result<(), Status> {
    use apimachinery::field::{ErrorList, FieldError, Path};
    let mut errors = ErrorList::new();
    let target = Path::new("target");
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported(target.child("kind"), kind, &["Node", "<empty>"]));
    }
    if node.is_empty() {
        errors.push(FieldError::required(target.child("name"), ""));
    }
    if errors.is_empty() {
        return Ok(());
    }
    // Upstream's list of errors is no Status, so that it becomes a 500 without a reason.
    let sentence = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Err(Status::failure(500, "", sentence))
}

fn assigned(pod: &Value, binding: &Value, node: &str, ctx: &RequestContext) -> Value {
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = node.into();
    // What the pod was promised has come true, or has not: it must not mislead anybody.
    if let Some(status) = pod["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    for (key, value) in meta::annotations(binding) {
        meta::set_annotation(&mut pod, key, value.as_str().unwrap_or_default());
    }
    for (key, value) in meta::labels(binding) {
        meta::set_label(&mut pod, key, value.as_str().unwrap_or_default());
    }
    let condition = json!({
        "type": "PodScheduled", "status": "True",
        "lastProbeTime": null, "lastTransitionTime": apimachinery::time::format_time(ctx.now),
    });
    let conditions = &mut pod["status"]["conditions"];
    match conditions.as_array_mut() {
        Some(list) => match list.iter_mut().find(|c| c["type"] == "PodScheduled") {
            Some(there) => *there = condition,
            None => list.push(condition),
        },
        None => *conditions = json!([condition]),
    }
    pod
}

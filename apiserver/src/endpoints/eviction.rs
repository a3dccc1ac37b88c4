//! `pods/NAME/eviction`: a deletion that the pod's disruption budget must allow.
//!
//! What a budget says is a pure function of pod and budget. Follows upstream: pods that are pending, done or going are not
//! protected; an allowed disruption is charged to the budget, by compare-and-swap, before the pod is deleted; the pod's
//! condition `DisruptionTarget` says why it goes.

use std::sync::Arc;

use apimachinery::gvk::GroupResource;
use apimachinery::meta;
use apimachinery::selector::LabelSelector;
use apimachinery::status::{Cause, Details, Status};
use apimachinery::time::format_time;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::admission::{Operation, Request, map_mut, set};
use crate::http::request::RequestContext;
use crate::objects::{Objects, ResourceName};
use crate::registry::{DeleteOptions, Registry, Target, UpdateOptions};
use crate::resources::Resource;

const BUDGETS: ResourceName = ("policy", "poddisruptionbudgets");
const MAX_ATTEMPTS: usize = 4;
/// Evicted pods that a budget remembers until the disruption controller has seen them go.
const MAX_DISRUPTED_PODS: usize = 2000;
/// Pause asked of clients while the disruption controller has not looked at a budget.
const PROCESSING_SECONDS: u32 = 10;

/// What a budget says to an eviction.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Delete the pod.
    Allow,
    /// Delete it after this is stored.
    Charge(Box<Value>),
    /// Not now.
    Refuse(Box<Status>),
}

fn unprotected(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || meta::deletion_timestamp(pod).is_some()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn too_many(message: &str, cause: String, retry_after_seconds: u32) -> Verdict {
    let mut status = Status::too_many_requests(message, retry_after_seconds);
    let cause = Cause { reason: "DisruptionBudget".to_owned(), message: cause, field: String::new() };
    status.details = Some(Box::new(Details { causes: vec![cause], retry_after_seconds, ..Details::default() }));
    Verdict::Refuse(Box::new(status))
}

fn judge(pod: &Value, budget: &Value, now: Timestamp) -> Verdict {
    let (name, status) = (meta::name(budget), &budget["status"]);
    let number = |field: &str| status[field].as_i64().unwrap_or_default();
    if !is_ready(pod) {
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        let healthy_without_it = number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
        if always || healthy_without_it {
            return Verdict::Allow;
        }
    }
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    if number("observedGeneration") < meta::generation(budget) {
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return too_many(message, cause, PROCESSING_SECONDS);
    }
    let forbidden = |why: &str| {
        Verdict::Refuse(Box::new(Status::forbidden(&GroupResource::new(BUDGETS.0, "poddisruptionbudget"), name, why)))
    };
    if number("disruptionsAllowed") < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_DISRUPTED_PODS) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if number("disruptionsAllowed") == 0 {
        let (wanted, there) = (number("desiredHealthy"), number("currentHealthy"));
        let cause = format!("The disruption budget {name} needs {wanted} healthy pods and has {there} currently");
        return too_many(message, cause, 0);
    }
    let mut charged = budget.clone();
    let left = number("disruptionsAllowed") - 1;
    set(&mut charged["status"], "disruptionsAllowed", left);
    if left == 0 {
        no_more_disruptions(&mut charged, now);
    }
    if let Some(pods) = map_mut(&mut charged["status"], "disruptedPods") {
        pods.insert(meta::name(pod).to_owned(), format_time(now).into());
    }
    Verdict::Charge(Box::new(charged))
}

fn no_more_disruptions(budget: &mut Value, now: Timestamp) {
    let generation = meta::generation(budget);
    let condition = json!({
        "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "observedGeneration": generation, "lastTransitionTime": format_time(now),
    });
    add_condition(budget, condition);
}

fn budgets_of(registry: &Registry, pod: &Value) -> Vec<Arc<Value>> {
    let labels = meta::labels(pod);
    let mut found = Objects::list(registry, BUDGETS, meta::namespace(pod));
    found.retain(|budget| {
        let selector = &budget["spec"]["selector"];
        !selector.is_null() && LabelSelector::from_value(selector).is_ok_and(|selector| selector.matches(labels))
    });
    found
}

/// Evicts the pod of the URL, or says why not.
///
/// # Errors
/// 404, 429 with the budget as cause, what deletion says.
pub async fn evict(
    registry: &Arc<Registry>,
    ctx: &RequestContext,
    pods: &Resource,
    mut eviction: Value,
) -> Result<(), Status> {
    let (namespace, name) = (ctx.info.namespace.as_str(), ctx.info.name.as_str());
    let given = meta::name(&eviction);
    if !given.is_empty() && given != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let version = pods.version("v1").ok_or_else(Status::no_such_path)?;
    let target = Target { ctx, resource: pods, version, subresource: None, namespace, name };
    let request = Request {
        ctx,
        operation: Operation::Create,
        group: "",
        resource: "pods",
        subresource: "eviction",
        namespace,
        name,
        old: None,
    };
    let chain = registry.chain()?;
    chain.admit(&request, Some(&mut eviction)).await?;
    chain.validate(&request, Some(&eviction)).await?;
    let mut options = DeleteOptions::of(&eviction["deleteOptions"]);
    let dry_run = ctx.dry_run || options.dry_run.iter().any(|run| run == "All");
    let quiet = RequestContext { dry_run, ..ctx.clone() };
    let target = Target { ctx: &quiet, ..target };
    for _ in 0..MAX_ATTEMPTS {
        let pod = registry.get(&target, "").await?.value();
        let verdict = if unprotected(&pod) { Verdict::Allow } else { ask_budgets(registry, &quiet, &pod)? };
        match verdict {
            Verdict::Refuse(status) => return Err(*status),
            Verdict::Allow => {
                // What was judged is what is deleted.
                if options.resource_version.is_none() {
                    options.resource_version = Some(meta::resource_version(&pod).to_owned());
                }
            }
            Verdict::Charge(_) if dry_run => {}
            Verdict::Charge(budget) => match store(registry, &quiet, &budget).await {
                Err(lost) if lost.reason == "Conflict" => continue,
                outcome => outcome?,
            },
        }
        let gone = async {
            if !dry_run {
                mark(registry, &target, &mut options).await?;
            }
            registry.delete(&target, &options).await
        };
        match gone.await {
            Err(lost) if lost.reason == "Conflict" && eviction["deleteOptions"]["preconditions"].is_null() => {
                options.resource_version = None;
            }
            // Upstream names the kind where a precondition failed.
            Err(mut lost) if lost.reason == "Conflict" => {
                if let Some(details) = &mut lost.details {
                    details.kind = "Pod".to_owned();
                }
                return Err(lost);
            }
            outcome => return outcome.map(|_| ()),
        }
    }
    Err(Status::too_many_requests("the pod or its disruption budget keeps changing; try again", 1))
}

/// Says in the pod's status why it goes, if it is the one that the options are about; they are then about the new version.
async fn mark(registry: &Registry, pod: &Target<'_>, options: &mut DeleteOptions) -> Result<(), Status> {
    let group_resource = pod.resource.group_resource();
    let change = |now: Option<&Value>| {
        let now = now.ok_or_else(|| Status::not_found(&group_resource, pod.name))?;
        let same = |wanted: &Option<String>, is: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == is)
        };
        if !same(&options.uid, meta::uid(now)) || !same(&options.resource_version, meta::resource_version(now)) {
            let why = "the object is not the one of the precondition: it was modified, or deleted and created again";
            return Err(Status::conflict(&group_resource, pod.name, why));
        }
        let mut marked = now.clone();
        add_condition(
            &mut marked,
            json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": format_time(pod.ctx.now)}),
        );
        Ok(marked)
    };
    let internal = RequestContext::internal(pod.ctx.now);
    let target = Target { ctx: &internal, subresource: pod.resource.subresource("status"), ..*pod };
    let (marked, _) = registry.update(&target, &change, UpdateOptions::default()).await?;
    if options.resource_version.is_some() {
        options.resource_version = Some(meta::resource_version(&marked.value()).to_owned());
    }
    Ok(())
}

/// Puts a condition in place of the one of its type.
fn add_condition(object: &mut Value, condition: Value) {
    if let Some(conditions) = crate::admission::list_mut(&mut object["status"], "conditions") {
        conditions.retain(|known| known["type"] != condition["type"]);
        conditions.push(condition);
    }
}

fn ask_budgets(registry: &Registry, ctx: &RequestContext, pod: &Value) -> Result<Verdict, Status> {
    match budgets_of(registry, pod).as_slice() {
        [] => Ok(Verdict::Allow),
        [budget] => Ok(judge(pod, budget, ctx.now)),
        _ => Err(Status::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        )),
    }
}

async fn store(registry: &Registry, ctx: &RequestContext, budget: &Value) -> Result<(), Status> {
    let table = registry.table().load();
    let resource = table.by_plural(BUDGETS.0, BUDGETS.1).ok_or_else(Status::no_such_path)?;
    let version = resource.version("v1").ok_or_else(Status::no_such_path)?;
    let subresource = resource.subresource("status");
    let internal = RequestContext { dry_run: ctx.dry_run, ..RequestContext::internal(ctx.now) };
    let (namespace, name) = (meta::namespace(budget), meta::name(budget));
    let target = Target { ctx: &internal, resource, version, subresource, namespace, name };
    registry.update(&target, &|_| Ok(budget.clone()), UpdateOptions::default()).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let now = Timestamp::UNIX_EPOCH;
        let pod = |ready: &str| json!({"metadata": {"name": "p"}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
        let budget = |observed: i64, allowed: i64, policy: &str| {
            json!({"metadata": {"name": "b", "generation": 2}, "spec": {"unhealthyPodEvictionPolicy": policy},
                "status": {"observedGeneration": observed, "disruptionsAllowed": allowed, "desiredHealthy": 1, "currentHealthy": 0}})
        };
        let refused = |verdict: Verdict| match verdict {
            Verdict::Refuse(status) => Some((status.code, status.details.unwrap_or_default().retry_after_seconds)),
            _ => None,
        };
        assert_eq!(refused(judge(&pod("True"), &budget(1, 5, ""), now)), Some((429, 10)));
        assert_eq!(refused(judge(&pod("True"), &budget(2, 0, ""), now)), Some((429, 0)));
        assert_eq!(refused(judge(&pod("False"), &budget(2, 0, ""), now)), Some((429, 0)));
        assert_eq!(judge(&pod("False"), &budget(1, 0, "AlwaysAllow"), now), Verdict::Allow);
        let Verdict::Charge(charged) = judge(&pod("True"), &budget(2, 1, ""), now) else { panic!() };
        assert_eq!(charged["status"]["disruptionsAllowed"], 0);
        assert_eq!(charged["status"]["disruptedPods"]["p"], "1970-01-01T00:00:00Z");
        assert_eq!(charged["status"]["conditions"][0]["type"], "DisruptionAllowed");
        assert!(unprotected(&json!({"status": {"phase": "Pending"}})) && !unprotected(&pod("True")));
    }
}

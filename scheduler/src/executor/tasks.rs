//! What is done over the network, in tasks of its own: binding, evicting, writing conditions. Every binding and eviction
//! reports exactly one outcome.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::meta::ObjectMeta;
use client::events::{EventType, ObjectRef};
use client::{Client, ClientError, DeleteOptions, Patch, resources};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::outcome::Outcome;
use super::sources::Sources;
use super::{Scheduler, claims};
use crate::evaluate::incremental::NodePlan;
use crate::model::pod::{PodInfo, PodKey};
use crate::objects::pod::PodCondition;
use crate::plugins::PluginSet;
use crate::plugins::volumes::SELECTED_NODE;
use crate::queue::Millis;

/// A binding to be made.
pub(super) struct Binding {
    pub(super) pod: Arc<PodInfo>,
    pub(super) node: Arc<str>,
    pub(super) plan: NodePlan,
    pub(super) profile: usize,
    pub(super) bind_timeout_seconds: u64,
    pub(super) attempts: u32,
    pub(super) first_seen_ms: Millis,
    pub(super) began: Instant,
}

/// Room to be made.
pub(super) struct Eviction {
    pub(super) pod: Arc<PodInfo>,
    pub(super) node: Arc<str>,
    pub(super) victims: Vec<Arc<PodInfo>>,
    pub(super) displaced: Vec<PodKey>,
    pub(super) rejected_by: PluginSet,
    pub(super) scheduler_name: String,
}

pub(super) fn reference(pod: &PodInfo) -> ObjectRef {
    let meta = ObjectMeta {
        name: pod.key.name.to_string(),
        namespace: pod.key.namespace.to_string(),
        uid: pod.uid.to_string(),
        ..ObjectMeta::default()
    };
    ObjectRef::of(&resources::PODS, &meta)
}

impl Scheduler {
    pub(super) fn spawn_binding(&self, binding: Binding) {
        let (client, sources, report) = (self.client.clone(), self.sources.clone(), self.report.clone());
        let binder = self.extenders.iter().find(|e| e.binds() && e.is_interested(&binding.pod)).cloned();
        tokio::spawn(async move {
            let takes_long = !binding.plan.volumes.is_empty() || !binding.plan.grants.is_empty();
            if takes_long {
                // Tells others, like what adds nodes, that the pod is about to have a place.
                nominate(&client, &binding.pod.key, json!(&*binding.node)).await;
            }
            let result = match prepare(&client, sources, &binding).await {
                Ok(()) => match &binder {
                    Some(extender) => extender.bind(&binding.pod, &binding.node).await,
                    None => bind(&client, &binding.pod, &binding.node).await.map_err(|e| e.to_string()),
                },
                Err(why) => Err(why),
            };
            if takes_long && result.is_err() {
                nominate(&client, &binding.pod.key, Value::Null).await;
            }
            // The receiver lives as long as the scheduler; without one nobody needs the outcome.
            let _ = report.send(Outcome::Bound { binding, result }).await;
        });
    }

    pub(super) fn spawn_eviction(&self, eviction: Eviction) {
        let (client, recorder, report) = (self.client.clone(), self.recorder.clone(), self.report.clone());
        tokio::spawn(async move {
            for key in &eviction.displaced {
                nominate(&client, key, Value::Null).await;
            }
            let mut result = Ok(());
            for victim in eviction.victims.iter().filter(|v| !v.terminating) {
                if let Err(error) = evict(&client, victim, &eviction.scheduler_name).await {
                    result = Err(format!("cannot preempt {}: {error}", victim.key));
                    continue;
                }
                let note = format!("Preempted by pod {} on node {}", eviction.pod.uid, eviction.node);
                recorder.event(&reference(victim), EventType::Normal, "Preempted", "Preempting", note);
            }
            let _ = report.send(Outcome::Evicted { eviction, result }).await;
        });
    }

    /// Takes back what a claim was given.
    pub(super) fn spawn_return(&self, namespace: &str, claim: &str) {
        let (client, namespace, claim) = (self.client.clone(), namespace.to_owned(), claim.to_owned());
        let status = json!({"allocation": null, "reservedFor": null, "devices": null});
        tokio::spawn(async move {
            let (resource, patch) = (resources::RESOURCE_CLAIMS, Patch::Merge(json!({"status": status})));
            let done = client.patch::<IgnoredAny>(&resource, Some(&namespace), &claim, Some("status"), &patch).await;
            if let Err(error) = done {
                tracing::warn!(namespace, claim, %error, "cannot give the claim's devices back");
            }
        });
    }

    /// Writes that a pod fits nowhere, and where room is being made for it, if the API does not have that already.
    pub(super) fn report_unschedulable(&self, pod: &Arc<PodInfo>, message: &str, nominated: Option<&str>) {
        tracing::debug!(pod = %pod.key, why = message, "unschedulable");
        self.recorder.event(&reference(pod), EventType::Warning, "FailedScheduling", "Scheduling", message);
        self.write_condition(pod, "Unschedulable", message, nominated);
    }

    /// Writes that an attempt met an error.
    pub(super) fn report_error(&self, pod: &Arc<PodInfo>, why: &str) {
        tracing::warn!(pod = %pod.key, why, "attempt failed");
        self.recorder.event(&reference(pod), EventType::Warning, "FailedScheduling", "Scheduling", why);
        self.write_condition(pod, "SchedulerError", why, None);
    }

    /// Writes that gates hold a pod.
    pub(super) fn report_gated(&self, pod: &Arc<PodInfo>) {
        let message = "Scheduling is blocked due to non-empty scheduling gates";
        self.write_condition(pod, "SchedulingGated", message, None);
    }

    fn write_condition(&self, pod: &Arc<PodInfo>, reason: &str, message: &str, nominated: Option<&str>) {
        let old = pod.scheduled_condition.as_ref();
        let is_same = |c: &PodCondition| c.status == "False" && c.reason == reason && c.message == message;
        let nominated = nominated.unwrap_or_default();
        if old.is_some_and(is_same) && *pod.nominated == *nominated {
            return;
        }
        let mut condition = json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "observedGeneration": pod.generation});
        if old.is_none_or(|c| c.status != "False") {
            condition["lastTransitionTime"] = now();
        }
        let mut status = json!({"conditions": [condition]});
        if *pod.nominated != *nominated {
            status["nominatedNodeName"] = if nominated.is_empty() { Value::Null } else { json!(nominated) };
        }
        let (client, key, writes) = (self.client.clone(), pod.key.clone(), self.writes.clone());
        let patch = Patch::Strategic(json!({"status": status}));
        tokio::spawn(async move {
            let _turn = writes.acquire().await;
            // Boxed, so that a task that waits for its turn is small.
            match Box::pin(patch_status(&client, &key, &patch)).await {
                Err(error) if !error.is_not_found() => tracing::warn!(pod = %key, %error, "cannot write the condition"),
                _ => {}
            }
        });
    }
}

fn now() -> Value {
    json!(apimachinery::time::format_time(jiff::Timestamp::now()))
}

async fn patch_status(client: &Client, key: &PodKey, patch: &Patch) -> Result<(), ClientError> {
    client.patch::<IgnoredAny>(&resources::PODS, Some(&key.namespace), &key.name, Some("status"), patch).await.map(drop)
}

/// Writes to which node a pod is nominated; null for none.
async fn nominate(client: &Client, key: &PodKey, node: Value) {
    let patch = Patch::Merge(json!({"status": {"nominatedNodeName": node}}));
    if let Err(error) = patch_status(client, key, &patch).await {
        tracing::warn!(pod = %key, %error, "cannot write the nomination");
    }
}

async fn bind(client: &Client, pod: &PodInfo, node: &str) -> Result<(), ClientError> {
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": &*pod.key.name, "namespace": &*pod.key.namespace, "uid": &*pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let (namespace, name) = (&pod.key.namespace, &pod.key.name);
    client.create_sub::<IgnoredAny>(&resources::PODS, Some(namespace), name, "binding", &binding).await.map(drop)
}

async fn evict(client: &Client, victim: &PodInfo, scheduler_name: &str) -> Result<(), ClientError> {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{scheduler_name}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": now(), "observedGeneration": victim.generation});
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    let done = async {
        patch_status(client, &victim.key, &patch).await?;
        let options = DeleteOptions::of_uid(&victim.uid);
        client.delete(&resources::PODS, Some(&victim.key.namespace), &victim.key.name, &options).await
    };
    match done.await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// Does what must be done before the pod is bound.
async fn prepare(client: &Client, sources: Sources, b: &Binding) -> Result<(), String> {
    bind_volumes(client, sources, b).await?;
    claims::give(client, &b.pod, &b.plan.grants).await
}

/// Binds or has provisioned what the plan says, and waits until the claims are bound.
async fn bind_volumes(client: &Client, mut sources: Sources, b: &Binding) -> Result<(), String> {
    if b.plan.volumes.is_empty() {
        return Ok(());
    }
    let namespace = &*b.pod.key.namespace;
    for (claim, volume) in &b.plan.volumes.bind {
        let uid = sources.claims.get(namespace, claim).map(|c| c.metadata.uid.clone()).unwrap_or_default();
        let claim_ref = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace,
            "name": claim, "uid": uid});
        let patch = json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
            "spec": {"claimRef": claim_ref}});
        let (resource, patch) = (resources::PERSISTENT_VOLUMES, Patch::Merge(patch));
        let done: Result<IgnoredAny, _> = client.patch(&resource, None, volume, None, &patch).await;
        done.map_err(|e| format!("binding volume {volume:?} to claim {claim:?}: {e}"))?;
    }
    for claim in &b.plan.volumes.provision {
        let patch = json!({"metadata": {"annotations": {SELECTED_NODE: &*b.node}}});
        let (resource, patch) = (resources::PERSISTENT_VOLUME_CLAIMS, Patch::Merge(patch));
        let done: Result<IgnoredAny, _> = client.patch(&resource, Some(namespace), claim, None, &patch).await;
        done.map_err(|e| format!("asking for a volume for claim {claim:?}: {e}"))?;
    }
    let wait = async {
        loop {
            sources.claims_changed.mark_unchanged();
            let waiting = b.plan.volumes.bind.iter().map(|(c, _)| c).chain(&b.plan.volumes.provision);
            let bound = |c: &String| sources.claims.get(namespace, c).is_some_and(|c| c.is_bound());
            if waiting.into_iter().all(bound) || sources.claims_changed.changed().await.is_err() {
                return;
            }
        }
    };
    let limit = Duration::from_secs(b.bind_timeout_seconds);
    tokio::time::timeout(limit, wait).await.map_err(|_| "timed out waiting for the pod's volumes to be bound".into())
}

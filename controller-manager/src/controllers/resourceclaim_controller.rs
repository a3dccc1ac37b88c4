//! `resourceclaim-controller`: makes claims of devices from templates, takes ended pods off claims, gives back the devices
//! of claims that nobody uses any more, and removes claims made for pods that have ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::meta::ObjectMeta;
use client::events::EventType::Warning;
use client::informer::Delta;
use serde_json::{Value, json};

use crate::framework::plan::{PatchBody, controller_of};
use crate::framework::{
    Action, Controller, Executor, Key, Plan, Queue, Setup, Store, Subject, SyncError, SyncResult, View,
};
use crate::views::devices::{BY_OWNER, Consumer, ResourceClaimTemplateView, ResourceClaimView};
use crate::views::meta::is_deleting;
use crate::views::pod::{PodResourceClaim, PodView};

/// Says for which of the pod's claims a claim was made.
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// Keeps allocated claims until their devices are given back.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Room for five random characters in a name of 63.
const MAX_BASE_LENGTH: usize = 57;

/// Registers `resourceclaim-controller`: one loop over pods, one over claims.
pub fn register(setup: &mut Setup<'_>) {
    let (pod_queue, claim_queue) = (setup.queue("resource_claim"), setup.queue("resource_claim"));
    let pods = setup.stores.of::<PodView>();
    let claims = setup.stores.of::<ResourceClaimView>();
    let templates = setup.stores.of::<ResourceClaimTemplateView>();
    let (wake, wake_claims) = (pod_queue.clone(), claim_queue.clone());
    pods.on(move |delta| {
        let pod = delta.object();
        if pod.spec.resource_claims.is_empty() {
            return;
        }
        if matches!(delta, Delta::Deleted(_)) || is_done(pod) {
            let names = pod.spec.resource_claims.iter().filter_map(|c| name_of(pod, c));
            names.for_each(|name| wake_claims.add(Key::new(&pod.metadata.namespace, name)));
        } else {
            wake.add(Key::of(&pod.metadata));
        }
    });
    let (wake, wake_pods) = (claim_queue.clone(), pod_queue.clone());
    claims.on(move |delta| {
        let meta = &delta.object().metadata;
        wake.add(Key::of(meta));
        if let (Delta::Deleted(_), Some(owner)) = (delta, controller_of(meta).filter(|o| o.kind == "Pod")) {
            wake_pods.add(Key::new(&meta.namespace, &owner.name));
        }
    });
    wake_on_template(&templates, &pods, &pod_queue);
    let executor = setup.executor("resource-claim-controller");
    let of_pods = Pods { pods: pods.clone(), claims: claims.clone(), templates, executor: executor.clone() };
    setup.workers(pod_queue, 10, of_pods);
    setup.workers(claim_queue, 10, Claims { pods, claims, executor });
}

fn wake_on_template(templates: &Store<ResourceClaimTemplateView>, pods: &Store<PodView>, queue: &Queue) {
    let (pods, queue) = (pods.clone(), queue.clone());
    templates.on(move |delta| {
        let meta = &delta.object().metadata;
        if matches!(delta, Delta::Added(_)) {
            let wants = |p: &&Arc<PodView>| {
                let mut names = p.spec.resource_claims.iter().filter_map(|c| c.resource_claim_template_name.as_ref());
                names.any(|name| *name == meta.name)
            };
            let waiting = pods.by_index(crate::views::pod::BY_NAMESPACE, &meta.namespace);
            waiting.iter().filter(wants).for_each(|p| queue.add(Key::of(&p.metadata)));
        }
    });
}

/// Whether none of its containers runs or will run.
fn is_done(pod: &PodView) -> bool {
    pod.is_terminal() || (is_deleting(&pod.metadata) && pod.spec.node_name.is_empty())
}

/// The claim that one of the pod's claims is, once there is one.
pub fn name_of<'a>(pod: &'a PodView, claim: &'a PodResourceClaim) -> Option<&'a str> {
    let made = || pod.status.resource_claim_statuses.iter().find(|s| s.name == claim.name);
    claim.resource_claim_name.as_deref().or_else(|| made()?.resource_claim_name.as_deref())
}

fn consumer(pod: &PodView) -> Consumer {
    Consumer {
        resource: "pods".to_owned(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..Consumer::default()
    }
}

/// The beginning of the name of a claim made for a pod; of long names both parts are shortened alike.
fn generate_name(pod: &str, claim: &str) -> String {
    let length = pod.len() + claim.len() + 2;
    if length <= MAX_BASE_LENGTH {
        return format!("{pod}-{claim}-");
    }
    let part = |text: &str| text.chars().take(text.len() * MAX_BASE_LENGTH / length).collect::<String>();
    format!("{}-{}", part(pod), part(claim))
}

fn make(owner: &Subject, claim: &str, template: &ResourceClaimTemplateView) -> Value {
    let ObjectMeta { labels, annotations, .. } = &template.spec.metadata;
    let mut annotations = annotations.clone();
    annotations.insert(POD_CLAIM.to_owned(), claim.to_owned());
    let mut reference = owner.controller_reference();
    // As upstream: a claim does not hold up the foreground deletion of its pod.
    if let Some(fields) = reference.as_object_mut() {
        fields.remove("blockOwnerDeletion");
    }
    json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {
            "generateName": generate_name(&owner.key.name, claim),
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [reference],
        },
        "spec": template.spec.spec,
    })
}

struct Pods {
    pods: Store<PodView>,
    claims: Store<ResourceClaimView>,
    templates: Store<ResourceClaimTemplateView>,
    executor: Executor,
}

impl Pods {
    /// The claim made for the pod's claim `name`; made now when there is none.
    async fn made(&self, pod: &PodView, name: &str, template: &str) -> Result<String, SyncError> {
        let is_it = |c: &&Arc<ResourceClaimView>| c.metadata.annotations.get(POD_CLAIM).is_some_and(|n| n == name);
        let owned = self.claims.by_index(BY_OWNER, &pod.metadata.uid);
        if let Some(claim) = owned.iter().find(is_it) {
            return Ok(claim.metadata.name.clone());
        }
        let namespace = &pod.metadata.namespace;
        let Some(template) = self.templates.get(namespace, template) else {
            return Err(SyncError::Waiting(format!("resource claim template \"{template}\": not found")));
        };
        let body = make(&pod.subject(), name, &template);
        self.executor.make(&ResourceClaimView::RESOURCE, namespace, body).await
    }
}

fn status(claim: &ResourceClaimView, status: &Value) -> Action {
    claim
        .target()
        .change_status(json!({"metadata": {"resourceVersion": claim.metadata.resource_version}, "status": status}))
}

impl Controller for Pods {
    /// Notes claims that were made, and reserves allocated ones for a pod that came to its node without the scheduler.
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(None) };
        if is_deleting(&pod.metadata) || is_done(&pod) {
            return Ok(None);
        }
        let mut new = BTreeMap::new();
        for claim in &pod.spec.resource_claims {
            let Some(template) = &claim.resource_claim_template_name else { continue };
            let noted = pod.status.resource_claim_statuses.iter().find(|s| s.name == claim.name);
            let is_there = |name: &String| self.claims.get(&key.namespace, name).is_some();
            if noted.is_some_and(|s| s.resource_claim_name.as_ref().is_none_or(is_there)) {
                continue;
            }
            match self.made(&pod, &claim.name, template).await {
                Ok(name) => new.insert(claim.name.as_str(), name),
                Err(error) => {
                    let about = pod.subject();
                    let note = format!("PodResourceClaim {}: {error}", claim.name);
                    self.executor.event(&about, Warning, "FailedResourceClaimCreation", note);
                    return Err(error);
                }
            };
        }
        if !new.is_empty() {
            let statuses: Vec<Value> =
                new.iter().map(|(name, claim)| json!({"name": name, "resourceClaimName": claim})).collect();
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"resourceClaimStatuses": statuses}});
            let (target, patch) = (pod.target(), PatchBody::Strategic(patch));
            self.executor.apply(Action::Patch { target, subresource: Some("status"), patch }).await?;
        }
        if pod.spec.node_name.is_empty() {
            return Ok(None);
        }
        for name in pod.spec.resource_claims.iter().filter_map(|c| name_of(&pod, c)) {
            let Some(claim) = self.claims.get(&key.namespace, name) else { continue };
            let me = consumer(&pod);
            if claim.status.allocation.is_some() && !claim.status.reserved_for.contains(&me) {
                let mut all = claim.status.reserved_for.clone();
                all.push(me);
                self.executor.apply(status(&claim, &json!({ "reservedFor": all }))).await?;
            }
        }
        Ok(None)
    }
}

/// What becomes of a claim whose users that are left are `valid`. `owner_done` says that it was made for a pod that has
/// ended.
fn reconcile(claim: &ResourceClaimView, valid: &[Consumer], owner_done: bool) -> Plan {
    let mut plan = Plan::default();
    let target = claim.target();
    let held = claim.metadata.finalizers.iter().any(|f| f == FINALIZER);
    let shrunk = valid.len() < claim.status.reserved_for.len();
    let unused = valid.is_empty();
    let gives_back = held && unused && (shrunk || is_deleting(&claim.metadata));
    if shrunk || (gives_back && claim.status.allocation.is_some()) {
        let mut change = json!({ "reservedFor": if unused { Value::Null } else { json!(valid) } });
        if gives_back {
            change["allocation"] = Value::Null;
        }
        plan.push(status(claim, &change));
    }
    if gives_back {
        let left: Vec<&String> = claim.metadata.finalizers.iter().filter(|f| *f != FINALIZER).collect();
        plan.change(target.clone(), None, json!({"metadata": {"finalizers": left}}));
    }
    if unused && owner_done && !is_deleting(&claim.metadata) {
        plan.push(target.delete(&claim.metadata.uid));
    }
    plan
}

struct Claims {
    pods: Store<PodView>,
    claims: Store<ResourceClaimView>,
    executor: Executor,
}

impl Claims {
    /// Whether a user of a claim may still use it. One that the cache does not show may be new, so the server is asked.
    async fn is_valid(&self, namespace: &str, user: &Consumer) -> Result<bool, SyncError> {
        if user.resource != "pods" || !user.api_group.is_empty() {
            return Ok(true);
        }
        let stands = |pod: &PodView| pod.metadata.uid == user.uid && !is_done(pod);
        match self.pods.get(namespace, &user.name) {
            Some(pod) => Ok(stands(&pod)),
            None => match self.executor.get::<PodView>(namespace, &user.name).await {
                Ok(pod) => Ok(stands(&pod)),
                Err(error) if error.is_not_found() => Ok(false),
                Err(error) => Err(error),
            },
        }
    }
}

impl Controller for Claims {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(None) };
        let mut valid = Vec::new();
        for user in &claim.status.reserved_for {
            if self.is_valid(&key.namespace, user).await? {
                valid.push(user.clone());
            }
        }
        let owner = controller_of(&claim.metadata).filter(|o| o.kind == "Pod" && o.api_version == "v1");
        let owner_done = owner.is_some_and(|o| {
            let pod = self.pods.get(&key.namespace, &o.name);
            pod.is_some_and(|p| p.metadata.uid != o.uid || is_done(&p))
        });
        self.executor.run(reconcile(&claim, &valid, owner_done)).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened_in_proportion() {
        assert_eq!(generate_name("p", "x"), "p-x-");
        let name = generate_name(&"a".repeat(60), &"b".repeat(20));
        assert!(name.len() <= MAX_BASE_LENGTH + 1 && name.matches('b').count() >= 10, "{name}");
    }

    #[test]
    fn the_last_user_gives_the_devices_back() {
        let mut claim = ResourceClaimView::default();
        claim.metadata.finalizers = vec![FINALIZER.to_owned()];
        claim.status.allocation = Some(json!({}));
        claim.status.reserved_for = vec![Consumer { name: "a".into(), ..Consumer::default() }, Consumer::default()];
        let users = claim.status.reserved_for.clone();
        assert!(reconcile(&claim, &users, true).actions.is_empty());
        let one = reconcile(&claim, &users[..1], false).actions;
        assert!(matches!(&one[..], [Action::Change { change, .. }] if change["status"].get("allocation").is_none()));
        let none = reconcile(&claim, &[], true).actions;
        assert!(matches!(&none[..], [Action::Change { .. }, Action::Change { .. }, Action::Delete { .. }]), "{none:?}");
    }
}

//! `ephemeral-volume-controller`: makes the claim of each generic ephemeral volume of a pod, owned by the pod.

use client::events::EventType::Warning;
use client::informer::Delta;
use serde_json::{Value, json};

use crate::framework::plan::controller_of;
use crate::framework::{Action, Controller, Executor, Key, Setup, Store, Subject, SyncError, SyncResult, View};
use crate::views::meta::is_deleting;
use crate::views::pod::PodView;
use crate::views::volume::ClaimView;

/// Registers `ephemeral-volume-controller`.
pub fn register(setup: &mut Setup<'_>) {
    let queue = setup.queue("ephemeral_volume");
    let pods = setup.stores.of::<PodView>();
    let claims = setup.stores.of::<ClaimView>();
    let wake = queue.clone();
    pods.on(move |delta| {
        let pod = delta.object();
        if matches!(delta, Delta::Added(_)) && pod.spec.volumes.iter().any(|v| v.ephemeral.is_some()) {
            wake.add(Key::of(&pod.metadata));
        }
    });
    let wake = queue.clone();
    claims.on(move |delta| {
        let owner = controller_of(&delta.object().metadata).filter(|o| o.kind == "Pod" && o.api_version == "v1");
        if let (Delta::Deleted(claim), Some(owner)) = (delta, owner) {
            wake.add(Key::new(&claim.metadata.namespace, &owner.name));
        }
    });
    let executor = setup.executor("ephemeral-volume-controller");
    setup.workers(queue, 5, Ephemeral { pods, claims, executor });
}

/// The claim of an ephemeral volume of the pod `owner`.
fn claim_of(owner: &Subject, name: &str, volume: &Value) -> Value {
    let template = &volume["volumeClaimTemplate"];
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name,
            "annotations": template["metadata"]["annotations"],
            "labels": template["metadata"]["labels"],
            "ownerReferences": [owner.controller_reference()],
        },
        "spec": template["spec"],
    })
}

struct Ephemeral {
    pods: Store<PodView>,
    claims: Store<ClaimView>,
    executor: Executor,
}

impl Controller for Ephemeral {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(None) };
        if is_deleting(&pod.metadata) {
            return Ok(None);
        }
        let owner = pod.subject();
        for (volume, source) in pod.spec.volumes.iter().filter_map(|v| Some((v, v.ephemeral.as_ref()?))) {
            let name = format!("{}-{}", key.name, volume.name);
            if let Err(error) = self.provide(key, &owner, &name, source).await {
                let note = format!("ephemeral volume {}: {error}", volume.name);
                self.executor.event(&owner, Warning, "FailedBinding", note);
                return Err(error);
            }
        }
        Ok(None)
    }
}

impl Ephemeral {
    /// Makes the claim `name` of the pod `owner`, unless it is there; one that is not the pod's is an error.
    async fn provide(&self, key: &Key, owner: &Subject, name: &str, source: &Value) -> Result<(), SyncError> {
        let namespace = &key.namespace;
        if let Some(claim) = self.claims.get(namespace, name) {
            let ours = controller_of(&claim.metadata).is_some_and(|controller| controller.uid == owner.uid);
            let why = || format!("PVC {namespace}/{name} was not created for pod {key} (pod is not owner)");
            return if ours { Ok(()) } else { Err(SyncError::Object(why())) };
        }
        let body = claim_of(owner, name, source);
        let resource = ClaimView::RESOURCE;
        self.executor.apply(Action::Create { resource, namespace: namespace.clone(), body }).await
    }
}

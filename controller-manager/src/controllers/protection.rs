//! `persistentvolumeclaim-protection-controller` and `persistentvolume-protection-controller`: claims that pods use, and
//! volumes that claims use, do not go before their users.

use std::sync::Arc;

use client::informer::Delta;
use futures::future::BoxFuture;
use serde_json::json;

use crate::framework::{Action, Controller, Executor, Key, Setup, Store, SyncResult, Target, View};
use crate::views::meta::is_deleting;
use crate::views::pod::{self, PodView};
use crate::views::volume::{ClaimView, VolumeView};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// Registers `persistentvolumeclaim-protection-controller`.
pub fn claims(setup: &mut Setup) {
    let queue = setup.queue("pvcprotection");
    let claims = setup.stores.of::<ClaimView>();
    let pods = setup.stores.of::<PodView>();
    let wake = queue.clone();
    claims.on(move |delta| wake.add(Key::of(&delta.object().metadata)));
    let wake = queue.clone();
    pods.on(move |delta| {
        let pod = delta.object();
        if pod.is_terminal() || matches!(delta, Delta::Deleted(_)) {
            for claim in pod.claims() {
                wake.add(Key::new(&pod.metadata.namespace, &claim));
            }
        }
    });
    let executor = setup.executor("pvc-protection-controller");
    setup.workers(queue, 1, Claims { claims, pods, executor });
}

/// Registers `persistentvolume-protection-controller`.
pub fn volumes(setup: &mut Setup) {
    let queue = setup.queue("pvprotection");
    let volumes = setup.stores.of::<VolumeView>();
    let wake = queue.clone();
    volumes.on(move |delta| wake.add(Key::of(&delta.object().metadata)));
    let executor = setup.executor("pv-protection-controller");
    setup.workers(queue, 1, Volumes { volumes, executor });
}

/// What becomes of a finalizer: added while the object lives, removed when it goes and is not in use.
fn reconcile(target: Target, meta: &apimachinery::meta::ObjectMeta, finalizer: &str, in_use: bool) -> Option<Action> {
    let has = meta.finalizers.iter().any(|name| name == finalizer);
    let mut finalizers = meta.finalizers.clone();
    match (is_deleting(meta), has) {
        (false, false) => finalizers.push(finalizer.to_owned()),
        (true, true) if !in_use => finalizers.retain(|name| name != finalizer),
        _ => return None,
    }
    Some(Action::Change {
        target,
        subresource: None,
        change: json!({"metadata": {"resourceVersion": meta.resource_version, "finalizers": finalizers}}),
    })
}

/// Pods that were scheduled and have not ended use their claims; unscheduled ones do not yet.
fn uses(pods: &[Arc<PodView>], claim: &str) -> bool {
    pods.iter()
        .any(|pod| !pod.is_terminal() && !pod.spec.node_name.is_empty() && pod.claims().any(|name| name == claim))
}

struct Claims {
    claims: Store<ClaimView>,
    pods: Store<PodView>,
    executor: Executor,
}

impl Controller for Claims {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(async move {
            let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(None) };
            let in_use = uses(&self.pods.by_index(pod::BY_NAMESPACE, &key.namespace), &key.name);
            let target = Target::of(&ClaimView::RESOURCE, &claim.metadata);
            if let Some(action) = reconcile(target, &claim.metadata, CLAIM_FINALIZER, in_use) {
                self.executor.apply(action).await?;
            }
            Ok(None)
        })
    }
}

struct Volumes {
    volumes: Store<VolumeView>,
    executor: Executor,
}

impl Controller for Volumes {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(async move {
            let Some(volume) = self.volumes.get("", &key.name) else { return Ok(None) };
            let target = Target::of(&VolumeView::RESOURCE, &volume.metadata);
            let in_use = volume.status.phase == "Bound";
            if let Some(action) = reconcile(target, &volume.metadata, VOLUME_FINALIZER, in_use) {
                self.executor.apply(action).await?;
            }
            Ok(None)
        })
    }
}

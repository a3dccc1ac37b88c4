//! `persistentvolumeclaim-protection-controller`, `persistentvolume-protection-controller` and
//! `volumeattributesclass-protection-controller`: claims that pods use, volumes that claims use, and classes of attributes
//! that either uses do not go before their users.

use client::ListOptions;
use client::informer::Delta;
use serde_json::json;

use crate::framework::{Action, Controller, Executor, Key, Setup, Store, SyncResult, Target, View};
use crate::views::meta::is_deleting;
use crate::views::pod::{self, PodView};
use crate::views::volume::{AttributesClassView, ClaimView, VolumeView};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const ATTRIBUTES_FINALIZER: &str = "kubernetes.io/vac-protection";

/// Registers `persistentvolumeclaim-protection-controller`.
pub fn claims(setup: &mut Setup) {
    let queue = setup.queue("pvcprotection");
    let claims = setup.stores.of::<ClaimView>();
    let pods = setup.stores.of::<PodView>();
    claims.wakes(&queue);
    let wake = queue.clone();
    pods.on(move |delta| {
        let pod = delta.object();
        if matches!(delta, Delta::Deleted(_)) {
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
    volumes.wakes(&queue);
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
    Some(target.change(json!({"metadata": {"resourceVersion": meta.resource_version, "finalizers": finalizers}})))
}

/// Registers `volumeattributesclass-protection-controller`.
pub fn attributes_classes(setup: &mut Setup<'_>) {
    let queue = setup.queue("vacprotection");
    let classes = setup.stores.of::<AttributesClassView>();
    let claims = setup.stores.of::<ClaimView>();
    let volumes = setup.stores.of::<VolumeView>();
    classes.wakes(&queue);
    // What is used no more was used by the object as it was before.
    fn before<T>(delta: &Delta<T>) -> Option<&T> {
        match delta {
            Delta::Added(_) => None,
            Delta::Updated { old, .. } | Delta::Deleted(old) => Some(old),
        }
    }
    let wake = queue.clone();
    claims.on(move |delta| {
        before(delta).into_iter().flat_map(claimed_attributes).for_each(|name| wake.add(Key::new("", name)));
    });
    let wake = queue.clone();
    volumes.on(move |delta| {
        let names = before(delta).map(|v| v.spec.volume_attributes_class_name.as_str());
        names.into_iter().filter(|name| !name.is_empty()).for_each(|name| wake.add(Key::new("", name)));
    });
    let executor = setup.executor("volumeattributesclass-protection-controller");
    setup.workers(queue, 1, AttributesClasses { classes, claims, volumes, executor });
}

/// Classes of attributes that a claim wants, has, or is being given.
fn claimed_attributes(claim: &ClaimView) -> impl Iterator<Item = &str> {
    let status = &claim.status;
    [
        claim.spec.volume_attributes_class_name.as_str(),
        status.current_volume_attributes_class_name.as_str(),
        status.modify_volume_status.target_volume_attributes_class_name.as_str(),
    ]
    .into_iter()
    .filter(|name| !name.is_empty())
}

/// Pods that were scheduled use their claims as long as they are there; unscheduled ones do not yet.
fn uses<'a>(mut pods: impl Iterator<Item = &'a PodView>, claim: &str) -> bool {
    pods.any(|pod| !pod.spec.node_name.is_empty() && pod.claims().any(|name| name == claim))
}

struct Claims {
    claims: Store<ClaimView>,
    pods: Store<PodView>,
    executor: Executor,
}

impl Controller for Claims {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(None) };
        let known = self.pods.by_index(pod::BY_NAMESPACE, &key.namespace);
        let mut in_use = uses(known.iter().map(|pod| &**pod), &key.name);
        if !in_use && is_deleting(&claim.metadata) {
            // A pod may have been scheduled that the cache does not show yet; data hangs on it, so ask.
            let client = self.executor.client();
            let options = ListOptions::default();
            let pods = client.list::<PodView>(&PodView::RESOURCE, Some(&key.namespace), &options).await?.items;
            in_use = uses(pods.iter(), &key.name);
        }
        let target = claim.target();
        if let Some(action) = reconcile(target, &claim.metadata, CLAIM_FINALIZER, in_use) {
            self.executor.apply(action).await?;
        }
        Ok(None)
    }
}

struct Volumes {
    volumes: Store<VolumeView>,
    executor: Executor,
}

impl Controller for Volumes {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(volume) = self.volumes.get("", &key.name) else { return Ok(None) };
        let target = volume.target();
        let in_use = volume.status.phase == "Bound";
        if let Some(action) = reconcile(target, &volume.metadata, VOLUME_FINALIZER, in_use) {
            self.executor.apply(action).await?;
        }
        Ok(None)
    }
}
struct AttributesClasses {
    classes: Store<AttributesClassView>,
    claims: Store<ClaimView>,
    volumes: Store<VolumeView>,
    executor: Executor,
}

impl Controller for AttributesClasses {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(class) = self.classes.get("", &key.name) else { return Ok(None) };
        let in_use = self.claims.list().iter().any(|c| claimed_attributes(c).any(|name| name == key.name))
            || self.volumes.list().iter().any(|v| v.spec.volume_attributes_class_name == key.name);
        let target = class.target();
        if let Some(action) = reconcile(target, &class.metadata, ATTRIBUTES_FINALIZER, in_use) {
            self.executor.apply(action).await?;
        }
        Ok(None)
    }
}

//! `persistentvolume-binder-controller`: brings claims and volumes together, and says what became of either.
//!
//! Contract: [`claim::reconcile`] and [`volume::reconcile`] are pure. A binding is four writes: the volume is reserved for
//! the claim (on the condition that nobody changed it), called bound, then the claim is given the volume and called
//! bound; each look continues where the last one ended. Volumes are made and removed by external provisioners, which are
//! asked by annotations; the in-tree recycler and provisioners are not there, which is said as upstream says it of a
//! plugin that it does not find.

use std::sync::Arc;

use client::informer::Delta;

use crate::framework::{Controller, Executor, Key, Queue, Setup, Store, SyncError, SyncResult};
use crate::views::pod::{self, PodView};
use crate::views::volume::{ClaimReference, ClaimView, StorageClassView, VolumeView};

mod claim;
mod matching;
#[cfg(test)]
mod tests;
mod volume;

/// The claim's binding is finished.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The other side was chosen by this controller (or the scheduler), not by a person.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who made the volume.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The CSI driver that took over from an in-tree plugin.
const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
/// The node for which the scheduler wants a volume.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// In-tree plugins whose work CSI drivers do since v1.31, and the names of those.
const MIGRATED: &[(&str, &str)] = &[
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
];

/// Who really does the work of a provisioner: itself when it is external; `None` for an in-tree one.
fn external(provisioner: &str) -> Option<&str> {
    let migrated = MIGRATED.iter().find(|(plugin, _)| *plugin == provisioner).map(|(_, driver)| *driver);
    migrated.or_else(|| (!provisioner.starts_with("kubernetes.io/")).then_some(provisioner))
}

/// Registers `persistentvolume-binder-controller`. Claims have one worker, so that two do not reach for one volume.
pub fn register(setup: &mut Setup<'_>) {
    let (claim_queue, volume_queue) = (setup.queue("claims"), setup.queue("volumes"));
    let claims = setup.stores.of::<ClaimView>();
    let volumes = setup.stores.of::<VolumeView>();
    let classes = setup.stores.of::<StorageClassView>();
    let pods = setup.stores.of::<PodView>();
    let (own, wake, all) = (claim_queue.clone(), volume_queue.clone(), volumes.clone());
    claims.on(move |delta| {
        let claim = delta.object();
        own.add(Key::of(&claim.metadata));
        if !claim.spec.volume_name.is_empty() {
            wake.add(Key::new("", &claim.spec.volume_name));
        }
        if matches!(delta, Delta::Deleted(_)) {
            all.list().iter().filter(|v| v.is_for(claim)).for_each(|v| wake.add(Key::of(&v.metadata)));
        }
    });
    let (own, wake, all) = (volume_queue.clone(), claim_queue.clone(), claims.clone());
    volumes.on(move |delta| {
        let volume = delta.object();
        own.add(Key::of(&volume.metadata));
        if let Some(owner) = &volume.spec.claim_ref {
            wake.add(Key::new(&owner.namespace, &owner.name));
        }
        let open = volume.spec.claim_ref.is_none() && volume.status.phase == "Available";
        let wants = |c: &ClaimView| {
            let chosen = &c.spec.volume_name;
            *chosen == volume.metadata.name
                || (open && chosen.is_empty() && c.class().unwrap_or_default() == volume.class())
        };
        wake_all(&wake, &all.list(), wants);
    });
    let (wake, all) = (claim_queue.clone(), claims.clone());
    classes.on(move |delta| {
        let name = &delta.object().metadata.name;
        let unbound = |c: &ClaimView| c.spec.volume_name.is_empty() && c.class().is_none_or(|class| class == name);
        wake_all(&wake, &all.list(), unbound);
    });
    let executor = setup.executor("persistent-volume-binder");
    let provisions = setup.config.enable_dynamic_provisioning;
    let binder = Arc::new(Binder { claim_queue, claims, volumes, classes, pods, executor, provisions });
    setup.workers(binder.claim_queue.clone(), 1, Claims(Arc::clone(&binder)));
    setup.workers(volume_queue, 1, Volumes(binder));
}

fn wake_all(queue: &Queue, claims: &[Arc<ClaimView>], which: impl Fn(&ClaimView) -> bool) {
    claims.iter().filter(|c| which(c)).for_each(|c| queue.add(Key::of(&c.metadata)));
}

struct Claims(Arc<Binder>);
struct Volumes(Arc<Binder>);

struct Binder {
    claim_queue: Queue,
    claims: Store<ClaimView>,
    volumes: Store<VolumeView>,
    classes: Store<StorageClassView>,
    pods: Store<PodView>,
    executor: Executor,
    provisions: bool,
}

impl Binder {
    async fn sync_claim(&self, key: &Key) -> SyncResult {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(None) };
        let waiting = self
            .pods
            .by_index(pod::BY_NAMESPACE, &key.namespace)
            .into_iter()
            .find(|p| p.spec.node_name.is_empty() && p.is_active() && p.claims().any(|name| name == key.name));
        let world = claim::World {
            volumes: &self.volumes.list(),
            classes: &self.classes.list(),
            waiting_pod: waiting.as_ref().map(|p| p.metadata.name.as_str()),
            provisions: self.provisions,
        };
        let plan = claim::reconcile(&claim, &world);
        self.executor.run(plan).await?;
        Ok(None)
    }

    async fn sync_volume(&self, key: &Key) -> SyncResult {
        let Some(volume) = self.volumes.get("", &key.name) else { return Ok(None) };
        let owner = match &volume.spec.claim_ref {
            Some(reference) if !reference.uid.is_empty() => self.owner(&volume, reference).await?,
            _ => None,
        };
        let outcome = volume::reconcile(&volume, owner.as_deref());
        if let (true, Some(owner)) = (outcome.claim_first, &owner) {
            self.claim_queue.add(Key::of(&owner.metadata));
        }
        self.executor.run(outcome.plan).await?;
        Ok(None)
    }

    /// The claim of a volume. Data may be destroyed when it is gone, so its absence is made sure of.
    async fn owner(
        &self,
        volume: &VolumeView,
        reference: &ClaimReference,
    ) -> Result<Option<Arc<ClaimView>>, SyncError> {
        let cached = self.claims.get(&reference.namespace, &reference.name);
        if cached.as_ref().is_some_and(|c| c.metadata.uid == reference.uid)
            || matches!(volume.status.phase.as_str(), "Released" | "Failed")
        {
            return Ok(cached.filter(|c| c.metadata.uid == reference.uid));
        }
        match self.executor.get::<ClaimView>(&reference.namespace, &reference.name).await {
            Ok(claim) => Ok(Some(Arc::new(claim)).filter(|c| c.metadata.uid == reference.uid)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Controller for Claims {
    async fn sync(&self, key: &Key) -> SyncResult {
        self.0.sync_claim(key).await
    }
}

impl Controller for Volumes {
    async fn sync(&self, key: &Key) -> SyncResult {
        self.0.sync_volume(key).await
    }
}

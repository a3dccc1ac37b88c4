//! `persistentvolume-expander-controller`: says of claims that ask for more than they have that an external resizer does
//! it. Volumes of in-tree kinds cannot be resized here, as upstream has no resizer for them any more either.

use client::events::EventType::Normal;
use client::informer::Delta;

use crate::framework::{Controller, Executor, Key, Setup, Store, SyncError, SyncResult, View};
use crate::views::volume::{ClaimView, VolumeView, storage};

/// Registers `persistentvolume-expander-controller`.
pub fn register(setup: &mut Setup<'_>) {
    let queue = setup.queue("volume_expand");
    let claims = setup.stores.of::<ClaimView>();
    let volumes = setup.stores.of::<VolumeView>();
    let wake = queue.clone();
    claims.on(move |delta| {
        let claim = delta.object();
        let grew = match delta {
            Delta::Added(_) => true,
            Delta::Updated { old, new } => new.requested() > old.requested(),
            Delta::Deleted(_) => false,
        };
        if grew && claim.status.phase == "Bound" {
            wake.add(Key::of(&claim.metadata));
        }
    });
    let executor = setup.executor("expand-controller");
    setup.workers(queue, 10, Expander { claims, volumes, executor });
}

struct Expander {
    claims: Store<ClaimView>,
    volumes: Store<VolumeView>,
    executor: Executor,
}

impl Controller for Expander {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(None) };
        if claim.requested() <= storage(&claim.status.capacity) {
            return Ok(None);
        }
        if self.volumes.get("", &claim.spec.volume_name).is_none_or(|v| !v.is_for(&claim)) {
            return Err(SyncError::Waiting(format!("the volume of claim {key} is not bound to it yet")));
        };
        let about = claim.subject();
        let note = "waiting for an external controller to expand this PVC";
        self.executor.event(&about, Normal, "ExternalExpanding", note);
        Ok(None)
    }
}

//! `persistentvolume-expander-controller`: says of claims that ask for more than they have that an external resizer does
//! it. Volumes of in-tree kinds cannot be resized here, as upstream has no resizer for them any more either.

use client::events::EventType::{Normal, Warning};
use client::informer::Delta;
use futures::future::BoxFuture;

use crate::framework::{Controller, Executor, Key, Setup, Store, Subject, SyncError, SyncResult, View};
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
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(async move {
            let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(None) };
            if claim.requested() <= storage(&claim.status.capacity) {
                return Ok(None);
            }
            let volume = self.volumes.get("", &claim.spec.volume_name).filter(|v| v.is_for(&claim));
            let Some(volume) = volume else {
                return Err(SyncError::Waiting(format!("the volume of claim {key} is not bound to it yet")));
            };
            let kind = if volume.spec.csi.is_some() { Normal } else { Warning };
            let about = Subject::of(&ClaimView::RESOURCE, &claim.metadata);
            let note = "waiting for an external controller to expand this PVC";
            self.executor.event(&about, kind, "ExternalExpanding", note);
            Ok(None)
        })
    }
}

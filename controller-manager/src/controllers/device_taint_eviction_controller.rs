//! `device-taint-eviction-controller`: deletes pods whose devices have a `NoExecute` taint that their claims do not bear, or not
//! for longer. Taints are those that drivers publish in their slices; rules that taint devices (DeviceTaintRule) are off by
//! default in v1.36 and not served.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use client::events::EventType;
use client::informer::Delta;
use jiff::Timestamp;

use super::node_taints::tolerates;
use super::resourceclaim_controller::name_of;
use super::taint_eviction_controller::{Why, evict};
use crate::framework::backoff::remaining;
use crate::framework::{Controller, Executor, Key, Queue, Setup, Store, SyncResult, View};
use crate::views::devices::{AllocatedDevice, BY_POOL, ResourceClaimView, ResourceSliceView};
use crate::views::meta::is_deleting;
use crate::views::node::Taint;
use crate::views::pod::PodView;

const WHY: Why = Why {
    event: "DeviceTaintManagerEviction",
    condition: "DeletionByDeviceTaintManager",
    message: "Device Taint manager: deleting due to NoExecute taint",
};

/// Registers `device-taint-eviction-controller`.
pub fn register(setup: &mut Setup<'_>) {
    let queue = setup.queue("device-taint-eviction-controller");
    let pods = setup.stores.of::<PodView>();
    let claims = setup.stores.of::<ResourceClaimView>();
    let slices = setup.stores.of::<ResourceSliceView>();
    let wake = queue.clone();
    pods.on(move |delta| {
        if !delta.object().spec.resource_claims.is_empty() {
            wake.add(Key::of(&delta.object().metadata));
        }
    });
    let wake = queue.clone();
    claims.on(move |delta| {
        if let Delta::Updated { old, .. } = delta {
            wake_users(old, &wake);
        }
        wake_users(delta.object(), &wake);
    });
    let (wake, users) = (queue.clone(), claims.clone());
    slices.on(move |delta| {
        let tainted = |slice: &ResourceSliceView| slice.no_execute().next().is_some();
        if tainted(delta.object()) || matches!(delta, Delta::Updated { old, .. } if tainted(old)) {
            let pool = delta.object().pool();
            let uses = |claim: &ResourceClaimView| claim.devices().iter().any(|device| device.pool() == pool);
            users.list().iter().filter(|claim| uses(claim)).for_each(|claim| wake_users(claim, &wake));
        }
    });
    let executor = setup.executor("device-taint-eviction-controller");
    let controller = DeviceTaints { pods, claims, slices, executor, noticed: Mutex::default() };
    setup.workers(queue, setup.config.concurrent.device_taint_eviction, controller);
}

fn wake_users(claim: &ResourceClaimView, queue: &Queue) {
    let users = claim.status.reserved_for.iter().filter(|user| user.resource == "pods");
    users.for_each(|user| queue.add(Key::new(&claim.metadata.namespace, &user.name)));
}

/// When a device's user must go: as soon as its first taint that is not borne came, or has been borne for long enough.
pub fn deadline(device: &AllocatedDevice, taints: &[Taint]) -> Option<Timestamp> {
    let when = |taint: &Taint| {
        let bearing = device.tolerations.iter().filter(|own| own.effect == "NoExecute" && tolerates(own, taint));
        let patience: Vec<Option<i64>> = bearing.map(|own| own.toleration_seconds).collect();
        if patience.contains(&None) {
            return None;
        }
        let seconds = patience.into_iter().flatten().min().unwrap_or(0).max(0);
        let since = taint.time_added.0.unwrap_or(Timestamp::UNIX_EPOCH);
        since.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
    };
    taints.iter().filter_map(when).min()
}

struct DeviceTaints {
    pods: Store<PodView>,
    claims: Store<ResourceClaimView>,
    slices: Store<ResourceSliceView>,
    executor: Executor,
    /// Pods whose eviction is due later.
    noticed: Mutex<HashSet<Key>>,
}

impl Controller for DeviceTaints {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(pod) = self.pods.get(&key.namespace, &key.name).filter(|pod| !is_deleting(&pod.metadata)) else {
            self.note(key, false);
            return Ok(None);
        };
        let now = Timestamp::now();
        let Some(due) = self.due(&pod) else {
            if self.note(key, false) {
                let subject = pod.subject();
                self.executor.event(&subject, EventType::Normal, WHY.event, "Cancelling deletion");
            }
            return Ok(None);
        };
        let left = remaining(due, 0, now);
        if !left.is_zero() {
            self.note(key, true);
            return Ok(Some(left.max(Duration::from_millis(1))));
        }
        self.note(key, false);
        self.executor.run(evict(&pod, &WHY, "Marking for deletion".to_owned(), now)).await?;
        Ok(None)
    }
}

impl DeviceTaints {
    /// The `NoExecute` taints of a device, by the newest generation of its pool.
    fn taints(&self, device: &AllocatedDevice) -> Vec<Taint> {
        let mut slices = self.slices.by_index(BY_POOL, &device.pool());
        let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
        slices.retain(|slice| Some(slice.spec.pool.generation) == newest);
        let of_device = |slice: &ResourceSliceView| -> Vec<Taint> {
            slice.no_execute().filter(|(name, _)| *name == device.device).map(|(_, taint)| taint.clone()).collect()
        };
        slices.iter().flat_map(|slice| of_device(slice)).collect()
    }

    /// When the pod must go, if at all.
    fn due(&self, pod: &PodView) -> Option<Timestamp> {
        if pod.spec.node_name.is_empty() || is_deleting(&pod.metadata) {
            return None;
        }
        let names = pod.spec.resource_claims.iter().filter_map(|claim| name_of(pod, claim));
        let claims = names.filter_map(|name| self.claims.get(&pod.metadata.namespace, name));
        let used = claims.filter(|claim| claim.status.reserved_for.iter().any(|user| user.uid == pod.metadata.uid));
        let devices = used.flat_map(|claim| claim.devices());
        devices.filter_map(|device| deadline(&device, &self.taints(&device))).min()
    }

    fn note(&self, key: &Key, due: bool) -> bool {
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        if due { !noticed.insert(key.clone()) } else { noticed.remove(key) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_taint_is_borne_for_as_long_as_the_least_patient_toleration_says() {
        let taint = |key: &str| -> Taint {
            serde_json::from_value(json!({"key": key, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}))
                .unwrap()
        };
        let due = |tolerations: Value, taints: &[Taint]| {
            let device: AllocatedDevice = serde_json::from_value(json!({"tolerations": tolerations})).unwrap();
            deadline(&device, taints).map(|at| at.as_second() - taint("a").time_added.0.unwrap().as_second())
        };
        let bears = |key: &str, seconds: Value| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let (a, b) = (taint("a"), taint("b"));
        assert_eq!(due(json!([]), &[]), None);
        assert_eq!(due(json!([]), std::slice::from_ref(&a)), Some(0));
        assert_eq!(due(json!([bears("a", Value::Null)]), std::slice::from_ref(&a)), None);
        assert_eq!(due(json!([bears("a", json!(30)), bears("a", json!(10))]), std::slice::from_ref(&a)), Some(10));
        assert_eq!(due(json!([bears("a", json!(30))]), &[a.clone(), b.clone()]), Some(0));
        assert_eq!(due(json!([bears("a", json!(30)), bears("b", Value::Null)]), &[a.clone(), b]), Some(30));
        assert_eq!(due(json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]), &[a]), Some(0));
    }
}

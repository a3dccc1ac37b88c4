//! `resourcequota-controller`: says in each quota's status what is used of it. The API server charges creations itself; this
//! loop counts anew when something is given back, when a quota changes, and once per `--resource-quota-sync-period`.
//!
//! Pods, services and claims (of volumes and devices) come from the caches; other objects are counted by the server (a list of one says how many
//! more there are). That those are deleted is known from the garbage collector's watches; without it only the period helps.

pub mod usage;

use std::collections::BTreeMap;
use std::time::Duration;

use apimachinery::quantity::Quantity;
use client::informer::Delta;
use client::{ListOptions, ResourceRef};
use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use self::usage::{
    Amounts, Kind, claim_in, counted, is_charged, kind_of, of_claim, of_devices, of_pod, of_service, pod_in, sum,
};
use crate::framework::discovery::Kinds;
use crate::framework::{Action, Controller, Executor, Key, Queue, Setup, Store, SyncError, SyncResult, View};
use crate::views::devices::{self, ResourceClaimView};
use crate::views::pod::{self, PodView};
use crate::views::quota::{BY_NAMESPACE, QuotaView};
use crate::views::service::{self, ServiceView};
use crate::views::volume::{self, ClaimView};

/// What is given back in so short a time is counted once.
const COLLECT: Duration = Duration::from_millis(50);

/// Registers `resourcequota-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("resourcequota_primary");
    let quotas = setup.stores.of::<QuotaView>();
    let wake = queue.clone();
    quotas.on(move |delta| match delta {
        // The status is charged by others all the time; it must not be compared with caches that lag behind.
        Delta::Updated { old, new } if old.spec == new.spec => {}
        _ => wake.add(Key::of(&delta.object().metadata)),
    });
    let replenish = |kind: Kind| Replenish { queue: queue.clone(), quotas: quotas.clone(), kind };
    let pods = setup.stores.of::<PodView>();
    let given_back = replenish(Kind::Pods);
    pods.on(move |delta| {
        let now = Timestamp::now();
        let freed = match delta {
            Delta::Updated { old, new } => is_charged(old, now) && of_pod(old, now) != of_pod(new, now),
            Delta::Deleted(_) => true,
            Delta::Added(_) => false,
        };
        if freed {
            given_back.namespace(&delta.object().metadata.namespace, None);
        }
    });
    let services = setup.stores.of::<ServiceView>();
    watch(&services, replenish(Kind::Services), of_service);
    let claims = setup.stores.of::<ClaimView>();
    watch(&claims, replenish(Kind::Claims), of_claim);
    let devices = setup.stores.of::<ResourceClaimView>();
    watch(&devices, replenish(Kind::Devices), of_devices);
    let given_back = replenish(Kind::Objects);
    // Set once, here: no other controller asks for it.
    let _ = setup.on_deleted.set(Box::new(move |resource, namespace| given_back.namespace(namespace, Some(resource))));
    let executor = setup.executor("resourcequota-controller");
    let kinds = Kinds::new(executor.client().clone());
    let period = setup.config.quota_sync_period;
    let workers = setup.config.concurrent.resource_quota;
    setup.workers(queue, workers, Quotas { quotas, pods, services, claims, devices, kinds, executor, period });
}

/// Something is given back when an object goes or uses something else from now on.
fn watch<T: View>(objects: &Store<T>, given_back: Replenish, of: fn(&T) -> Amounts) {
    objects.on(move |delta| match delta {
        Delta::Updated { old, new } if of(old) == of(new) => {}
        Delta::Added(_) => {}
        _ => given_back.namespace(&delta.object().meta().namespace, None),
    });
}

/// Wakes the quotas that something given back matters to.
struct Replenish {
    queue: Queue,
    quotas: Store<QuotaView>,
    kind: Kind,
}

impl Replenish {
    fn namespace(&self, namespace: &str, resource: Option<&ResourceRef>) {
        for quota in self.quotas.by_index(BY_NAMESPACE, namespace) {
            let concerns = |name: &String| {
                kind_of(name) == Some(self.kind)
                    && resource.is_none_or(|it| counted(name) == (it.group.as_ref(), it.plural.as_ref()))
            };
            if quota.spec.hard.keys().any(concerns) {
                self.queue.add_after(Key::of(&quota.metadata), COLLECT);
            }
        }
    }
}

struct Quotas {
    quotas: Store<QuotaView>,
    pods: Store<PodView>,
    services: Store<ServiceView>,
    claims: Store<ClaimView>,
    devices: Store<ResourceClaimView>,
    kinds: Kinds,
    executor: Executor,
    period: Duration,
}

impl Quotas {
    /// What is used of everything the quota names; without those names that nothing uses.
    async fn used(&self, quota: &QuotaView) -> Result<Amounts, SyncError> {
        let (namespace, scopes, now) = (&quota.metadata.namespace, quota.scopes(), Timestamp::now());
        let names = |kind: Kind| -> Vec<&String> {
            quota.spec.hard.keys().filter(|name| kind_of(name) == Some(kind)).collect()
        };
        let mut used = Amounts::new();
        if let names @ [_, ..] = names(Kind::Pods).as_slice() {
            let pods = self.pods.by_index(pod::BY_NAMESPACE, namespace);
            used.extend(sum(names, &pods, &scopes, pod_in, |pod| of_pod(pod, now)));
        }
        if let names @ [_, ..] = names(Kind::Services).as_slice() {
            let services = self.services.by_index(service::BY_NAMESPACE, namespace);
            used.extend(sum(names, &services, &scopes, |_, _| false, of_service));
        }
        if let names @ [_, ..] = names(Kind::Claims).as_slice() {
            let claims = self.claims.by_index(volume::BY_NAMESPACE, namespace);
            used.extend(sum(names, &claims, &scopes, claim_in, of_claim));
        }
        if let names @ [_, ..] = names(Kind::Devices).as_slice() {
            let devices = self.devices.by_index(devices::BY_NAMESPACE, namespace);
            used.extend(sum(names, &devices, &scopes, |_, _| false, of_devices));
        }
        for name in names(Kind::Objects) {
            let (group, plural) = counted(name);
            let Some(resource) = self.kinds.find_plural(group, plural).await? else { continue };
            let count = if scopes.is_empty() { self.count(&resource, namespace).await? } else { 0 };
            used.insert(name.clone(), usage::number(count));
        }
        Ok(used)
    }

    async fn count(&self, resource: &ResourceRef, namespace: &str) -> Result<usize, SyncError> {
        let one = ListOptions { limit: 1, metadata_only: true, ..ListOptions::default() };
        let page = self.executor.client().list::<IgnoredAny>(resource, Some(namespace), &one).await?;
        Ok(page.items.len() + page.remaining_items)
    }
}

/// The quota with the status in line, and nothing else that anybody but its owner wrote; None when it is in line. The account
/// may neither read single quotas nor patch them.
pub fn corrected(quota: &QuotaView, used: &Amounts) -> Option<Value> {
    let same = |old: &BTreeMap<String, String>, new: &Amounts| {
        old.len() == new.len()
            && old.iter().all(|(name, text)| Quantity::parse(text).is_ok_and(|amount| new.get(name) == Some(&amount)))
    };
    // A figure that cannot be counted now stays as it was.
    let kept = quota.status.used.iter().filter(|(name, _)| quota.spec.hard.contains_key(*name));
    let mut all: Amounts = kept.filter_map(|(name, text)| Some((name.clone(), Quantity::parse(text).ok()?))).collect();
    all.extend(used.iter().map(|(name, amount)| (name.clone(), *amount)));
    if same(&quota.status.used, &all) && quota.status.hard == quota.spec.hard {
        return None;
    }
    let used: BTreeMap<&String, String> = all.iter().map(|(name, amount)| (name, amount.to_string())).collect();
    let meta = &quota.metadata;
    Some(json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {
            "name": meta.name, "namespace": meta.namespace, "resourceVersion": meta.resource_version,
            "labels": meta.labels, "annotations": meta.annotations,
        },
        "status": {"hard": quota.spec.hard, "used": used},
    }))
}

impl Controller for Quotas {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(quota) = self.quotas.get(&key.namespace, &key.name) else { return Ok(None) };
        let used = self.used(&quota).await?;
        if let Some(body) = corrected(&quota, &used) {
            let target = quota.target();
            self.executor.apply(Action::Replace { target, subresource: Some("status"), body }).await?;
        }
        Ok(Some(self.period))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_follows_what_is_used() {
        let quota: QuotaView = serde_json::from_value(json!({
            "spec": {"hard": {"pods": "2", "cpu": "1", "odd": "1"}},
            "status": {"hard": {"pods": "2", "memory": "1Gi"}, "used": {"pods": "1", "memory": "1Mi", "odd": "3"}},
        }))
        .unwrap();
        let used = Amounts::from([("pods".to_owned(), usage::number(1)), ("cpu".to_owned(), usage::number(0))]);
        let status = corrected(&quota, &used).unwrap()["status"].clone();
        assert_eq!(status["hard"], json!({"pods": "2", "cpu": "1", "odd": "1"}));
        assert_eq!(status["used"], json!({"pods": "1", "cpu": "0", "odd": "3"}));
        let settled: QuotaView = serde_json::from_value(json!({
            "spec": {"hard": {"cpu": "1"}}, "status": {"hard": {"cpu": "1"}, "used": {"cpu": "0.5"}},
        }))
        .unwrap();
        let half = Amounts::from([("cpu".to_owned(), Quantity::parse("500m").unwrap())]);
        assert_eq!(corrected(&settled, &half), None);
    }
}

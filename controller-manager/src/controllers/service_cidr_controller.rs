//! `service-cidr-controller`: says that a range of service addresses is ready, and lets one go only when no address in
//! use would be left without a range.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::informer::Delta;
use jiff::Timestamp;
use serde_json::json;

use crate::framework::backoff::remaining;
use crate::framework::{Controller, Executor, Key, Plan, Setup, Store, SyncResult, Target, View};
use crate::views::meta::{Condition, condition, to_value};
use crate::views::network::{IpAddressView, ServiceCidrView};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Allocators may still hand out addresses for so long after a deletion was asked for.
const GRACE_SECONDS: i64 = 10;

/// Registers `service-cidr-controller`.
pub fn register(setup: &mut Setup<'_>) {
    let queue = setup.queue("ipaddresses");
    let ranges = setup.stores.of::<ServiceCidrView>();
    let addresses = setup.stores.of::<IpAddressView>();
    let (wake, all) = (queue.clone(), ranges.clone());
    ranges.on(move |delta| {
        wake.add(Key::of(&delta.object().metadata));
        // A range that came or changed may be what a deleted one waits for.
        all.list().iter().filter(|r| r.metadata.is_terminating()).for_each(|r| wake.add(Key::of(&r.metadata)));
    });
    let (wake, all) = (queue.clone(), ranges.clone());
    addresses.on(move |delta| {
        if matches!(delta, Delta::Deleted(_)) {
            all.list().iter().filter(|r| r.metadata.is_terminating()).for_each(|r| wake.add(Key::of(&r.metadata)));
        }
    });
    let executor = setup.executor("service-cidrs-controller");
    setup.workers(queue, 5, ServiceCidrs { ranges, addresses, executor });
}

/// An address and the number of its bits that count.
fn parse(range: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = range.split_once('/')?;
    Some((address.parse().ok()?, bits.parse().ok()?))
}

fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(a) => (u128::from(a.to_bits()), 32),
        IpAddr::V6(a) => (a.to_bits(), 128),
    }
}

/// Whether `range` holds all addresses that share the first `prefix` bits of `address`.
fn holds(range: &str, address: IpAddr, prefix: u32) -> bool {
    let Some((base, length)) = parse(range) else { return false };
    let ((a, width), (b, other)) = (bits(address), bits(base));
    width == other && length <= prefix && length <= width && (a ^ b).checked_shr(width - length).unwrap_or(0) == 0
}

/// Whether no address would be orphaned: another range holds this one, or every address in use.
fn may_go(range: &ServiceCidrView, all: &[Arc<ServiceCidrView>], addresses: &[Arc<IpAddressView>]) -> bool {
    let held = |address: IpAddr, prefix: u32| {
        let others = all.iter().filter(|r| r.metadata.name != range.metadata.name);
        others.flat_map(|r| &r.spec.cidrs).any(|cidr| holds(cidr, address, prefix))
    };
    let mut own = range.spec.cidrs.iter().filter_map(|cidr| parse(cidr));
    own.all(|(base, prefix)| held(base, prefix))
        || addresses.iter().filter_map(|a| a.metadata.name.parse::<IpAddr>().ok()).all(|address| {
            let (_, width) = bits(address);
            !range.spec.cidrs.iter().any(|cidr| holds(cidr, address, width)) || held(address, width)
        })
}

fn set_ready(plan: &mut Plan, range: &ServiceCidrView, status: &str, reason: &str, message: &str, now: Timestamp) {
    let old = condition(&range.status.conditions, "Ready");
    if old.is_some_and(|c| c.status == status && c.reason == reason) {
        return;
    }
    let mut new = to_value(&Condition {
        kind: "Ready".to_owned(),
        status: status.to_owned(),
        message: message.to_owned(),
        last_transition_time: now.into(),
        ..Condition::default()
    });
    new["reason"] = json!(reason);
    plan.push(range.target().patch_status(json!({"status": {"conditions": [new]}})));
}

/// What becomes of a range.
fn reconcile(range: &ServiceCidrView, may_go: impl FnOnce() -> bool, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let meta = &range.metadata;
    let finalizers = |patch| Target::of(&ServiceCidrView::RESOURCE, meta).patch(json!({ "metadata": patch }));
    let has = meta.finalizers.iter().any(|f| f == FINALIZER);
    let Some(asked) = meta.deletion_timestamp else {
        if !has {
            plan.push(finalizers(json!({"finalizers": [FINALIZER]})));
        }
        set_ready(&mut plan, range, "True", "", "Kubernetes Service CIDR is ready", now);
        return plan;
    };
    if !may_go() {
        let why =
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        set_ready(&mut plan, range, "False", "Terminating", why, now);
        return plan;
    }
    let left = remaining(asked, GRACE_SECONDS, now);
    if !left.is_zero() {
        plan.again(left.max(Duration::from_millis(1)));
    } else if has {
        plan.push(finalizers(json!({"$deleteFromPrimitiveList/finalizers": [FINALIZER]})));
    }
    plan
}

struct ServiceCidrs {
    ranges: Store<ServiceCidrView>,
    addresses: Store<IpAddressView>,
    executor: Executor,
}

impl Controller for ServiceCidrs {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(range) = self.ranges.get("", &key.name) else { return Ok(None) };
        let free = || may_go(&range, &self.ranges.list(), &self.addresses.list());
        let plan = reconcile(&range, free, Timestamp::now());
        let again = plan.again_after;
        self.executor.run(plan).await?;
        Ok(again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(name: &str, cidrs: &[&str]) -> Arc<ServiceCidrView> {
        let mut range = ServiceCidrView::default();
        range.metadata.name = name.to_owned();
        range.spec.cidrs = cidrs.iter().map(|c| (*c).to_owned()).collect();
        Arc::new(range)
    }

    fn address(name: &str) -> Arc<IpAddressView> {
        let mut address = IpAddressView::default();
        address.metadata.name = name.to_owned();
        Arc::new(address)
    }

    #[test]
    fn a_range_stays_while_it_alone_holds_an_address() {
        let (small, wide, six) =
            (range("small", &["10.1.2.0/24"]), range("wide", &["10.1.0.0/16"]), range("six", &["fd00::/108"]));
        let used = [address("10.1.2.3"), address("fd00::5")];
        assert!(may_go(&small, &[small.clone(), wide.clone()], &used));
        assert!(!may_go(&small, &[small.clone(), six.clone()], &used));
        assert!(!may_go(&six, &[wide.clone(), six.clone()], &used));
        assert!(may_go(&wide, std::slice::from_ref(&wide), &used[1..]));
        assert!(holds("0.0.0.0/0", "9.9.9.9".parse().unwrap(), 32));
    }
}

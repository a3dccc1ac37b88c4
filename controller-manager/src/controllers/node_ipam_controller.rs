//! `node-ipam-controller`: gives every node its range of pod addresses (one per family) out of the cluster's ranges.
//!
//! A range belongs to a node from the moment it is chosen, so that two nodes that arrive together get different ones.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use crate::framework::{Controller, EventKind, Executor, Key, Plan, Setup, Store, SyncResult, View};
use crate::views::node::NodeView;

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u128,
    prefix: u8,
    v6: bool,
}

impl Cidr {
    /// Parses `10.0.0.0/8` or `fd00::/48`; host bits are cut.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.trim().split_once('/')?;
        let prefix: u8 = prefix.parse().ok()?;
        let (bits, v6) = match address.parse::<IpAddr>().ok()? {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), false),
            IpAddr::V6(v6) => (u128::from(v6), true),
        };
        let width = if v6 { 128 } else { 32 };
        (prefix <= width).then(|| Self { base: bits & mask(width, prefix), prefix, v6 })
    }

    /// Whether addresses are IPv6.
    pub fn is_v6(&self) -> bool {
        self.v6
    }

    /// Length of the prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    fn width(&self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }

    fn last(&self) -> u128 {
        self.base | !mask(self.width(), self.prefix) & full(self.width())
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.v6 == other.v6 && self.base <= other.last() && other.base <= self.last()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.v6 {
            write!(f, "{}/{}", Ipv6Addr::from(self.base), self.prefix)
        } else {
            write!(f, "{}/{}", Ipv4Addr::from(u32::try_from(self.base).unwrap_or_default()), self.prefix)
        }
    }
}

fn full(width: u8) -> u128 {
    if width == 128 { u128::MAX } else { (1 << width) - 1 }
}

fn mask(width: u8, prefix: u8) -> u128 {
    let host = width - prefix;
    if host >= 128 { 0 } else { full(width) >> host << host }
}

/// One cluster range, cut into nodes' ranges.
#[derive(Clone, Debug)]
pub struct Pool {
    cluster: Cidr,
    node_prefix: u8,
    used: Vec<u64>,
    next: usize,
}

/// Upstream's bound on the number of nodes' ranges in one cluster range: 2^16.
const MAX_RANGE_BITS: u8 = 16;

impl Pool {
    /// A pool whose nodes get ranges of `node_prefix`. Errors in words.
    pub fn new(cluster: Cidr, node_prefix: u8) -> Result<Self, String> {
        if node_prefix < cluster.prefix || node_prefix > cluster.width() {
            return Err(format!("--node-cidr-mask-size {node_prefix} does not fit into --cluster-cidr {cluster}"));
        }
        let bits = node_prefix - cluster.prefix;
        if bits > MAX_RANGE_BITS {
            return Err(format!(
                "--cluster-cidr {cluster} with --node-cidr-mask-size {node_prefix} makes 2^{bits} node ranges, at most 2^{MAX_RANGE_BITS} are possible"
            ));
        }
        Ok(Self { cluster, node_prefix, used: vec![0; (1_usize << bits).div_ceil(64)], next: 0 })
    }

    fn count(&self) -> usize {
        1 << (self.node_prefix - self.cluster.prefix)
    }

    fn shift(&self) -> u8 {
        self.cluster.width() - self.node_prefix
    }

    fn range(&self, index: usize) -> Cidr {
        let base = self.cluster.base + ((index as u128) << self.shift());
        Cidr { base, prefix: self.node_prefix, v6: self.cluster.v6 }
    }

    fn set(&mut self, index: usize, used: bool) {
        let bit = 1 << (index % 64);
        if used {
            self.used[index / 64] |= bit;
        } else {
            self.used[index / 64] &= !bit;
        }
    }

    /// Marks everything that overlaps `range` as used, or as free.
    pub fn mark(&mut self, range: &Cidr, used: bool) {
        if !self.cluster.overlaps(range) {
            return;
        }
        let index = |address: u128| {
            let inside = address.clamp(self.cluster.base, self.cluster.last());
            // Fits: there are at most 2^16 ranges.
            ((inside - self.cluster.base) >> self.shift()) as usize
        };
        for index in index(range.base)..=index(range.last()) {
            self.set(index, used);
        }
    }

    /// Takes the next free range.
    pub fn take(&mut self) -> Option<Cidr> {
        let count = self.count();
        let index = (0..count)
            .map(|step| (self.next + step) % count)
            .find(|index| self.used[index / 64] & (1 << (index % 64)) == 0)?;
        self.set(index, true);
        self.next = (index + 1) % count;
        Some(self.range(index))
    }
}

/// A node for which there is no range is looked at again after this time.
const RETRY: Duration = Duration::from_secs(10);

/// Registers `node-ipam-controller`, if nodes' ranges are to be allocated at all.
pub fn register(setup: &mut Setup) {
    if setup.config.cidr_pools.is_empty() {
        return;
    }
    let queue = setup.queue("cidrallocator_node");
    let nodes = setup.stores.of::<NodeView>();
    nodes.wakes(&queue);
    let executor = setup.executor("node-controller");
    let state = Mutex::new(State { pools: setup.config.cidr_pools.clone(), assigned: HashMap::new(), loaded: false });
    setup.workers(queue, 1, NodeIpam { nodes, executor, state });
}

struct State {
    pools: Vec<Pool>,
    assigned: HashMap<String, Vec<Cidr>>,
    loaded: bool,
}

impl State {
    fn assign(&mut self, node: &str, ranges: Vec<Cidr>) {
        for range in &ranges {
            self.pools.iter_mut().for_each(|pool| pool.mark(range, true));
        }
        self.assigned.insert(node.to_owned(), ranges);
    }

    fn release(&mut self, node: &str) {
        for range in self.assigned.remove(node).into_iter().flatten() {
            self.pools.iter_mut().for_each(|pool| pool.mark(&range, false));
        }
    }

    /// The ranges of a new node, kept for it until they are seen on it.
    fn ranges_for(&mut self, node: &str) -> Option<Vec<Cidr>> {
        if let Some(ranges) = self.assigned.get(node) {
            return Some(ranges.clone());
        }
        let mut ranges = Vec::new();
        for index in 0..self.pools.len() {
            match self.pools[index].take() {
                Some(range) => ranges.push(range),
                None => {
                    for range in &ranges {
                        self.pools.iter_mut().for_each(|pool| pool.mark(range, false));
                    }
                    return None;
                }
            }
        }
        self.assigned.insert(node.to_owned(), ranges.clone());
        Some(ranges)
    }
}

fn ranges_of(node: &NodeView) -> Vec<Cidr> {
    node.spec.pod_cidrs.iter().filter_map(|text| Cidr::parse(text)).collect()
}

struct NodeIpam {
    nodes: Store<NodeView>,
    executor: Executor,
    state: Mutex<State>,
}

impl NodeIpam {
    fn plan(&self, key: &Key) -> Plan {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut state.loaded, true) {
            for node in self.nodes.list().iter().filter(|node| !node.spec.pod_cidrs.is_empty()) {
                state.assign(&node.metadata.name, ranges_of(node));
            }
        }
        let mut plan = Plan::default();
        let Some(node) = self.nodes.get("", &key.name) else {
            state.release(&key.name);
            return plan;
        };
        if !node.spec.pod_cidrs.is_empty() {
            let ranges = ranges_of(&node);
            if state.assigned.get(&key.name) != Some(&ranges) {
                state.release(&key.name);
                state.assign(&key.name, ranges);
            }
            return plan;
        }
        let Some(ranges) = state.ranges_for(&key.name) else {
            let subject = node.subject();
            let note = format!("Node {} status is now: CIDRNotAvailable", key.name);
            plan.event(&subject, EventKind::Normal, "CIDRNotAvailable", note);
            // Another node may give one back.
            plan.again(RETRY);
            return plan;
        };
        let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        plan.push(node.target().change(json!({"spec": {"podCIDR": texts.first(), "podCIDRs": texts}})));
        plan
    }
}

impl Controller for NodeIpam {
    async fn sync(&self, key: &Key) -> SyncResult {
        let plan = self.plan(key);
        let again = plan.again_after;
        self.executor.run(plan).await?;
        Ok(again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        Cidr::parse(text).unwrap()
    }

    #[test]
    fn ranges_are_handed_out_once_and_taken_back() {
        let mut pool = Pool::new(cidr("10.0.0.0/22"), 24).unwrap();
        pool.mark(&cidr("10.0.1.128/25"), true);
        let taken: Vec<String> = std::iter::from_fn(|| pool.take()).map(|range| range.to_string()).collect();
        assert_eq!(taken, ["10.0.0.0/24", "10.0.2.0/24", "10.0.3.0/24"]);
        pool.mark(&cidr("10.0.2.0/24"), false);
        assert_eq!(pool.take(), Some(cidr("10.0.2.0/24")));
        pool.mark(&cidr("192.168.0.0/16"), true);
        assert_eq!(pool.take(), None);
    }

    #[test]
    fn ranges_of_ipv6_and_impossible_sizes() {
        let mut pool = Pool::new(cidr("fd00::/62"), 64).unwrap();
        assert_eq!(pool.take().unwrap().to_string(), "fd00::/64");
        assert_eq!(pool.take().unwrap().to_string(), "fd00:0:0:1::/64");
        assert!(Pool::new(cidr("10.0.0.0/8"), 4).is_err());
        assert!(Pool::new(cidr("10.0.0.0/8"), 28).is_err());
        assert_eq!(cidr("0.0.0.0/0").last(), u128::from(u32::MAX));
    }
}

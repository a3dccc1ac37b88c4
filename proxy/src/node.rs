//! What kube-proxy has to know of its own Node.

use std::net::IpAddr;

use apimachinery::meta::ObjectMeta;
use client::informer::Cached;
use serde::Deserialize;

use crate::config::{Config, DetectLocal};
use crate::core::{EndpointSlice, Family, NodeView, Service};
use crate::iptables::{LocalTraffic, NodePortAddresses};

/// The cluster autoscaler sets it before it deletes a node.
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The parts of a Node that decide rules.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Labels name the zone.
    pub metadata: ObjectMeta,
    /// Pod ranges.
    pub spec: NodeSpec,
    /// Addresses.
    pub status: NodeStatus,
}

/// A Node's spec.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// One per family.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    /// One of them says that the node is about to be deleted.
    pub taints: Vec<Taint>,
}

/// A taint of a Node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// Its key.
    pub key: String,
}

/// A Node's status.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Of all types.
    pub addresses: Vec<Address>,
}

/// An address of a Node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Address {
    /// InternalIP, ExternalIP, Hostname …
    #[serde(rename = "type")]
    pub ty: String,
    /// The address.
    pub address: String,
}

impl Cached for Node {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Cached for Service {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Cached for EndpointSlice {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// The node as the desired state sees it.
pub fn view(name: &str, node: Option<&Node>) -> NodeView {
    let zone = node.and_then(|n| n.metadata.labels.get(ZONE_LABEL)).cloned().unwrap_or_default();
    NodeView { name: name.to_owned(), zone }
}

/// How local traffic is recognised in one family; unknown while the node has no range yet.
pub fn local_traffic(config: &Config, family: Family, node: Option<&Node>) -> LocalTraffic {
    let v6 = family == Family::V6;
    match &config.detect_local {
        DetectLocal::Bridge(name) => LocalTraffic::Bridge(name.clone()),
        DetectLocal::InterfacePrefix(prefix) => LocalTraffic::InterfacePrefix(prefix.clone()),
        DetectLocal::ClusterCidr(ranges) => {
            let range = ranges.iter().find(|range| range.is_ipv6() == v6);
            range.map_or(LocalTraffic::Unknown, |range| LocalTraffic::Cidr(range.to_string()))
        }
        DetectLocal::NodeCidr => {
            let ranges = node.map(|n| n.spec.pod_cidrs.as_slice()).unwrap_or_default();
            let range = ranges.iter().find(|range| range.contains(':') == v6);
            range.map_or(LocalTraffic::Unknown, |range| LocalTraffic::Cidr(range.clone()))
        }
    }
}

/// Whether two states of the node lead to the same rules.
pub fn same(old: &Node, new: &Node) -> bool {
    let parts =
        |n: &Node| (n.spec.clone(), n.status.clone(), n.metadata.labels.get(ZONE_LABEL).cloned(), is_leaving(Some(n)));
    parts(old) == parts(new)
}

/// Whether load balancers should no longer send new connections to this node.
pub fn is_leaving(node: Option<&Node>) -> bool {
    node.is_some_and(|n| {
        n.metadata.deletion_timestamp.is_some() || n.spec.taints.iter().any(|taint| taint.key == LEAVING_TAINT)
    })
}

/// What rules still need to know of the node; nothing once it has its addresses and, where it is needed, its pod range.
pub fn missing(config: &Config, node: Option<&Node>) -> Option<&'static str> {
    match node {
        None => Some("its Node object: does the kubelet run, and is the name right (--hostname-override)?"),
        Some(node) if node.status.addresses.is_empty() => Some("addresses in its Node's status"),
        Some(node) if config.detect_local == DetectLocal::NodeCidr && node.spec.pod_cidrs.is_empty() => {
            Some("podCIDR in its Node's spec (--detect-local-mode=NodeCIDR): are node ranges allocated?")
        }
        Some(_) => None,
    }
}

/// At which addresses node ports answer in one family, given this machine's own addresses.
pub fn node_port_addresses(
    config: &Config,
    family: Family,
    node: Option<&Node>,
    machine: &[IpAddr],
) -> NodePortAddresses {
    if config.node_port_primary {
        let addresses = node.map(|n| n.status.addresses.as_slice()).unwrap_or_default();
        let internal = addresses.iter().filter(|a| a.ty == "InternalIP").filter_map(|a| a.address.parse().ok());
        return NodePortAddresses::Only(internal.filter(|ip: &IpAddr| family.has(ip)).take(1).collect());
    }
    let ranges = || config.node_port_cidrs.iter().filter(|range| range.is_ipv6() == (family == Family::V6));
    if ranges().next().is_none() || ranges().any(|range| range.prefix_bits() == 0) {
        return NodePortAddresses::All;
    }
    let loopback = |ip: &IpAddr| family == Family::V6 && ip.is_loopback();
    let covered = machine.iter().filter(|ip| !loopback(ip) && ranges().any(|range| range.contains(**ip)));
    NodePortAddresses::Only(covered.copied().collect())
}

/// The addresses of this machine's interfaces, sorted.
pub fn machine_addresses() -> Vec<IpAddr> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut out = of_fib_trie(&read("/proc/net/fib_trie"));
    out.extend(of_if_inet6(&read("/proc/net/if_inet6")));
    out.sort();
    out.dedup();
    out
}

/// Local IPv4 addresses: a leaf line `|-- 10.0.0.1` followed by `/32 host LOCAL`.
fn of_fib_trie(text: &str) -> Vec<IpAddr> {
    let mut leaf: Option<IpAddr> = None;
    let mut out = Vec::new();
    for line in text.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            leaf = address.trim().parse().ok();
        } else if line.trim() == "/32 host LOCAL" {
            out.extend(leaf);
        }
    }
    out
}

/// IPv6 addresses: 32 hexadecimal digits at the start of each line.
fn of_if_inet6(text: &str) -> Vec<IpAddr> {
    let digits = text.lines().filter_map(|line| line.get(..32));
    let parse = |hex: &str| u128::from_str_radix(hex, 16).ok();
    digits.filter_map(parse).map(|bits| IpAddr::V6(bits.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_machine() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 127.0.0.0/8 2 0 2\n           \
                    |-- 127.0.0.1\n              /32 host LOCAL\n     |-- 10.0.0.7\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n";
        assert_eq!(of_fib_trie(trie).iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1", "10.0.0.7"]);
        let six = "00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(of_if_inet6(six), ["::1".parse::<IpAddr>().unwrap()]);
    }
}

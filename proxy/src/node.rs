//! What kube-proxy has to know of its own Node.

use std::net::IpAddr;

use apimachinery::meta::ObjectMeta;
use client::informer::Cached;
use serde::Deserialize;

use crate::config::{Config, DetectLocal};
use crate::core::{EndpointSlice, Family, NodeView, Service};
use crate::iptables::{LocalTraffic, NodePortAddresses};

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
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// One per family.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
}

/// A Node's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Of all types.
    pub addresses: Vec<Address>,
}

/// An address of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
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

/// At which addresses node ports answer in one family.
pub fn node_port_addresses(config: &Config, family: Family, node: Option<&Node>) -> NodePortAddresses {
    let own = || {
        let addresses = node.map(|n| n.status.addresses.as_slice()).unwrap_or_default();
        let internal = addresses.iter().filter(|a| a.ty == "InternalIP").filter_map(|a| a.address.parse().ok());
        internal.filter(|ip: &IpAddr| family.has(ip))
    };
    if config.node_port_primary {
        return NodePortAddresses::Only(own().take(1).collect());
    }
    let ranges = || config.node_port_cidrs.iter().filter(|range| range.is_ipv6() == (family == Family::V6));
    if ranges().next().is_none() || ranges().any(|range| range.prefix_bits() == 0) {
        return NodePortAddresses::All;
    }
    NodePortAddresses::Only(own().filter(|ip| ranges().any(|range| range.contains(*ip))).collect())
}

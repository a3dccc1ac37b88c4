//! What kube-proxy has to know of its own Node.

use std::net::IpAddr;

use apimachinery::meta::ObjectMeta;
use client::informer::Cached;
use serde::Deserialize;

use crate::config::{Config, DetectLocal};
use crate::core::{EndpointSlice, Family, NodeView, Service};
use crate::settings::{LocalTraffic, NodePortAddresses};
use crate::{ipvs, netlink};

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

/// A range of Service addresses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidr {
    /// Name.
    pub metadata: ObjectMeta,
    /// Ranges.
    pub spec: ServiceCidrSpec,
}

/// A ServiceCIDR's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidrSpec {
    /// One per family.
    pub cidrs: Vec<String>,
}

impl Cached for ServiceCidr {
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
        DetectLocal::Bridge(name) => LocalTraffic::Interface(name.clone()),
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

/// The node's own address in one family: what the configuration says, else its Node.
pub fn node_ip(config: &Config, family: Family, node: Option<&Node>) -> Option<IpAddr> {
    let addresses = node.map(|n| n.status.addresses.as_slice()).unwrap_or_default();
    let of_type = |ty: &'static str| {
        addresses.iter().filter(move |a| a.ty == ty).filter_map(|a| a.address.parse::<IpAddr>().ok())
    };
    let told = of_type("InternalIP").chain(of_type("ExternalIP"));
    config.node_ip.into_iter().chain(told).find(|ip| family.has(ip))
}

/// At which addresses node ports answer in one family, given this machine's own addresses.
pub fn node_port_addresses(
    config: &Config,
    family: Family,
    node: Option<&Node>,
    machine: &[IpAddr],
) -> NodePortAddresses {
    if config.node_port_primary {
        return NodePortAddresses::Only(node_ip(config, family, node).into_iter().collect());
    }
    let ranges = || config.node_port_cidrs.iter().filter(|range| range.is_ipv6() == (family == Family::V6));
    if ranges().next().is_none() || ranges().any(|range| range.prefix_bits() == 0) {
        return NodePortAddresses::All;
    }
    // packets to IPv6's loopback address cannot be sent elsewhere, nor can IPv4's unless the kernel is told
    let usable = |ip: &IpAddr| !ip.is_loopback() || (family == Family::V4 && config.localhost_node_ports);
    let covered = machine.iter().filter(|ip| usable(ip) && ranges().any(|range| range.contains(**ip)));
    NodePortAddresses::Only(covered.copied().collect())
}

/// The addresses of this machine's interfaces but those of Services, sorted; none when the kernel does not tell.
pub fn machine_addresses() -> Vec<IpAddr> {
    let ask = || {
        let mut socket = netlink::Socket::route()?;
        let services = netlink::interface(&mut socket, ipvs::DEVICE)?;
        let all = netlink::addresses(&mut socket)?;
        let mut out: Vec<IpAddr> = all.into_iter().filter(|(at, _)| Some(*at) != services).map(|(_, ip)| ip).collect();
        out.sort();
        out.dedup();
        Ok::<_, std::io::Error>(out)
    };
    ask().unwrap_or_else(|error| {
        tracing::warn!("cannot list this machine's addresses: {error}");
        Vec::new()
    })
}

/// Those of them in one family that IPVS may serve node ports at.
pub fn servable(family: Family, machine: &[IpAddr]) -> Vec<IpAddr> {
    let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    machine.iter().copied().filter(|ip| family.has(ip) && !ip.is_loopback() && !link_local(ip)).collect()
}

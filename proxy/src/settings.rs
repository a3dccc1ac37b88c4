//! What besides Services decides the rules of one address family; the same for all back ends.

use std::net::IpAddr;

use component_base::net::Cidr;

use crate::core::Family;

/// How traffic of this node's pods is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum LocalTraffic {
    /// Not at all.
    #[default]
    Unknown,
    /// By source range.
    Cidr(String),
    /// By the interface it comes from.
    Interface(String),
    /// By the start of the interface's name.
    InterfacePrefix(String),
}

impl LocalTraffic {
    /// The match in iptables' words.
    pub fn iptables(&self, negated: bool) -> Option<String> {
        let not = if negated { "! " } else { "" };
        match self {
            Self::Unknown => None,
            Self::Cidr(cidr) => Some(format!("{not}-s {cidr}")),
            Self::Interface(name) => Some(format!("{not}-i {name}")),
            Self::InterfacePrefix(prefix) => Some(format!("{not}-i {prefix}+")),
        }
    }

    /// The match in nft's words.
    pub fn nftables(&self, family: Family, negated: bool) -> Option<String> {
        let not = if negated { "!= " } else { "" };
        match self {
            Self::Unknown => None,
            Self::Cidr(cidr) => Some(format!("{} saddr {not}{cidr}", family.nft())),
            Self::Interface(name) => Some(format!("iifname {not}{name}")),
            Self::InterfacePrefix(prefix) => Some(format!("iifname {not}{prefix}*")),
        }
    }
}

/// At which of the node's addresses node ports answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All local ones.
    All,
    /// These.
    Only(Vec<IpAddr>),
}

/// Everything else that decides the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Address family.
    pub family: Family,
    /// The mark of packets to be masqueraded, a single bit.
    pub masquerade_mark: u32,
    /// Masquerade all traffic to cluster addresses.
    pub masquerade_all: bool,
    /// Whether the kernel knows `MASQUERADE --random-fully`.
    pub random_fully: bool,
    /// Node ports answer at 127.0.0.0/8 too (IPv4, iptables mode).
    pub localhost_node_ports: bool,
    /// How pods are recognised.
    pub local_traffic: LocalTraffic,
    /// Where node ports answer.
    pub node_port_addresses: NodePortAddresses,
    /// Drop packets that connection tracking calls invalid (not with the kernel's liberal TCP tracking).
    pub drop_invalid: bool,
    /// The node's own address.
    pub node_ip: Option<IpAddr>,
    /// The cluster's Service ranges (nftables mode): what no Service has is dropped.
    pub service_cidrs: Vec<Cidr>,
    /// Addresses of this machine but those of Services and loopback (IPVS mode).
    pub machine: Vec<IpAddr>,
}

//! What the cluster's Services and EndpointSlices mean for one node: [`service_ports`] turns each into its service ports
//! with the endpoints that traffic of each kind may go to.
//!
//! Contract: pure. Knows nothing of iptables, IPVS or nftables (the back ends render [`Desired`]), of the API connection or
//! of time. Equal input gives equal output, sorted, so that back ends can compare.

pub mod categorize;
pub mod desired;
pub mod ledger;
pub mod objects;

pub use desired::{
    Change, Desired, Endpoint, NodeView, Ports, SERVICE_NAME_LABEL, ServiceKey, ServicePort, service_ports,
};
pub use objects::{EndpointSlice, Service};

/// Address family of a rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The name in metric labels.
    pub fn label(self) -> &'static str {
        if self == Self::V4 { "IPv4" } else { "IPv6" }
    }

    /// The name in nft's words, of tables and of headers.
    pub fn nft(self) -> &'static str {
        if self == Self::V4 { "ip" } else { "ip6" }
    }

    /// Whether an address is of this family.
    pub fn has(self, ip: &std::net::IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::V4)
    }
}

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// The default.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// From the API's name; unknown ones are TCP, as an absent one is.
    pub fn parse(name: &str) -> Self {
        match name {
            "UDP" => Self::Udp,
            "SCTP" => Self::Sctp,
            _ => Self::Tcp,
        }
    }

    /// IANA's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// As packet filters write it.
    pub fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

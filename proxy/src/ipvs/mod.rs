//! The IPVS back end: the kernel's virtual servers carry the traffic, addresses of Services live on a dummy interface, and a
//! fixed set of iptables rules over ipsets masquerades and filters.
//!
//! [`plan`] turns service ports into servers, addresses and set entries, and differences of those into actions (pure);
//! [`rules`] is the fixed ruleset (pure); the executor acts. Names are upstream's, because operators and tools read them.

pub mod executor;
pub mod kernel;
pub mod plan;
pub mod rules;
pub mod sets;
#[cfg(test)]
mod tests;

use std::time::Duration;

use component_base::net::Cidr;

pub use executor::Executor;

/// Where the addresses of Services live.
pub const DEVICE: &str = "kube-ipvs0";

/// What is particular to this mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The kernel's scheduler of connections.
    pub scheduler: String,
    /// Virtual servers of others: never deleted.
    pub exclude_cidrs: Vec<Cidr>,
    /// Answer ARP only for addresses of the interface that is asked.
    pub strict_arp: bool,
    /// Of idle TCP connections; zero leaves the kernel's.
    pub tcp_timeout: Duration,
    /// Of TCP connections after a FIN; zero leaves the kernel's.
    pub tcp_fin_timeout: Duration,
    /// Of UDP flows; zero leaves the kernel's.
    pub udp_timeout: Duration,
}

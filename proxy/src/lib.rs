//! kube-proxy: makes Services reachable on one node.
//!
//! The flow is one way: informers → [`core::service_ports`] (pure) → what a back end makes of them (pure) → its executor. The
//! loop in [`sync`] looks at the Services that something touched; back ends write only what differs.

pub mod backend;
pub mod changes;
pub mod config;
pub mod conntrack;
pub mod core;
pub mod flags;
pub mod health;
pub mod iptables;
pub mod ipvs;
pub mod metrics;
pub mod netlink;
pub mod nftables;
pub mod node;
pub mod program;
pub mod run;
pub mod settings;
pub mod sync;

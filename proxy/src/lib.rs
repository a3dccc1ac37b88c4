//! kube-proxy: makes Services reachable on one node.

pub mod core;
pub mod iptables;

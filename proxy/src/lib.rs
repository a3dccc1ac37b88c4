//! kube-proxy: makes Services reachable on one node.
//!
//! The flow is one way: informers → [`core::desired`] (pure) → a back end's rules (pure) → its executor. The loop in
//! [`sync`] looks at the whole state each time something changed; back ends write only what differs.

pub mod changes;
pub mod config;
pub mod conntrack;
pub mod core;
pub mod flags;
pub mod health;
pub mod iptables;
pub mod metrics;
pub mod node;
pub mod run;
pub mod sync;

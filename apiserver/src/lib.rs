//! kube-apiserver: a schema in front of a revision-ordered log (etcd), and fan-out behind it.
//!
//! The request path is the folder order: [`http`] (listener, filters) → [`endpoints`] (verbs, negotiation) → admission →
//! [`registry`] (one non-generic store) → [`resources`] (what is particular to a kind) → [`storage`] (etcd, clock, caches).
//! A request moves down and never back up.

pub mod admission;
pub mod aggregation;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub use cel;
pub mod config;
pub mod endpoints;
pub mod extension;
pub mod flags;
pub mod flowcontrol;
pub mod http;
pub mod objects;
pub mod registry;
pub mod remembered;
pub mod resources;
pub mod run;
pub mod storage;
pub mod tokens;
pub mod tunnels;
pub mod webhook;

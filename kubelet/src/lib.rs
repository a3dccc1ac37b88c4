//! kubelet: runs the pods bound to this node through a CRI runtime and reports how they and the node are.
//!
//! `run` wires everything; `pods` plans and performs what a pod needs; `node` keeps the node object; `server` answers the
//! API server. Whatever the kubelet must know after a restart is in the runtime and on disk, under upstream's names.

mod beneath;
mod bootstrap;
mod cgroups;
pub mod config;
#[allow(missing_docs, reason = "fields carry upstream's names, which the facts file documents")]
pub mod config_file;
mod context;
mod cri;
mod events;
mod eviction;
pub mod flags;
mod images;
mod logs;
mod node;
mod objects;
mod pods;
mod probes;
pub mod run;
mod server;
mod status;
mod volumes;
mod watch_dir;

//! kube-scheduler: places pods on nodes.
//!
//! The domains, from pure to acting: `objects` (what is decoded), `model` (what is computed with), `cluster` (columns),
//! `plugins` (rules), `evaluate` (where can a pod go), `preemption` (what to remove for it), `queue` (who is next),
//! `executor` (informers in, bindings out).

pub mod cluster;
pub mod config;
pub mod evaluate;
pub mod executor;
pub mod flags;
pub mod model;
pub mod objects;
pub mod plugins;
pub mod preemption;
pub mod queue;
pub mod run;

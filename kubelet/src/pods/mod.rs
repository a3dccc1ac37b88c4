//! Pods: what should run, what runs, and the steps between.
//!
//! `types` is a pod as the kubelet keeps it, `plan` decides (pure), `worker` performs, `manager` owns every pod's state
//! and starts a worker only while there is work. The rest turns a pod's spec into what the runtime is told.

pub mod admission;
pub mod backoff;
pub mod container;
pub mod env;
pub mod env_file;
pub mod hooks;
pub mod hosts;
pub mod manager;
pub mod mirror;
pub mod plan;
pub mod preemption;
pub mod resize;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod sources;
pub mod start;
pub mod stop;
pub mod termination;
pub mod types;
pub mod worker;

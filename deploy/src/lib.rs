//! The `hardway` command: a cluster on one machine from nothing (`up`, `down`), its certificates in words (`certs`),
//! images without a registry (`image`).
//!
//! Contract: what runs is data ([`units`], [`templates`]) made by pure functions from one [`cluster::Cluster`];
//! [`up`] and [`down`] perform it step by step, each step idempotent and each failure naming the step, the thing and the
//! remedy. Daemons are started only through their upstream command lines; nothing here links a daemon.

pub mod api;
pub mod certs;
pub mod cluster;
pub mod cri;
pub mod down;
pub mod explain;
pub mod image;
pub mod preflight;
pub mod progress;
pub mod supervisor;
pub mod systemd;
pub mod templates;
pub mod units;
pub mod up;

//! How a daemon is born, observed and stopped: flags, configuration files, TLS, serving, logs, metrics, health, signals.
//!
//! Contract: knows nothing of the cluster's objects beyond `apimachinery`, and nothing of a client. Every daemon uses
//! these modules in the same way, so that who knows one daemon's start-up knows all.

pub mod config_file;
pub mod daemon;
pub mod duration;
pub mod flags;
pub mod fs;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod net;
pub mod reload;
pub mod secure_port;
pub mod secure_serving;
pub mod serving;
pub mod suggest;
pub mod tls;
pub mod version;

/// Any error that can cross a task or a body stream.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

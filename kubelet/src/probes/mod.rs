//! Probes: startup, liveness and readiness checks of running containers.
//!
//! `prober` is one task that owns every probe's schedule; `action` performs a single check. A verdict is reported only
//! when it changes, after the probe's thresholds, as upstream's workers do.

pub mod action;
pub mod prober;
pub mod tls;

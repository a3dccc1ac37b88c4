//! The container runtime as the kubelet sees it: CRI v1 over a unix socket.
//!
//! Guarantees: every call has a deadline and fails with the runtime's own code and words; a lost connection is made
//! again by the next call. Knows nothing of pods as the API describes them; `labels` is the only place that knows how
//! upstream marks what belongs to which pod, so that a restarted kubelet (or another one) finds its containers again.

pub mod client;
pub mod events;
pub mod labels;
pub mod snapshot;

/// The messages of `runtime.v1`, generated from `proto/cri.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
pub mod api {
    tonic::include_proto!("runtime.v1");
}

pub use client::{CriError, Runtime};

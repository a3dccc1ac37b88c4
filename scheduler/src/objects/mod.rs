//! What the scheduler decodes of each API object: only the fields that a placement depends on.
//!
//! Guarantees: every type here is plain data and comparable, so that equal specs can be recognised as one template.
//! Assumes canonical JSON from the API server (no nulls). Must not know the cluster, the queue or the client.

pub mod device;
pub mod node;
pub mod pod;
pub mod policy;
pub mod selector;
pub mod volume;
pub mod workload;

//! This node in the API: registration, status, lease.
//!
//! `machine` reads the facts, `conditions` and `status` compute (pure), `manager` writes.

pub mod conditions;
pub mod lease;
pub mod machine;
pub mod manager;
pub mod status;

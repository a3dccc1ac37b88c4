//! What a fresh API server makes for itself.
pub mod policy;

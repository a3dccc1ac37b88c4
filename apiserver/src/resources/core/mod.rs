//! Kinds of the core group.

pub mod claims;
pub mod event;
pub mod node;
pub mod pod;
pub mod quantities;
pub mod service;
pub mod simple;

//! From a connection to a routed request: listener, request information, and the filters in their order
//! (authentication → impersonation → limits → authorization → route).
//!
//! Knows credentials and URLs, and of everything below only [`chain::Route`].

pub mod chain;
pub mod closing;
pub mod health;
pub mod limits;
pub mod metrics;
pub mod request;
pub mod respond;
pub mod server;

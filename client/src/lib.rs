//! How a daemon sees the cluster: connection, verbs, informer, work queue, leader election, events, delegated auth.
//!
//! Contract: one HTTP/2 connection per [`Client`], however many loops share it; everything bounded; nothing here decides
//! what the cluster should look like.

mod client;
mod config;
mod connection;
mod decode;
pub mod delegated;
mod error;
pub mod events;
mod flags;
pub mod informer;
pub mod leader;
mod limiter;
mod resource;
pub mod resources;
mod verbs;
pub mod work_queue;

pub use apimachinery::meta::{ObjectMeta, OwnerReference};
pub use client::{Client, TokenSource};
pub use config::{Access, ClientConfig, ClientConfigError, Material};
pub use error::ClientError;
pub use flags::ClientFlags;
pub use resource::{ObjectKey, ResourceRef, encode_into};
pub use verbs::{DeleteOptions, List, ListOptions, Patch, Preconditions};

#[cfg(test)]
mod fake_server;

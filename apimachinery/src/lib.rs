//! What an object *is*: names and kinds, the schema table, canonical form, selectors, quantities, patches, apply,
//! protobuf, and the Status that both sides of the wire speak.
//!
//! Contract: pure functions over `serde_json::Value` and bytes. No I/O, no tokio, no clock, no randomness; nothing here
//! knows of a daemon, of etcd or of HTTP (beyond status codes). Nothing panics on any input.

pub mod apply;
pub mod codec;
pub mod cron;
pub mod field;
pub mod gvk;
pub mod int_or_string;
pub mod meta;
pub mod patch;
pub mod proto;
pub mod quantity;
pub mod resources;
#[cfg(test)]
mod samples;
pub mod schema;
pub mod selector;
pub mod status;
pub mod structural;
pub mod time;
pub mod validation;

//! What is served: the verbs of resources, actions on them, and documents about them.

pub mod actions;
pub mod body;
pub mod component_statuses;
pub mod compress;
pub mod discovery;
pub mod eviction;
mod list_body;
pub mod negotiate;
pub mod openapi;
pub mod options;
pub mod present;
pub mod reviews;
pub mod route;
pub mod shape;
mod skim;
pub mod table;
pub mod token_request;
pub mod verbs;
pub mod watch_stream;

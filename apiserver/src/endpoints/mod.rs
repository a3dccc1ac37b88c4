//! What is served: the verbs of resources, actions on them, and documents about them.

pub mod body;
pub mod compress;
pub mod discovery;
pub mod negotiate;
pub mod openapi;
pub mod reviews;
pub mod table;
pub mod token_request;

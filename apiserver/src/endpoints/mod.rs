//! What is served: the verbs of resources, actions on them, and documents about them.

pub mod body;
pub mod compress;
pub mod negotiate;
pub mod reviews;
pub mod table;
pub mod token_request;

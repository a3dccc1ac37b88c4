//! From bytes on a connection to a request somebody may make: who asks for what, and within which limits.

pub mod request;

//! Where pods come from: the API (`api`) and files (`files`).

pub mod api;
pub mod files;

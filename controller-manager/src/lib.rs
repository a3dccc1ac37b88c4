//! kube-controller-manager: the loops that bring a cluster from what it is to what was asked for.
//!
//! Contract: talks to the API server only, through local copies (informers) and small writes (patches, creations,
//! deletions). It keeps no state of its own: what it must remember is in the objects. Only the leader acts.

pub mod config;
pub mod controllers;
pub mod flags;
pub mod framework;
pub mod run;
pub mod views;

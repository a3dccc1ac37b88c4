//! Objects as the scheduler computes with them: resources as integers, a pod split into its template (what placement
//! depends on, shared by equal pods) and its own identity, a node without what changes at every heartbeat.
//!
//! Guarantees: two pods with equal templates get equal verdicts and scores on every node. Pure; must not know the cluster.

pub mod node;
pub mod pod;
pub mod resources;
pub mod template;

//! A node as verdicts see it: what its object says, without what pods on it use.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::resources::{self, Resources};
use crate::objects::node::{Node, Taint};
use crate::objects::selector::Labels;

/// Key of the taint and of the toleration that stand for `spec.unschedulable`.
pub const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeInfo {
    /// Name.
    pub name: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// Taints.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// What pods may request in all.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub max_pods: i64,
    /// Images by name, with their size in bytes.
    pub images: BTreeMap<String, i64>,
    /// Features that the node says it has.
    pub features: Vec<String>,
}

impl NodeInfo {
    /// Takes from the object what scheduling needs.
    pub fn of(node: &Node) -> Self {
        let images = node.status.images.iter().flat_map(|i| i.names.iter().map(|n| (n.clone(), i.size_bytes)));
        Self {
            name: node.metadata.name.as_str().into(),
            labels: node.metadata.labels.clone(),
            taints: node.spec.taints.clone(),
            unschedulable: node.spec.unschedulable,
            allocatable: Resources::from_list(&node.status.allocatable),
            max_pods: node.status.allocatable.get("pods").map_or(0, |n| resources::whole(n)),
            images: images.collect(),
            features: node.status.declared_features.clone(),
        }
    }
}

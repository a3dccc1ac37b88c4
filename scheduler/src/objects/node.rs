//! The part of a Node that scheduling reads.

use apimachinery::meta::ObjectMeta;
use serde::Deserialize;

use super::pod::ResourceList;

/// A Node as the API serves it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct Node {
    pub metadata: ObjectMeta,
    pub spec: NodeSpec,
    pub status: NodeStatus,
}

/// Fields of a node's spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct NodeSpec {
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
}

/// A taint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

/// Fields of a node's status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct NodeStatus {
    pub allocatable: ResourceList,
    pub images: Vec<ContainerImage>,
    pub declared_features: Vec<String>,
}

/// An image that the node has, under all of its names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ContainerImage {
    pub names: Vec<String>,
    pub size_bytes: i64,
}

/// A CSINode: which drivers a node has and how many volumes each can attach.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct CsiNode {
    pub metadata: ObjectMeta,
    pub spec: CsiNodeSpec,
}

/// Fields of a CSINode's spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct CsiNodeSpec {
    pub drivers: Vec<CsiNodeDriver>,
}

/// A driver of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct CsiNodeDriver {
    pub name: String,
    pub allocatable: Option<CsiAllocatable>,
}

/// How many volumes a driver can attach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct CsiAllocatable {
    pub count: Option<i64>,
}

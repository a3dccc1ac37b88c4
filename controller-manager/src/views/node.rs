//! Nodes and their leases.

use std::collections::BTreeMap;

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::{Deserialize, Serialize};

use super::meta::{Condition, Time};

/// A node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What was decided about it.
    pub spec: NodeSpec,
    /// What its kubelet says.
    pub status: NodeStatus,
}

crate::view!(NodeView, resources::NODES);

/// What was decided about a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Addresses of its pods.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    /// No new pods.
    pub unschedulable: bool,
    /// Who must stay away.
    pub taints: Vec<Taint>,
}

/// A taint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// `node.kubernetes.io/not-ready` …
    pub key: String,
    /// Rarely used.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule`, `NoExecute`.
    pub effect: String,
    /// Since when, for `NoExecute`.
    #[serde(skip_serializing_if = "Time::is_absent")]
    pub time_added: Time,
}

/// What a kubelet says about its node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// What pods may use.
    pub allocatable: BTreeMap<String, String>,
    /// Unique names of volumes that are mounted.
    pub volumes_in_use: Vec<String>,
    /// Volumes that are attached.
    pub volumes_attached: Vec<AttachedVolume>,
}

/// A volume that is attached to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachedVolume {
    /// Its unique name.
    pub name: String,
    /// Where it is on the node, if that is known.
    pub device_path: String,
}

/// A node's lease: its heartbeat.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Who renewed it when.
    pub spec: LeaseSpec,
}

crate::view!(LeaseView, resources::LEASES);

/// Who renewed a lease when.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseSpec {
    /// The last renewal.
    pub renew_time: Time,
}

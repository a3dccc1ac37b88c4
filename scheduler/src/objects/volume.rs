//! Claims, volumes, classes and capacities: what the volume plugins read.

use apimachinery::meta::ObjectMeta;
use serde::Deserialize;

use super::pod::{Marker, ResourceList};
use super::selector::{LabelSelector, NodeSelector, Requirement};

/// Annotation of a claim whose binding is finished.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// A PersistentVolumeClaim.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct Claim {
    pub metadata: ObjectMeta,
    pub spec: ClaimSpec,
    pub status: ClaimStatus,
}

impl Claim {
    /// True once the volume controller has finished binding it.
    pub fn is_bound(&self) -> bool {
        !self.spec.volume_name.is_empty() && self.metadata.annotations.contains_key(BIND_COMPLETED)
    }
}

/// Fields of a claim's spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ClaimSpec {
    pub access_modes: Vec<String>,
    pub storage_class_name: Option<String>,
    pub volume_name: String,
    pub volume_mode: Option<String>,
    pub selector: Option<LabelSelector>,
    pub resources: ClaimResources,
    pub volume_attributes_class_name: Option<String>,
}

/// What a claim asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ClaimResources {
    pub requests: ResourceList,
}

/// Fields of a claim's status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ClaimStatus {
    pub phase: String,
}

/// A PersistentVolume.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct PersistentVolume {
    pub metadata: ObjectMeta,
    pub spec: VolumeSpec,
    pub status: ClaimStatus,
}

/// Fields of a volume's spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct VolumeSpec {
    pub access_modes: Vec<String>,
    pub capacity: ResourceList,
    pub storage_class_name: String,
    pub volume_mode: Option<String>,
    pub claim_ref: Option<ClaimRef>,
    pub node_affinity: Option<VolumeNodeAffinity>,
    pub csi: Option<CsiSource>,
    pub volume_attributes_class_name: Option<String>,
    pub local: Option<Marker>,
}

/// Who a volume belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ClaimRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// Where a volume can be reached from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct VolumeNodeAffinity {
    pub required: Option<NodeSelector>,
}

/// A CSI volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct CsiSource {
    pub driver: String,
    pub volume_handle: String,
}

/// A StorageClass.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct StorageClass {
    pub metadata: ObjectMeta,
    pub provisioner: String,
    pub volume_binding_mode: Option<String>,
    pub allowed_topologies: Vec<TopologyTerm>,
}

/// One alternative of a class's allowed topologies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct TopologyTerm {
    pub match_label_expressions: Vec<TopologyRequirement>,
}

/// A key and the values that are allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct TopologyRequirement {
    pub key: String,
    pub values: Vec<String>,
}

impl TopologyRequirement {
    /// The same as a requirement on labels.
    pub fn matches(&self, value: Option<&str>) -> bool {
        Requirement { key: self.key.clone(), operator: "In".into(), values: self.values.clone() }.matches(value)
    }
}

/// A CSIDriver: whether it reports capacity.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct CsiDriver {
    pub metadata: ObjectMeta,
    pub spec: CsiDriverSpec,
}

/// Fields of a driver's spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct CsiDriverSpec {
    pub storage_capacity: bool,
}

/// A CSIStorageCapacity: what is left of a class in a topology segment.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct StorageCapacity {
    pub metadata: ObjectMeta,
    pub storage_class_name: String,
    pub capacity: Option<String>,
    pub maximum_volume_size: Option<String>,
    pub node_topology: Option<LabelSelector>,
}

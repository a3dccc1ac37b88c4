//! Persistent volumes and claims, and what is said about them.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use apimachinery::meta::ObjectMeta;
use apimachinery::quantity::Quantity;
use client::resources;
use serde::Deserialize;
use serde_json::Value;

use super::namespace_index;
use super::selector::Selector;

/// By namespace.
pub const BY_NAMESPACE: &str = "namespace";
/// Annotation that named the class before there was a field.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// A claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: ClaimSpec,
    /// What there is.
    pub status: ClaimStatus,
}

crate::view!(ClaimView, resources::PERSISTENT_VOLUME_CLAIMS, [(BY_NAMESPACE, namespace_index)]);

/// What a claim wants.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSpec {
    /// Access modes, all of which the volume must have.
    pub access_modes: Vec<String>,
    /// The class; none to be given the default one, empty for no class.
    pub storage_class_name: Option<String>,
    /// The volume, chosen by somebody.
    pub volume_name: String,
    /// `Filesystem` when empty, or `Block`.
    pub volume_mode: String,
    /// Restricts the volumes; one that is absent does not.
    pub selector: Selector,
    /// Size.
    pub resources: ClaimResources,
    /// Attributes of the volume.
    pub volume_attributes_class_name: String,
}

/// How much a claim wants.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClaimResources {
    /// `storage`.
    pub requests: BTreeMap<String, String>,
}

/// What is said about a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimStatus {
    /// `Pending`, `Bound`, `Lost`.
    pub phase: String,
    /// Access modes of its volume.
    pub access_modes: Vec<String>,
    /// Size of its volume.
    pub capacity: BTreeMap<String, String>,
    /// Size that its volume has been promised.
    pub allocated_resources: BTreeMap<String, String>,
    /// Attributes that its volume has.
    pub current_volume_attributes_class_name: String,
    /// Attributes that its volume is being given.
    pub modify_volume_status: ModifyVolumeStatus,
}

/// A change of attributes under way.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModifyVolumeStatus {
    /// The class of attributes that is asked for.
    pub target_volume_attributes_class_name: String,
}

/// A volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What it is.
    pub spec: VolumeSpec,
    /// Its phase.
    pub status: VolumeStatus,
}

crate::view!(VolumeView, resources::PERSISTENT_VOLUMES);

/// What a volume is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSpec {
    /// Access modes.
    pub access_modes: Vec<String>,
    /// Size, as `storage`.
    pub capacity: BTreeMap<String, String>,
    /// The class; empty for none.
    pub storage_class_name: String,
    /// `Filesystem` when empty, or `Block`.
    pub volume_mode: String,
    /// Whose it is.
    pub claim_ref: Option<ClaimReference>,
    /// `Retain`, `Delete`, `Recycle`.
    pub persistent_volume_reclaim_policy: String,
    /// Attributes it has.
    pub volume_attributes_class_name: String,
    /// Whether not every node reaches it.
    pub node_affinity: Option<Value>,
    /// A volume of a CSI driver.
    pub csi: Option<CsiSource>,
}

/// A volume of a CSI driver.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiSource {
    /// The driver.
    pub driver: String,
    /// The driver's name of the volume.
    pub volume_handle: String,
}

/// Whose a volume is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClaimReference {
    /// Namespace of the claim.
    pub namespace: String,
    /// Name of the claim.
    pub name: String,
    /// Identity of the claim; empty while it is reserved for whichever claim has the name.
    pub uid: String,
}

/// What is said about a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    /// `Available`, `Bound`, `Released` …
    pub phase: String,
}

/// A storage class.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageClassView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Who makes volumes.
    pub provisioner: String,
    /// `Immediate` when empty, or `WaitForFirstConsumer`.
    pub volume_binding_mode: String,
}

crate::view!(StorageClassView, resources::STORAGE_CLASSES);

/// A class of attributes of volumes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AttributesClassView {
    /// Metadata.
    pub metadata: ObjectMeta,
}

crate::view!(AttributesClassView, resources::VOLUME_ATTRIBUTES_CLASSES);

/// An amount of storage; what is absent or does not parse counts as none.
pub fn storage(amounts: &BTreeMap<String, String>) -> Quantity {
    let text = amounts.get("storage").map_or("0", String::as_str);
    Quantity::parse(text).unwrap_or_else(|_| Quantity::from_value(0, apimachinery::quantity::Format::BinarySi))
}

/// Whether `a` and `b` name the same volume mode.
pub fn same_mode(a: &str, b: &str) -> bool {
    (a == "Block") == (b == "Block")
}

impl ClaimView {
    /// Its class; `None` when it has not been decided.
    pub fn class(&self) -> Option<&str> {
        self.metadata.annotations.get(BETA_CLASS).or(self.spec.storage_class_name.as_ref()).map(String::as_str)
    }

    /// The size it asks for.
    pub fn requested(&self) -> Quantity {
        storage(&self.spec.resources.requests)
    }
}

impl VolumeView {
    /// Its class; empty for none.
    pub fn class(&self) -> &str {
        self.metadata.annotations.get(BETA_CLASS).unwrap_or(&self.spec.storage_class_name)
    }

    /// Its size against another amount.
    pub fn size_against(&self, other: &Quantity) -> Ordering {
        storage(&self.spec.capacity).cmp(other)
    }

    /// Whether it is this claim's, or reserved for a claim of this name.
    pub fn is_for(&self, claim: &ClaimView) -> bool {
        self.spec.claim_ref.as_ref().is_some_and(|reference| {
            let meta = &claim.metadata;
            reference.name == meta.name
                && reference.namespace == meta.namespace
                && (reference.uid.is_empty() || reference.uid == meta.uid)
        })
    }
}

/// A CSI driver.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CsiDriverView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What it needs.
    pub spec: CsiDriverSpec,
}

crate::view!(CsiDriverView, resources::CSI_DRIVERS);

/// What a CSI driver needs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiDriverSpec {
    /// False when its volumes need not be attached; true when absent.
    pub attach_required: Option<bool>,
}

/// A volume's attachment to a node, asked for or done.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AttachmentView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: AttachmentSpec,
    /// What the driver's attacher says.
    pub status: AttachmentStatus,
}

/// Attachments by node.
pub const BY_NODE: &str = "node";

crate::view!(
    AttachmentView,
    resources::VOLUME_ATTACHMENTS,
    [(BY_NODE, |attachment: &AttachmentView| vec![attachment.spec.node_name.clone()])]
);

/// What an attachment asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSpec {
    /// The driver.
    pub attacher: String,
    /// The node.
    pub node_name: String,
    /// The volume.
    pub source: AttachmentSource,
}

/// The volume of an attachment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSource {
    /// Its name; empty for volumes inside a pod.
    pub persistent_volume_name: String,
}

/// How far an attachment is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentStatus {
    /// Done.
    pub attached: bool,
    /// Why it could not be done.
    pub attach_error: Option<AttachError>,
}

/// Why a volume could not be attached.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AttachError {
    /// A sentence.
    pub message: String,
}

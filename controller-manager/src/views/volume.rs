//! Persistent volumes and claims.

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::Deserialize;

use super::namespace_index;

/// By namespace.
pub const BY_NAMESPACE: &str = "namespace";

/// A claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimView {
    /// Metadata.
    pub metadata: ObjectMeta,
}

crate::view!(ClaimView, resources::PERSISTENT_VOLUME_CLAIMS, [(BY_NAMESPACE, namespace_index)]);

/// A volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Its phase.
    pub status: VolumeStatus,
}

crate::view!(VolumeView, resources::PERSISTENT_VOLUMES);

/// What is said about a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    /// `Available`, `Bound`, `Released` …
    pub phase: String,
}

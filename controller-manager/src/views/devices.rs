//! Claims of devices, and their templates.

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{namespace_index, owner_index};

/// Claims by the uid of the pod that they were made for.
pub const BY_OWNER: &str = "owner";

/// A claim of devices.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceClaimView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Who has what.
    pub status: ResourceClaimStatus,
}

crate::view!(ResourceClaimView, resources::RESOURCE_CLAIMS, [(BY_OWNER, owner_index), ("namespace", namespace_index)]);

/// Who has what.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceClaimStatus {
    /// The devices, once they are chosen.
    pub allocation: Option<Value>,
    /// Who uses them.
    pub reserved_for: Vec<Consumer>,
}

/// A user of a claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Consumer {
    /// Empty for pods.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    /// `pods`.
    pub resource: String,
    /// Its name, in the claim's namespace.
    pub name: String,
    /// Its identity.
    pub uid: String,
}

/// A template of claims.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceClaimTemplateView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Metadata and spec of the claims.
    pub spec: TemplateSpec,
}

crate::view!(ResourceClaimTemplateView, resources::RESOURCE_CLAIM_TEMPLATES);

/// Metadata and spec of the claims that a template makes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TemplateSpec {
    /// Labels and annotations.
    pub metadata: ObjectMeta,
    /// As the claims will have it.
    pub spec: Value,
}

//! Namespaces and service accounts.

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::Deserialize;

use super::meta::Condition;
use super::namespace_index;

/// A namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespaceView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Finalizers.
    pub spec: NamespaceSpec,
    /// Phase and conditions.
    pub status: NamespaceStatus,
}

crate::view!(NamespaceView, resources::NAMESPACES);

/// A namespace's finalizers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceSpec {
    /// `kubernetes` and others'.
    pub finalizers: Vec<String>,
}

/// A namespace's state.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceStatus {
    /// `Active` or `Terminating`.
    pub phase: String,
    /// Why it is not gone yet.
    pub conditions: Vec<Condition>,
}

/// By namespace.
pub const BY_NAMESPACE: &str = "namespace";

/// A service account.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceAccountView {
    /// Metadata.
    pub metadata: ObjectMeta,
}

crate::view!(ServiceAccountView, resources::SERVICE_ACCOUNTS, [(BY_NAMESPACE, namespace_index)]);

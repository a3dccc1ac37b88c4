//! Namespaces and service accounts.

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::Deserialize;
use serde_json::Value;

use super::meta::{Condition, or_empty};
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
    /// Secrets that it names (`name`), as they are written.
    #[serde(deserialize_with = "or_empty")]
    pub secrets: Vec<Value>,
}

impl ServiceAccountView {
    /// Whether it names the secret.
    pub fn names(&self, secret: &str) -> bool {
        self.secrets.iter().any(|reference| reference["name"] == secret)
    }
}

crate::view!(ServiceAccountView, resources::SERVICE_ACCOUNTS, [(BY_NAMESPACE, namespace_index)]);

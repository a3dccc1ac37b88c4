//! Config maps and secrets that controllers keep: only those, selected by name or type where the watch allows.

use std::collections::BTreeMap;

use apimachinery::meta::ObjectMeta;
use client::informer::Cached;
use client::{ResourceRef, resources};
use serde::Deserialize;

use crate::framework::View;

/// The config map that holds the cluster's root certificates, in every namespace.
pub const ROOT_CA_NAME: &str = "kube-root-ca.crt";

/// The root certificates of one namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RootCaView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// `ca.crt`.
    pub data: BTreeMap<String, String>,
}

impl Cached for RootCaView {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl View for RootCaView {
    const RESOURCE: ResourceRef = resources::CONFIG_MAPS;
    fn field_selector() -> Option<&'static str> {
        Some("metadata.name=kube-root-ca.crt")
    }
}

/// A secret with a bootstrap token.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct BootstrapTokenView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Values in base64.
    pub data: BTreeMap<String, String>,
}

impl Cached for BootstrapTokenView {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl View for BootstrapTokenView {
    const RESOURCE: ResourceRef = resources::SECRETS;
    fn field_selector() -> Option<&'static str> {
        Some("type=bootstrap.kubernetes.io/token")
    }
}

/// The config map with the public cluster information.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClusterInfoView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// `kubeconfig` and `jws-kubeconfig-ID`.
    pub data: BTreeMap<String, String>,
}

impl Cached for ClusterInfoView {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl View for ClusterInfoView {
    const RESOURCE: ResourceRef = resources::CONFIG_MAPS;
    fn field_selector() -> Option<&'static str> {
        Some("metadata.name=cluster-info")
    }
}

//! Config maps and secrets that controllers keep: only those, selected by name or type where the watch allows.

use std::collections::BTreeMap;

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::Deserialize;

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

crate::view!(RootCaView, resources::CONFIG_MAPS, [], Some("metadata.name=kube-root-ca.crt"));

/// A secret with a bootstrap token.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct BootstrapTokenView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Values in base64.
    pub data: BTreeMap<String, String>,
}

crate::view!(BootstrapTokenView, resources::SECRETS, [], Some("type=bootstrap.kubernetes.io/token"));

/// The config map with the public cluster information.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClusterInfoView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// `kubeconfig` and `jws-kubeconfig-ID`.
    pub data: BTreeMap<String, String>,
}

crate::view!(ClusterInfoView, resources::CONFIG_MAPS, [], Some("metadata.name=cluster-info"));

/// Names the service account of a token secret.
pub const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// The identity of that account.
pub const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Token secrets by `namespace/account`.
pub const BY_ACCOUNT: &str = "account";

/// A secret with a token of a service account.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TokenSecretView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// `token`, `ca.crt`, `namespace`, in base64.
    pub data: BTreeMap<String, String>,
    /// The type; the watch selects by it, a read by name does not.
    #[serde(rename = "type")]
    pub kind: String,
}

impl TokenSecretView {
    /// The service account that it says it is for.
    pub fn account(&self) -> &str {
        self.metadata.annotations.get(ACCOUNT_NAME).map_or("", String::as_str)
    }
}

crate::view!(
    TokenSecretView,
    resources::SECRETS,
    [(BY_ACCOUNT, |secret: &TokenSecretView| vec![format!("{}/{}", secret.metadata.namespace, secret.account())])],
    Some("type=kubernetes.io/service-account-token")
);

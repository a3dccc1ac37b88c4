//! Certificate signing requests.

use std::collections::BTreeMap;

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::Deserialize;

use super::meta::Condition;

/// A certificate signing request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsrView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Who asks for what.
    pub spec: CsrSpec,
    /// What was decided.
    pub status: CsrStatus,
}

crate::view!(CsrView, resources::CERTIFICATE_SIGNING_REQUESTS);

/// Who asks for what.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsrSpec {
    /// PKCS #10 in PEM, in base64.
    pub request: String,
    /// Who is to sign.
    pub signer_name: String,
    /// Wanted life time.
    pub expiration_seconds: Option<i64>,
    /// Key usages.
    pub usages: Vec<String>,
    /// The requester.
    pub username: String,
    /// The requester's identity.
    pub uid: String,
    /// The requester's groups.
    pub groups: Vec<String>,
    /// More about the requester.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What was decided.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsrStatus {
    /// `Approved`, `Denied`, `Failed`.
    pub conditions: Vec<Condition>,
    /// The certificate, PEM in base64; empty until signed.
    pub certificate: String,
}

impl CsrView {
    /// Whether there is a condition of this type.
    pub fn has(&self, kind: &str) -> bool {
        self.status.conditions.iter().any(|condition| condition.kind == kind)
    }
}

//! Resource quotas.

use std::collections::BTreeMap;

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::Deserialize;

use super::namespace_index;

/// By namespace.
pub const BY_NAMESPACE: &str = "namespace";

/// A quota.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct QuotaView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is allowed.
    pub spec: QuotaSpec,
    /// What was last said.
    pub status: QuotaStatus,
}

crate::view!(QuotaView, resources::RESOURCE_QUOTAS, [(BY_NAMESPACE, namespace_index)]);

/// What a quota allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QuotaSpec {
    /// Amounts by name.
    pub hard: BTreeMap<String, String>,
    /// What it is about; all of them must match.
    pub scopes: Vec<String>,
    /// The same, with operators.
    pub scope_selector: ScopeSelector,
}

/// Scopes with operators.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScopeSelector {
    /// All of them must match.
    pub match_expressions: Vec<Scope>,
}

/// One scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scope {
    /// `Terminating`, `BestEffort`, `PriorityClass` …
    pub scope_name: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`.
    pub operator: String,
    /// For `In` and `NotIn`.
    pub values: Vec<String>,
}

/// What is said about a quota.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct QuotaStatus {
    /// The amounts that are enforced.
    pub hard: BTreeMap<String, String>,
    /// What is used of them.
    pub used: BTreeMap<String, String>,
}

impl QuotaView {
    /// All scopes, in the form with operators.
    pub fn scopes(&self) -> Vec<Scope> {
        let plain = self.spec.scopes.iter().map(|name| Scope {
            scope_name: name.clone(),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        });
        plain.chain(self.spec.scope_selector.match_expressions.iter().cloned()).collect()
    }
}

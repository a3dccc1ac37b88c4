//! Cluster roles, for aggregation.

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::Deserialize;
use serde_json::Value;

use super::selector::Selector;

/// A cluster role.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterRoleView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Its rules.
    pub rules: Option<Vec<Value>>,
    /// Whose rules it takes over.
    pub aggregation_rule: Option<AggregationRule>,
}

crate::view!(ClusterRoleView, resources::CLUSTER_ROLES);

/// Whose rules a cluster role takes over.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AggregationRule {
    /// Any of these.
    pub cluster_role_selectors: Vec<Selector>,
}

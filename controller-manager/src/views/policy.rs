//! Pod disruption budgets.

use std::collections::BTreeMap;

use apimachinery::int_or_string::IntOrString;
use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::Deserialize;

use super::meta::{Condition, Time};
use super::namespace_index;
use super::selector::Selector;

/// By namespace.
pub const BY_NAMESPACE: &str = "namespace";

/// A budget.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct BudgetView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: BudgetSpec,
    /// What was last said.
    pub status: BudgetStatus,
}

crate::view!(BudgetView, resources::POD_DISRUPTION_BUDGETS, [(BY_NAMESPACE, namespace_index)]);

/// What a budget asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetSpec {
    /// Which pods.
    pub selector: Selector,
    /// How many must stay.
    pub min_available: Option<IntOrString>,
    /// How many may be missing.
    pub max_unavailable: Option<IntOrString>,
}

/// What is said about a budget.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetStatus {
    /// The generation that this is about.
    pub observed_generation: i64,
    /// How many may be evicted now.
    pub disruptions_allowed: i32,
    /// How many are healthy.
    pub current_healthy: i32,
    /// How many must be.
    pub desired_healthy: i32,
    /// How many there should be.
    pub expected_pods: i32,
    /// Evicted pods that have not begun to end, and since when.
    pub disrupted_pods: BTreeMap<String, Time>,
    /// `DisruptionAllowed`.
    pub conditions: Vec<Condition>,
}

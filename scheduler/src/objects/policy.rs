//! PodDisruptionBudgets and namespaces: what preemption and namespace selectors read.

use apimachinery::meta::ObjectMeta;
use serde::Deserialize;
use std::collections::BTreeMap;

use super::selector::LabelSelector;

/// A PodDisruptionBudget.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct DisruptionBudget {
    pub metadata: ObjectMeta,
    pub spec: DisruptionBudgetSpec,
    pub status: DisruptionBudgetStatus,
}

/// Fields of a budget's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct DisruptionBudgetSpec {
    pub selector: Option<LabelSelector>,
}

/// Fields of a budget's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct DisruptionBudgetStatus {
    pub disruptions_allowed: i32,
    pub disrupted_pods: BTreeMap<String, String>,
}

/// A Namespace: its labels are all that counts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct Namespace {
    pub metadata: ObjectMeta,
}

//! Horizontal pod autoscalers.

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::Deserialize;
use serde_json::Value;

use super::meta::{Condition, Time, or_empty};
use super::namespace_index;

/// By namespace.
pub const BY_NAMESPACE: &str = "namespace";

/// An autoscaler.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AutoscalerView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: AutoscalerSpec,
    /// What was last said.
    pub status: AutoscalerStatus,
}

crate::view!(AutoscalerView, resources::HORIZONTAL_POD_AUTOSCALERS, [(BY_NAMESPACE, namespace_index)]);

/// What an autoscaler is asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AutoscalerSpec {
    /// What it scales.
    pub scale_target_ref: TargetReference,
    /// At least so many.
    pub min_replicas: Option<i32>,
    /// At most so many.
    pub max_replicas: i32,
    /// By what.
    pub metrics: Vec<MetricSpec>,
    /// How fast.
    pub behavior: Option<Behavior>,
}

/// An object of any kind in the same namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetReference {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// One metric: its type and what that type's field says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricSpec {
    /// `Resource`, `ContainerResource`, `Pods`, `Object`, `External`.
    #[serde(rename = "type")]
    pub kind: String,
    /// For `Resource`.
    pub resource: Source,
    /// For `ContainerResource`.
    pub container_resource: Source,
    /// For `Pods`.
    pub pods: Source,
    /// For `Object`.
    pub object: Source,
    /// For `External`.
    pub external: Source,
}

/// Where a metric comes from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Source {
    /// Of resources.
    pub name: String,
    /// Of container resources.
    pub container: String,
    /// Of the others: `name` and `selector`.
    pub metric: Value,
    /// Of objects: `apiVersion`, `kind`, `name`.
    pub described_object: Value,
    /// The aim.
    pub target: Goal,
}

/// The aim of a metric.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Goal {
    /// `Utilization`, `Value`, `AverageValue`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Percent of the requests.
    pub average_utilization: Option<i32>,
    /// Per pod.
    pub average_value: Option<String>,
    /// In all.
    pub value: Option<String>,
}

/// How fast to scale.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Behavior {
    /// Upwards.
    pub scale_up: ScalingRules,
    /// Downwards.
    pub scale_down: ScalingRules,
}

/// How fast to scale in one direction.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScalingRules {
    /// The most careful recommendation of so long counts.
    pub stabilization_window_seconds: Option<i64>,
    /// `Max`, `Min`, `Disabled`.
    pub select_policy: Option<String>,
    /// How far at once.
    pub policies: Vec<Policy>,
    /// How far off the target may be, as a quantity; the flag's value otherwise.
    pub tolerance: Option<String>,
}

/// How far at once.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// `Pods` or `Percent`.
    #[serde(rename = "type")]
    pub kind: String,
    /// So many.
    pub value: i32,
    /// In so long.
    pub period_seconds: i64,
}

/// What is said about an autoscaler.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AutoscalerStatus {
    /// When it last scaled.
    pub last_scale_time: Time,
    /// How many there are.
    pub current_replicas: i32,
    /// How many there should be.
    pub desired_replicas: i32,
    /// What was measured.
    #[serde(deserialize_with = "or_empty")]
    pub current_metrics: Vec<Value>,
    /// `AbleToScale`, `ScalingActive`, `ScalingLimited`.
    #[serde(deserialize_with = "or_empty")]
    pub conditions: Vec<Condition>,
}

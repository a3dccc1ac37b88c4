//! Deployments, replica sets, replication controllers, daemon sets, stateful sets and their revisions.

use apimachinery::int_or_string::IntOrString;
use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::Deserialize;
use serde_json::Value;

use super::meta::Condition;
use super::selector::Selector;
use super::{namespace_index, owner_index};

/// Replica sets by the uid of their controller, or by namespace for orphans.
pub const BY_OWNER: &str = "owner";
/// By namespace.
pub const BY_NAMESPACE: &str = "namespace";

/// A deployment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: DeploymentSpec,
    /// What was last said.
    pub status: DeploymentStatus,
}

crate::view!(DeploymentView, resources::DEPLOYMENTS, [(BY_NAMESPACE, namespace_index)]);

/// What a deployment wants.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentSpec {
    /// How many pods.
    pub replicas: i32,
    /// Which pods.
    pub selector: Selector,
    /// Their template.
    pub template: Value,
    /// How to replace them.
    pub strategy: Strategy,
    /// Seconds of readiness that make a pod available.
    pub min_ready_seconds: i32,
    /// How many old replica sets are kept.
    pub revision_history_limit: Option<i32>,
    /// No rollout.
    pub paused: bool,
    /// Seconds without progress that make a rollout failed.
    pub progress_deadline_seconds: Option<i32>,
}

impl Default for DeploymentSpec {
    fn default() -> Self {
        Self {
            replicas: 1,
            selector: Selector::default(),
            template: Value::Null,
            strategy: Strategy::default(),
            min_ready_seconds: 0,
            revision_history_limit: None,
            paused: false,
            progress_deadline_seconds: None,
        }
    }
}

/// How pods are replaced.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    /// `RollingUpdate` or `Recreate`.
    #[serde(rename = "type")]
    pub kind: String,
    /// For `RollingUpdate`.
    pub rolling_update: Option<RollingUpdate>,
}

/// Bounds of a rolling update.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// How many may be missing.
    pub max_unavailable: Option<IntOrString>,
    /// How many may be too many.
    pub max_surge: Option<IntOrString>,
    /// Ordinals below stay (stateful sets).
    pub partition: Option<i32>,
}

/// What is said about a deployment.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    /// The generation that this is about.
    pub observed_generation: i64,
    /// All pods.
    pub replicas: i32,
    /// Of the newest template.
    pub updated_replicas: i32,
    /// Ready ones.
    pub ready_replicas: i32,
    /// Ready for long enough.
    pub available_replicas: i32,
    /// Missing ones.
    pub unavailable_replicas: i32,
    /// On their way out.
    pub terminating_replicas: Option<i32>,
    /// How often the name of a new replica set was taken.
    pub collision_count: Option<i32>,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// A replica set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: ReplicaSetSpec,
    /// What was last said.
    pub status: ReplicaSetStatus,
}

crate::view!(ReplicaSetView, resources::REPLICA_SETS, [(BY_OWNER, owner_index), (BY_NAMESPACE, namespace_index)]);

/// A replication controller: the same fields, another resource.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicationControllerView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: ReplicaSetSpec,
    /// What was last said.
    pub status: ReplicaSetStatus,
}

crate::view!(
    ReplicationControllerView,
    resources::REPLICATION_CONTROLLERS,
    [(BY_OWNER, owner_index), (BY_NAMESPACE, namespace_index)]
);

/// What a replica set wants.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetSpec {
    /// How many pods.
    pub replicas: i32,
    /// Which pods.
    pub selector: Selector,
    /// Their template.
    pub template: Value,
    /// Seconds of readiness that make a pod available.
    pub min_ready_seconds: i32,
}

impl Default for ReplicaSetSpec {
    fn default() -> Self {
        Self { replicas: 1, selector: Selector::default(), template: Value::Null, min_ready_seconds: 0 }
    }
}

/// What is said about a replica set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetStatus {
    /// The generation that this is about.
    pub observed_generation: i64,
    /// All pods.
    pub replicas: i32,
    /// Those with all labels of the template.
    pub fully_labeled_replicas: i32,
    /// Ready ones.
    pub ready_replicas: i32,
    /// Ready for long enough.
    pub available_replicas: i32,
    /// On their way out.
    pub terminating_replicas: Option<i32>,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// A daemon set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: DaemonSetSpec,
    /// What was last said.
    pub status: DaemonSetStatus,
}

crate::view!(DaemonSetView, resources::DAEMON_SETS, [(BY_NAMESPACE, namespace_index)]);

/// What a daemon set wants.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetSpec {
    /// Which pods.
    pub selector: Selector,
    /// Their template.
    pub template: Value,
    /// How to replace them: `RollingUpdate` or `OnDelete`.
    pub update_strategy: Strategy,
    /// Seconds of readiness that make a pod available.
    pub min_ready_seconds: i32,
    /// How many old revisions are kept.
    pub revision_history_limit: Option<i32>,
}

/// What is said about a daemon set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetStatus {
    /// The generation that this is about.
    pub observed_generation: i64,
    /// Nodes with a pod that should have one.
    pub current_number_scheduled: i32,
    /// Nodes with a pod that should have none.
    pub number_misscheduled: i32,
    /// Nodes that should have one.
    pub desired_number_scheduled: i32,
    /// Nodes with a ready one.
    pub number_ready: i32,
    /// Nodes with one of the newest template.
    pub updated_number_scheduled: i32,
    /// Nodes with one that was ready for long enough.
    pub number_available: i32,
    /// The others that should have one.
    pub number_unavailable: i32,
    /// How often the name of a new revision was taken.
    pub collision_count: Option<i32>,
}

/// A revision of a daemon set or stateful set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerRevisionView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// The template, as a patch.
    pub data: Value,
    /// Its number.
    pub revision: i64,
}

crate::view!(
    ControllerRevisionView,
    resources::CONTROLLER_REVISIONS,
    [(BY_OWNER, owner_index), (BY_NAMESPACE, namespace_index)]
);

/// A stateful set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: StatefulSetSpec,
    /// What was last said.
    pub status: StatefulSetStatus,
}

crate::view!(StatefulSetView, resources::STATEFUL_SETS, [(BY_NAMESPACE, namespace_index)]);

/// What a stateful set wants.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetSpec {
    /// How many pods.
    pub replicas: Option<i32>,
    /// Which pods.
    pub selector: Selector,
    /// Their template.
    pub template: Value,
    /// Claims that each pod gets.
    pub volume_claim_templates: Vec<Value>,
    /// The service that names them.
    pub service_name: String,
    /// `OrderedReady` or `Parallel`.
    pub pod_management_policy: String,
    /// How to replace them: `RollingUpdate` or `OnDelete`.
    pub update_strategy: Strategy,
    /// Seconds of readiness that make a pod available.
    pub min_ready_seconds: i32,
    /// How many old revisions are kept.
    pub revision_history_limit: Option<i32>,
    /// Where ordinals begin.
    pub ordinals: Option<Ordinals>,
    /// What becomes of claims.
    pub persistent_volume_claim_retention_policy: Option<RetentionPolicy>,
}

/// Where ordinals begin.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ordinals {
    /// The first one.
    pub start: i32,
}

/// What becomes of a stateful set's claims: `Retain` or `Delete`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetentionPolicy {
    /// When the set is deleted.
    pub when_deleted: String,
    /// When the set becomes smaller.
    pub when_scaled: String,
}

/// What is said about a stateful set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetStatus {
    /// The generation that this is about.
    pub observed_generation: i64,
    /// All pods.
    pub replicas: i32,
    /// Ready ones.
    pub ready_replicas: i32,
    /// Ready for long enough.
    pub available_replicas: i32,
    /// Of the current revision.
    pub current_replicas: i32,
    /// Of the update revision.
    pub updated_replicas: i32,
    /// The revision that the set had.
    pub current_revision: String,
    /// The revision that the set is to have.
    pub update_revision: String,
    /// How often the name of a new revision was taken.
    pub collision_count: Option<i32>,
}

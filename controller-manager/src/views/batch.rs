//! Jobs and cron jobs.

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::meta::{Condition, Time, condition};
use super::selector::Selector;
use super::{namespace_index, owner_index};

/// By the uid of the controller, or by namespace for orphans.
pub const BY_OWNER: &str = "owner";
/// By namespace.
pub const BY_NAMESPACE: &str = "namespace";

/// A job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: JobSpec,
    /// What was last said.
    pub status: JobStatus,
}

crate::view!(JobView, resources::JOBS, [(BY_OWNER, owner_index), (BY_NAMESPACE, namespace_index)]);

/// What a job wants.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobSpec {
    /// How many pods at once.
    pub parallelism: Option<i32>,
    /// How many successes; None: any success is enough.
    pub completions: Option<i32>,
    /// Seconds after which it fails.
    pub active_deadline_seconds: Option<i64>,
    /// How many failures are borne.
    pub backoff_limit: Option<i32>,
    /// How many failures of one index are borne.
    pub backoff_limit_per_index: Option<i32>,
    /// How many failed indexes are borne.
    pub max_failed_indexes: Option<i32>,
    /// Which pods.
    pub selector: Selector,
    /// Their template.
    pub template: Value,
    /// When the finished job is removed.
    pub ttl_seconds_after_finished: Option<i64>,
    /// `NonIndexed` or `Indexed`.
    pub completion_mode: String,
    /// No pods for now.
    pub suspend: bool,
    /// What failures mean.
    pub pod_failure_policy: Option<PodFailurePolicy>,
    /// When enough indexes succeeded.
    pub success_policy: Option<SuccessPolicy>,
    /// `TerminatingOrFailed` or `Failed`.
    pub pod_replacement_policy: String,
    /// Who runs it, when not this controller.
    pub managed_by: Option<String>,
}

/// What failures mean: the first rule that matches counts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodFailurePolicy {
    /// In order.
    pub rules: Vec<FailureRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureRule {
    /// `FailJob`, `FailIndex`, `Ignore`, `Count`.
    pub action: String,
    /// Matches exit codes.
    pub on_exit_codes: Option<ExitCodes>,
    /// Matches conditions of the pod.
    pub on_pod_conditions: Vec<Condition>,
}

/// Matches exit codes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExitCodes {
    /// Only of this container.
    pub container_name: Option<String>,
    /// `In` or `NotIn`.
    pub operator: String,
    /// The codes.
    pub values: Vec<i32>,
}

/// When enough indexes succeeded: the first rule that matches counts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SuccessPolicy {
    /// In order.
    pub rules: Vec<SuccessRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SuccessRule {
    /// These indexes (all of them without a count).
    pub succeeded_indexes: Option<String>,
    /// So many of them.
    pub succeeded_count: Option<usize>,
}

/// What is said about a job.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// When it was started or resumed.
    pub start_time: Time,
    /// When it was complete.
    pub completion_time: Time,
    /// Pods that run.
    pub active: i32,
    /// Of these, ready ones.
    pub ready: Option<i32>,
    /// On their way out.
    pub terminating: Option<i32>,
    /// Successes.
    pub succeeded: i32,
    /// Failures.
    pub failed: i32,
    /// `1,3-5`.
    pub completed_indexes: String,
    /// `1,3-5`.
    pub failed_indexes: Option<String>,
    /// Ended pods that still have the finalizer.
    pub uncounted_terminated_pods: Option<Uncounted>,
}

/// Ended pods that are not in the numbers yet, by uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Uncounted {
    /// Succeeded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub succeeded: Vec<String>,
    /// Failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}

impl JobView {
    /// Whether a condition is true.
    pub fn is(&self, kind: &str) -> bool {
        condition(&self.status.conditions, kind).is_some_and(|condition| condition.status == "True")
    }

    /// Complete or failed.
    pub fn is_finished(&self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    /// Whether a pod that was asked to end counts, and is replaced, only once it has ended.
    pub fn replaces_only_ended(&self) -> bool {
        self.spec.pod_replacement_policy == "Failed" || self.spec.pod_failure_policy.is_some()
    }

    /// Whether pods are numbered.
    pub fn is_indexed(&self) -> bool {
        self.spec.completion_mode == "Indexed"
    }
}

/// A cron job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: CronJobSpec,
    /// What was last said.
    pub status: CronJobStatus,
}

crate::view!(CronJobView, resources::CRON_JOBS, [(BY_NAMESPACE, namespace_index)]);

/// What a cron job wants.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobSpec {
    /// Cron line.
    pub schedule: String,
    /// Whose clock.
    pub time_zone: Option<String>,
    /// How late a job may start.
    pub starting_deadline_seconds: Option<i64>,
    /// `Allow`, `Forbid`, `Replace`.
    pub concurrency_policy: String,
    /// No jobs for now.
    pub suspend: bool,
    /// The jobs.
    pub job_template: Value,
    /// How many are kept.
    pub successful_jobs_history_limit: Option<i32>,
    /// How many are kept.
    pub failed_jobs_history_limit: Option<i32>,
}

/// What is said about a cron job.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobStatus {
    /// Jobs that run.
    pub active: Vec<Value>,
    /// The last time a job was due and made.
    pub last_schedule_time: Time,
    /// The last time one succeeded.
    pub last_successful_time: Time,
}

//! Where a job stands, purely: which ended pods are new, what was reached, and whether that finishes the job.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::backoff::{Backoff, ended_at};
use super::indexes;
use super::policy::{Verdict, judge, success_rule};
use crate::framework::backoff::remaining;
use crate::views::batch::JobView;
use crate::views::meta::{condition, count};
use crate::views::pod::PodView;

/// Keeps an ended pod until it is in the job's numbers.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The pod's number in an indexed job.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the index failed before this pod.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often it failed in a way that the policy ignores.
pub const INDEX_IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// What a job's next step depends on.
pub struct Snapshot<'a> {
    /// The job.
    pub job: &'a JobView,
    /// Its pods.
    pub pods: &'a [Arc<PodView>],
    /// Pods whose finalizer is already removed, though the cache still shows it.
    pub released: &'a HashSet<String>,
    /// Failures in a row so far.
    pub backoff: Backoff,
    /// When the job was first looked at, as far as its status does not say when it started.
    pub started: Timestamp,
    /// The time.
    pub now: Timestamp,
}

impl Snapshot<'_> {
    /// Whether the pod still has the finalizer: it is not in the job's numbers yet.
    pub fn holds(&self, pod: &PodView) -> bool {
        holds_finalizer(pod) && !self.released.contains(&pod.metadata.uid)
    }

    /// The pod's number, where it is one of this job.
    pub fn index_of(&self, pod: &PodView) -> Option<i32> {
        index_of(pod).filter(|index| *index < self.job.spec.completions.unwrap_or(0))
    }

    /// Whether the pod counts as far as its number says: always without numbers.
    pub fn in_range(&self, pod: &PodView) -> bool {
        !self.job.is_indexed() || self.index_of(pod).is_some()
    }
}

/// Whether the pod has the finalizer.
pub fn holds_finalizer(pod: &PodView) -> bool {
    pod.metadata.finalizers.iter().any(|name| name == FINALIZER)
}

/// Why and how a job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Succeeded, or failed.
    pub success: bool,
    /// CamelCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl Finish {
    fn failed(reason: &str, message: impl Into<String>) -> Self {
        Self { success: false, reason: reason.to_owned(), message: message.into() }
    }

    fn succeeded(reason: &str, message: impl Into<String>) -> Self {
        Self { success: true, reason: reason.to_owned(), message: message.into() }
    }
}

/// Where a job stands.
#[derive(Debug, Default)]
pub struct Assessment {
    /// Pods that run.
    pub active: Vec<Arc<PodView>>,
    /// Of these, ready ones.
    pub ready: i32,
    /// On their way out.
    pub leaving: Vec<Arc<PodView>>,
    /// All successes, the new ones included.
    pub succeeded: i32,
    /// All failures, the new ones included.
    pub failed: i32,
    /// Indexes that succeeded.
    pub succeeded_indexes: BTreeSet<i32>,
    /// Indexes that failed for good.
    pub failed_indexes: BTreeSet<i32>,
    /// Failed pods of indexes that are tried again: kept until a replacement has taken over the count of failures.
    pub to_replace: BTreeMap<i32, Arc<PodView>>,
    /// Failures in a row, the new ones included.
    pub backoff: Backoff,
    /// The job ends.
    pub finish: Option<Finish>,
    /// Look again then.
    pub again: Option<Duration>,
}

/// The pod's number.
pub fn index_of(pod: &PodView) -> Option<i32> {
    pod.metadata.annotations.get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// The failures before this pod of its index: those that count, and those that the policy ignores.
pub fn failures_before(pod: &PodView) -> (i32, i32) {
    let number =
        |name| pod.metadata.annotations.get(name).and_then(|text| text.parse::<i32>().ok()).unwrap_or(0).max(0);
    (number(INDEX_FAILURES), number(INDEX_IGNORED_FAILURES))
}

/// Whether the pod counts as failed. By the default policy one that is asked to end does.
pub fn is_failed(job: &JobView, pod: &PodView) -> bool {
    pod.status.phase == "Failed" || (!job.replaces_only_ended() && pod.is_terminating())
}

/// Sorts out the pods and judges the job.
pub fn assess(snapshot: &Snapshot<'_>) -> Assessment {
    let job = snapshot.job;
    let mut a = Assessment {
        active: snapshot.pods.iter().filter(|pod| pod.is_active()).cloned().collect(),
        leaving: snapshot.pods.iter().filter(|pod| pod.is_terminating()).cloned().collect(),
        ..Assessment::default()
    };
    a.ready = count(a.active.iter().filter(|pod| pod.is_ready()).count());
    let known = job.status.uncounted_terminated_pods.clone().unwrap_or_default();
    let fresh = |uncounted: &[String], ended: &dyn Fn(&PodView) -> bool| -> Vec<Arc<PodView>> {
        let fresh = |pod: &&Arc<PodView>| {
            snapshot.holds(pod) && !uncounted.contains(&pod.metadata.uid) && snapshot.in_range(pod) && ended(pod)
        };
        snapshot.pods.iter().filter(fresh).cloned().collect()
    };
    let succeeded = fresh(&known.succeeded, &|pod| pod.status.phase == "Succeeded");
    let failed = fresh(&known.failed, &|pod| is_failed(job, pod));
    let counted = failed.iter().filter(|pod| judge(job, pod) != Verdict::Ignore).count();
    a.succeeded = job.status.succeeded + count(succeeded.len() + known.succeeded.len());
    a.failed = job.status.failed + count(counted + known.failed.len());
    a.backoff = snapshot.backoff.after(&succeeded, &failed);
    if job.is_indexed() {
        sort_indexes(snapshot, &mut a);
    }
    a.finish = finish(snapshot, &mut a);
    a
}

/// Which indexes have succeeded, which have failed for good, and which wait for a replacement.
fn sort_indexes(snapshot: &Snapshot<'_>, a: &mut Assessment) {
    let (job, end) = (snapshot.job, snapshot.job.spec.completions.unwrap_or(0));
    let held = || snapshot.pods.iter().filter(|pod| snapshot.holds(pod));
    let numbered = || held().filter_map(|pod| Some((snapshot.index_of(pod)?, pod)));
    a.succeeded_indexes = indexes::parse(&job.status.completed_indexes, end);
    a.succeeded_indexes.extend(numbered().filter(|(_, pod)| pod.status.phase == "Succeeded").map(|(index, _)| index));
    a.succeeded = count(a.succeeded_indexes.len());
    let Some(limit) = job.spec.backoff_limit_per_index else { return };
    a.failed_indexes = indexes::parse(job.status.failed_indexes.as_deref().unwrap_or_default(), end);
    for (index, pod) in numbered().filter(|(_, pod)| is_failed(job, pod)) {
        match judge(job, pod) {
            Verdict::FailIndex => a.failed_indexes.insert(index),
            Verdict::Ignore => false,
            Verdict::Count | Verdict::FailJob(_) => failures_before(pod).0 >= limit && a.failed_indexes.insert(index),
        };
    }
    let running: BTreeSet<i32> = a.active.iter().filter_map(|pod| index_of(pod)).collect();
    let all_failures = |pod: &PodView| failures_before(pod).0 + failures_before(pod).1;
    for (index, pod) in numbered().filter(|(_, pod)| is_failed(job, pod)) {
        if [&a.succeeded_indexes, &a.failed_indexes, &running].iter().any(|set| set.contains(&index)) {
            continue;
        }
        let later = |kept: &Arc<PodView>| all_failures(kept) <= all_failures(pod) && ended_at(kept) <= ended_at(pod);
        if a.to_replace.get(&index).is_none_or(later) {
            a.to_replace.insert(index, Arc::clone(pod));
        }
    }
}

/// What was decided in an earlier step.
pub fn decided(job: &JobView) -> Option<Finish> {
    [("SuccessCriteriaMet", true), ("FailureTarget", false)].into_iter().find_map(|(kind, success)| {
        let said = condition(&job.status.conditions, kind).filter(|said| said.status == "True")?;
        Some(Finish { success, reason: said.reason.clone(), message: said.message.clone() })
    })
}

fn finish(snapshot: &Snapshot<'_>, a: &mut Assessment) -> Option<Finish> {
    let job = snapshot.job;
    let fail_job = || {
        snapshot.pods.iter().filter(|pod| is_failed(job, pod)).find_map(|pod| match judge(job, pod) {
            Verdict::FailJob(why) => Some(Finish::failed("PodFailurePolicy", why)),
            _ => None,
        })
    };
    if let Some(finish) = decided(job).or_else(fail_job) {
        return Some(finish);
    }
    if a.failed > backoff_limit(job) || restarts_exceed_limit(job, snapshot.pods) {
        return Some(Finish::failed("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    if let (Some(seconds), false) = (job.spec.active_deadline_seconds, job.spec.suspend) {
        // Its time begins anew when it is resumed.
        let resumed = condition(&job.status.conditions, "Suspended").is_some_and(|said| said.status == "True");
        let began = if resumed { snapshot.now } else { job.status.start_time.0.unwrap_or(snapshot.started) };
        let left = remaining(began, seconds, snapshot.now);
        if left.is_zero() {
            return Some(Finish::failed("DeadlineExceeded", "Job was active longer than specified deadline"));
        }
        a.again = Some(left);
    }
    if job.is_indexed() { finish_indexed(job, a) } else { None }
}

fn finish_indexed(job: &JobView, a: &Assessment) -> Option<Finish> {
    if job.spec.backoff_limit_per_index.is_some() {
        if job.spec.max_failed_indexes.is_some_and(|max| count(a.failed_indexes.len()) > max) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Finish::failed("MaxFailedIndexesExceeded", message));
        }
        let ended = count(a.failed_indexes.len()) + a.succeeded;
        if !a.failed_indexes.is_empty() && ended >= job.spec.completions.unwrap_or(0) {
            return Some(Finish::failed("FailedIndexes", "Job has failed indexes"));
        }
    }
    let rule = success_rule(job, &a.succeeded_indexes)?;
    Some(Finish::succeeded("SuccessPolicy", format!("Matched rules at index {rule}")))
}

fn backoff_limit(job: &JobView) -> i32 {
    job.spec.backoff_limit.unwrap_or(6)
}

/// With `OnFailure` containers are restarted in place; their restarts count as failures.
fn restarts_exceed_limit(job: &JobView, pods: &[Arc<PodView>]) -> bool {
    if job.spec.template["spec"]["restartPolicy"] != "OnFailure" {
        return false;
    }
    let restarts: i32 = pods
        .iter()
        .filter(|pod| matches!(pod.status.phase.as_str(), "Running" | "Pending"))
        .flat_map(|pod| pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses))
        .map(|status| status.restart_count)
        .sum();
    let limit = backoff_limit(job);
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// Whether all that was asked for is done, with `active` pods left.
pub fn completed(job: &JobView, a: &Assessment, active: i32) -> Option<Finish> {
    let done = match job.spec.completions {
        None => a.succeeded > 0,
        Some(completions) => a.succeeded >= completions,
    };
    (done && active == 0).then(|| Finish::succeeded("CompletionsReached", "Reached expected number of succeeded pods"))
}

//! Where a job stands, purely: which ended pods are new, what was reached, and whether that finishes the job.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::indexes;
use super::policy::{Verdict, is_success, judge};
use crate::framework::backoff::remaining;
use crate::views::batch::JobView;
use crate::views::meta::{condition, count, is_deleting};
use crate::views::pod::PodView;

/// Keeps an ended pod until it is in the job's numbers.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The pod's number in an indexed job.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the index failed before this pod.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// What a job's next step depends on.
pub struct Snapshot<'a> {
    /// The job.
    pub job: &'a JobView,
    /// Its pods.
    pub pods: &'a [Arc<PodView>],
    /// Pods whose finalizer is already removed, though the cache still shows it.
    pub released: &'a HashSet<String>,
    /// The time.
    pub now: Timestamp,
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

    fn succeeded(reason: &str, message: &str) -> Self {
        Self { success: true, reason: reason.to_owned(), message: message.to_owned() }
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
    pub terminating: i32,
    /// All successes, the new ones included.
    pub succeeded: i32,
    /// All failures, the new ones included.
    pub failed: i32,
    /// Indexes that succeeded.
    pub succeeded_indexes: BTreeSet<i32>,
    /// Indexes that failed for good.
    pub failed_indexes: BTreeSet<i32>,
    /// Failures of indexes that may be tried again.
    pub index_failures: BTreeMap<i32, i32>,
    /// uids that left the list of uncounted ones: (succeeded, failed).
    pub settled: (i32, i32),
    /// uids that are still uncounted: succeeded.
    pub uncounted_succeeded: Vec<String>,
    /// uids that are still uncounted: failed.
    pub uncounted_failed: Vec<String>,
    /// Ended pods that may be let go once they are written down.
    pub release: Vec<Arc<PodView>>,
    /// The job ends.
    pub finish: Option<Finish>,
    /// Look again then.
    pub again: Option<Duration>,
}

/// The pod's number.
pub fn index_of(pod: &PodView) -> Option<i32> {
    pod.metadata.annotations.get(INDEX)?.parse().ok()
}

/// Whether the pod counts as failed. By the default policy one that is asked to end does.
pub fn is_failed(job: &JobView, pod: &PodView) -> bool {
    pod.status.phase == "Failed"
        || (job.spec.pod_replacement_policy != "Failed"
            && is_deleting(&pod.metadata)
            && pod.status.phase != "Succeeded")
}

/// Sorts out the pods and judges the job.
pub fn assess(snapshot: &Snapshot<'_>) -> Assessment {
    let job = snapshot.job;
    let mut a = Assessment {
        active: snapshot.pods.iter().filter(|pod| pod.is_active()).cloned().collect(),
        terminating: count(snapshot.pods.iter().filter(|pod| pod.is_terminating()).count()),
        succeeded_indexes: indexes::parse(&job.status.completed_indexes, job.spec.completions.unwrap_or(0)),
        failed_indexes: indexes::parse(
            job.status.failed_indexes.as_deref().unwrap_or_default(),
            job.spec.completions.unwrap_or(0),
        ),
        ..Assessment::default()
    };
    a.ready = count(a.active.iter().filter(|pod| pod.is_ready()).count());
    settle(snapshot, &mut a);
    let mut fail_job = None;
    let decided = decided(job);
    for pod in snapshot.pods.iter().filter(|pod| holds(snapshot, pod)) {
        if pod.status.phase == "Succeeded" {
            note_success(job, pod, &mut a);
        } else if let Some(finish) = decided.as_ref().filter(|_| is_failed(job, pod)) {
            // After the decision nothing is judged any more: a failure is one of the job, but of no index; a pod that was
            // only told to end is none of a job that succeeded.
            let counts = !finish.success || pod.status.phase == "Failed";
            if counts && !a.uncounted_failed.contains(&pod.metadata.uid) {
                a.uncounted_failed.push(pod.metadata.uid.clone());
            }
            a.release.push(Arc::clone(pod));
        } else if is_failed(job, pod) {
            let verdict = judge(job, pod);
            if let Verdict::FailJob(why) = &verdict {
                fail_job.get_or_insert(why.clone());
            }
            note_failure(job, pod, &verdict, &mut a);
        }
    }
    let uncounted = |list: &Vec<String>| count(list.len());
    a.succeeded = if job.is_indexed() {
        count(a.succeeded_indexes.len())
    } else {
        job.status.succeeded + a.settled.0 + uncounted(&a.uncounted_succeeded)
    };
    a.failed = job.status.failed + a.settled.1 + uncounted(&a.uncounted_failed);
    a.finish = finish(snapshot, &mut a, fail_job);
    a
}

/// Whether the pod still has the finalizer.
fn holds(snapshot: &Snapshot<'_>, pod: &PodView) -> bool {
    pod.metadata.finalizers.iter().any(|name| name == FINALIZER) && !snapshot.released.contains(&pod.metadata.uid)
}

/// Uncounted pods that have lost their finalizer are counted now.
fn settle(snapshot: &Snapshot<'_>, a: &mut Assessment) {
    let uncounted = snapshot.job.status.uncounted_terminated_pods.clone().unwrap_or_default();
    let held: HashSet<&str> =
        snapshot.pods.iter().filter(|pod| holds(snapshot, pod)).map(|pod| pod.metadata.uid.as_str()).collect();
    let split = |uids: Vec<String>| uids.into_iter().partition::<Vec<_>, _>(|uid| held.contains(uid.as_str()));
    let (left, gone) = split(uncounted.succeeded);
    (a.uncounted_succeeded, a.settled.0) = (left, count(gone.len()));
    let (left, gone) = split(uncounted.failed);
    (a.uncounted_failed, a.settled.1) = (left, count(gone.len()));
}

fn note_success(job: &JobView, pod: &Arc<PodView>, a: &mut Assessment) {
    if job.is_indexed() {
        let index = index_of(pod).filter(|index| *index < job.spec.completions.unwrap_or(0));
        a.succeeded_indexes.extend(index);
    } else if !a.uncounted_succeeded.contains(&pod.metadata.uid) {
        a.uncounted_succeeded.push(pod.metadata.uid.clone());
    }
    a.release.push(Arc::clone(pod));
}

fn note_failure(job: &JobView, pod: &Arc<PodView>, verdict: &Verdict, a: &mut Assessment) {
    let index = index_of(pod);
    if let (Some(limit), Some(index)) = (job.spec.backoff_limit_per_index, index) {
        let before: i32 = pod.metadata.annotations.get(INDEX_FAILURES).and_then(|text| text.parse().ok()).unwrap_or(0);
        let counted = i32::from(*verdict != Verdict::Ignore);
        let replaced = a.active.iter().any(|other| index_of(other) == Some(index));
        if *verdict == Verdict::FailIndex || (counted == 1 && before >= limit) {
            a.failed_indexes.insert(index);
        } else if !replaced && !a.succeeded_indexes.contains(&index) {
            // Kept until its replacement has taken over the count.
            let failures = a.index_failures.entry(index).or_default();
            *failures = (*failures).max(before + counted);
            if counted == 1 && !a.uncounted_failed.contains(&pod.metadata.uid) {
                a.uncounted_failed.push(pod.metadata.uid.clone());
            }
            return;
        }
    }
    let in_range = !job.is_indexed() || index.is_some_and(|index| index < job.spec.completions.unwrap_or(0));
    if *verdict != Verdict::Ignore && in_range && !a.uncounted_failed.contains(&pod.metadata.uid) {
        a.uncounted_failed.push(pod.metadata.uid.clone());
    }
    a.release.push(Arc::clone(pod));
}

/// What was decided in an earlier step.
pub fn decided(job: &JobView) -> Option<Finish> {
    [("FailureTarget", false), ("SuccessCriteriaMet", true)].into_iter().find_map(|(kind, success)| {
        let said = condition(&job.status.conditions, kind).filter(|said| said.status == "True")?;
        Some(Finish { success, reason: said.reason.clone(), message: said.message.clone() })
    })
}

fn finish(snapshot: &Snapshot<'_>, a: &mut Assessment, fail_job: Option<String>) -> Option<Finish> {
    let job = snapshot.job;
    if let Some(finish) = decided(job) {
        return Some(finish);
    }
    if let Some(why) = fail_job {
        return Some(Finish::failed("PodFailurePolicy", why));
    }
    if a.failed > backoff_limit(job) || restarts_exceed_limit(job, snapshot.pods) {
        return Some(Finish::failed("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    if let (Some(seconds), Some(since), false) =
        (job.spec.active_deadline_seconds, job.status.start_time.0, job.spec.suspend)
    {
        let left = remaining(since, seconds, snapshot.now);
        if left.is_zero() {
            return Some(Finish::failed("DeadlineExceeded", "Job was active longer than specified deadline"));
        }
        a.again = Some(left);
    }
    if job.is_indexed() {
        return finish_indexed(job, a);
    }
    None
}

fn finish_indexed(job: &JobView, a: &Assessment) -> Option<Finish> {
    if is_success(job, &a.succeeded_indexes) {
        return Some(Finish::succeeded("SuccessPolicy", "Matched rules of the success policy"));
    }
    job.spec.backoff_limit_per_index?;
    if job.spec.max_failed_indexes.is_some_and(|max| count(a.failed_indexes.len()) > max) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(Finish::failed("MaxFailedIndexesExceeded", message));
    }
    let ended = count(a.failed_indexes.union(&a.succeeded_indexes).count());
    (!a.failed_indexes.is_empty() && ended >= job.spec.completions.unwrap_or(0))
        .then(|| Finish::failed("FailedIndexes", "Job has failed indexes"))
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
pub fn completed(job: &JobView, a: &Assessment, active: usize) -> Option<Finish> {
    let done = match job.spec.completions {
        None => a.succeeded > 0,
        Some(completions) => a.succeeded >= completions,
    };
    (done && active == 0).then(|| Finish::succeeded("CompletionsReached", "Reached expected number of succeeded pods"))
}

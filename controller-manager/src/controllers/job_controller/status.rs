//! What is said about a job, purely. Ended pods are written down as uncounted before they are let go, and counted after:
//! no end is missed or counted twice, whenever the process is interrupted.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::assess::{Assessment, Finish, Snapshot, decided, is_failed};
use super::indexes;
use super::policy::{Verdict, judge};
use crate::views::batch::{JobStatus, Uncounted};
use crate::views::meta::{Condition, Time, condition, count, is_deleting, to_value};
use crate::views::pod::PodView;

/// At most so many ends are written down at once, which keeps the status below 20 kB.
const MAX_UNCOUNTED: usize = 500;

/// How the pods stand after the step, and whether the job ends.
#[derive(Debug)]
pub struct Step {
    /// Pods that run.
    pub active: i32,
    /// Of these, ready ones.
    pub ready: i32,
    /// On their way out.
    pub terminating: i32,
    /// The job ends.
    pub finish: Option<Finish>,
}

impl Step {
    /// One of the pods was asked to end.
    pub fn deleted(&mut self, pod: &PodView) {
        self.active -= 1;
        self.terminating += 1;
        self.ready -= i32::from(pod.is_ready());
    }
}

/// What is written before any pod is let go.
#[derive(Debug)]
pub struct Written {
    /// The status, with the ended pods listed as uncounted.
    pub status: JobStatus,
    /// Pods to let go then.
    pub release: Vec<Arc<PodView>>,
    /// Whether these are all; the others are next step's.
    pub complete: bool,
}

/// Writes down what has ended.
pub fn written_down(snapshot: &Snapshot<'_>, a: &Assessment, step: &Step) -> Written {
    let job = snapshot.job;
    let held = snapshot.pods.iter().filter(|pod| snapshot.holds(pod)).map(|pod| pod.metadata.uid.as_str()).collect();
    let mut status = counted(job.status.clone(), &held);
    if status.start_time.is_absent() && !job.spec.suspend {
        status.start_time = snapshot.started.into();
    }
    (status.active, status.ready, status.terminating) = (step.active, Some(step.ready), Some(step.terminating));
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let (mut release, mut complete) = (Vec::new(), true);
    for pod in snapshot.pods.iter().filter(|pod| snapshot.holds(pod) && may_go(snapshot, a, step, pod)) {
        if release.len() == MAX_UNCOUNTED {
            complete = false;
            break;
        }
        note_end(snapshot, step, pod, &mut uncounted);
        release.push(Arc::clone(pod));
    }
    status.uncounted_terminated_pods = Some(uncounted);
    if job.is_indexed() {
        status.succeeded = count(a.succeeded_indexes.len());
        status.completed_indexes = indexes::format(&a.succeeded_indexes);
        status.failed_indexes = job.spec.backoff_limit_per_index.map(|_| indexes::format(&a.failed_indexes));
    }
    if let Some(finish) = step.finish.as_ref().filter(|_| decided(job).is_none()) {
        let kind = if finish.success { "SuccessCriteriaMet" } else { "FailureTarget" };
        add_once(&mut status.conditions, kind, finish, snapshot.now);
    }
    Written { status, release, complete }
}

/// Whether a pod need not be kept: it has succeeded, or failed without waiting for its replacement, or the job ends.
fn may_go(snapshot: &Snapshot<'_>, a: &Assessment, step: &Step, pod: &PodView) -> bool {
    let waits = || a.to_replace.values().any(|kept| kept.metadata.uid == pod.metadata.uid);
    is_deleting(&snapshot.job.metadata)
        || step.finish.is_some()
        || pod.status.phase == "Succeeded"
        || (is_failed(snapshot.job, pod) && !waits())
}

/// Of a job that fails, pods that still run are failures too. Successes of numbered pods are kept by their number.
fn note_end(snapshot: &Snapshot<'_>, step: &Step, pod: &PodView, uncounted: &mut Uncounted) {
    let (job, uid) = (snapshot.job, &pod.metadata.uid);
    if pod.status.phase == "Succeeded" && !uncounted.failed.contains(uid) {
        if !job.is_indexed() && !uncounted.succeeded.contains(uid) {
            uncounted.succeeded.push(uid.clone());
        }
        return;
    }
    let failed = is_failed(job, pod) || step.finish.as_ref().is_some_and(|finish| !finish.success);
    if failed && snapshot.in_range(pod) && judge(job, pod) != Verdict::Ignore && !uncounted.failed.contains(uid) {
        uncounted.failed.push(uid.clone());
    }
}

/// The status once only the pods in `held` keep their finalizer: the other uncounted ones are in the numbers.
pub fn counted(mut status: JobStatus, held: &HashSet<&str>) -> JobStatus {
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let take = |list: &mut Vec<String>| {
        let before = list.len();
        list.retain(|uid| held.contains(uid.as_str()));
        count(before - list.len())
    };
    status.succeeded += take(&mut uncounted.succeeded);
    status.failed += take(&mut uncounted.failed);
    status.uncounted_terminated_pods = Some(uncounted);
    status
}

/// Whether ended pods are still to be counted.
pub fn has_uncounted(status: &JobStatus) -> bool {
    status.uncounted_terminated_pods.as_ref().is_some_and(|list| !list.succeeded.is_empty() || !list.failed.is_empty())
}

/// Closes the job when nothing of it is left to wait for.
pub fn closed(mut status: JobStatus, finish: &Finish, now: Timestamp) -> JobStatus {
    add_once(&mut status.conditions, if finish.success { "Complete" } else { "Failed" }, finish, now);
    if finish.success {
        status.completion_time = now.into();
    }
    status
}

fn add_once(conditions: &mut Vec<Condition>, kind: &str, finish: &Finish, now: Timestamp) {
    if condition(conditions, kind).is_none() {
        conditions.push(new_condition(kind, "True", &finish.reason, &finish.message, now));
    }
}

fn new_condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_probe_time: now.into(),
        last_transition_time: now.into(),
        ..Condition::default()
    }
}

/// Says that the job is suspended or runs again; returns the event's reason and note when that is new.
pub fn suspension(suspend: bool, status: &mut JobStatus, now: Timestamp) -> Option<(&'static str, &'static str)> {
    let said = condition(&status.conditions, "Suspended").map(|said| said.status == "True");
    let (state, reason, note) = match (suspend, said) {
        (true, Some(true)) | (false, None | Some(false)) => return None,
        (true, _) => ("True", "JobSuspended", "Job suspended"),
        (false, Some(true)) => ("False", "JobResumed", "Job resumed"),
    };
    let new = new_condition("Suspended", state, reason, note, now);
    match status.conditions.iter_mut().find(|condition| condition.kind == "Suspended") {
        Some(condition) => *condition = new,
        None => status.conditions.push(new),
    }
    if suspend {
        status.start_time = Time::default();
        Some(("Suspended", note))
    } else {
        // The deadline counts from when it runs again.
        status.start_time = now.into();
        Some(("Resumed", note))
    }
}

/// The change from what is stored at `resource_version` to `status`; None when they are equal.
pub fn change(stored: &JobStatus, status: &JobStatus, resource_version: &str) -> Option<Value> {
    if stored == status {
        return None;
    }
    let time = |time: Time| to_value(&time);
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let mut change = json!({"metadata": {"resourceVersion": resource_version}, "status": {
        "conditions": status.conditions.iter().map(to_value).collect::<Vec<_>>(),
        "active": status.active,
        "ready": status.ready,
        "terminating": status.terminating,
        "succeeded": status.succeeded,
        "failed": status.failed,
        "uncountedTerminatedPods": {"succeeded": or_null(&uncounted.succeeded), "failed": or_null(&uncounted.failed)},
    }});
    if !status.completed_indexes.is_empty() || !stored.completed_indexes.is_empty() {
        change["status"]["completedIndexes"] = json!(status.completed_indexes);
    }
    if let Some(failed) = &status.failed_indexes {
        change["status"]["failedIndexes"] = json!(failed);
    }
    if status.start_time != stored.start_time {
        change["status"]["startTime"] = time(status.start_time);
    }
    if !status.completion_time.is_absent() {
        change["status"]["completionTime"] = time(status.completion_time);
    }
    Some(change)
}

fn or_null(uids: &[String]) -> Value {
    if uids.is_empty() { Value::Null } else { json!(uids) }
}

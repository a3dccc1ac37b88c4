//! What is said about a job, purely. Ended pods are written down as uncounted before they are let go, and counted after:
//! no end is missed or counted twice, whenever the process is interrupted.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::assess::{Assessment, Finish};
use super::indexes;
use crate::views::batch::{JobStatus, JobView, Uncounted};
use crate::views::meta::{Condition, Time, condition, count, to_value};

/// The status that follows from an assessment, with `active` pods after the step. The ended pods are listed as uncounted.
pub fn written_down(job: &JobView, a: &Assessment, active: i32, now: Timestamp) -> JobStatus {
    let mut status = job.status.clone();
    if status.start_time.is_absent() && !job.spec.suspend {
        status.start_time = now.into();
    }
    status.active = active;
    status.ready = Some(a.ready.min(active));
    status.terminating = Some(a.terminating);
    status.failed += a.settled.1;
    if job.is_indexed() {
        status.succeeded = count(a.succeeded_indexes.len());
        status.completed_indexes = indexes::format(&a.succeeded_indexes);
        if job.spec.backoff_limit_per_index.is_some() {
            status.failed_indexes = Some(indexes::format(&a.failed_indexes));
        }
    } else {
        status.succeeded += a.settled.0;
    }
    status.uncounted_terminated_pods =
        Some(Uncounted { succeeded: a.uncounted_succeeded.clone(), failed: a.uncounted_failed.clone() });
    if let Some(finish) = &a.finish {
        let kind = if finish.success { "SuccessCriteriaMet" } else { "FailureTarget" };
        add_once(&mut status.conditions, kind, finish, now);
    }
    status
}

/// The status once the pods in `released` have been let go.
pub fn counted(mut status: JobStatus, released: &[String]) -> JobStatus {
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let take = |list: &mut Vec<String>| {
        let before = list.len();
        list.retain(|uid| !released.contains(uid));
        count(before - list.len())
    };
    status.succeeded += take(&mut uncounted.succeeded);
    status.failed += take(&mut uncounted.failed);
    status.uncounted_terminated_pods = Some(uncounted);
    status
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
pub fn suspension(job: &JobView, status: &mut JobStatus, now: Timestamp) -> Option<(&'static str, &'static str)> {
    let said = condition(&status.conditions, "Suspended").map(|said| said.status == "True");
    let (state, reason, note) = match (job.spec.suspend, said) {
        (true, Some(true)) | (false, None | Some(false)) => return None,
        (true, _) => ("True", "JobSuspended", "Job suspended"),
        (false, Some(true)) => ("False", "JobResumed", "Job resumed"),
    };
    status.conditions.retain(|condition| condition.kind != "Suspended");
    status.conditions.push(new_condition("Suspended", state, reason, note, now));
    if job.spec.suspend {
        status.start_time = Time::default();
        Some(("Suspended", note))
    } else {
        // The deadline counts from when it runs again.
        status.start_time = now.into();
        Some(("Resumed", note))
    }
}

/// The change from what is stored to `status`; None when they are equal.
pub fn change(stored: &JobStatus, status: &JobStatus, resource_version: Option<&str>) -> Option<Value> {
    if stored == status {
        return None;
    }
    let time = |time: Time| to_value(&time);
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let mut change = json!({"status": {
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
    if let Some(version) = resource_version {
        change["metadata"]["resourceVersion"] = json!(version);
    }
    Some(change)
}

fn or_null(uids: &[String]) -> Value {
    if uids.is_empty() { Value::Null } else { json!(uids) }
}

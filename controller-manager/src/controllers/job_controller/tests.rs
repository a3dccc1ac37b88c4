#![allow(clippy::needless_pass_by_value)]

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::assess::{Assessment, Snapshot, assess, completed};
use super::backoff::Backoff;
use super::manage::{Manage, failures_after, manage};
use super::status::{Step, Written, closed, counted, written_down};
use crate::views::batch::JobView;
use crate::views::pod::PodView;

fn job(spec: Value, status: Value) -> JobView {
    let mut value = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "j"},
        "spec": {"parallelism": 2, "completions": 3, "completionMode": "NonIndexed", "template": {"spec": {}}},
        "status": status});
    for (name, part) in spec.as_object().unwrap() {
        value["spec"][name] = part.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn pod(uid: &str, phase: &str, index: Option<i32>) -> Arc<PodView> {
    let annotations =
        index.map_or(json!({}), |index| json!({"batch.kubernetes.io/job-completion-index": index.to_string()}));
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid, "finalizers": ["batch.kubernetes.io/job-tracking"], "annotations": annotations},
            "status": {"phase": phase},
        }))
        .unwrap(),
    )
}

fn now() -> Timestamp {
    Timestamp::from_second(1_767_225_600).unwrap()
}

fn of(job: &JobView, pods: &[Arc<PodView>]) -> Assessment {
    assess(&Snapshot { job, pods, released: &HashSet::new(), backoff: Backoff::default(), started: now(), now: now() })
}

fn write(job: &JobView, pods: &[Arc<PodView>]) -> Written {
    let snapshot =
        Snapshot { job, pods, released: &HashSet::new(), backoff: Backoff::default(), started: now(), now: now() };
    let a = assess(&snapshot);
    let mut step = Step { active: 0, ready: 0, terminating: 0, finish: None };
    step.active = i32::try_from(a.active.len()).unwrap();
    if a.finish.is_some() {
        a.active.iter().for_each(|pod| step.deleted(pod));
    }
    step.finish = a.finish.clone();
    written_down(&snapshot, &a, &step)
}

fn with(pod: &Arc<PodView>, change: impl FnOnce(&mut PodView)) -> Arc<PodView> {
    let mut pod = (**pod).clone();
    change(&mut pod);
    Arc::new(pod)
}

fn created(job: &JobView, pods: &[Arc<PodView>]) -> Vec<Option<i32>> {
    match manage(job, &of(job, pods), now()) {
        Manage::Create(indexes) => indexes,
        other => panic!("creates nothing: {other:?}"),
    }
}

#[test]
fn ended_pods_are_written_down_then_counted_once() {
    let fresh = job(json!({}), json!({"succeeded": 1}));
    let pods = [pod("a", "Succeeded", None), pod("b", "Failed", None), pod("c", "Running", None)];
    let a = of(&fresh, &pods);
    assert_eq!((a.succeeded, a.failed, a.active.len()), (2, 1, 1));
    let first = write(&fresh, &pods).status;
    assert_eq!((first.succeeded, first.failed), (1, 0));
    let mut interrupted = fresh.clone();
    interrupted.status = first.clone();
    let again = of(&interrupted, &pods);
    assert_eq!((again.succeeded, again.failed), (2, 1), "an interruption counts nothing twice");
    let after_release = of(&interrupted, &pods[2..]);
    assert_eq!((after_release.succeeded, after_release.failed), (2, 1), "or loses anything");
    let second = counted(first, &HashSet::from(["c"]));
    assert_eq!((second.succeeded, second.failed), (2, 1));
}

#[test]
fn as_many_pods_as_are_still_needed_run_at_once() {
    assert_eq!(created(&job(json!({}), json!({})), &[]).len(), 2);
    assert_eq!(created(&job(json!({}), json!({"succeeded": 2})), &[]).len(), 1);
    assert_eq!(created(&job(json!({"completions": null}), json!({"succeeded": 1})), &[]).len(), 0);
    let indexed = job(json!({"completionMode": "Indexed"}), json!({"completedIndexes": "0"}));
    assert_eq!(created(&indexed, &[]), [Some(1), Some(2)]);
    let suspended = job(json!({"suspend": true}), json!({}));
    assert!(
        matches!(manage(&suspended, &of(&suspended, &[pod("a", "Running", None)]), now()), Manage::Delete(gone) if gone.len() == 1)
    );
    let double = [pod("a", "Running", Some(1)), pod("b", "Running", Some(1))];
    assert!(matches!(manage(&indexed, &of(&indexed, &double), now()), Manage::Delete(gone) if gone.len() == 1));
}

#[test]
fn jobs_end_for_a_reason() {
    let reason = |job: &JobView, pods: &[Arc<PodView>]| of(job, pods).finish.map(|finish| finish.reason);
    let failed = [pod("a", "Failed", None)];
    assert_eq!(reason(&job(json!({"backoffLimit": 1}), json!({})), &failed), None);
    assert_eq!(reason(&job(json!({"backoffLimit": 0}), json!({})), &failed).as_deref(), Some("BackoffLimitExceeded"));
    let late = job(json!({"activeDeadlineSeconds": 5}), json!({"startTime": "2025-12-31T23:59:50Z"}));
    assert_eq!(reason(&late, &[]).as_deref(), Some("DeadlineExceeded"));
    let policy = json!({"podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}, "backoffLimit": 0});
    let mut evicted = (*failed[0]).clone();
    evicted.status.conditions =
        serde_json::from_value(json!([{"type": "DisruptionTarget", "status": "True"}])).unwrap();
    assert_eq!(reason(&job(policy, json!({})), &[Arc::new(evicted)]), None);
    let per_index =
        job(json!({"completionMode": "Indexed", "backoffLimitPerIndex": 0, "maxFailedIndexes": 0}), json!({}));
    assert_eq!(reason(&per_index, &[pod("a", "Failed", Some(1))]).as_deref(), Some("MaxFailedIndexesExceeded"));
    let enough =
        job(json!({"completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "1"}]}}), json!({}));
    assert_eq!(reason(&enough, &[pod("a", "Succeeded", Some(1))]).as_deref(), Some("SuccessPolicy"));
    let done = job(json!({}), json!({"succeeded": 3}));
    let finish = completed(&done, &of(&done, &[]), 0).unwrap();
    let status = closed(done.status.clone(), &finish, now());
    assert_eq!((status.conditions[0].kind.as_str(), status.completion_time.is_absent()), ("Complete", false));
}

#[test]
fn pods_of_a_failed_job_are_failures_and_those_of_a_succeeded_one_are_not() {
    let pods = [pod("a", "Failed", None), pod("b", "Running", None)];
    let failed = write(&job(json!({"backoffLimit": 0}), json!({})), &pods);
    assert_eq!(failed.status.uncounted_terminated_pods.unwrap().failed, ["a", "b"]);
    assert_eq!((failed.status.active, failed.status.terminating, failed.release.len()), (0, Some(1), 2));
    let spec = json!({"completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    let enough = write(&job(spec, json!({})), &[pod("a", "Succeeded", Some(1)), pod("b", "Running", Some(0))]);
    assert_eq!(enough.status.uncounted_terminated_pods.unwrap_or_default().failed, [] as [&str; 0]);
    assert_eq!((enough.status.succeeded, enough.release.len()), (1, 2));
    assert_eq!(enough.status.conditions[0].message, "Matched rules at index 0");
}

#[test]
fn failures_in_a_row_make_the_pauses_longer_and_a_success_ends_them() {
    let ended = |uid: &str, phase: &str, second: i64| {
        with(&pod(uid, phase, None), |pod| {
            pod.metadata.creation_timestamp = Some(Timestamp::from_second(now().as_second() - second).unwrap());
        })
    };
    let left = |record: Backoff| record.left(now()).as_secs();
    let two = Backoff::default().after(&[], &[ended("a", "Failed", 9), ended("b", "Failed", 4)]);
    assert_eq!((two.failures, left(two)), (2, 16));
    let over = two.after(&[ended("c", "Succeeded", 3)], &[ended("d", "Failed", 5), ended("e", "Failed", 2)]);
    assert_eq!((over.failures, left(over)), (1, 8), "only what came after the success");
    assert_eq!(left(Backoff { failures: 40, last: Some(now()) }), 600);
    let waits = of(&job(json!({}), json!({})), &[ended("a", "Failed", 4)]);
    assert!(matches!(manage(&job(json!({}), json!({})), &waits, now()), Manage::Wait(pause) if pause.as_secs() == 6));
}

#[test]
fn each_index_waits_for_its_own_failures_and_hands_them_on() {
    let per_index = job(json!({"completionMode": "Indexed", "backoffLimitPerIndex": 3}), json!({}));
    let fail = |index: i32, seconds: i64| {
        with(&pod("a", "Failed", Some(index)), |pod| {
            pod.metadata.creation_timestamp = Some(Timestamp::from_second(now().as_second() - seconds).unwrap());
            pod.metadata.annotations.insert("batch.kubernetes.io/job-index-failure-count".into(), "1".into());
        })
    };
    assert_eq!(created(&per_index, &[fail(0, 5)]), [Some(1)], "index 0 waits 20 s after its second failure");
    assert_eq!(created(&per_index, &[fail(0, 21)]), [Some(0), Some(1)]);
    let written = write(&per_index, &[fail(0, 5)]);
    assert!(written.release.is_empty(), "kept until replaced");
    assert_eq!(failures_after(&per_index, Some(&fail(0, 5))), (2, 0));
    let spec = json!({"completionMode": "Indexed", "backoffLimitPerIndex": 3, "podFailurePolicy": {"rules":
        [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}});
    let evicted = with(&fail(0, 5), |pod| {
        pod.status.conditions =
            serde_json::from_value(json!([{"type": "DisruptionTarget", "status": "True"}])).unwrap();
    });
    assert_eq!(failures_after(&job(spec, json!({})), Some(&evicted)), (1, 1));
}

#[test]
fn a_job_that_is_resumed_after_its_deadline_begins_anew() {
    let suspended = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
    let begun = |status: Value| {
        let job = job(json!({"activeDeadlineSeconds": 6}), status);
        let (started, backoff) = (now() - jiff::SignedDuration::from_secs(60), Backoff::default());
        let snapshot = Snapshot { job: &job, pods: &[], released: &HashSet::new(), backoff, started, now: now() };
        assess(&snapshot).finish.is_none()
    };
    assert_eq!((begun(suspended), begun(json!({}))), (true, false));
}

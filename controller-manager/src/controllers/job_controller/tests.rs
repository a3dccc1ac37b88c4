#![allow(clippy::needless_pass_by_value)]

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::assess::{Assessment, Snapshot, assess, completed};
use super::manage::{Manage, manage};
use super::status::{closed, counted, written_down};
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
    assess(&Snapshot { job, pods, released: &HashSet::new(), now: now() })
}

fn created(job: &JobView, pods: &[Arc<PodView>]) -> Vec<Option<i32>> {
    match manage(job, &of(job, pods)) {
        Manage::Create(indexes) => indexes,
        Manage::Delete(pods) => panic!("deletes {}", pods.len()),
    }
}

#[test]
fn ended_pods_are_written_down_then_counted_once() {
    let fresh = job(json!({}), json!({"succeeded": 1}));
    let pods = [pod("a", "Succeeded", None), pod("b", "Failed", None), pod("c", "Running", None)];
    let a = of(&fresh, &pods);
    assert_eq!((a.succeeded, a.failed, a.active.len()), (2, 1, 1));
    let first = written_down(&fresh, &a, 1, now());
    assert_eq!((first.succeeded, first.failed), (1, 0));
    let mut interrupted = fresh.clone();
    interrupted.status = first.clone();
    let again = of(&interrupted, &pods);
    assert_eq!((again.succeeded, again.failed), (2, 1), "an interruption counts nothing twice");
    let after_release = of(&interrupted, &pods[2..]);
    assert_eq!((after_release.succeeded, after_release.failed), (2, 1), "or loses anything");
    let second = counted(first, &["a".to_owned(), "b".to_owned()]);
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
        matches!(manage(&suspended, &of(&suspended, &[pod("a", "Running", None)])), Manage::Delete(gone) if gone.len() == 1)
    );
    let double = [pod("a", "Running", Some(1)), pod("b", "Running", Some(1))];
    assert!(matches!(manage(&indexed, &of(&indexed, &double)), Manage::Delete(gone) if gone.len() == 1));
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

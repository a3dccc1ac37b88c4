use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::identity::ordinal;
use super::reconcile::{Revision, Snapshot, reconcile};
use crate::framework::Action;
use crate::views::pod::PodView;
use crate::views::workloads::StatefulSetView;

fn set(replicas: i32, change: impl FnOnce(&mut Value)) -> StatefulSetView {
    let mut value = json!({
        "metadata": {"name": "db", "namespace": "ns", "uid": "s", "generation": 1},
        "spec": {
            "replicas": replicas, "serviceName": "db", "podManagementPolicy": "OrderedReady",
            "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
        },
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn pod(number: i32, revision: &str, ready: bool) -> Arc<PodView> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": format!("db-{number}"), "namespace": "ns", "uid": format!("u{number}"),
                "labels": {"controller-revision-hash": revision, "statefulset.kubernetes.io/pod-name": format!("db-{number}")}},
            "spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": format!("data-db-{number}")}}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .unwrap(),
    )
}

fn step(set: &StatefulSetView, pods: &[Arc<PodView>]) -> (String, String) {
    let revision = |name: &str| Revision { name: name.to_owned(), template: set.spec.template.clone() };
    let snapshot = Snapshot {
        set,
        pods,
        current: revision("old"),
        update: revision("new"),
        claims: &|name| name == "data-db-0",
        now: Timestamp::UNIX_EPOCH,
    };
    let step = reconcile(&snapshot);
    let texts: Vec<String> = step
        .plan
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Create { body, .. } => Some(format!("+{}", body["metadata"]["name"].as_str().unwrap())),
            Action::Delete { target, .. } => Some(format!("-{}", target.key.name)),
            Action::Event { .. } => None,
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    (texts.join(" "), step.status.current_revision)
}

#[test]
fn ordinals_are_read_strictly() {
    assert_eq!(ordinal("db", "db-12"), Some(12));
    for name in ["db-", "db-x", "db-1-2", "other-1", "db1"] {
        assert_eq!(ordinal("db", name), None, "{name}");
    }
}

#[test]
fn ordered_sets_grow_and_shrink_one_by_one() {
    let three = set(3, |_| {});
    assert_eq!(step(&three, &[]).0, "+db-0", "its claim is there already");
    assert_eq!(step(&three, &[pod(0, "new", false)]).0, "", "waits for the first");
    assert_eq!(step(&three, &[pod(0, "new", true)]).0, "+data-db-1 +db-1");
    let two = [pod(0, "new", true), pod(1, "new", true)];
    assert_eq!(step(&set(1, |_| {}), &two).0, "-db-1");
    assert_eq!(step(&set(0, |_| {}), &two).0, "-db-1");
    let unhealthy = [pod(0, "new", true), pod(1, "new", false), pod(2, "new", true)];
    assert_eq!(step(&set(0, |_| {}), &unhealthy).0, "-db-2", "serves, and is the last");
    let parallel = set(3, |s| s["spec"]["podManagementPolicy"] = json!("Parallel"));
    assert_eq!(step(&parallel, &[pod(1, "new", false)]).0, "+db-0 +data-db-2 +db-2");
}

#[test]
fn updates_go_from_the_last_down_to_the_partition() {
    let old = [pod(0, "old", true), pod(1, "old", true), pod(2, "old", true)];
    let partition = |number: i32| set(3, |s| s["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(number));
    assert_eq!(step(&partition(0), &old).0, "-db-2");
    assert_eq!(step(&partition(3), &old).0, "");
    let half = [pod(0, "old", true), pod(1, "old", true), pod(2, "new", true)];
    assert_eq!(step(&partition(1), &half).0, "-db-1");
    assert_eq!(step(&partition(2), &half).0, "");
    let done = [pod(0, "new", true), pod(1, "new", true), pod(2, "new", true)];
    assert_eq!(step(&partition(0), &done), (String::new(), "new".to_owned()));
    let on_delete = set(3, |s| s["spec"]["updateStrategy"] = json!({"type": "OnDelete"}));
    assert_eq!(step(&on_delete, &old).0, "");
}

#[test]
fn ended_pods_are_replaced() {
    let mut failed = (*pod(0, "new", false)).clone();
    failed.status.phase = "Failed".to_owned();
    assert_eq!(step(&set(1, |_| {}), &[Arc::new(failed)]).0, "-db-0");
}

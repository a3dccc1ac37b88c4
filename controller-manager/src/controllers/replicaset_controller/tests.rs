use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::reconcile::{Manage, manage, sort_out, status_change};
use crate::controllers::deletion_order::choose;
use crate::framework::{Action, View};
use crate::views::pod::PodView;
use crate::views::workloads::ReplicaSetView;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn set(replicas: i32) -> ReplicaSetView {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "rs", "generation": 2},
        "spec": {"replicas": replicas, "minReadySeconds": 0, "selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web", "tier": "front"}}}},
    }))
    .unwrap()
}

fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Arc<PodView> {
    let mut value = json!({
        "metadata": {
            "name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true}],
        },
        "spec": {"nodeName": "n"},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    });
    change(&mut value);
    Arc::new(serde_json::from_value(value).unwrap())
}

#[test]
fn pods_are_kept_adopted_released_or_left_alone() {
    let set = set(1);
    let subject = set.subject();
    let pods = [
        pod("mine", |_| {}),
        pod("orphan", |p| p["metadata"]["ownerReferences"] = json!([])),
        pod("relabelled", |p| p["metadata"]["labels"] = json!({"app": "other"})),
        pod("foreign", |p| p["metadata"]["ownerReferences"][0]["uid"] = json!("other")),
        pod("ended", |p| p["status"]["phase"] = json!("Failed")),
        pod("leaving", |p| p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:00Z")),
    ];
    let owned = sort_out(&set, &subject, &pods);
    let names: Vec<&str> = owned.active.iter().map(|pod| pod.metadata.name.as_str()).collect();
    assert_eq!(names, ["mine", "orphan"]);
    assert_eq!(owned.terminating, 1);
    assert!(matches!(&owned.actions[..], [Action::Adopt { uid: a, .. }, Action::Release { uid: r, .. }]
        if a == "orphan" && r == "relabelled"));
}

#[test]
fn the_number_of_pods_is_brought_to_what_is_wanted() {
    let pods = [pod("a", |_| {}), pod("b", |_| {})];
    assert!(matches!(manage(&set(2), &pods, Vec::new, now()), Manage::Nothing));
    assert!(matches!(manage(&set(5), &pods, Vec::new, now()), Manage::Create(3)));
    assert!(matches!(manage(&set(2000), &pods, Vec::new, now()), Manage::Create(500)));
    assert!(matches!(manage(&set(0), &pods, Vec::new, now()), Manage::Delete(gone) if gone.len() == 2));
}

#[test]
fn the_least_useful_pod_goes_first() {
    let ready = |p: &mut Value, since: &str| p["status"]["conditions"][0]["lastTransitionTime"] = json!(since);
    let ordered = [
        pod("unassigned", |p| p["spec"]["nodeName"] = json!("")),
        pod("pending", |p| p["status"]["phase"] = json!("Pending")),
        pod("unready", |p| p["status"]["conditions"][0]["status"] = json!("False")),
        pod("cheap", |p| {
            p["metadata"]["annotations"] = json!({"controller.kubernetes.io/pod-deletion-cost": "-5"});
        }),
        pod("crowded", |p| p["spec"]["nodeName"] = json!("crowded")),
        pod("young", |p| ready(p, "2026-01-01T00:59:59Z")),
        pod("restarted", |p| p["status"]["containerStatuses"] = json!([{"name": "c", "restartCount": 3}])),
        pod("plain", |_| {}),
    ];
    let mut related = ordered.to_vec();
    related.extend((0..9).map(|i| pod(&format!("sibling{i}"), |p| p["spec"]["nodeName"] = json!("crowded"))));
    let mut shuffled = ordered.to_vec();
    shuffled.reverse();
    for count in 1..ordered.len() {
        let chosen = choose(&shuffled, &related, count, now());
        let expected: Vec<&str> = ordered[..count].iter().map(|pod| pod.metadata.name.as_str()).collect();
        assert_eq!(chosen.iter().map(|pod| pod.metadata.name.as_str()).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn many_pods_of_like_age_have_an_order() {
    // Times and restarts that, taken pair by pair with the uid between unequal times only, go round in circles.
    let pods: Vec<_> = (0..200_i32)
        .map(|i| {
            pod(&format!("{:03}", i * 77 % 200), |p| {
                let ready = format!("2026-01-01T00:{:02}:00Z", i % 3);
                p["status"]["conditions"][0]["lastTransitionTime"] = json!(ready);
                p["status"]["containerStatuses"] = json!([{"name": "c", "restartCount": i * 31 % 7}]);
            })
        })
        .collect();
    let mut turned = pods.clone();
    turned.reverse();
    for count in [1, 50, 199] {
        let names = |all: &[Arc<PodView>]| -> Vec<String> {
            choose(all, &pods, count, now()).iter().map(|pod| pod.metadata.name.clone()).collect()
        };
        assert_eq!(names(&pods), names(&turned));
    }
}

#[test]
fn the_status_counts_and_tells_of_failures_once() {
    let set = set(2);
    let subject = set.subject();
    let pods = [pod("a", |p| p["metadata"]["labels"]["tier"] = json!("front")), pod("b", |_| {})];
    let owned = sort_out(&set, &subject, &pods);
    let failure = Some(("FailedCreate", "quota".to_owned()));
    let Some(Action::Change { change, .. }) = status_change(&set, &owned, failure, now()) else { panic!("a change") };
    let status = &change["status"];
    assert_eq!(status["replicas"], 2);
    assert_eq!(status["fullyLabeledReplicas"], 1);
    assert_eq!(status["availableReplicas"], 2);
    assert_eq!(status["conditions"][0]["reason"], "FailedCreate");
    let mut said: ReplicaSetView = set;
    said.status = serde_json::from_value(status.clone()).unwrap();
    assert_eq!(status_change(&said, &owned, Some(("FailedCreate", "other".to_owned())), now()), None);
}

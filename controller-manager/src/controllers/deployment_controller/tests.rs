#![allow(clippy::needless_pass_by_value)]

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::limits::{max_surge, max_unavailable, new_size};
use super::model::HASH_LABEL;
use super::reconcile::{Snapshot, reconcile};
use crate::framework::{Action, Plan};
use crate::views::workloads::{DeploymentView, ReplicaSetView};

const NOW: &str = "2026-01-01T00:10:00Z";

fn deployment(replicas: i32, surge: Value, unavailable: Value, image: &str) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1, "resourceVersion": "9"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
        },
    })
}

fn replica_set(name: &str, image: &str, spec: i32, available: i32, revision: i32) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "ns", "uid": name, "generation": 1, "resourceVersion": "5",
            "creationTimestamp": format!("2026-01-01T00:00:{revision:02}Z"),
            "labels": {"app": "web", HASH_LABEL: name},
            "annotations": {
                "deployment.kubernetes.io/revision": revision.to_string(),
                "deployment.kubernetes.io/desired-replicas": "10",
                "deployment.kubernetes.io/max-replicas": "13",
            },
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d", "controller": true}],
        },
        "spec": {
            "replicas": spec,
            "selector": {"matchLabels": {"app": "web", HASH_LABEL: name}},
            "template": {
                "metadata": {"labels": {"app": "web", HASH_LABEL: name}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
        "status": {"replicas": spec, "readyReplicas": available, "availableReplicas": available, "observedGeneration": 1,
                   "terminatingReplicas": 0},
    })
}

fn view(value: Value) -> DeploymentView {
    serde_json::from_value(value).unwrap()
}

fn plan(deployment: Value, sets: &[Value]) -> Plan {
    let replica_sets: Vec<Arc<ReplicaSetView>> =
        sets.iter().map(|set| Arc::new(serde_json::from_value(set.clone()).unwrap())).collect();
    let now: Timestamp = NOW.parse().unwrap();
    reconcile(&Snapshot { deployment: Arc::new(view(deployment)), replica_sets, pods: Vec::new(), now })
}

/// (name, new size) of every resize, and the creation as ("+", size).
fn sizes(plan: &Plan) -> Vec<(String, i64)> {
    plan.actions
        .iter()
        .filter_map(|action| match action {
            Action::Create { body, .. } => Some(("+".to_owned(), body["spec"]["replicas"].as_i64().unwrap())),
            Action::Change { target, change, .. } => {
                change["spec"]["replicas"].as_i64().map(|size| (target.key.name.clone(), size))
            }
            _ => None,
        })
        .collect()
}

fn status(plan: &Plan) -> Value {
    plan.actions
        .iter()
        .find_map(|action| match action {
            Action::Change { subresource: Some("status"), change, .. } => Some(change.clone()),
            _ => None,
        })
        .unwrap_or(Value::Null)
}

fn reason(plan: &Plan, kind: &str) -> String {
    let conditions = status(plan)["status"]["conditions"].clone();
    let all = conditions.as_array().unwrap().clone();
    all.iter().find(|c| c["type"] == kind).unwrap()["reason"].as_str().unwrap().to_owned()
}

#[test]
fn limits_round_surge_up_and_unavailability_down_and_never_stand_still() {
    for (replicas, surge, unavailable, expected) in [
        (10, json!("25%"), json!("25%"), (3, 2)),
        (1, json!("25%"), json!("25%"), (1, 0)),
        (3, json!(0), json!(0), (0, 1)),
        (2, json!(0), json!(5), (0, 2)),
        (0, json!("25%"), json!("25%"), (0, 0)),
    ] {
        let deployment = view(deployment(replicas, surge, unavailable, "a"));
        assert_eq!((max_surge(&deployment), max_unavailable(&deployment)), expected, "{replicas}");
    }
    let deployment = view(deployment(10, json!(3), json!(2), "a"));
    assert_eq!(new_size(&deployment, 10, 0), 3);
    assert_eq!(new_size(&deployment, 13, 3), 3);
    assert_eq!(new_size(&deployment, 8, 6), 10);
}

#[test]
fn a_new_deployment_gets_a_full_replica_set() {
    let plan = plan(deployment(3, json!(1), json!(0), "a"), &[]);
    assert_eq!(sizes(&plan), [("+".to_owned(), 3)]);
    let Some(Action::Create { body, .. }) = plan.actions.first() else { panic!("a creation first") };
    let hash = body["metadata"]["labels"][HASH_LABEL].as_str().unwrap();
    assert_eq!(body["metadata"]["name"], format!("web-{hash}"));
    assert_eq!(body["spec"]["selector"]["matchLabels"][HASH_LABEL], hash);
    assert_eq!(body["metadata"]["annotations"]["deployment.kubernetes.io/max-replicas"], "4");
    assert_eq!(status(&plan)["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    assert_eq!(reason(&plan, "Progressing"), "NewReplicaSetCreated");
}

#[test]
fn a_rollout_grows_the_new_side_first_and_shrinks_within_availability() {
    let wanted = || deployment(10, json!(3), json!(2), "b");
    let created = plan(wanted(), &[replica_set("old", "a", 10, 10, 1)]);
    assert_eq!(sizes(&created), [("+".to_owned(), 3)]);
    let shrinking = plan(wanted(), &[replica_set("old", "a", 10, 10, 1), replica_set("new", "b", 3, 0, 2)]);
    assert_eq!(sizes(&shrinking), [("old".to_owned(), 8)], "two may be missing");
    let growing = plan(wanted(), &[replica_set("old", "a", 8, 8, 1), replica_set("new", "b", 3, 3, 2)]);
    assert_eq!(sizes(&growing), [("new".to_owned(), 5)]);
    let unhealthy = plan(wanted(), &[replica_set("old", "a", 10, 4, 1), replica_set("new", "b", 3, 0, 2)]);
    assert_eq!(sizes(&unhealthy), [("old".to_owned(), 8)], "unhealthy pods go, but no more than may be missing");
}

#[test]
fn rolling_back_finds_the_old_replica_set_and_gives_it_a_new_revision() {
    let plan = plan(
        deployment(10, json!(3), json!(2), "a"),
        &[replica_set("first", "a", 0, 0, 1), replica_set("second", "b", 10, 10, 2)],
    );
    assert_eq!(sizes(&plan), [("first".to_owned(), 3)]);
    let change = plan.actions.iter().find_map(|action| match action {
        Action::Change { target, change, .. } if target.key.name == "first" => Some(change.clone()),
        _ => None,
    });
    let annotations = &change.unwrap()["metadata"]["annotations"];
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let plan = plan(
        deployment(15, json!(3), json!(2), "b"),
        &[replica_set("old", "a", 8, 8, 1), replica_set("new", "b", 5, 2, 2)],
    );
    assert_eq!(sizes(&plan), [("old".to_owned(), 11), ("new".to_owned(), 7)]);
}

#[test]
fn pausing_stops_rollouts_but_not_scaling() {
    let mut paused = deployment(10, json!(3), json!(2), "b");
    paused["spec"]["paused"] = json!(true);
    let plan = plan(paused, &[replica_set("old", "a", 8, 8, 1)]);
    assert_eq!(sizes(&plan), [("old".to_owned(), 10)]);
    assert_eq!(reason(&plan, "Progressing"), "DeploymentPaused");
}

#[test]
fn recreate_empties_the_old_side_before_it_makes_the_new_one() {
    let mut wanted = deployment(10, json!(0), json!(0), "b");
    wanted["spec"]["strategy"] = json!({"type": "Recreate"});
    assert_eq!(sizes(&plan(wanted.clone(), &[replica_set("old", "a", 10, 10, 1)])), [("old".to_owned(), 0)]);
    let mut emptied = replica_set("old", "a", 0, 0, 1);
    emptied["status"]["replicas"] = json!(1);
    assert_eq!(sizes(&plan(wanted.clone(), &[emptied])), [], "a pod still runs");
    assert_eq!(sizes(&plan(wanted, &[replica_set("old", "a", 0, 0, 1)])), [("+".to_owned(), 10)]);
}

#[test]
fn a_rollout_without_progress_times_out_and_a_finished_one_is_cleaned_up() {
    let mut stuck = deployment(1, json!(1), json!(0), "b");
    stuck["status"] = json!({"replicas": 2, "updatedReplicas": 1, "availableReplicas": 1, "readyReplicas": 1, "conditions": [
        {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated", "lastUpdateTime": "2026-01-01T00:00:00Z"}]});
    let sets = [replica_set("old", "a", 1, 1, 1), replica_set("new", "b", 1, 0, 2)];
    let mut sets: Vec<Value> = sets.to_vec();
    for set in &mut sets {
        set["metadata"]["annotations"]["deployment.kubernetes.io/desired-replicas"] = json!("1");
    }
    assert_eq!(reason(&plan(stuck, &sets), "Progressing"), "ProgressDeadlineExceeded");

    let mut complete = deployment(3, json!(1), json!(0), "c");
    complete["spec"]["revisionHistoryLimit"] = json!(1);
    complete["status"] = json!({"replicas": 3, "updatedReplicas": 3, "availableReplicas": 3, "observedGeneration": 1});
    let mut new = replica_set("new", "c", 3, 3, 3);
    new["metadata"]["annotations"]["deployment.kubernetes.io/desired-replicas"] = json!("3");
    let plan = plan(complete, &[replica_set("a", "a", 0, 0, 1), replica_set("b", "b", 0, 0, 2), new]);
    let deleted: Vec<&str> = plan
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Delete { target, .. } => Some(target.key.name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(deleted, ["a"]);
    assert_eq!(reason(&plan, "Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn a_rollout_grows_only_when_the_pods_taken_from_the_old_side_are_on_their_way_out() {
    let mut old = replica_set("old", "a", 8, 8, 1);
    let new = replica_set("new", "b", 2, 2, 2);
    let new_size = |old: &Value| {
        let plan = plan(deployment(10, json!(2), json!(2), "b"), &[old.clone(), new.clone()]);
        sizes(&plan).into_iter().find(|(name, _)| name == "new").map(|(_, size)| size)
    };
    old["status"]["replicas"] = json!(10);
    assert_eq!(new_size(&old), None);
    old["status"]["replicas"] = json!(8);
    assert_eq!(new_size(&old), Some(4));
}

#[test]
fn the_deprecated_annotation_rolls_back() {
    let rolled = |to: &str| {
        let mut deployment = deployment(5, json!(1), json!(1), "b");
        deployment["metadata"]["annotations"] = json!({"deprecated.deployment.rollback.to": to, "cause": "second"});
        let mut old = replica_set("old", "a", 0, 0, 1);
        old["metadata"]["annotations"]["cause"] = json!("first");
        let plan = plan(deployment, &[old, replica_set("new", "b", 5, 5, 2)]);
        let reason = plan.actions.iter().find_map(|action| match action {
            Action::Event { reason, .. } => Some(*reason),
            _ => None,
        });
        let change = plan.actions.into_iter().find_map(|action| match action {
            Action::Change { change, subresource: None, .. } => Some(change),
            _ => None,
        });
        (reason.unwrap(), change.unwrap())
    };
    let (reason, change) = rolled("1");
    assert_eq!(reason, "DeploymentRollback");
    assert_eq!(change["spec"]["template"], json!({"spec": {"containers": [{"name": "c", "image": "a"}]}}));
    assert_eq!(change["metadata"]["annotations"], json!({"deprecated.deployment.rollback.to": null, "cause": "first"}));
    assert_eq!(rolled("0").1["spec"]["template"], change["spec"]["template"], "0 is the one before the last");
    assert_eq!(rolled("2").0, "DeploymentRollbackTemplateUnchanged");
    assert_eq!(rolled("7").0, "DeploymentRollbackRevisionNotFound");
    assert!(rolled("7").1.get("spec").is_none());
}

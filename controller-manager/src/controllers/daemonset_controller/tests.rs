#![allow(clippy::needless_pass_by_value)]

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::placement::{Placement, place, tolerations};
use super::reconcile::{Snapshot, manage, pod_for, roll};
use crate::framework::View;
use crate::views::node::NodeView;
use crate::views::pod::PodView;
use crate::views::workloads::DaemonSetView;

fn set(strategy: Value) -> DaemonSetView {
    serde_json::from_value(json!({
        "metadata": {"name": "agent", "namespace": "ns", "uid": "ds", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": {"metadata": {"labels": {"app": "a"}}, "spec": {}},
                 "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": strategy}},
    }))
    .unwrap()
}

fn nodes(count: usize) -> Vec<Arc<NodeView>> {
    (0..count)
        .map(|i| Arc::new(serde_json::from_value(json!({"metadata": {"name": format!("n{i}")}})).unwrap()))
        .collect()
}

fn pod(node: usize, hash: &str, ready: bool) -> Arc<PodView> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": format!("{hash}{node}"), "uid": format!("{hash}{node}"), "labels": {"app": "a", "controller-revision-hash": hash}},
            "spec": {"nodeName": format!("n{node}")},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .unwrap(),
    )
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn names(pods: &[Arc<PodView>]) -> Vec<&str> {
    pods.iter().map(|pod| pod.metadata.name.as_str()).collect()
}

#[test]
fn nodes_are_judged_by_selector_affinity_and_taints() {
    let node: NodeView = serde_json::from_value(json!({
        "metadata": {"name": "n", "labels": {"disk": "ssd", "cpus": "8"}},
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}, {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]},
    }))
    .unwrap();
    let affinity = |op: &str, values: Value| {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "cpus", "operator": op, "values": values}]}]}}})
    };
    let bears = json!([{"key": "k", "operator": "Exists"}]);
    for (spec, run, stay) in [
        (json!({}), false, true),
        (json!({"tolerations": bears}), true, true),
        (json!({"tolerations": bears, "nodeSelector": {"disk": "hdd"}}), false, false),
        (json!({"tolerations": bears, "affinity": affinity("Gt", json!(["4"]))}), true, true),
        (json!({"tolerations": bears, "affinity": affinity("NotIn", json!(["8"]))}), false, false),
        (json!({"tolerations": bears, "nodeName": "other"}), false, false),
    ] {
        assert_eq!(place(&node, &json!({"spec": spec})), Placement { run, stay }, "{spec}");
    }
}

#[test]
fn every_node_gets_one_pod() {
    let (set, nodes) = (set(json!({"maxUnavailable": 1})), nodes(3));
    let pods = [pod(0, "h", true), pod(1, "h", true), pod(1, "g", true), pod(7, "h", true)];
    let changes = manage(&Snapshot { set: &set, nodes: &nodes, pods: &pods, hash: "h", now: now() });
    assert_eq!(changes.create_on, ["n2"]);
    assert_eq!(names(&changes.delete), ["h1"], "names break the tie of ages");
    let subject = set.subject();
    let made: PodView = serde_json::from_value(pod_for(&set, &subject, "h", "n2")).unwrap();
    assert_eq!(made.target_node(), "n2");
    assert_eq!(made.spec.tolerations.len(), 6);
}

#[test]
fn updates_respect_unavailability_and_surge() {
    let nodes = nodes(4);
    let pods = [pod(0, "new", true), pod(1, "old", true), pod(2, "old", true), pod(3, "old", false)];
    let step = |strategy: Value| {
        let set = set(strategy);
        let changes = roll(&Snapshot { set: &set, nodes: &nodes, pods: &pods, hash: "new", now: now() });
        (names(&changes.delete).join(" "), changes.create_on.join(" "))
    };
    assert_eq!(step(json!({"maxUnavailable": 1})).0, "old3", "what does not serve goes first and counts");
    assert_eq!(step(json!({"maxUnavailable": 2})).0, "old3 old1");
    assert_eq!(step(json!({"maxUnavailable": 0, "maxSurge": 1})).1, "n3 n1");
    let both =
        [pod(0, "new", true), pod(0, "old", true), pod(1, "new", false), pod(1, "old", true), pod(2, "old", true)];
    let set = set(json!({"maxUnavailable": 0, "maxSurge": 1}));
    let changes = roll(&Snapshot { set: &set, nodes: &nodes, pods: &both, hash: "new", now: now() });
    assert_eq!((names(&changes.delete), changes.create_on.len()), (vec!["old0"], 0), "one surge at a time");
}

#[test]
fn surging_sets_keep_a_pod_on_every_node_and_leave_nodes_where_they_do_not_belong() {
    let set = set(json!({"maxUnavailable": 0, "maxSurge": 1}));
    let mut nodes = nodes(2);
    let deleting = |pod: &Arc<PodView>| {
        let mut pod = (**pod).clone();
        pod.metadata.deletion_timestamp = Some(now());
        Arc::new(pod)
    };
    let going = [deleting(&pod(0, "new", true)), pod(1, "new", true)];
    let changes = manage(&Snapshot { set: &set, nodes: &nodes, pods: &going, hash: "new", now: now() });
    assert_eq!(changes.create_on, ["n0"]);
    nodes[1] = Arc::new(
        serde_json::from_value(
            json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
        )
        .unwrap(),
    );
    let deleted = |pods: &[Arc<PodView>]| {
        let changes = roll(&Snapshot { set: &set, nodes: &nodes, pods, hash: "new", now: now() });
        names(&changes.delete).join(" ")
    };
    assert_eq!(deleted(&[pod(0, "new", true), pod(1, "old", true)]), "old1");
    assert_eq!(deleted(&[pod(0, "new", false), pod(1, "old", true)]), "", "nothing else serves yet");
    assert_eq!(deleted(&[pod(0, "new", false), pod(1, "old", false)]), "old1");
}

#[test]
fn tolerations_of_daemon_pods_take_the_place_of_like_ones() {
    let limited = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
    let other = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"});
    let all = tolerations(&json!({"hostNetwork": true, "tolerations": [limited, other]}));
    assert_eq!((all.len(), &all[0]["tolerationSeconds"], &all[1]), (8, &Value::Null, &other));
}

//! Table tests of the plan.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::evaluate::incremental::Evaluator;
use crate::model::node::NodeInfo;

#[allow(clippy::needless_pass_by_value)] // calls read better with json!(…) in place
fn pod(name: &str, node: &str, cpu: &str, priority: i32, more: Value) -> Arc<PodInfo> {
    let mut v = json!({"metadata": {"name": name, "namespace": "ns", "labels": {"app": name}},
        "spec": {"nodeName": node, "priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]}});
    for (key, value) in more.as_object().into_iter().flatten() {
        v[key] = value.clone();
    }
    Arc::new(PodInfo::of(&serde_json::from_value(v).unwrap()))
}

fn cluster(nodes: &[&str], pods: &[Arc<PodInfo>]) -> Cluster {
    let mut c = Cluster::default();
    for n in nodes {
        let v = json!({"metadata": {"name": n, "labels": {"kubernetes.io/hostname": n}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "9"}}});
        c.set_node(NodeInfo::of(&serde_json::from_value(v).unwrap()));
    }
    pods.iter().for_each(|p| c.place(p, false));
    c
}

fn decide(c: &mut Cluster, p: &Arc<PodInfo>) -> Result<(String, Vec<String>), String> {
    let profiles = [Profile::default_for("default-scheduler")];
    let diagnosis = Evaluator::default().diagnose(c, &profiles, 0, p);
    match super::decide(c, p, candidates(c, &profiles[0], p, &diagnosis, 0)?) {
        Plan::Nothing(why) => Err(why),
        Plan::Preempt { node, victims, .. } => {
            Ok((node.to_string(), victims.iter().map(|v| v.key.name.to_string()).collect()))
        }
    }
}

#[test]
fn fewest_and_least_important() {
    let pods = [
        pod("a", "n1", "2", 5, json!({})),
        pod("b", "n2", "1", 1, json!({})),
        pod("c", "n2", "1", 1, json!({})),
        pod("d", "n3", "2", 1, json!({})),
    ];
    let mut c = cluster(&["n1", "n2", "n3"], &pods);
    // On n3 one victim of the lowest priority is enough.
    let got = decide(&mut c, &pod("p", "", "2", 10, json!({})));
    assert_eq!(got, Ok(("n3".into(), vec!["d".into()])));
    // Half a node: on n2 one of two goes, the one that started last.
    let started = |at: &str| json!({"status": {"startTime": at}});
    let pods = [
        pod("b", "n2", "1", 1, started("2026-01-01T00:00:00Z")),
        pod("c", "n2", "1", 1, started("2026-01-02T00:00:00Z")),
    ];
    let mut c = cluster(&["n2"], &pods);
    assert_eq!(decide(&mut c, &pod("p", "", "1", 10, json!({}))), Ok(("n2".into(), vec!["c".into()])));
    // Of pods that have not started the one that came first goes.
    let pods = [pod("b", "n2", "1", 1, json!({})), pod("c", "n2", "1", 1, json!({}))];
    let mut c = cluster(&["n2"], &pods);
    assert_eq!(decide(&mut c, &pod("p", "", "1", 10, json!({}))), Ok(("n2".into(), vec!["b".into()])));
}

#[test]
fn budgets_are_respected_where_possible() {
    let mut c = cluster(&["n1", "n2"], &[pod("a", "n1", "2", 1, json!({})), pod("b", "n2", "2", 2, json!({}))]);
    let budget = json!({"metadata": {"name": "x", "namespace": "ns"}, "spec": {"selector": {"matchLabels": {"app": "a"}}},
        "status": {"disruptionsAllowed": 0}});
    let budgets = BTreeMap::from([("x".to_string(), serde_json::from_value(budget).unwrap())]);
    c.world.budgets.insert("ns".into(), budgets);
    assert_eq!(decide(&mut c, &pod("p", "", "2", 10, json!({}))), Ok(("n2".into(), vec!["b".into()])));
}

#[test]
fn words_when_nothing_helps() {
    let mut c = cluster(&["n1", "n2"], &[pod("a", "n1", "2", 20, json!({})), pod("b", "n2", "2", 1, json!({}))]);
    let selective = json!({"spec": {"priority": 10, "nodeSelector": {"kubernetes.io/hostname": "n1"},
        "containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
    let why = decide(&mut c, &pod("p", "", "1", 10, selective)).unwrap_err();
    let want = "0/2 nodes are available: 1 No preemption victims found for incoming pod, \
                1 Preemption is not helpful for scheduling.";
    assert_eq!(why, want);
    let never = json!({"spec": {"priority": 10, "preemptionPolicy": "Never",
        "containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
    let why = decide(&mut c, &pod("p", "", "1", 10, never)).unwrap_err();
    assert_eq!(why, "not eligible due to preemptionPolicy=Never.");
}

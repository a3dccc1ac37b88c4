use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::health::{Grace, observe, patience_left, silence};
use super::reconcile::{Eviction, labels_change, pod_not_ready, wanted_taints};
use super::zones::{Bucket, Rates, judge};
use crate::framework::Action;
use crate::framework::plan::PatchBody;
use crate::views::node::NodeView;
use crate::views::pod::PodView;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

fn node(name: &str, change: impl FnOnce(&mut Value)) -> NodeView {
    let mut value = json!({
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"kubernetes.io/os": "linux"}},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

const GRACE: Grace = Grace { running: Duration::from_secs(40), starting: Duration::from_secs(60) };

#[test]
fn silence_counts_from_the_last_sign_of_life_on_our_own_clock() {
    let alive = node("n", |_| {});
    let memory = observe(None, &alive, None, at(1000));
    assert_eq!(patience_left(&memory, &alive, GRACE, at(1030)), Duration::from_secs(10));
    let memory = observe(Some(memory), &alive, None, at(1030));
    assert!(patience_left(&memory, &alive, GRACE, at(1041)).is_zero(), "nothing new was heard");
    let lease = serde_json::from_value(json!({"spec": {"renewTime": "2026-01-01T00:00:05.000000Z"}})).unwrap();
    let memory = observe(Some(memory), &alive, Some(&lease), at(1041));
    assert!(!patience_left(&memory, &alive, GRACE, at(1042)).is_zero(), "a renewed lease is a sign of life");
    let mute = node("n", |n| n["status"] = json!({}));
    let memory = observe(None, &mute, None, at(30));
    assert_eq!(patience_left(&memory, &mute, GRACE, at(30)), Duration::from_secs(30), "counts from its creation");
}

#[test]
fn a_silent_node_loses_its_conditions_once() {
    let change = silence(&node("n", |_| {}), at(100)).unwrap();
    let reasons: Vec<&str> =
        change["status"]["conditions"].as_array().unwrap().iter().map(|c| c["reason"].as_str().unwrap()).collect();
    assert_eq!(
        reasons,
        ["NodeStatusUnknown", "NodeStatusNeverUpdated", "NodeStatusNeverUpdated", "NodeStatusNeverUpdated"]
    );
    let unknown = node("n", |n| {
        n["status"]["conditions"] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]
            .iter()
            .map(|kind| json!({"type": kind, "status": "Unknown"}))
            .collect();
    });
    assert_eq!(silence(&unknown, at(100)), None);
}

#[test]
fn taints_follow_conditions_and_leave_other_peoples_alone() {
    let keys = |node: &NodeView, eviction: Eviction| {
        let (taints, missing) = wanted_taints(node, eviction, at(0));
        let mut texts: Vec<String> = taints
            .iter()
            .map(|taint| format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect))
            .collect();
        texts.sort();
        (texts.join(" "), missing)
    };
    let fine = node("n", |n| {
        n["spec"]["taints"] = json!([
            {"key": "mine", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
            {"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}]);
    });
    assert_eq!(keys(&fine, Eviction::Later), ("mine:NoSchedule".to_owned(), false));
    let unknown = node("n", |n| n["status"]["conditions"][0]["status"] = json!("Unknown"));
    assert_eq!(keys(&unknown, Eviction::Later), ("unreachable:NoSchedule".to_owned(), true));
    assert_eq!(keys(&unknown, Eviction::Now), ("unreachable:NoExecute unreachable:NoSchedule".to_owned(), false));
    let was_not_ready = node("n", |n| {
        n["status"]["conditions"][0]["status"] = json!("Unknown");
        n["spec"]["taints"] = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]);
    });
    assert_eq!(keys(&was_not_ready, Eviction::Later).0, "unreachable:NoExecute unreachable:NoSchedule");
    assert_eq!(keys(&was_not_ready, Eviction::Off), ("unreachable:NoSchedule".to_owned(), false));
    let new = node("n", |n| n["status"] = json!({}));
    assert_eq!(keys(&new, Eviction::Now), (String::new(), false), "nothing is known of it yet");
    assert!(labels_change(&node("n", |_| {})).is_some());
}

#[test]
fn pods_of_a_silent_node_cease_to_be_ready_and_keep_the_rest() {
    let pod = |status: &str| -> PodView {
        let ready = json!({"type": "Ready", "status": status, "reason": "Mine"});
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"conditions": [ready]}})).unwrap()
    };
    let [Action::Patch { patch: PatchBody::Strategic(patch), .. }, Action::Event { reason, .. }] =
        pod_not_ready(&pod("True"), at(0)).unwrap()
    else {
        panic!("a patch and an event");
    };
    let condition = &patch["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"], reason), (&json!("False"), &json!("Mine"), "NodeNotReady"));
    assert_eq!(pod_not_ready(&pod("False"), at(0)), None);
}

#[test]
fn eviction_slows_down_when_much_of_a_zone_is_down() {
    let config = Rates { normal: 0.1, secondary: 0.01, unhealthy_share: 0.55, large_cluster: 5 };
    let zone = |ready: usize, down: usize, zone: &'static str| {
        (0..ready + down).map(move |index| {
            node("n", |n| {
                n["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": zone});
                n["status"]["conditions"][0]["status"] = json!(if index < ready { "True" } else { "False" });
            })
        })
    };
    let rate = |nodes: Vec<NodeView>| judge(nodes.iter(), config).rates.into_values().collect::<Vec<_>>();
    let all_down = |nodes: Vec<NodeView>| judge(nodes.iter(), config).all_down;
    assert_eq!(rate(zone(9, 1, "a").collect()), [0.1]);
    assert_eq!(rate(zone(1, 3, "a").collect()), [0.0], "small and partly down");
    assert_eq!(rate(zone(2, 6, "a").collect()), [0.01], "large and partly down");
    assert_eq!(rate(zone(0, 3, "a").collect()), [0.0], "everything is down");
    assert_eq!(rate(zone(0, 3, "a").chain(zone(3, 0, "b")).collect()), [0.1, 0.1], "one zone of two is down");
    let mut excluded: Vec<NodeView> = zone(1, 3, "a").collect();
    let label = || ("node.kubernetes.io/exclude-disruption".to_owned(), String::new());
    excluded.iter_mut().skip(2).for_each(|node| node.metadata.labels.extend([label()]));
    assert_eq!(rate(excluded), [0.1], "excluded nodes do not count");
    assert!(all_down(zone(0, 1, "a").chain(zone(0, 1, "b")).collect()));
    assert!(!all_down(zone(0, 1, "a").chain(zone(1, 0, "b")).collect()));
    let mut alone: Vec<NodeView> = zone(1, 0, "b").collect();
    alone[0].metadata.labels.extend([label()]);
    assert!(all_down(zone(0, 1, "a").chain(alone).collect()), "one that does not count does not speak for the others");
    assert!(!all_down(Vec::new()));
    let mut bucket = Bucket::default();
    assert_eq!(bucket.take(0.1, at(0)), Ok(()));
    assert_eq!(bucket.take(0.1, at(4)), Err(Some(6000)));
    assert_eq!(bucket.take(0.1, at(10)), Ok(()));
    assert_eq!(bucket.take(0.0, at(100)), Err(None));
}

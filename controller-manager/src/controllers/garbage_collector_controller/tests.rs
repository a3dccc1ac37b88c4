use apimachinery::meta::ObjectMeta;
use client::resources;
use serde_json::{Value, json};

use super::decide::{OwnerState, decide};
use super::graph::{Graph, Wake};
use crate::framework::{Action, Target};

fn meta(uid: &str, owners: &[&str], change: impl FnOnce(&mut Value)) -> ObjectMeta {
    let owners: Vec<Value> = owners
        .iter()
        .map(|owner| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": owner, "blockOwnerDeletion": true}))
        .collect();
    let mut value =
        json!({"name": uid, "namespace": "ns", "uid": uid, "resourceVersion": "1", "ownerReferences": owners});
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn terminating(finalizer: &'static str) -> impl FnOnce(&mut Value) {
    move |value| {
        value["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        value["finalizers"] = json!([finalizer]);
    }
}

fn deleted(wake: &Wake) -> Vec<&str> {
    wake.delete.iter().map(String::as_str).collect()
}

#[test]
fn unseen_owners_are_asked_about_and_their_absence_wakes_dependents() {
    let mut graph = Graph::default();
    assert_eq!(deleted(&graph.upsert(0, &meta("child", &["owner"], |_| {}))), ["owner"]);
    assert!(graph.get("owner").unwrap().is_virtual());
    assert_eq!(deleted(&graph.remove("owner")), ["child"]);
    assert!(graph.upsert(0, &meta("late", &[], |_| {})).delete.is_empty());
}

#[test]
fn an_owner_that_is_seen_is_no_question_and_its_end_wakes_dependents() {
    let mut graph = Graph::default();
    graph.upsert(0, &meta("owner", &[], |_| {}));
    assert!(graph.upsert(0, &meta("child", &["owner"], |_| {})).delete.is_empty());
    assert_eq!(deleted(&graph.remove("owner")), ["child"]);
}

#[test]
fn an_owner_of_another_kind_is_asked_about() {
    let mut graph = Graph::default();
    graph.kinds.push("Secret".to_owned());
    graph.upsert(0, &meta("owner", &[], |_| {}));
    assert_eq!(deleted(&graph.upsert(0, &meta("child", &["owner"], |_| {}))), ["child"]);
}

#[test]
fn an_owner_of_another_namespace_is_none_whichever_is_seen_first() {
    let elsewhere = |value: &mut Value| value["namespace"] = json!("other");
    let mut graph = Graph::default();
    graph.upsert(0, &meta("owner", &[], elsewhere));
    let wake = graph.upsert(0, &meta("child", &["owner"], |_| {}));
    assert_eq!((deleted(&wake), wake.misplaced.len()), (vec!["child"], 1));
    assert!(graph.upsert(0, &meta("child", &["owner"], |_| {})).misplaced.is_empty(), "said once");
    let mut graph = Graph::default();
    graph.upsert(0, &meta("child", &["owner"], |_| {}));
    let wake = graph.upsert(0, &meta("owner", &[], elsewhere));
    assert_eq!((deleted(&wake), wake.misplaced.len()), (vec!["child"], 1));
    graph.upsert(0, &meta("cluster-wide", &[], |value| value["namespace"] = json!("")));
    assert!(graph.upsert(0, &meta("any", &["cluster-wide"], |_| {})).delete.is_empty());
}

#[test]
fn foreground_deletion_waits_for_blocking_dependents() {
    let mut graph = Graph::default();
    graph.upsert(0, &meta("owner", &[], |_| {}));
    graph.upsert(0, &meta("child", &["owner"], |_| {}));
    let wake = graph.upsert(0, &meta("owner", &[], terminating("foregroundDeletion")));
    assert_eq!(deleted(&wake), ["child", "owner"]);
    let owner = graph.get("owner").unwrap();
    assert_eq!(graph.blocking_dependents(owner, "owner"), [("child".to_owned(), false)]);
    assert_eq!(deleted(&graph.remove("child")), ["owner"]);
}

#[test]
fn an_object_that_owns_itself_is_not_judged_before_its_deletion_is_seen() {
    let mut graph = Graph::default();
    graph.upsert(0, &meta("self", &["self"], |_| {}));
    let latest = meta("self", &["self"], terminating("foregroundDeletion"));
    assert!(graph.get("self").unwrap().is_behind(&latest));
    graph.upsert(0, &latest);
    let node = graph.get("self").unwrap();
    assert!(!node.is_behind(&latest) && node.waits());
    assert_eq!(graph.blocking_dependents(node, "self"), [("self".to_owned(), true)]);
}

#[test]
fn orphaning_is_asked_for_once() {
    let mut graph = Graph::default();
    graph.upsert(0, &meta("owner", &[], |_| {}));
    assert_eq!(graph.upsert(0, &meta("owner", &[], terminating("orphan"))).orphan, ["owner"]);
    assert!(graph.upsert(0, &meta("owner", &[], terminating("orphan"))).orphan.is_empty());
}

#[test]
fn decisions_follow_from_the_states_of_all_owners() {
    use OwnerState::{Absent, Solid, Waiting};
    let object = meta("child", &["a", "b"], |_| {});
    let target = Target::of(&resources::CONFIG_MAPS, &object);
    let step = |states: &[OwnerState], dependents: bool, waiting: bool| {
        let owners: Vec<(String, OwnerState)> =
            ["a", "b"].map(str::to_owned).into_iter().zip(states.iter().copied()).collect();
        decide(&target, &object, &owners, dependents, waiting)
            .into_iter()
            .map(|action| match action {
                Action::Delete { propagation, .. } => propagation.unwrap().to_owned(),
                Action::Change { change, .. } => {
                    format!("owners {}", change["metadata"]["ownerReferences"].as_array().unwrap().len())
                }
                other => panic!("unexpected {other:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(step(&[Solid, Solid], false, false), Vec::<String>::new());
    assert_eq!(step(&[Solid, Absent], false, false), ["owners 1"]);
    assert_eq!(step(&[Absent, Absent], false, false), ["Background"]);
    assert_eq!(step(&[Absent, Waiting], false, false), ["Background"]);
    assert_eq!(step(&[Absent, Waiting], true, false), ["Foreground"]);
    assert_eq!(step(&[Waiting, Waiting], true, true), ["owners 2", "Foreground"]);
}

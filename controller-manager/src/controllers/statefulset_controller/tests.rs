use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::claims::Owners;
use super::identity::ordinal;
use super::reconcile::{Revision, Snapshot, reconcile};
use crate::framework::{Action, Key, Subject, View};
use crate::views::pod::PodView;
use crate::views::volume::ClaimView;
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

fn claim(name: &str, owners: &Value) -> ClaimView {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns", "ownerReferences": owners}})).unwrap()
}

fn step(set: &StatefulSetView, pods: &[Arc<PodView>]) -> (String, String) {
    let revision = |name: &str| Revision { name: name.to_owned(), template: set.spec.template.clone() };
    let snapshot = Snapshot {
        set,
        pods,
        current: revision("old"),
        update: revision("new"),
        claims: &|name| (name == "data-db-0").then(|| Arc::new(claim(name, &json!([])))),
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

#[test]
fn claims_belong_to_the_set_or_to_the_pod_that_scaling_removes() {
    let owner = |kind: &str, name: &str, uid: &str, controls: bool| {
        let version = if kind == "Pod" { "v1" } else { "apps/v1" };
        json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": controls, "blockOwnerDeletion": true})
    };
    let (by_set, by_pod) = (owner("StatefulSet", "db", "s", true), owner("Pod", "db-0", "u0", true));
    let subject = |resource: &client::ResourceRef, name: &str, uid: &str| Subject {
        resource: resource.clone(),
        key: Key::new("ns", name),
        uid: uid.to_owned(),
    };
    let (of_set, of_pod) = (subject(&StatefulSetView::RESOURCE, "db", "s"), subject(&PodView::RESOURCE, "db-0", "u0"));
    let change = |scaled: &str, deleted: &str, condemned: bool, owners: Value| {
        let set = set(1, |set| {
            set["spec"]["persistentVolumeClaimRetentionPolicy"] = json!({"whenScaled": scaled, "whenDeleted": deleted});
        });
        let change = Owners { set: &of_set, pod: &of_pod, condemned }.change(&set, &claim("data-db-0", &owners));
        change.map(Value::Array)
    };
    assert_eq!(change("Retain", "Retain", false, json!([by_set])), Some(json!([])));
    assert_eq!(change("Retain", "Delete", false, json!([])), Some(json!([by_set])));
    assert_eq!(change("Retain", "Delete", true, json!([by_set])), None);
    assert_eq!(change("Delete", "Retain", false, json!([])), None);
    assert_eq!(change("Delete", "Retain", true, json!([])), Some(json!([by_pod])));
    assert_eq!(change("Delete", "Delete", true, json!([by_set])), Some(json!([by_pod])));
    assert_eq!(change("Delete", "Delete", false, json!([by_pod])), Some(json!([by_set])), "taken back");
    assert_eq!(
        change("Retain", "Delete", false, json!([owner("StatefulSet", "db", "s", false)])),
        Some(json!([by_set]))
    );
    assert_eq!(change("Delete", "Delete", true, json!([owner("StatefulSet", "db", "former", true)])), None, "stale");
    let other = owner("Other", "o", "o", true);
    assert_eq!(change("Delete", "Delete", true, json!([other])), None, "another controller's");
    assert_eq!(change("Delete", "Delete", true, json!([other, by_set])), Some(json!([other])));
}

#[test]
fn no_pod_is_made_on_a_claim_that_goes_away() {
    let revision = |name: &str| Revision { name: name.to_owned(), template: json!({"spec": {}}) };
    let plan = |set: &StatefulSetView, claim: ClaimView| {
        let claims = move |_: &str| Some(Arc::new(claim.clone()));
        let snapshot = Snapshot {
            set,
            pods: &[],
            current: revision("old"),
            update: revision("new"),
            claims: &claims,
            now: Timestamp::UNIX_EPOCH,
        };
        reconcile(&snapshot).plan.actions
    };
    let mut going = claim("data-db-0", &json!([]));
    going.metadata.deletion_timestamp = Some(Timestamp::UNIX_EPOCH);
    let actions = plan(&set(1, |_| {}), going);
    assert!(matches!(actions.as_slice(), [Action::Event { reason: "FailedCreate", .. }]), "{actions:?}");
    let former = json!([{"apiVersion": "v1", "kind": "Pod", "name": "db-0", "uid": "former", "controller": true}]);
    let scaled = set(1, |set| {
        set["spec"]["persistentVolumeClaimRetentionPolicy"] = json!({"whenScaled": "Delete", "whenDeleted": "Retain"});
    });
    assert_eq!(plan(&scaled, claim("data-db-0", &former)), []);
}

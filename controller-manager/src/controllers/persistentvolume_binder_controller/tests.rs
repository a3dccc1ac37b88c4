use std::sync::Arc;

use serde_json::{Value, json};

use super::claim::{World, reconcile};
use super::{matching, volume};
use crate::framework::{Action, Plan};
use crate::views::volume::{ClaimView, StorageClassView, VolumeView};

fn claim(more: &Value) -> ClaimView {
    let mut object = json!({
        "metadata": {"namespace": "n", "name": "c", "uid": "u"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "k", "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"},
    });
    apimachinery::patch::merge_patch(&mut object, more);
    serde_json::from_value(object).unwrap()
}

fn pv(name: &str, size: &str, more: &Value) -> Arc<VolumeView> {
    let mut object = json!({
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "k", "capacity": {"storage": size}},
        "status": {"phase": "Available"},
    });
    apimachinery::patch::merge_patch(&mut object, more);
    Arc::new(serde_json::from_value(object).unwrap())
}

fn best<'a>(c: &ClaimView, volumes: &'a [Arc<VolumeView>], delayed: bool) -> Option<&'a str> {
    matching::best(c, volumes, delayed).map(|v| v.metadata.name.as_str())
}

#[test]
fn few_modes_then_reserved_then_small() {
    let mine = json!({"spec": {"claimRef": {"namespace": "n", "name": "c"}}});
    let other = json!({"spec": {"claimRef": {"namespace": "n", "name": "d"}}});
    let wide = json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}});
    let c = claim(&json!({}));
    let all = [
        pv("tiny", "1Mi", &json!({})),
        pv("wide", "1Gi", &wide),
        pv("big", "9Gi", &json!({})),
        pv("small", "2Gi", &json!({})),
        pv("theirs", "1Gi", &other),
        pv("class", "1Gi", &json!({"spec": {"storageClassName": ""}})),
        pv("released", "1Gi", &json!({"status": {"phase": "Released"}})),
        pv("mine", "20Gi", &mine),
    ];
    assert_eq!(best(&c, &all, false), Some("mine"));
    assert_eq!(best(&c, &all[..7], false), Some("small"));
    assert_eq!(best(&c, &all[..2], false), Some("wide"));
    assert_eq!((best(&c, &all, true), best(&c, &all[..7], true)), (Some("mine"), None));
    let labelled = claim(&json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}));
    assert_eq!(best(&labelled, &all[..7], false), None);
}

/// The plan in words: what is changed (with the phase), and reasons of events.
fn words(plan: &Plan) -> Vec<String> {
    let one = |action: &Action| match action {
        Action::Change { target, change, .. } => {
            let phase = change["status"]["phase"].as_str().unwrap_or("change");
            format!("{} {phase}", target.resource.kind)
        }
        Action::Event { reason, .. } => (*reason).to_owned(),
        other => format!("{other:?}"),
    };
    plan.actions.iter().map(one).collect()
}

fn of_claim(c: &ClaimView, volumes: &[Arc<VolumeView>], classes: &[Value]) -> Vec<String> {
    let parse = |v: &Value| Arc::new(serde_json::from_value::<StorageClassView>(v.clone()).unwrap());
    let classes: Vec<_> = classes.iter().map(parse).collect();
    words(&reconcile(c, &World { volumes, classes: &classes, waiting_pod: None, provisions: true }))
}

#[test]
fn ways_of_a_claim() {
    let class = |provisioner: &str, mode: &str| json!({"metadata": {"name": "k"}, "provisioner": provisioner, "volumeBindingMode": mode});
    let c = claim(&json!({}));
    let four = [
        "PersistentVolume change", "PersistentVolume Bound", "PersistentVolumeClaim change",
        "PersistentVolumeClaim Bound",
    ];
    assert_eq!(of_claim(&c, &[pv("a", "1Gi", &json!({}))], &[]), four);
    assert_eq!(of_claim(&c, &[], &[]), ["ProvisioningFailed"]);
    assert_eq!(
        of_claim(&c, &[], &[class("x.example.com", "Immediate")]),
        ["PersistentVolumeClaim change", "ExternalProvisioning"]
    );
    assert_eq!(of_claim(&c, &[], &[class("kubernetes.io/no-provisioner", "")]), ["ProvisioningFailed"]);
    assert_eq!(of_claim(&c, &[], &[class("x", "WaitForFirstConsumer")]), ["WaitForFirstConsumer"]);
    let chosen = claim(&json!({"spec": {"volumeName": "a"}}));
    assert_eq!(of_claim(&chosen, &[pv("a", "1Mi", &json!({}))], &[]), ["VolumeMismatch"]);
    let taken = pv("a", "1Gi", &json!({"spec": {"claimRef": {"namespace": "n", "name": "d", "uid": "x"}}}));
    assert_eq!(of_claim(&chosen, std::slice::from_ref(&taken), &[]), ["FailedBinding"]);
    let bound = claim(&json!({"spec": {"volumeName": "a"}, "status": {"phase": "Bound"},
        "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}}));
    assert_eq!(of_claim(&bound, &[], &[]), ["PersistentVolumeClaim Lost", "ClaimLost"]);
    assert_eq!(of_claim(&bound, &[taken], &[]), ["PersistentVolumeClaim Lost", "ClaimMisbound"]);
    let none = claim(&json!({"spec": {"storageClassName": null}}));
    assert_eq!(of_claim(&none, &[], &[]), ["FailedBinding"]);
    let default =
        json!({"metadata": {"name": "d", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    assert_eq!(of_claim(&none, &[], &[default]), ["PersistentVolumeClaim change"]);
}

#[test]
fn a_claim_that_lost_its_volume_keeps_nothing_of_it() {
    let bound = claim(&json!({"spec": {"volumeName": "a"},
        "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}},
        "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}}));
    let plan = reconcile(&bound, &World { volumes: &[], classes: &[], waiting_pod: None, provisions: true });
    let Some(Action::Change { change, .. }) = plan.actions.first() else { panic!("{plan:?}") };
    for field in ["accessModes", "capacity", "currentVolumeAttributesClassName"] {
        assert_eq!(change["status"].get(field), Some(&Value::Null), "{field}");
    }
}

#[test]
fn ways_of_a_volume() {
    let of = |more: &Value, owner: Option<&ClaimView>| {
        let mut v =
            json!({"spec": {"claimRef": {"namespace": "n", "name": "c", "uid": "u"}}, "status": {"phase": "Bound"}});
        apimachinery::patch::merge_patch(&mut v, more);
        let outcome = volume::reconcile(&pv("a", "1Gi", &v), owner);
        (words(&outcome.plan), outcome.claim_first)
    };
    let here = claim(&json!({"spec": {"volumeName": "a"}}));
    assert_eq!(of(&json!({}), Some(&here)), (vec![], false));
    assert_eq!(of(&json!({}), Some(&claim(&json!({})))), (vec![], true));
    assert_eq!(of(&json!({}), None).0, ["PersistentVolume Released"]);
    let delete = json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}});
    assert_eq!(of(&delete, None).0, ["PersistentVolume Released", "PersistentVolume Failed", "VolumeFailedDelete"]);
    let made = json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"},
        "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "x.example.com"}}});
    assert_eq!(of(&made, None).0, ["PersistentVolume Released"]);
    let elsewhere = claim(&json!({"spec": {"volumeName": "b"}}));
    assert_eq!(of(&json!({}), Some(&elsewhere)).0, ["PersistentVolume change", "PersistentVolume Available"]);
    assert_eq!(of(&json!({"spec": {"claimRef": {"uid": null}}}), None).0, ["PersistentVolume Available"]);
}

//! What makes a stateful pod the one it is: its ordinal, name, labels, host name and claims.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::controllers::history::HASH_LABEL;
use crate::controllers::pod_template::pod_from_template;
use crate::framework::{Action, Subject};
use crate::views::pod::PodView;
use crate::views::workloads::StatefulSetView;
use client::resources;

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The ordinal in a pod's name; None for pods that are not named after the set.
pub fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// The name of a claim.
pub fn claim_name(template: &Value, set: &str, ordinal: i32) -> String {
    format!("{}-{set}-{ordinal}", template["metadata"]["name"].as_str().unwrap_or_default())
}

/// The labels that identify a pod.
pub fn identity_labels(name: &str, ordinal: i32) -> BTreeMap<&'static str, String> {
    BTreeMap::from([(NAME_LABEL, name.to_owned()), (INDEX_LABEL, ordinal.to_string())])
}

/// Whether the pod still has the labels and volumes that identify it.
pub fn is_itself(set: &StatefulSetView, pod: &PodView, ordinal: i32) -> bool {
    identity_labels(&pod.metadata.name, ordinal)
        .iter()
        .filter(|(name, _)| **name == NAME_LABEL)
        .all(|(name, value)| pod.metadata.labels.get(*name) == Some(value))
        && set.spec.volume_claim_templates.iter().all(|template| {
            let claim = claim_name(template, &set.metadata.name, ordinal);
            pod.claims().any(|name| name == claim)
        })
}

/// The pod with this ordinal, of this template and revision.
pub fn pod_for(set: &StatefulSetView, subject: &Subject, template: &Value, revision: &str, ordinal: i32) -> Value {
    let name = format!("{}-{ordinal}", subject.key.name);
    let mut pod = pod_from_template(template, subject);
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.remove("generateName");
    }
    pod["metadata"]["name"] = json!(name);
    for (label, value) in identity_labels(&name, ordinal) {
        pod["metadata"]["labels"][label] = json!(value);
    }
    pod["metadata"]["labels"][HASH_LABEL] = json!(revision);
    pod["spec"]["hostname"] = json!(name);
    pod["spec"]["subdomain"] = json!(set.spec.service_name);
    let claimed: Vec<&Value> =
        set.spec.volume_claim_templates.iter().map(|template| &template["metadata"]["name"]).collect();
    let mut volumes: Vec<Value> = set
        .spec
        .volume_claim_templates
        .iter()
        .map(|template| {
            let claim = claim_name(template, &set.metadata.name, ordinal);
            json!({"name": template["metadata"]["name"], "persistentVolumeClaim": {"claimName": claim}})
        })
        .collect();
    let own = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    volumes.extend(own.into_iter().filter(|volume| !claimed.contains(&&volume["name"])));
    if !volumes.is_empty() {
        pod["spec"]["volumes"] = Value::Array(volumes);
    }
    pod
}

/// The creation of the claims that the pod needs and `exists` does not know.
pub fn missing_claims(
    set: &StatefulSetView,
    subject: &Subject,
    ordinal: i32,
    exists: impl Fn(&str) -> bool,
) -> Vec<Action> {
    set.spec
        .volume_claim_templates
        .iter()
        .filter_map(|template| {
            let name = claim_name(template, &set.metadata.name, ordinal);
            (!exists(&name)).then(|| claim_for(set, subject, template, &name))
        })
        .collect()
}

fn claim_for(set: &StatefulSetView, subject: &Subject, template: &Value, name: &str) -> Action {
    let mut labels = template["metadata"]["labels"].clone();
    for (label, value) in set.spec.selector.source["matchLabels"].as_object().into_iter().flatten() {
        labels[label] = value.clone();
    }
    let mut body = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": subject.key.namespace, "labels": labels},
        "spec": template["spec"],
    });
    if !template["metadata"]["annotations"].is_null() {
        body["metadata"]["annotations"] = template["metadata"]["annotations"].clone();
    }
    if set.spec.persistent_volume_claim_retention_policy.as_ref().is_some_and(|policy| policy.when_deleted == "Delete")
    {
        body["metadata"]["ownerReferences"] = json!([subject.controller_reference()]);
    }
    Action::Create { resource: resources::PERSISTENT_VOLUME_CLAIMS, namespace: subject.key.namespace.clone(), body }
}

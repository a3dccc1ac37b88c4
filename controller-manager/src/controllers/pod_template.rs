//! Pods (and other dependents) made from an owner's template.

use serde_json::{Value, json};

use crate::framework::Subject;

/// A pod of `template`, controlled by `owner`, named by the server from the owner's name.
pub fn pod_from_template(template: &Value, owner: &Subject) -> Value {
    let empty = json!({});
    let metadata = template.get("metadata").unwrap_or(&empty);
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": format!("{}-", owner.key.name),
            "namespace": owner.key.namespace,
            "ownerReferences": [owner.controller_reference()],
        },
        "spec": template.get("spec").cloned().unwrap_or_else(|| json!({})),
    });
    for part in ["labels", "annotations", "finalizers"] {
        if let Some(value) = metadata.get(part).filter(|value| !value.is_null()) {
            pod["metadata"][part] = value.clone();
        }
    }
    pod
}

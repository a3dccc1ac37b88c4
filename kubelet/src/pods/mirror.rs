//! Mirror pods: the API's picture of static pods, so that people and schedulers see them.
//!
//! A mirror is made when it is missing, and made again when it is not of this file's content or is being deleted. The
//! static pod itself never depends on it: every failure here is only logged and tried again later.

use client::{DeleteOptions, resources};
use serde_json::{Value, json};

use super::types::{Desired, Pod};
use crate::context::Context;
use crate::cri::labels;

/// The mirror of a static pod, owned by its node.
fn object(pod: &Pod, node: Option<(&str, &str)>) -> Value {
    let mut metadata = serde_json::to_value(&pod.metadata).unwrap_or_default();
    let hash = pod.annotation(labels::CONFIG_HASH).unwrap_or_default();
    metadata["annotations"][labels::CONFIG_MIRROR] = json!(hash);
    if let Some(fields) = metadata.as_object_mut() {
        fields.remove("uid");
    }
    if let Some((name, uid)) = node {
        metadata["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid, "controller": true}]);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec})
}

/// Makes the mirror as it should be.
pub async fn ensure(context: &Context, desired: &Desired) {
    let pod = &desired.pod;
    let Some(api) = context.objects.client() else { return };
    let hash = pod.annotation(labels::CONFIG_HASH).unwrap_or_default();
    if desired.mirror.as_ref().is_some_and(|m| m.hash == hash && !m.deleting) {
        return;
    }
    delete(context, desired).await;
    let node = context.objects.node(&context.node_name).await;
    let node_uid = node.ok().and_then(|n| n.metadata.uid);
    let object = object(pod, node_uid.as_deref().map(|uid| (context.node_name.as_str(), uid)));
    let result = api.create::<Value>(&resources::PODS, Some(pod.namespace()), &object).await;
    match result {
        Ok(_) => {}
        Err(error) if error.is_already_exists() => {}
        Err(error) => tracing::warn!(pod = %pod.full_name(), %error, "Failed creating a mirror pod"),
    }
}

/// Deletes the mirror.
pub async fn delete(context: &Context, desired: &Desired) {
    let (Some(api), Some(mirror)) = (context.objects.client(), &desired.mirror) else { return };
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(&mirror.uid) };
    let pod = &desired.pod;
    match api.delete(&resources::PODS, Some(pod.namespace()), pod.name(), &options).await {
        Err(error) if !error.is_not_found() => {
            tracing::warn!(pod = %pod.full_name(), %error, "Failed deleting a mirror pod");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::types::tests::pod;

    #[test]
    fn mirrors_carry_their_hash_and_owner() {
        let pod =
            pod(json!({"metadata": {"name": "p-n1", "uid": "h", "annotations": {"kubernetes.io/config.hash": "h"}},
            "spec": {"containers": [{"name": "c"}]}}));
        let mirror = object(&pod, Some(("n1", "u")));
        assert_eq!(mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"], "h");
        assert_eq!(mirror["metadata"]["ownerReferences"][0]["uid"], "u");
        assert!(mirror["metadata"].get("uid").is_none());
    }
}

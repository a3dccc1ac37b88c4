//! Mirror pods: the API's picture of static pods, so that people and schedulers see them.
//!
//! A mirror is made when it is missing, and made again when it is not of this file's content or is being deleted; one
//! without a static pod, whoever made it, is deleted and never run. The static pod itself never depends on it: every
//! failure here is only logged and tried again later.

use std::sync::Arc;
use std::time::Duration;

use client::{DeleteOptions, resources};
use serde_json::{Value, json};

use super::types::{Desired, Pod};
use crate::context::Context;
use crate::cri::labels;

/// After a failure to delete.
const ORPHAN_RETRY: Duration = Duration::from_secs(10);

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
    if let Some(mirror) = &desired.mirror {
        delete_of(context, &desired.pod, &mirror.uid).await;
    }
}

/// Deletes a mirror that no static pod has.
pub async fn delete_orphan(context: Arc<Context>, mirror: Arc<Pod>) {
    while !delete_of(&context, &mirror, mirror.uid()).await {
        tokio::time::sleep(ORPHAN_RETRY).await;
    }
}

/// True when it is gone.
async fn delete_of(context: &Context, pod: &Pod, uid: &str) -> bool {
    let Some(api) = context.objects.client() else { return true };
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(uid) };
    let deleted = api.delete(&resources::PODS, Some(pod.namespace()), pod.name(), &options).await;
    // A conflict: another one has its name by now.
    let failed = deleted.err().filter(|error| !error.is_not_found() && !error.is_conflict());
    if let Some(error) = &failed {
        tracing::warn!(pod = %pod.full_name(), %error, "Failed deleting a mirror pod");
    }
    failed.is_none()
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

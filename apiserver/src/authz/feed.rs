//! Keeps the RBAC index and the node graph current from cache events.
//!
//! Called within the clock, so it must be quick: of a pod only what decides the graph is read, and only when that changed.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};
use serde_json::value::RawValue;

use super::Union;
use super::node::NodeKind;
use super::rbac::RbacKind;
use crate::registry::Registry;
use crate::storage::entry::Entry;

const RBAC: &str = "rbac.authorization.k8s.io";

#[derive(Deserialize)]
struct PodParts<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(borrow)]
    spec: &'a RawValue,
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
}

/// Of which pods what the graph was last told, as a hash.
#[derive(Default)]
struct Pods(Mutex<HashMap<Arc<str>, u64>>);

impl Pods {
    /// What decides the graph of the pod, if it may have changed.
    fn changed(&self, entry: &Entry) -> Option<Value> {
        let parts: PodParts<'_> = serde_json::from_slice(&entry.bytes).ok()?;
        // Absent from nearly every status; where it occurs the status counts.
        let claims = parts.status.map(RawValue::get).filter(|status| status.contains("laimStatus"));
        let mirror = parts.metadata.get().contains(super::node::MIRROR_ANNOTATION);
        let mut hasher = DefaultHasher::new();
        (parts.spec.get(), claims, mirror).hash(&mut hasher);
        let hash = hasher.finish();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(Arc::clone(&entry.key), hash) == Some(hash) {
            return None;
        }
        drop(known);
        if claims.is_some() || mirror {
            return Some(entry.value());
        }
        let spec: Value = serde_json::from_str(parts.spec.get()).ok()?;
        Some(json!({ "spec": spec }))
    }

    fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl Union {
    /// Subscribes both indexes. Afterwards everything that the caches hold now is in them.
    pub fn follow(&self, registry: &Registry) {
        let kinds = [
            ("roles", RbacKind::Role),
            ("clusterroles", RbacKind::ClusterRole),
            ("rolebindings", RbacKind::RoleBinding),
            ("clusterrolebindings", RbacKind::ClusterRoleBinding),
        ];
        for (plural, kind) in kinds {
            let rbac = Arc::clone(&self.rbac);
            registry.subscribe(
                (RBAC, plural),
                Box::new(move |event| {
                    let entry = &event.entry;
                    let object = (!event.deleted).then(|| entry.value());
                    rbac.apply(kind, entry.namespace(), entry.name(), object.as_ref());
                }),
            );
        }
        self.follow_nodes(registry);
    }

    fn follow_nodes(&self, registry: &Registry) {
        let kinds = [
            (("", "persistentvolumes"), NodeKind::Volume),
            (("storage.k8s.io", "volumeattachments"), NodeKind::Attachment),
            (("resource.k8s.io", "resourceslices"), NodeKind::Slice),
        ];
        for (resource, kind) in kinds {
            let node = Arc::clone(&self.node);
            registry.subscribe(
                resource,
                Box::new(move |event| {
                    let entry = &event.entry;
                    let object = (!event.deleted).then(|| entry.value());
                    node.apply(kind, entry.namespace(), entry.name(), object.as_ref());
                }),
            );
        }
        let (node, pods) = (Arc::clone(&self.node), Pods::default());
        registry.subscribe(
            ("", "pods"),
            Box::new(move |event| {
                let entry = &event.entry;
                if event.deleted {
                    pods.forget(&entry.key);
                    node.apply(NodeKind::Pod, entry.namespace(), entry.name(), None);
                } else if let Some(pod) = pods.changed(entry) {
                    node.apply(NodeKind::Pod, entry.namespace(), entry.name(), Some(&pod));
                }
            }),
        );
    }
}

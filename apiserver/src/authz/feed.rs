//! Keeps the RBAC index and the node graph current from cache events. Called within the clock, so it must be quick.

use std::sync::Arc;

use super::Union;
use super::node::NodeKind;
use super::rbac::RbacKind;
use crate::registry::Registry;

const RBAC: &str = "rbac.authorization.k8s.io";

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
                    node.apply(kind, entry.name(), object.as_ref());
                }),
            );
        }
        if let Some(pods) = registry.cache_of(("", "pods")) {
            self.node.look_into(pods);
        }
    }
}

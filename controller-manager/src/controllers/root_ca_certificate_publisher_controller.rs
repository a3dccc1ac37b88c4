//! `root-ca-certificate-publisher-controller`: every namespace has the cluster's root certificates in
//! `kube-root-ca.crt`, which pods' service account volumes show.

use std::collections::BTreeMap;

use client::resources;
use serde_json::json;

use crate::framework::{Action, Controller, Executor, Key, Setup, Store, SyncResult, View};
use crate::views::config::{ROOT_CA_NAME, RootCaView};
use crate::views::namespace::NamespaceView;

const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
     internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
     distributions of Kubernetes clusters.";

/// Registers `root-ca-certificate-publisher-controller`. Without `--root-ca-file` there is nothing to publish.
pub fn register(setup: &mut Setup) {
    let Some(certificates) = setup.config.root_ca.clone() else { return };
    let queue = setup.queue("root_ca_cert_publisher");
    let namespaces = setup.stores.of::<NamespaceView>();
    let maps = setup.stores.of::<RootCaView>();
    namespaces.wakes(&queue);
    let wake = queue.clone();
    maps.on(move |delta| wake.add(Key::new("", &delta.object().metadata.namespace)));
    let executor = setup.executor("root-ca-cert-publisher");
    setup.workers(queue, 1, Publisher { namespaces, maps, executor, certificates });
}

/// The write that the namespace needs, if any.
pub fn reconcile(namespace: &NamespaceView, current: Option<&RootCaView>, certificates: &str) -> Option<Action> {
    if namespace.status.phase != "Active" {
        return None;
    }
    let wanted = BTreeMap::from([("ca.crt".to_owned(), certificates.to_owned())]);
    let name = &namespace.metadata.name;
    let mut annotations = current.map(|map| map.metadata.annotations.clone()).unwrap_or_default();
    annotations.insert(DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned());
    let mut body = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": ROOT_CA_NAME, "namespace": name, "annotations": annotations},
        "data": wanted,
    });
    let Some(current) = current else {
        return Some(Action::Create { resource: resources::CONFIG_MAPS, namespace: name.clone(), body });
    };
    if current.data == wanted && current.metadata.annotations.contains_key(DESCRIPTION) {
        return None;
    }
    body["metadata"]["labels"] = json!(current.metadata.labels);
    Some(Action::Replace { target: current.target(), subresource: None, body })
}

struct Publisher {
    namespaces: Store<NamespaceView>,
    maps: Store<RootCaView>,
    executor: Executor,
    certificates: String,
}

impl Controller for Publisher {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(namespace) = self.namespaces.get("", &key.name) else { return Ok(None) };
        let current = self.maps.get(&key.name, ROOT_CA_NAME);
        let Some(action) = reconcile(&namespace, current.as_deref(), &self.certificates) else { return Ok(None) };
        match self.executor.apply(action).await {
            Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(None),
            other => other.map(|()| None),
        }
    }
}

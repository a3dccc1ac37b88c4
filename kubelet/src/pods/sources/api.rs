//! Pods that the API has bound to this node.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use apimachinery::meta::ObjectMeta;
use client::informer::{Cached, Informer};
use client::{Client, resources};
use k8s_openapi::api::core::v1::Pod as ApiPod;
use serde::{Deserialize, Deserializer};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::pods::manager::Message;
use crate::pods::types::{Pod, Source};

/// A pod in the informer's copy.
#[derive(Debug)]
struct Entry {
    meta: ObjectMeta,
    pod: Arc<Pod>,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = ApiPod::deserialize(deserializer)?;
        // The largest part of an object, and nothing here reads it.
        object.metadata.managed_fields = None;
        let m = &object.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let meta = ObjectMeta {
            name: text(&m.name),
            namespace: text(&m.namespace),
            uid: text(&m.uid),
            resource_version: text(&m.resource_version),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, pod: Arc::new(Pod::new(object, Source::Api)) })
    }
}

impl Cached for Entry {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

/// Keys that changed and were not handed on yet; bounded by the number of pods.
#[derive(Default)]
struct Changed {
    keys: Mutex<HashSet<(String, String)>>,
    notify: Notify,
}

impl Changed {
    fn add(&self, key: (String, String)) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        self.notify.notify_one();
    }

    fn take(&self) -> HashSet<(String, String)> {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Sends the node's pods and their changes until shutdown.
pub async fn run(client: Client, node_name: String, out: mpsc::Sender<Message>, shutdown: CancellationToken) {
    let changed = Arc::new(Changed::default());
    let handler = Arc::clone(&changed);
    let reader = Informer::<Entry>::builder(&client, resources::PODS)
        .field_selector(&format!("spec.nodeName={node_name}"))
        .on_event(move |delta| {
            let key = delta.key();
            handler.add((key.namespace, key.name));
        })
        .start(shutdown.clone());
    let mut synced = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = reader.synced(), if !synced => synced = true,
            () = changed.notify.notified(), if synced => {}
        }
        for (namespace, name) in changed.take() {
            let pod = reader.get(&namespace, &name).map(|entry| Arc::clone(&entry.pod));
            if out.send(Message::Api { namespace, name, pod }).await.is_err() {
                return;
            }
        }
        if out.send(Message::ApiSynced).await.is_err() {
            return;
        }
    }
}

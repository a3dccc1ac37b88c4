//! `serviceaccount-controller`: every namespace has the service account `default`.

use client::informer::Delta;
use client::resources;
use serde_json::json;

use crate::framework::{Action, Controller, Executor, Key, Setup, Store, SyncResult};
use crate::views::namespace::{NamespaceView, ServiceAccountView};

const NAME: &str = "default";

/// Registers `serviceaccount-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("serviceaccount");
    let namespaces = setup.stores.of::<NamespaceView>();
    let accounts = setup.stores.of::<ServiceAccountView>();
    namespaces.wakes(&queue);
    let wake = queue.clone();
    accounts.on(move |delta| {
        if let Delta::Deleted(account) = delta
            && account.metadata.name == NAME
        {
            wake.add(Key::new("", &account.metadata.namespace));
        }
    });
    let executor = setup.executor("service-account-controller");
    setup.workers(queue, 1, ServiceAccounts { namespaces, accounts, executor });
}

struct ServiceAccounts {
    namespaces: Store<NamespaceView>,
    accounts: Store<ServiceAccountView>,
    executor: Executor,
}

/// The creation that `namespace` lacks, if any.
pub fn reconcile(namespace: &NamespaceView, has_default: bool) -> Option<Action> {
    let name = &namespace.metadata.name;
    if has_default || namespace.status.phase != "Active" {
        return None;
    }
    Some(Action::Create {
        resource: resources::SERVICE_ACCOUNTS,
        namespace: name.clone(),
        body: json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": name}}),
    })
}

impl Controller for ServiceAccounts {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(namespace) = self.namespaces.get("", &key.name) else { return Ok(None) };
        let exists = self.accounts.get(&key.name, NAME).is_some();
        let Some(action) = reconcile(&namespace, exists) else { return Ok(None) };
        match self.executor.apply(action).await {
            Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(None),
            other => other.map(|()| None),
        }
    }
}

//! `serviceaccount-token-controller`: a secret of type `kubernetes.io/service-account-token` that names a service account
//! gets a token, the root certificates and its namespace; with its account it goes; with it the account's reference goes.
//!
//! Acts as the process itself, as upstream: no controller's account may read all secrets. Keys are `account/secret`, so that
//! a secret that is gone still leads to its account. Without `--service-account-private-key-file` it does nothing.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pki::token_keys::Signer;
use serde_json::{Value, json};

use crate::framework::{Controller, Executor, Key, Setup, Store, SyncError, SyncResult, View};
use crate::views::config::{ACCOUNT_NAME, ACCOUNT_UID, BY_ACCOUNT, TokenSecretView};
use crate::views::namespace::ServiceAccountView;

/// Registers `serviceaccount-token-controller`.
pub fn register(setup: &mut Setup) {
    let Some(signer) = setup.config.token_signer.clone() else {
        tracing::warn!("no --service-account-private-key-file: token secrets of service accounts will not be filled");
        return;
    };
    let queue = setup.queue("serviceaccount_tokens_service");
    let secrets = setup.stores.of::<TokenSecretView>();
    let accounts = setup.stores.of::<ServiceAccountView>();
    let wake = queue.clone();
    secrets.on(move |delta| wake.add(key(delta.object())));
    let (wake, known) = (queue.clone(), secrets.clone());
    accounts.on(move |delta| {
        let meta = &delta.object().metadata;
        for secret in known.by_index(BY_ACCOUNT, &format!("{}/{}", meta.namespace, meta.name)) {
            wake.add(key(&secret));
        }
    });
    let executor = setup.own_executor("tokens-controller");
    let root_ca = setup.config.root_ca.clone().unwrap_or_default();
    let workers = setup.config.concurrent.token_secret;
    setup.workers(queue, workers, Tokens { secrets, accounts, executor, signer, root_ca });
}

fn key(secret: &TokenSecretView) -> Key {
    Key::new(&secret.metadata.namespace, &format!("{}/{}", secret.account(), secret.metadata.name))
}

/// The claims of such a token.
pub fn claims(secret: &TokenSecretView, account: &ServiceAccountView) -> Value {
    let (namespace, name) = (&account.metadata.namespace, &account.metadata.name);
    json!({
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.metadata.name,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.metadata.uid,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
    })
}

/// What the secret lacks; None when it is complete. `token` is only called for when there is none.
pub fn missing(
    secret: &TokenSecretView,
    account: &ServiceAccountView,
    root_ca: &str,
    token: impl FnOnce() -> Option<String>,
) -> Option<Value> {
    let mut data = serde_json::Map::new();
    let has = |key: &str| secret.data.get(key).is_some_and(|value| !value.is_empty());
    let ca = STANDARD.encode(root_ca);
    if !root_ca.is_empty() && secret.data.get("ca.crt") != Some(&ca) {
        data.insert("ca.crt".to_owned(), ca.into());
    }
    if !has("namespace") {
        data.insert("namespace".to_owned(), STANDARD.encode(&secret.metadata.namespace).into());
    }
    if !has("token") {
        data.insert("token".to_owned(), STANDARD.encode(token()?).into());
    }
    (!data.is_empty()).then(|| {
        json!({
            "metadata": {
                "resourceVersion": secret.metadata.resource_version,
                "annotations": {(ACCOUNT_NAME): account.metadata.name, (ACCOUNT_UID): account.metadata.uid},
            },
            "data": data,
        })
    })
}

struct Tokens {
    secrets: Store<TokenSecretView>,
    accounts: Store<ServiceAccountView>,
    executor: Executor,
    signer: Arc<Signer>,
    root_ca: String,
}

impl Tokens {
    /// The account, from the server when the cache has none of this identity; any identity when `uid` is empty.
    async fn account(&self, namespace: &str, name: &str, uid: &str) -> Result<Option<ServiceAccountView>, SyncError> {
        let fits = |account: &ServiceAccountView| uid.is_empty() || account.metadata.uid == uid;
        if let Some(account) = self.accounts.get(namespace, name).filter(|account| fits(account)) {
            return Ok(Some((*account).clone()));
        }
        Ok(found(self.executor.get::<ServiceAccountView>(namespace, name).await)?.filter(fits))
    }

    async fn fill(&self, secret: &TokenSecretView, account: &ServiceAccountView) -> Result<(), SyncError> {
        let (namespace, name) = (&secret.metadata.namespace, &secret.metadata.name);
        if missing(secret, account, &self.root_ca, || Some(String::new())).is_none() {
            return Ok(());
        }
        // Never a second token beside one that the cache has not seen.
        let live = found(self.executor.get::<TokenSecretView>(namespace, name).await)?;
        let Some(live) = live.filter(|live| live.metadata.uid == secret.metadata.uid) else { return Ok(()) };
        let token = || self.signer.sign(&claims(&live, account)).ok();
        let Some(change) = missing(&live, account, &self.root_ca, token) else { return Ok(()) };
        self.executor.apply(live.target().change(change)).await
    }

    /// The secret is gone: its account must not name it any longer.
    async fn unname(&self, namespace: &str, account: &str, secret: &str) -> Result<(), SyncError> {
        if self.accounts.get(namespace, account).is_none_or(|account| !account.names(secret)) {
            return Ok(());
        }
        if found(self.executor.get::<TokenSecretView>(namespace, secret).await)?.is_some() {
            return Ok(());
        }
        let live = found(self.executor.get::<ServiceAccountView>(namespace, account).await)?;
        let Some(mut live) = live.filter(|live| live.names(secret)) else { return Ok(()) };
        live.secrets.retain(|reference| reference["name"] != secret);
        let change = json!({"metadata": {"resourceVersion": live.metadata.resource_version}, "secrets": live.secrets});
        self.executor.apply(live.target().change(change)).await
    }
}

fn found<T>(result: Result<T, SyncError>) -> Result<Option<T>, SyncError> {
    match result {
        Err(error) if error.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

impl Controller for Tokens {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some((account, name)) = key.name.split_once('/').filter(|(account, _)| !account.is_empty()) else {
            return Ok(None);
        };
        let secret = self.secrets.get(&key.namespace, name).filter(|secret| secret.account() == account);
        let Some(secret) = secret else {
            return self.unname(&key.namespace, account, name).await.map(|()| None);
        };
        let uid = secret.metadata.annotations.get(ACCOUNT_UID).map_or("", String::as_str);
        match self.account(&key.namespace, account, uid).await? {
            Some(account) => self.fill(&secret, &account).await?,
            None => {
                self.executor.apply(secret.target().delete(&secret.metadata.uid)).await?;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_written() {
        let account: ServiceAccountView =
            serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n", "uid": "u"}})).unwrap();
        let secret = |data: Value| -> TokenSecretView {
            serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "n"}, "data": data})).unwrap()
        };
        let token = || Some("t".to_owned());
        let all = missing(&secret(json!({})), &account, "ca", token).unwrap();
        assert_eq!(all["data"], json!({"ca.crt": "Y2E=", "namespace": "bg==", "token": "dA=="}));
        assert_eq!(all["metadata"]["annotations"][ACCOUNT_UID], "u");
        assert_eq!(missing(&secret(all["data"].clone()), &account, "ca", token), None);
        let rotated = missing(&secret(all["data"].clone()), &account, "new", token).unwrap();
        assert_eq!(rotated["data"], json!({"ca.crt": "bmV3"}));
        assert_eq!(claims(&secret(json!({})), &account)["sub"], "system:serviceaccount:n:a");
    }
}

//! API objects that pods refer to: config maps, secrets, tokens, claims, runtime classes.
//!
//! Fetched when a pod needs them and kept for a short while, since many pods of a node refer to the same ones. A node
//! may only read objects that its pods name, so there is nothing to list or watch. Bounded: entries expire, and tokens
//! are kept per pod and audience until they are renewed or dropped.

use std::collections::HashMap;
use std::sync::Mutex;

use client::{Client, ClientError, ResourceRef, resources};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::pods::types::Pod;

/// How old a kept object may be.
const FRESH: SignedDuration = SignedDuration::from_secs(20);
/// Never taken from what is kept.
const ALWAYS_ASK: Timestamp = Timestamp::MAX;
/// Most kept objects and tokens.
const MAX_ENTRIES: usize = 1024;
/// Longest time a token is used before it is renewed.
const MAX_TOKEN_AGE: SignedDuration = SignedDuration::from_hours(24);

/// A service account token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub token: String,
    /// When a new one should replace it.
    pub refresh_at: Timestamp,
    /// When it ends, as the API said.
    pub expires_at: Option<Timestamp>,
}

type Cached = (Timestamp, Option<Value>);

/// The fetcher. Without an API server (standalone) every lookup fails with words that say so.
pub struct Objects {
    client: Option<Client>,
    kept: Mutex<HashMap<String, Cached>>,
    tokens: Mutex<HashMap<String, Token>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic while holding it ends the daemon, so a poisoned lock is never met.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Objects {
    /// A fetcher over a client.
    pub fn new(client: Option<Client>) -> Self {
        Self { client, kept: Mutex::default(), tokens: Mutex::default() }
    }

    /// The API, unless the kubelet is standalone.
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// The object, not older than `FRESH` and as it was at `since` or later.
    async fn fetch<T: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        name: &str,
        since: Timestamp,
    ) -> Result<Option<T>, String> {
        let client = self.client.as_ref().ok_or_else(|| {
            format!("{} \"{name}\" cannot be read: this kubelet runs without an API server", resource.kind)
        })?;
        let key = format!("{}/{}/{name}", resource.plural, namespace.unwrap_or_default());
        let now = Timestamp::now();
        let known =
            lock(&self.kept).get(&key).filter(|(at, _)| now.duration_since(*at) < FRESH && *at >= since).cloned();
        let value = match known {
            Some((_, value)) => value,
            None => {
                let found = match client.get::<Value>(resource, namespace, name).await {
                    Ok(value) => Some(value),
                    Err(error) if error.is_not_found() => None,
                    Err(error) => return Err(error.to_string()),
                };
                // An absent object is asked for again by the next try: somebody may be just making it.
                if found.is_some() {
                    let mut kept = lock(&self.kept);
                    if kept.len() >= MAX_ENTRIES {
                        kept.retain(|_, (at, _)| now.duration_since(*at) < FRESH);
                    }
                    kept.insert(key, (now, found.clone()));
                }
                found
            }
        };
        value.map(|v| serde_json::from_value(v).map_err(|e| format!("{} \"{name}\": {e}", resource.kind))).transpose()
    }

    /// A config map, read at `since` (when its pod came) or later: a pod never sees older configuration than its creator.
    ///
    /// # Errors
    /// An API that does not answer.
    pub async fn config_map(
        &self,
        namespace: &str,
        name: &str,
        since: Timestamp,
    ) -> Result<Option<core::ConfigMap>, String> {
        self.fetch(&resources::CONFIG_MAPS, Some(namespace), name, since).await
    }

    /// A secret.
    ///
    /// # Errors
    /// An API that does not answer.
    pub async fn secret(&self, namespace: &str, name: &str, since: Timestamp) -> Result<Option<core::Secret>, String> {
        self.fetch(&resources::SECRETS, Some(namespace), name, since).await
    }

    /// A claim.
    ///
    /// # Errors
    /// A missing claim, or an API that does not answer.
    pub async fn claim(&self, namespace: &str, name: &str) -> Result<core::PersistentVolumeClaim, String> {
        let found = self.fetch(&resources::PERSISTENT_VOLUME_CLAIMS, Some(namespace), name, ALWAYS_ASK).await?;
        found.ok_or_else(|| format!("persistentvolumeclaim \"{name}\" not found"))
    }

    /// A persistent volume.
    ///
    /// # Errors
    /// A missing volume, or an API that does not answer.
    pub async fn volume(&self, name: &str) -> Result<core::PersistentVolume, String> {
        let found = self.fetch(&resources::PERSISTENT_VOLUMES, None, name, ALWAYS_ASK).await?;
        found.ok_or_else(|| format!("persistentvolume \"{name}\" not found"))
    }

    /// A node.
    ///
    /// # Errors
    /// A missing node, or an API that does not answer.
    pub async fn node(&self, name: &str) -> Result<core::Node, String> {
        self.fetch(&resources::NODES, None, name, Timestamp::MIN)
            .await?
            .ok_or_else(|| format!("node \"{name}\" not found"))
    }

    /// The runtime handler of the pod's runtime class; empty for the default one.
    ///
    /// # Errors
    /// A missing class, or an API that does not answer.
    pub async fn runtime_handler(&self, pod: &Pod) -> Result<String, String> {
        let Some(name) = pod.spec.runtime_class_name.as_deref().filter(|n| !n.is_empty()) else {
            return Ok(String::new());
        };
        let class: Option<Value> = self.fetch(&resources::RUNTIME_CLASSES, None, name, Timestamp::MIN).await?;
        let class = class.ok_or_else(|| format!("RuntimeClass \"{name}\" not found"))?;
        Ok(class["handler"].as_str().unwrap_or_default().to_owned())
    }

    /// What a CSI driver's object says of it; none for a driver without one.
    ///
    /// # Errors
    /// An API that does not answer.
    pub async fn csi_driver(&self, name: &str) -> Result<Option<CSIDriverSpec>, String> {
        let found: Option<CSIDriver> = self.fetch(&resources::CSI_DRIVERS, None, name, Timestamp::MIN).await?;
        Ok(found.map(|d| d.spec))
    }

    /// Drops what is kept for a pod that is gone.
    pub fn forget(&self, uid: &str) {
        lock(&self.tokens).retain(|key, _| key.split('/').next() != Some(uid));
    }

    /// A token for the pod's service account, bound to the pod.
    ///
    /// # Errors
    /// The API's refusal.
    pub async fn token(&self, pod: &Pod, audience: &str, lifetime: i64, now: Timestamp) -> Result<Token, String> {
        let key = format!("{}/{audience}/{lifetime}", pod.uid());
        let known = lock(&self.tokens).get(&key).filter(|t| now < t.refresh_at).cloned();
        if let Some(token) = known {
            return Ok(token);
        }
        let client = self.client.as_ref().ok_or("tokens need an API server, and this kubelet runs without one")?;
        let account = pod.spec.service_account_name.as_deref().unwrap_or("default");
        let audiences: Vec<&str> = Some(audience).filter(|a| !a.is_empty()).into_iter().collect();
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "metadata": {"namespace": pod.namespace()},
            "spec": {"audiences": audiences, "expirationSeconds": lifetime,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name(), "uid": pod.uid()}}});
        let made: Result<Value, ClientError> =
            client.create_sub(&resources::SERVICE_ACCOUNTS, Some(pod.namespace()), account, "token", &request).await;
        let made = made.map_err(|e| format!("failed to fetch token: {e}"))?;
        let token = made["status"]["token"].as_str().ok_or("failed to fetch token: the answer has none")?.to_owned();
        let end = made["status"]["expirationTimestamp"].as_str().and_then(|t| t.parse().ok());
        let token = Token { token, refresh_at: refresh_at(now, end), expires_at: end };
        let mut tokens = lock(&self.tokens);
        if tokens.len() >= MAX_ENTRIES {
            tokens.retain(|_, t| now < t.refresh_at);
        }
        tokens.insert(key, token.clone());
        Ok(token)
    }
}

/// Four fifths into a token's life, but no later than a day.
fn refresh_at(now: Timestamp, end: Option<Timestamp>) -> Timestamp {
    let life = end.map_or(MAX_TOKEN_AGE, |e| e.duration_since(now));
    now + (life * 4 / 5).min(MAX_TOKEN_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal() {
        let now = Timestamp::UNIX_EPOCH;
        let after = |s| Some(now + SignedDuration::from_secs(s));
        assert_eq!(refresh_at(now, after(1000)).as_second(), 800);
        assert_eq!(refresh_at(now, after(1_000_000)).as_second(), 86_400);
    }
}

//! `bootstrap-signer-controller` and `token-cleaner-controller`: bootstrap tokens (secrets in `kube-system`) sign the public
//! cluster information, so that a joining node that knows a token can trust it; those that have expired are removed.
//!
//! Upstream's rules: a signature is a detached JWS (HS256, the secret half of the token is the key) over the kubeconfig of
//! `kube-public/cluster-info`, under `jws-kubeconfig-ID`; a token signs while its name and id agree, it is marked for
//! signing and has not expired; an end that is no time counts as passed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::time::parse_time;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::framework::backoff::remaining;
use crate::framework::{Controller, Executor, Key, Setup, Store, SyncResult, View};
use crate::views::config::{BootstrapTokenView, ClusterInfoView};

const TOKENS: &str = "kube-system";
const PUBLIC: &str = "kube-public";
const CLUSTER_INFO: &str = "cluster-info";
const SIGNATURE: &str = "jws-kubeconfig-";

/// Registers `bootstrap-signer-controller`.
pub fn signer(setup: &mut Setup) {
    let queue = setup.queue("bootstrap_signer_queue");
    let maps = setup.stores.of::<ClusterInfoView>();
    let tokens = setup.stores.of::<BootstrapTokenView>();
    let wake = queue.clone();
    maps.on(move |_| wake.add(Key::new(PUBLIC, CLUSTER_INFO)));
    let wake = queue.clone();
    tokens.on(move |_| wake.add(Key::new(PUBLIC, CLUSTER_INFO)));
    let executor = setup.executor("bootstrap-signer");
    setup.workers(queue, 1, Signer { maps, tokens, executor });
}

/// Registers `token-cleaner-controller`.
pub fn cleaner(setup: &mut Setup) {
    let queue = setup.queue("token_cleaner");
    let tokens = setup.stores.of::<BootstrapTokenView>();
    tokens.wakes(&queue);
    let executor = setup.executor("token-cleaner");
    setup.workers(queue, 1, Cleaner { tokens, executor });
}

fn value(token: &BootstrapTokenView, key: &str) -> String {
    let bytes = token.data.get(key).and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// How long the token still counts; None for ever.
pub fn time_left(token: &BootstrapTokenView, now: Timestamp) -> Option<Duration> {
    let end = value(token, "expiration");
    (!end.is_empty()).then(|| parse_time(&end).map_or(Duration::ZERO, |end| remaining(end, 0, now)))
}

/// Id and secret of a token that may sign.
fn signing(token: &BootstrapTokenView, now: Timestamp) -> Option<(String, String)> {
    let (id, secret) = (value(token, "token-id"), value(token, "token-secret"));
    let named = token.metadata.name.strip_prefix("bootstrap-token-") == Some(id.as_str())
        && id.len() == 6
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let may = named
        && token.metadata.namespace == TOKENS
        && !secret.is_empty()
        && value(token, "usage-bootstrap-signing") == "true"
        && time_left(token, now).is_none_or(|left| !left.is_zero());
    may.then_some((id, secret))
}

fn sign(id: &str, secret: &str, content: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), input.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

/// What the signatures in the map must become: changed and new ones, null for those without a token; None when all are right.
pub fn signatures(map: &ClusterInfoView, tokens: &[Arc<BootstrapTokenView>], now: Timestamp) -> Option<Value> {
    let content = map.data.get("kubeconfig")?;
    let wanted: BTreeMap<String, String> = tokens
        .iter()
        .filter_map(|token| signing(token, now))
        .map(|(id, secret)| (format!("{SIGNATURE}{id}"), sign(&id, &secret, content)))
        .collect();
    let stale = map.data.keys().filter(|key| key.starts_with(SIGNATURE) && !wanted.contains_key(*key));
    let mut change: serde_json::Map<String, Value> = stale.map(|key| (key.clone(), Value::Null)).collect();
    change.extend(wanted.into_iter().filter(|(key, jws)| map.data.get(key) != Some(jws)).map(|(k, v)| (k, v.into())));
    (!change.is_empty()).then_some(Value::Object(change))
}

struct Signer {
    maps: Store<ClusterInfoView>,
    tokens: Store<BootstrapTokenView>,
    executor: Executor,
}

impl Controller for Signer {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(map) = self.maps.get(&key.namespace, &key.name) else { return Ok(None) };
        let (tokens, now) = (self.tokens.list(), Timestamp::now());
        if let Some(data) = signatures(&map, &tokens, now) {
            let target = map.target();
            let change = json!({"metadata": {"resourceVersion": map.metadata.resource_version}, "data": data});
            self.executor.apply(target.change(change)).await?;
        }
        // A signature ends with its token, whether or not anybody removes that.
        Ok(tokens.iter().filter_map(|token| time_left(token, now)).filter(|left| !left.is_zero()).min())
    }
}

struct Cleaner {
    tokens: Store<BootstrapTokenView>,
    executor: Executor,
}

impl Controller for Cleaner {
    async fn sync(&self, key: &Key) -> SyncResult {
        let token = self.tokens.get(&key.namespace, &key.name).filter(|_| key.namespace == TOKENS);
        let Some(token) = token else { return Ok(None) };
        let left = time_left(&token, Timestamp::now());
        if left.is_none_or(|left| !left.is_zero()) {
            return Ok(left);
        }
        self.executor.apply(token.target().delete(&token.metadata.uid)).await.map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: &str, more: &[(&str, &str)]) -> Arc<BootstrapTokenView> {
        let pairs = [("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
        let data: BTreeMap<&str, String> =
            pairs.iter().chain(more).map(|(key, text)| (*key, STANDARD.encode(text))).collect();
        let metadata = json!({"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "data": data})).unwrap())
    }

    #[test]
    fn tokens_sign_while_they_may_and_stale_signatures_go() {
        let now = parse_time("2030-01-01T00:00:00Z").unwrap();
        let map: ClusterInfoView = serde_json::from_value(
            json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "payload", "jws-kubeconfig-zzzzzz": "x"}}),
        )
        .unwrap();
        let ended = token("ended1", &[("expiration", "2029-01-01T00:00:00Z")]);
        let tokens = [
            token("abcdef", &[]),
            token("nosign", &[("usage-bootstrap-signing", "false")]),
            ended.clone(),
            token("broken", &[("expiration", "soon")]),
            token("UPPER1", &[]),
        ];
        let change = signatures(&map, &tokens, now).unwrap();
        assert_eq!(change["jws-kubeconfig-zzzzzz"], Value::Null);
        let jws = change["jws-kubeconfig-abcdef"].as_str().unwrap();
        assert!(jws.starts_with("eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9.."));
        assert_eq!(change.as_object().unwrap().len(), 2);
        assert_eq!(time_left(&ended, now), Some(Duration::ZERO));
        assert_eq!(time_left(&tokens[0], now), None);
        let signed = ClusterInfoView {
            data: [("kubeconfig", "payload"), ("jws-kubeconfig-abcdef", jws)].map(|(k, v)| (k.into(), v.into())).into(),
            ..map
        };
        assert_eq!(signatures(&signed, &tokens, now), None);
    }
}

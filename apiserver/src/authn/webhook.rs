//! Bearer tokens that somebody else knows: each is sent to a webhook in a TokenReview, whose answer names the user.
//!
//! Guarantees: answers, good and bad, are remembered by the token's digest for `--authentication-token-webhook-cache-ttl`;
//! failures to ask are not. Follows upstream: the audiences asked for travel with the token, and an answer without audiences
//! counts for this server's own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use component_base::reload::Reloading;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Identity, Refused, TokenAuthenticator};
use crate::endpoints::reviews::asked_user;
use crate::objects::Nothing;
use crate::remembered::Remembered;
use crate::webhook::{CallError, Client, ClientConfig};

const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REMEMBERED: usize = 4096;

/// What the flags say.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--authentication-token-webhook-config-file`, a kubeconfig
    pub file: PathBuf,
    /// `--authentication-token-webhook-cache-ttl`
    pub cache_ttl: Duration,
    /// `--authentication-token-webhook-version`
    pub version: String,
}

type TokenDigest = [u8; 32];

/// Asks the webhook.
pub struct TokenWebhook {
    place: Reloading<ClientConfig>,
    client: Client,
    config: Config,
    api_audiences: Vec<String>,
    remembered: Remembered<TokenDigest, Option<Identity>>,
}

impl TokenWebhook {
    /// Reads the kubeconfig.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn new(config: Config, api_audiences: Vec<String>) -> Result<Self, CallError> {
        let place = ClientConfig::from_kubeconfig(&config.file)?;
        let client = Client::new(Arc::new(Nothing));
        Ok(Self { place, client, config, api_audiences, remembered: Remembered::new(MAX_REMEMBERED) })
    }

    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Identity>, Refused> {
        let mut digest = Sha256::new_with_prefix(token);
        for audience in audiences {
            digest.update([0]);
            digest.update(audience);
        }
        let digest: TokenDigest = digest.finalize().into();
        if let Some(answer) = self.remembered.get(&digest) {
            return Ok(answer);
        }
        let answer = self.ask(token, audiences).await?;
        self.remembered.insert(digest, answer.clone(), self.config.cache_ttl);
        Ok(answer)
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Result<Option<Identity>, Refused> {
        let review = json!({
            "kind": "TokenReview",
            "apiVersion": format!("authentication.k8s.io/{}", self.config.version),
            "metadata": {},
            "spec": {"token": token, "audiences": audiences},
            "status": {"user": {}},
        });
        let answer = self.client.call_patiently(&self.place.get(), &review, TIMEOUT).await;
        let answer = answer.map_err(|error| Refused(format!("token webhook: {error}")))?;
        judge(&answer["status"], audiences, &self.api_audiences)
    }
}

/// Whom the answer names.
fn judge(status: &Value, wanted: &[String], own: &[String]) -> Result<Option<Identity>, Refused> {
    let given: Vec<String> =
        status["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let given = if given.is_empty() { own } else { &given };
    let audiences: Vec<String> = wanted.iter().filter(|audience| given.contains(audience)).cloned().collect();
    if audiences.is_empty() && !wanted.is_empty() {
        return Ok(None);
    }
    if status["authenticated"] != true {
        return match status["error"].as_str().filter(|error| !error.is_empty()) {
            Some(error) => Err(Refused(format!("token webhook: {error}"))),
            None => Ok(None),
        };
    }
    Ok(Some(Identity { user: asked_user(&status["user"], "username"), audiences }))
}

impl TokenAuthenticator for TokenWebhook {
    fn authenticate_token<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<Identity>, Refused>> {
        Box::pin(self.authenticate(token, audiences))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::webhook::tests::Server;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn answers() {
        let good = json!({"authenticated": true, "user": {"username": "u", "uid": "1", "groups": ["g"], "extra": {"k": ["v"]}}});
        let (own, wanted) = (texts(&["api"]), texts(&["api", "other"]));
        let identity = judge(&good, &wanted, &own).unwrap().unwrap();
        assert_eq!((identity.user.name.as_str(), identity.user.uid.as_str()), ("u", "1"));
        assert_eq!((identity.user.groups, identity.audiences), (texts(&["g"]), texts(&["api"])));
        assert_eq!(identity.user.extra["k"], ["v"]);
        let mut aware = good.clone();
        aware["audiences"] = json!(["other"]);
        assert_eq!(judge(&aware, &wanted, &own).unwrap().unwrap().audiences, ["other"]);
        assert_eq!(judge(&good, &texts(&["other"]), &own).unwrap(), None, "not this server's audience");
        assert_eq!(judge(&json!({"authenticated": false}), &wanted, &own).unwrap(), None);
        assert!(judge(&json!({"error": "lookup failed"}), &wanted, &own).is_err());
    }

    static ASKED: AtomicUsize = AtomicUsize::new(0);

    fn reviewer(_: &str, review: &Value) -> (u16, Value) {
        ASKED.fetch_add(1, Ordering::SeqCst);
        let known = review["spec"]["token"] == "good" && review["apiVersion"] == "authentication.k8s.io/v1beta1";
        match review["spec"]["token"].as_str() {
            // The second answer is better.
            Some("later") if ASKED.load(Ordering::SeqCst) % 2 == 1 => (500, json!({})),
            Some("broken") => (403, json!({})),
            _ => (200, json!({"status": {"authenticated": known, "user": {"username": "alice"}}})),
        }
    }

    #[tokio::test]
    async fn asks_once_and_again_only_after_a_failure() {
        let server = Server::start(&["localhost"], reviewer, false).await;
        let dir = tempfile::tempdir().unwrap();
        let file = server.kubeconfig(dir.path(), "/review");
        let hour = Duration::from_secs(3600);
        let config = Config { file, cache_ttl: hour, version: "v1beta1".to_owned() };
        let webhook = TokenWebhook::new(config, texts(&["api"])).unwrap();
        let api = texts(&["api"]);
        for _ in 0..2 {
            let identity = webhook.authenticate("good", &api).await.unwrap().unwrap();
            assert_eq!((identity.user.name.as_str(), identity.audiences.as_slice()), ("alice", api.as_slice()));
            assert_eq!(webhook.authenticate("bad", &api).await.unwrap(), None);
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), 2);
        assert_eq!(webhook.authenticate("later", &api).await.unwrap(), None);
        assert_eq!(ASKED.load(Ordering::SeqCst), 4);
        for _ in 0..2 {
            assert!(webhook.authenticate("broken", &api).await.is_err());
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), 6);
    }
}

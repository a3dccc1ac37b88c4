//! An issuer's keys: where they are is discovered, they are fetched when the first token comes, and again when a token is
//! signed by none of them, at most once per [`PAUSE`], so that forged tokens do not become requests to the issuer.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Mutex;

use crate::objects::Nothing;
use crate::tokens::jwks::KeySet;
use crate::tokens::jwt::Unverified;
use crate::webhook::{Client, ClientConfig};

/// Between two times that the issuer is asked.
pub(super) const PAUSE: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);

/// What is known of asking.
#[derive(Default)]
struct Asked {
    /// `jwks_uri`, once discovered.
    keys_at: Option<ClientConfig>,
    last: Option<Instant>,
    /// What went wrong then.
    failure: Option<String>,
}

/// The keys of one issuer.
pub(super) struct RemoteKeys {
    issuer: String,
    discovery_url: String,
    ca_pem: Option<Vec<u8>>,
    pause: Duration,
    client: Client,
    keys: RwLock<Arc<KeySet>>,
    /// Held while the issuer is asked: others wait for that answer instead of asking too.
    asked: Mutex<Asked>,
}

impl RemoteKeys {
    pub(super) fn new(issuer: &str, discovery_url: String, ca_pem: Option<Vec<u8>>, pause: Duration) -> Self {
        Self {
            issuer: issuer.to_owned(),
            discovery_url,
            ca_pem,
            pause,
            client: Client::new(Arc::new(Nothing)),
            keys: RwLock::default(),
            asked: Mutex::default(),
        }
    }

    fn known(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the issuer signed the token.
    ///
    /// # Errors
    /// It did not, or it cannot be asked for its keys.
    pub(super) async fn verify(&self, token: &Unverified<'_>) -> Result<(), String> {
        let known = self.known();
        if known.verifies(token) {
            return Ok(());
        }
        let mut asked = self.asked.lock().await;
        // Somebody else may have asked while this one waited.
        if Arc::ptr_eq(&known, &self.known()) && asked.last.is_none_or(|last| last.elapsed() >= self.pause) {
            asked.failure = self.fetch(&mut asked).await.err();
            asked.last = Some(Instant::now());
        }
        if self.known().verifies(token) {
            return Ok(());
        }
        Err(asked.failure.clone().unwrap_or_else(|| "the signature is by none of the issuer's keys".to_owned()))
    }

    async fn fetch(&self, asked: &mut Asked) -> Result<(), String> {
        let fetched = self.fetch_keys(asked).await;
        if fetched.is_err() {
            // The issuer may have moved them.
            asked.keys_at = None;
        }
        let keys = fetched?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }

    async fn fetch_keys(&self, asked: &mut Asked) -> Result<KeySet, String> {
        let place = match &asked.keys_at {
            Some(place) => place,
            None => asked.keys_at.insert(self.discover().await?),
        };
        let document = self.client.get(place, TIMEOUT).await.map_err(|error| error.to_string())?;
        KeySet::parse(&document)
    }

    async fn discover(&self) -> Result<ClientConfig, String> {
        let place = ClientConfig::url(&self.discovery_url, self.ca_pem.clone());
        let document: Value = self.client.get(&place, TIMEOUT).await.map_err(|error| error.to_string())?;
        let text = |field: &str| document[field].as_str().unwrap_or_default();
        if text("issuer") != self.issuer {
            return Err(format!("{:?} says that it is the issuer {:?}", self.discovery_url, text("issuer")));
        }
        Ok(ClientConfig::url(text("jwks_uri"), self.ca_pem.clone()))
    }
}

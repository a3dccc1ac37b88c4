//! Issuing service-account tokens, and telling others how to verify them.
//!
//! [`Issuer::plan`] is pure: from the request, the service account and what it is bound to, to the claims. The discovery
//! documents list every key that verifies, not only the one that signs.

use std::path::PathBuf;
use std::sync::Arc;

use component_base::reload::Reloading;
use pki::token_keys::{KeyError, PublicKey, Signer};
use serde_json::{Value, json};

use super::claims::{BoundObject, Claims, TokenSubject, user_name};
use super::jwt::{JwtError, Verifier};

/// Seconds that a kubelet asks for by default; such tokens may be extended.
pub const DEFAULT_POD_TOKEN_SECONDS: i64 = 3607;
/// Seconds that an extended token lives, so that old clients that never read it again keep working.
pub const EXTENDED_TOKEN_SECONDS: i64 = 365 * 24 * 60 * 60;

/// What is asked of the issuer.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// Namespace of the service account.
    pub namespace: String,
    /// The service account.
    pub account: BoundObject,
    /// The pod, with the node it runs on.
    pub pod: Option<BoundObject>,
    /// The node.
    pub node: Option<BoundObject>,
    /// The secret.
    pub secret: Option<BoundObject>,
    /// Audiences; empty means the API server's.
    pub audiences: Vec<String>,
    /// Lifetime in seconds.
    pub seconds: i64,
}

/// Issues tokens.
pub struct Issuer {
    signer: Reloading<Signer>,
    name: String,
    api_audiences: Vec<String>,
    extend: bool,
    max_seconds: Option<i64>,
}

impl Issuer {
    /// `name` is the `iss` claim; `max_seconds` bounds lifetimes (`--service-account-max-token-expiration`).
    pub fn new(
        signer: Reloading<Signer>,
        name: String,
        api_audiences: Vec<String>,
        extend: bool,
        max_seconds: Option<i64>,
    ) -> Self {
        Self { signer, name, api_audiences, extend, max_seconds }
    }

    /// Audiences of a token that names none.
    pub fn api_audiences(&self) -> &[String] {
        &self.api_audiences
    }

    /// The longest lifetime in seconds, where one is set.
    pub fn max_seconds(&self) -> Option<i64> {
        self.max_seconds
    }

    /// The claims for a grant at `now` (seconds since the epoch). A pod's default token for this server is extended; its
    /// `warnafter` keeps the time that was asked for.
    pub fn plan(&self, grant: &Grant, now: i64, id: String) -> Claims {
        let audiences = if grant.audiences.is_empty() { &self.api_audiences } else { &grant.audiences };
        let for_this_server = audiences.iter().all(|audience| self.api_audiences.contains(audience));
        let extended =
            self.extend && grant.pod.is_some() && grant.seconds == DEFAULT_POD_TOKEN_SECONDS && for_this_server;
        let seconds = if extended { EXTENDED_TOKEN_SECONDS } else { grant.seconds };
        Claims {
            aud: audiences.clone(),
            exp: Some(now.saturating_add(seconds)),
            iat: Some(now),
            iss: self.name.clone(),
            jti: id,
            kubernetes: Some(TokenSubject {
                namespace: grant.namespace.clone(),
                node: grant.node.clone(),
                pod: grant.pod.clone(),
                secret: grant.secret.clone(),
                serviceaccount: grant.account.clone(),
                warnafter: extended.then(|| now.saturating_add(grant.seconds)),
            }),
            nbf: Some(now),
            sub: user_name(&grant.namespace, &grant.account.name),
        }
    }

    /// The token with these claims.
    ///
    /// # Errors
    /// The crypto library fails.
    pub fn sign(&self, claims: &Claims) -> Result<String, JwtError> {
        Ok(self.signer.get().sign(claims)?)
    }
}

/// The documents under `/.well-known/openid-configuration` and `/openid/v1/jwks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documents {
    /// First document.
    pub configuration: Value,
    /// Second document, of media type `application/jwk-set+json`.
    pub key_set: Value,
}

/// Tells others how to verify our tokens.
pub struct Discovery(Reloading<Documents>);

impl Discovery {
    /// Of the keys in these files.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn new(issuer: String, jwks_uri: String, key_files: Vec<PathBuf>) -> Result<Self, KeyError> {
        let files = key_files.clone();
        let load = move || Verifier::read(super::KEYS, &files).map(|keys| Documents::new(&issuer, &jwks_uri, &keys));
        Reloading::new("published keys of service accounts", key_files, load).map(Self)
    }

    /// The documents now.
    pub fn documents(&self) -> Arc<Documents> {
        self.0.get()
    }
}

impl Documents {
    fn new(issuer: &str, jwks_uri: &str, verifier: &Verifier) -> Self {
        let mut algorithms: Vec<&str> = verifier.keys().iter().map(|key| key.algorithm.name()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        let configuration = json!({
            "issuer": issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        });
        let key_set = json!({"keys": verifier.keys().iter().map(PublicKey::jwk).collect::<Vec<_>>()});
        Self { configuration, key_set }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_file(dir: &tempfile::TempDir) -> PathBuf {
        let path = dir.path().join("sa.key");
        std::fs::write(&path, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        path
    }

    fn issuer(extend: bool) -> Issuer {
        let dir = tempfile::tempdir().unwrap();
        let path = key_file(&dir);
        let signer = Reloading::new("key", Vec::new(), move || Signer::read("--x", &path)).unwrap();
        Issuer::new(signer, "https://i".into(), vec!["api".into()], extend, None)
    }

    #[test]
    fn extension() {
        let pod = Some(BoundObject { name: "p".into(), uid: "u".into() });
        let grant = |seconds, pod: &Option<BoundObject>, audiences: &[&str]| Grant {
            namespace: "ns".into(),
            account: BoundObject { name: "sa".into(), uid: "s".into() },
            pod: pod.clone(),
            audiences: audiences.iter().map(|a| (*a).to_owned()).collect(),
            seconds,
            ..Grant::default()
        };
        let cases = [
            (true, grant(DEFAULT_POD_TOKEN_SECONDS, &pod, &[]), true),
            (true, grant(DEFAULT_POD_TOKEN_SECONDS, &pod, &["api"]), true),
            (true, grant(DEFAULT_POD_TOKEN_SECONDS, &pod, &["vault"]), false),
            (true, grant(3600, &pod, &[]), false),
            (true, grant(DEFAULT_POD_TOKEN_SECONDS, &None, &[]), false),
            (false, grant(DEFAULT_POD_TOKEN_SECONDS, &pod, &[]), false),
        ];
        for (extend, grant, extended) in cases {
            let claims = issuer(extend).plan(&grant, 1000, "id".into());
            let warn = claims.kubernetes.unwrap().warnafter;
            assert_eq!(warn, extended.then_some(1000 + grant.seconds), "{grant:?}");
            let lives = if extended { EXTENDED_TOKEN_SECONDS } else { grant.seconds };
            assert_eq!(claims.exp, Some(1000 + lives));
        }
    }

    #[test]
    fn discovery_follows_the_keys() {
        let dir = tempfile::tempdir().unwrap();
        let files = vec![key_file(&dir)];
        let discovery = Discovery::new("https://i".into(), "https://i/openid/v1/jwks".into(), files).unwrap();
        let first = discovery.documents();
        assert_eq!(first.configuration["id_token_signing_alg_values_supported"], json!(["ES256"]));
        assert_eq!(first.key_set["keys"][0]["crv"], "P-256");
        std::fs::remove_file(dir.path().join("sa.key")).unwrap();
        key_file(&dir);
        assert!(discovery.0.reload_if_changed());
        assert_ne!(discovery.documents().key_set, first.key_set);
    }
}

//! Authentication and authorisation of a daemon's own port by asking the API server: TokenReview and
//! SubjectAccessReview, and client certificates by CA file.
//!
//! Guarantees: answers are cached for bounded times in bounded maps (tokens only as their SHA-256); when the API server
//! cannot be asked the request is refused with 500, never let through.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use component_base::duration::GoDuration;
use component_base::secure_port::{Attributes, Denied, RequestAuth, Target, User};
use component_base::serving::ConnInfo;
use component_base::tls::{ClientCa, TlsError};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::StatusCode;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::Digest;

use crate::resources::{CONFIG_MAPS, SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS};
use crate::{Client, ClientConfig, ClientError};

/// Where the API server publishes the authorities of client certificates, and under which key.
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "extension-apiserver-authentication";
const CA_KEY: &str = "client-ca-file";

/// Published authorities are looked up again when a certificate comes so long after the last time …
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// … or so long after it and they do not know the certificate.
const LOOK_AGAIN_FOR_STRANGERS: Duration = Duration::from_secs(5);

/// Entries of each cache.
const MAX_CACHED: usize = 4096;

/// Upstream's delegation flags of kube-controller-manager and kube-scheduler; flatten into the daemon's clap struct.
#[derive(Clone, Debug, clap::Args)]
pub struct DelegatedFlags {
    /// Kubeconfig for TokenReviews; without one, requests with tokens are anonymous.
    #[arg(long, default_value = "")]
    pub authentication_kubeconfig: String,
    /// Do not look the client CA up in the cluster; only --client-ca-file counts.
    #[arg(long)]
    pub authentication_skip_lookup: bool,
    /// Start without client certificates when their authorities cannot be looked up in the cluster.
    #[arg(long, default_value_t = true)]
    pub authentication_tolerate_lookup_failure: bool,
    /// How long TokenReviews are cached.
    #[arg(long, default_value = "10s")]
    pub authentication_token_webhook_cache_ttl: GoDuration,
    /// Kubeconfig for SubjectAccessReviews; without one, only the always-allowed paths and system:masters get in.
    #[arg(long, default_value = "")]
    pub authorization_kubeconfig: String,
    /// Paths that need no authorisation.
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    pub authorization_always_allow_paths: Vec<String>,
    /// How long allowing SubjectAccessReviews are cached.
    #[arg(long, default_value = "10s")]
    pub authorization_webhook_cache_authorized_ttl: GoDuration,
    /// How long refusing SubjectAccessReviews are cached.
    #[arg(long, default_value = "10s")]
    pub authorization_webhook_cache_unauthorized_ttl: GoDuration,
    /// Authorities of client certificates.
    #[arg(long, default_value = "")]
    pub client_ca_file: String,
    /// Accepted for compatibility; front-proxy identities are not used on this port.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Accepted for compatibility; front-proxy identities are not used on this port.
    #[arg(long, default_value = "")]
    pub requestheader_client_ca_file: String,
    /// Accepted for compatibility; front-proxy identities are not used on this port.
    #[arg(long, value_delimiter = ',', default_value = "x-remote-extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// Accepted for compatibility; front-proxy identities are not used on this port.
    #[arg(long, value_delimiter = ',', default_value = "x-remote-group")]
    pub requestheader_group_headers: Vec<String>,
    /// Accepted for compatibility; front-proxy identities are not used on this port.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    /// Accepted for compatibility; front-proxy identities are not used on this port.
    #[arg(long, value_delimiter = ',', default_value = "x-remote-user")]
    pub requestheader_username_headers: Vec<String>,
}

/// Why delegation cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum DelegatedError {
    /// A kubeconfig.
    #[error("{flag}: {source}")]
    Kubeconfig {
        /// The flag.
        flag: &'static str,
        /// Why.
        source: crate::ClientConfigError,
    },
    /// The client CA.
    #[error("--client-ca-file: {0}")]
    ClientCa(TlsError),
    /// The client CA that the cluster publishes.
    #[error("cannot look up the client CA in ConfigMap {NAMESPACE}/{CONFIG_MAP} (give --client-ca-file): {0}")]
    Lookup(String),
}

/// What to do where no file names the authorities of client certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Do without client certificates.
    Never,
    /// Ask the cluster; do without when that fails.
    Tolerant,
    /// Ask the cluster; fail when that fails.
    Strict,
}

/// Settings of [`DelegatedAuth`].
#[derive(Clone, Debug)]
pub struct DelegatedOptions {
    /// Asks TokenReviews.
    pub token_client: Option<Client>,
    /// Asks SubjectAccessReviews; without one only `system:masters` may do anything.
    pub access_client: Option<Client>,
    /// Authorities of client certificates.
    pub client_ca: Option<ClientCa>,
    /// Whether [`look_up`](Self::look_up) asks the cluster for them.
    pub lookup: Lookup,
    /// Whether a request without credentials is `system:anonymous` instead of 401.
    pub anonymous: bool,
    /// Life of a TokenReview's answer.
    pub token_ttl: Duration,
    /// Life of an allowing answer.
    pub allowed_ttl: Duration,
    /// Life of a refusing answer.
    pub refused_ttl: Duration,
}

impl DelegatedFlags {
    /// What the flags ask for; `component` is for the User-Agent.
    pub fn to_options(&self, component: &str) -> Result<DelegatedOptions, DelegatedError> {
        let client = |flag, path: &str| {
            if path.is_empty() {
                return Ok(None);
            }
            ClientConfig::from_kubeconfig(Path::new(path), component)
                .and_then(Client::new)
                .map(Some)
                .map_err(|source| DelegatedError::Kubeconfig { flag, source })
        };
        let client_ca = match self.client_ca_file.as_str() {
            "" => None,
            path => Some(ClientCa::from_file(Path::new(path)).map_err(DelegatedError::ClientCa)?),
        };
        let lookup = match (self.authentication_skip_lookup, self.authentication_tolerate_lookup_failure) {
            (true, _) => Lookup::Never,
            (false, true) => Lookup::Tolerant,
            (false, false) => Lookup::Strict,
        };
        Ok(DelegatedOptions {
            lookup,
            token_client: client("--authentication-kubeconfig", &self.authentication_kubeconfig)?,
            access_client: client("--authorization-kubeconfig", &self.authorization_kubeconfig)?,
            client_ca,
            anonymous: true,
            token_ttl: self.authentication_token_webhook_cache_ttl.0,
            allowed_ttl: self.authorization_webhook_cache_authorized_ttl.0,
            refused_ttl: self.authorization_webhook_cache_unauthorized_ttl.0,
        })
    }
}

impl DelegatedOptions {
    /// Takes the authorities of client certificates from the cluster where no file names them; [`DelegatedAuth`] keeps them
    /// up to date.
    ///
    /// # Errors
    /// When they cannot be read and that is not tolerated.
    pub async fn look_up(mut self) -> Result<Self, DelegatedError> {
        let client = match (&self.client_ca, &self.token_client) {
            (None, Some(client)) if self.lookup != Lookup::Never => client,
            _ => {
                self.lookup = Lookup::Never;
                return Ok(self);
            }
        };
        self.client_ca = match published_authority(client).await {
            Ok(ca) => Some(ca),
            Err(why) if self.lookup == Lookup::Strict => return Err(DelegatedError::Lookup(why)),
            Err(why) => {
                let error = DelegatedError::Lookup(why);
                tracing::warn!(%error, "no client certificate is accepted on this port yet");
                Some(ClientCa::unknown())
            }
        };
        Ok(self)
    }
}

async fn published_authority(client: &Client) -> Result<ClientCa, String> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Published {
        data: HashMap<String, String>,
    }
    let published: Published =
        client.get(&CONFIG_MAPS, Some(NAMESPACE), CONFIG_MAP).await.map_err(|error| error.to_string())?;
    let pem = published.data.get(CA_KEY).ok_or_else(|| format!("it has no {CA_KEY}"))?;
    ClientCa::from_pem(pem.as_bytes()).map_err(|error| error.to_string())
}

/// Asks the API server, with a memory.
#[derive(Debug)]
pub struct DelegatedAuth {
    options: DelegatedOptions,
    /// The authorities of client certificates, and when they were looked up.
    authorities: Mutex<(Option<ClientCa>, Instant)>,
    tokens: Cache<[u8; 32], Option<User>>,
    decisions: Cache<(String, Vec<String>, Attributes), Result<(), String>>,
}

impl DelegatedAuth {
    /// Asks nothing before the first request.
    pub fn new(options: DelegatedOptions) -> Self {
        let authorities = Mutex::new((options.client_ca.clone(), Instant::now()));
        Self { options, authorities, tokens: Cache::default(), decisions: Cache::default() }
    }

    fn authorities(&self) -> MutexGuard<'_, (Option<ClientCa>, Instant)> {
        self.authorities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The published authorities as they are now, if the last look was `after` ago or longer and this one succeeds.
    async fn look_again(&self, after: Duration) -> Option<ClientCa> {
        let client = self.options.token_client.as_ref().filter(|_| self.options.lookup != Lookup::Never)?;
        {
            let mut authorities = self.authorities();
            if authorities.1.elapsed() < after {
                return None;
            }
            authorities.1 = Instant::now();
        }
        let looked = published_authority(client).await.map_err(DelegatedError::Lookup);
        let ca = looked.inspect_err(|error| tracing::warn!(%error, "client certificates are judged as before")).ok()?;
        self.authorities().0 = Some(ca.clone());
        Some(ca)
    }

    async fn by_certificate(&self, conn: &ConnInfo) -> Option<Result<User, Denied>> {
        if conn.peer_certs.is_empty() {
            return None;
        }
        let ca = self.authorities().0.clone()?;
        let verify = |ca: &ClientCa| ca.verify(&conn.peer_certs, jiff::Timestamp::now());
        let mut verdict = verify(&ca);
        let patience = if verdict.is_ok() { LOOK_AGAIN } else { LOOK_AGAIN_FOR_STRANGERS };
        if let Some(ca) = self.look_again(patience).await {
            verdict = verify(&ca);
        }
        Some(match verdict {
            Ok(peer) => {
                let mut groups = peer.organizations;
                groups.push("system:authenticated".to_owned());
                Ok(User { name: peer.common_name, groups, ..User::default() })
            }
            Err(error) => Err(unauthorized(&error.to_string())),
        })
    }

    async fn by_token(&self, token: &str) -> Result<Option<User>, Denied> {
        let Some(client) = &self.options.token_client else { return Ok(None) };
        let key: [u8; 32] = sha2::Sha256::digest(token).into();
        if let Some(known) = self.tokens.get(&key) {
            return Ok(known);
        }
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let review: TokenReview = client.create(&TOKEN_REVIEWS, None, &body).await.map_err(cannot_ask)?;
        let user = review.status.authenticated.then(|| {
            let user = review.status.user;
            User { name: user.username, uid: user.uid, groups: user.groups, extra: user.extra }
        });
        self.tokens.put(key, user.clone(), self.options.token_ttl);
        Ok(user)
    }

    async fn decide(&self, user: &User, attributes: &Attributes) -> Result<(), Denied> {
        if user.groups.iter().any(|g| g == "system:masters") {
            return Ok(());
        }
        let forbidden = |reason: &str| {
            let what = match &attributes.target {
                Target::Path(path) => format!("path \"{path}\""),
                Target::Resource { resource, subresource, .. } => format!("resource \"{resource}/{subresource}\""),
            };
            let message = format!("Forbidden (user={}, verb={}, {what}) {reason}", user.name, attributes.verb);
            Denied { status: StatusCode::FORBIDDEN, message }
        };
        let Some(client) = &self.options.access_client else {
            return Err(forbidden("nobody decides here: no authorization kubeconfig is set"));
        };
        let key = (user.name.clone(), user.groups.clone(), attributes.clone());
        if let Some(known) = self.decisions.get(&key) {
            return known.map_err(|reason| forbidden(&reason));
        }
        let review: AccessReview =
            client.create(&SUBJECT_ACCESS_REVIEWS, None, &access_review(user, attributes)).await.map_err(cannot_ask)?;
        let answer = if review.status.allowed { Ok(()) } else { Err(review.status.reason) };
        let ttl = if answer.is_ok() { self.options.allowed_ttl } else { self.options.refused_ttl };
        self.decisions.put(key, answer.clone(), ttl);
        answer.map_err(|reason| forbidden(&reason))
    }
}

impl RequestAuth for DelegatedAuth {
    fn authenticate<'a>(&'a self, parts: &'a Parts, conn: &'a ConnInfo) -> BoxFuture<'a, Result<User, Denied>> {
        async move {
            if let Some(answer) = self.by_certificate(conn).await {
                return answer;
            }
            if let Some(token) = bearer(parts) {
                return self.by_token(token).await?.ok_or_else(|| unauthorized("the token is not valid"));
            }
            if self.options.anonymous { Ok(User::anonymous()) } else { Err(unauthorized("no credentials")) }
        }
        .boxed()
    }

    fn authorize<'a>(&'a self, user: &'a User, attributes: &'a Attributes) -> BoxFuture<'a, Result<(), Denied>> {
        self.decide(user, attributes).boxed()
    }
}

fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

fn unauthorized(why: &str) -> Denied {
    tracing::debug!(why, "request is not authenticated");
    Denied { status: StatusCode::UNAUTHORIZED, message: "Unauthorized".to_owned() }
}

// map_err hands the error by value.
#[allow(clippy::needless_pass_by_value)]
fn cannot_ask(error: ClientError) -> Denied {
    tracing::warn!(%error, "cannot ask the API server about a request");
    Denied { status: StatusCode::INTERNAL_SERVER_ERROR, message: "the API server cannot be asked now\n".to_owned() }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TokenReview {
    status: TokenReviewStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TokenReviewStatus {
    authenticated: bool,
    user: ReviewUser,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ReviewUser {
    username: String,
    uid: String,
    groups: Vec<String>,
    extra: std::collections::BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AccessReview {
    status: AccessReviewStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AccessReviewStatus {
    allowed: bool,
    reason: String,
}

fn access_review(user: &User, attributes: &Attributes) -> impl Serialize {
    let mut spec = json!({"user": user.name, "groups": user.groups, "uid": user.uid, "extra": user.extra});
    match &attributes.target {
        Target::Path(path) => spec["nonResourceAttributes"] = json!({"path": path, "verb": attributes.verb}),
        Target::Resource { group, resource, subresource, namespace, name } => {
            spec["resourceAttributes"] = json!({
                "verb": attributes.verb, "group": group, "version": "v1", "resource": resource,
                "subresource": subresource, "namespace": namespace, "name": name,
            });
        }
    }
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec})
}

/// Answers with an end of life; the whole map is swept when it is full.
#[derive(Debug)]
struct Cache<K, V> {
    entries: Mutex<HashMap<K, (V, Instant)>>,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self { entries: Mutex::new(HashMap::new()) }
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).filter(|(_, until)| Instant::now() < *until).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, ttl: Duration) {
        let now = Instant::now();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_CACHED {
            entries.retain(|_, (_, until)| now < *until);
            if entries.len() >= MAX_CACHED {
                entries.clear();
            }
        }
        entries.insert(key, (value, now + ttl));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_server::FakeServer;
    use std::sync::Arc;

    fn auth(server: &FakeServer) -> DelegatedAuth {
        DelegatedAuth::new(options(server, Lookup::Never))
    }

    fn options(server: &FakeServer, lookup: Lookup) -> DelegatedOptions {
        DelegatedOptions {
            token_client: Some(server.client.clone()),
            access_client: Some(server.client.clone()),
            client_ca: None,
            lookup,
            anonymous: false,
            token_ttl: Duration::from_secs(60),
            allowed_ttl: Duration::from_secs(60),
            refused_ttl: Duration::from_secs(60),
        }
    }

    #[tokio::test]
    async fn authorities_come_from_the_cluster_unless_that_is_skipped_or_fails() {
        let server = FakeServer::start();
        let never = options(&server, Lookup::Never).look_up().await.unwrap();
        assert!(never.client_ca.is_none() && server.seen().is_empty());
        server.will_answer(403, "no");
        let tolerant = options(&server, Lookup::Tolerant).look_up().await.unwrap();
        server.will_answer(200, r#"{"data":{"other":"x"}}"#);
        let error = options(&server, Lookup::Strict).look_up().await.unwrap_err().to_string();
        assert!(error.contains("it has no client-ca-file"), "{error}");
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let published = json!({"data": {"client-ca-file": params.self_signed(&key).unwrap().pem()}}).to_string();
        let issuer = rcgen::Issuer::new(params, key);
        server.will_answer(200, published.clone());
        assert!(options(&server, Lookup::Strict).look_up().await.unwrap().client_ca.is_some());
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "me");
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let peer = params.signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer).unwrap();
        let conn = ConnInfo { peer_certs: Arc::new([peer.der().clone()]), ..conn() };
        let auth = DelegatedAuth::new(tolerant);
        let denied = auth.authenticate(&parts(""), &conn).await.unwrap_err();
        assert_eq!(denied.status, StatusCode::UNAUTHORIZED, "looked up a moment ago");
        auth.authorities().1 -= LOOK_AGAIN_FOR_STRANGERS;
        server.will_answer(200, published);
        assert_eq!(auth.authenticate(&parts(""), &conn).await.unwrap().name, "me", "published meanwhile");
    }

    fn parts(token: &str) -> Parts {
        let mut builder = http::Request::get("/metrics");
        if !token.is_empty() {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn conn() -> ConnInfo {
        let addr = "127.0.0.1:1".parse().unwrap();
        ConnInfo { peer: addr, local: addr, peer_certs: Arc::new([]), tls: true }
    }

    #[tokio::test]
    async fn asks_once_and_remembers() {
        let server = FakeServer::start();
        let auth = auth(&server);
        server.will_answer(201, r#"{"status":{"authenticated":true,"user":{"username":"u","groups":["g"]}}}"#);
        for _ in 0..2 {
            let user = auth.authenticate(&parts("t"), &conn()).await.unwrap();
            assert_eq!((user.name.as_str(), user.groups.as_slice()), ("u", ["g".to_owned()].as_slice()));
        }
        server.will_answer(201, r#"{"status":{"allowed":true}}"#);
        let user = User { name: "u".into(), ..User::default() };
        let attributes = Attributes::of_path(&parts(""));
        auth.authorize(&user, &attributes).await.unwrap();
        auth.authorize(&user, &attributes).await.unwrap();
        assert_eq!(server.seen().len(), 2);
        let body: serde_json::Value = serde_json::from_slice(&server.request(1).1).unwrap();
        assert_eq!(body["spec"]["nonResourceAttributes"], json!({"path": "/metrics", "verb": "get"}));
    }

    #[tokio::test]
    async fn refuses_what_it_cannot_know() {
        let server = FakeServer::start();
        let auth = auth(&server);
        assert_eq!(auth.authenticate(&parts(""), &conn()).await.unwrap_err().status, StatusCode::UNAUTHORIZED);
        server.will_answer(500, "down");
        let denied = auth.authenticate(&parts("t"), &conn()).await.unwrap_err();
        assert_eq!(denied.status, StatusCode::INTERNAL_SERVER_ERROR);
        server.will_answer(201, r#"{"status":{"authenticated":false}}"#);
        assert_eq!(auth.authenticate(&parts("t"), &conn()).await.unwrap_err().status, StatusCode::UNAUTHORIZED);
        server.will_answer(201, r#"{"status":{"allowed":false,"reason":"no rule"}}"#);
        let attributes = Attributes::of_path(&parts(""));
        let denied = auth.authorize(&User::anonymous(), &attributes).await.unwrap_err();
        assert!(denied.status == StatusCode::FORBIDDEN && denied.message.contains("no rule"));
        let admin = User { groups: vec!["system:masters".into()], ..User::default() };
        assert!(auth.authorize(&admin, &attributes).await.is_ok());
    }
}

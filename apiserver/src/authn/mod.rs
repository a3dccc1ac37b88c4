//! Who is it? Client certificates, the front proxy's headers, bearer tokens, or nobody (anonymous).
//!
//! Guarantees: a request whose credentials are refused is 401, never anonymous; one without credentials is anonymous where
//! that is allowed, else 401. `system:authenticated` is added here and nowhere else. Nothing panics on input; secrets are
//! compared in constant time. Follows upstream's order: front proxy, certificate, token.

pub mod anonymous;
pub mod bootstrap_token;
mod config_file;
pub mod impersonation;
mod measure;
pub mod oidc;
pub mod request_header;
pub mod service_account;
pub mod static_token;
pub mod webhook;
pub mod x509;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use apimachinery::status::Status;
use component_base::serving::ConnInfo;
use futures::future::BoxFuture;
use http::HeaderMap;
use http::request::Parts;

use self::anonymous::Anonymous;
pub(crate) use self::measure::SECONDS;
use self::request_header::RequestHeader;
use self::service_account::ServiceAccounts;
use self::static_token::StaticTokens;
use self::x509::ClientCertificates;
use crate::http::request::UserInfo;
use crate::objects::Objects;
use crate::tokens::KeyError;
use crate::tokens::tracking::Uses;

/// Group of everybody who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everybody else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// User name of requests without credentials.
pub const ANONYMOUS: &str = "system:anonymous";

/// Why a credential is refused; the client sees only 401, the log sees this.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// A user, and the audiences for which a token vouches. Empty for other credentials, and from authenticators whose tokens
/// say nothing of audiences: those count for this server's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Who.
    pub user: UserInfo,
    /// For TokenReview.
    pub audiences: Vec<String>,
}

/// Something that can tell who a bearer token belongs to.
pub trait TokenAuthenticator: Send + Sync {
    /// `None`: not a token of mine; `Refused`: mine, but not good.
    fn authenticate_token<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<Identity>, Refused>>;
}

/// Who sent this request; what the HTTP layer asks.
pub trait Authenticator: Send + Sync {
    /// The user (anonymous included), or the 401.
    fn authenticate<'a>(&'a self, parts: &'a Parts, conn: &'a ConnInfo) -> BoxFuture<'a, Result<UserInfo, Status>>;
}

/// What the authentication flags say.
#[derive(Clone, Debug, Default)]
pub struct AuthnConfig {
    /// `--client-ca-file`
    pub client_ca_file: Option<PathBuf>,
    /// `--token-auth-file`
    pub token_auth_file: Option<PathBuf>,
    /// `--enable-bootstrap-token-auth`
    pub bootstrap_tokens: bool,
    /// `--anonymous-auth`; `None` when not given (true, or what the file says).
    pub anonymous_auth: Option<bool>,
    /// `--authentication-config`
    pub config_file: Option<PathBuf>,
    /// `--service-account-key-file`, or the signing key when that is not given.
    pub service_account_key_files: Vec<PathBuf>,
    /// `--service-account-issuer`; the first one issues, all are accepted.
    pub service_account_issuers: Vec<String>,
    /// `--service-account-lookup`
    pub service_account_lookup: bool,
    /// `--api-audiences`, or the issuers when not given.
    pub api_audiences: Vec<String>,
    /// `--requestheader-client-ca-file` and companions; off without it.
    pub request_header: Option<request_header::Config>,
    /// `--oidc-issuer-url` and companions.
    pub oidc: Option<oidc::Issuer>,
    /// `--authentication-token-webhook-config-file` and companions.
    pub webhook: Option<webhook::Config>,
}

/// Why authentication could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file of certificate authorities is missing or holds none.
    #[error("{flag}: {source}")]
    Authorities {
        /// The flag.
        flag: &'static str,
        /// What is wrong, naming the file.
        source: component_base::tls::TlsError,
    },
    /// A key file is bad.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The token file is bad.
    #[error("--token-auth-file: {path}{line}: {why}")]
    Tokens {
        /// The file.
        path: String,
        /// `:LINE`, or empty.
        line: String,
        /// What is wrong.
        why: String,
    },
    /// The authentication configuration is bad.
    #[error("--authentication-config: {path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The webhook's kubeconfig is bad.
    #[error("--authentication-token-webhook-config-file: {0}")]
    Webhook(#[from] crate::webhook::CallError),
    /// Two places to say whose tokens are believed.
    #[error("--oidc-issuer-url and jwt in --authentication-config exclude each other; move the issuer to the file")]
    IssuersTwice,
    /// Our own tokens would be another issuer's.
    #[error(
        "{0:?} is the issuer of service account tokens (--service-account-issuer) and cannot be an OpenID issuer too"
    )]
    OwnIssuer(String),
    /// Two settings exclude each other.
    #[error("--anonymous-auth and anonymous in --authentication-config exclude each other; remove the flag")]
    AnonymousTwice,
}

/// Every configured way to tell who it is.
pub struct Union {
    request_header: Option<RequestHeader>,
    certificates: Option<ClientCertificates>,
    tokens: Vec<Box<dyn TokenAuthenticator>>,
    anonymous: Anonymous,
    /// Audiences of this server.
    pub api_audiences: Vec<String>,
}

/// Sets authentication up. Uses of legacy tokens are noted.
///
/// # Errors
/// A file that cannot be used, named with its flag.
pub fn build(config: &AuthnConfig, objects: &Arc<dyn Objects>, uses: Uses) -> Result<Union, ConfigError> {
    let certificates = match &config.client_ca_file {
        Some(path) => Some(ClientCertificates::new("--client-ca-file", path)?),
        None => None,
    };
    let request_header = match &config.request_header {
        Some(config) => Some(RequestHeader::new(config)?),
        None => None,
    };
    let file = config.config_file.as_deref().map(config_file::load).transpose()?.unwrap_or_default();
    let anonymous = Anonymous::new(config.anonymous_auth, file.anonymous)?;
    let tokens = token_authenticators(config, file.issuers, objects, uses)?;
    Ok(Union { request_header, certificates, tokens, anonymous, api_audiences: config.api_audiences.clone() })
}

/// In upstream's order.
fn token_authenticators(
    config: &AuthnConfig,
    mut issuers: Vec<oidc::Issuer>,
    objects: &Arc<dyn Objects>,
    uses: Uses,
) -> Result<Vec<Box<dyn TokenAuthenticator>>, ConfigError> {
    let mut tokens: Vec<Box<dyn TokenAuthenticator>> = Vec::new();
    if let Some(path) = &config.token_auth_file {
        tokens.push(Box::new(StaticTokens::load(path)?));
    }
    if !config.service_account_key_files.is_empty() {
        tokens.push(Box::new(ServiceAccounts::new(config, Arc::clone(objects), uses)?));
    }
    if config.bootstrap_tokens {
        tokens.push(Box::new(bootstrap_token::BootstrapTokens::new(Arc::clone(objects))));
    }
    if let Some(issuer) = &config.oidc {
        if !issuers.is_empty() {
            return Err(ConfigError::IssuersTwice);
        }
        issuers.push(issuer.clone());
    }
    for issuer in issuers {
        if config.service_account_issuers.contains(&issuer.url) {
            return Err(ConfigError::OwnIssuer(issuer.url));
        }
        tokens.push(Box::new(oidc::Oidc::new(issuer)));
    }
    if let Some(webhook) = &config.webhook {
        tokens.push(Box::new(webhook::TokenWebhook::new(webhook.clone(), config.api_audiences.clone())?));
    }
    Ok(tokens)
}

/// The bearer token of `Authorization`, or of a WebSocket's subprotocol (browsers cannot send the header).
pub fn bearer_token(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION) {
        let value = value.to_str().ok()?.trim();
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let protocols = headers.get_all("sec-websocket-protocol").iter().filter_map(|value| value.to_str().ok());
    protocols.flat_map(|value| value.split(',')).find_map(|protocol| {
        let encoded = protocol.trim().strip_prefix("base64url.bearer.authorization.k8s.io.")?;
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, encoded).ok()?;
        String::from_utf8(bytes).ok().filter(|token| !token.is_empty())
    })
}

impl Union {
    /// Who a bearer token belongs to, for the given audiences.
    ///
    /// # Errors
    /// Why every authenticator that knows such tokens refuses it.
    pub async fn token(&self, token: &str, audiences: &[String]) -> Result<Option<Identity>, Refused> {
        let mut refused: Vec<String> = Vec::new();
        for authenticator in &self.tokens {
            match authenticator.authenticate_token(token, audiences).await {
                Ok(Some(identity)) => {
                    if let Some(identity) = self.for_audiences(identity, audiences) {
                        return Ok(Some(authenticated(identity)));
                    }
                }
                Ok(None) => {}
                Err(Refused(why)) => refused.push(why),
            }
        }
        if refused.is_empty() { Ok(None) } else { Err(Refused(refused.join("; "))) }
    }

    /// A token that says nothing of audiences is one for this server.
    fn for_audiences(&self, mut identity: Identity, wanted: &[String]) -> Option<Identity> {
        if identity.audiences.is_empty() {
            identity.audiences =
                wanted.iter().filter(|audience| self.api_audiences.contains(audience)).cloned().collect();
        }
        (wanted.is_empty() || !identity.audiences.is_empty()).then_some(identity)
    }

    async fn identify(&self, parts: &Parts, conn: &ConnInfo) -> Result<Option<Identity>, Refused> {
        let mut refused: Vec<String> = Vec::new();
        let mut note = |result: Result<Option<UserInfo>, Refused>| match result {
            Ok(user) => user,
            Err(Refused(why)) => {
                refused.push(why);
                None
            }
        };
        let by_proxy = self.request_header.as_ref().and_then(|auth| note(auth.authenticate(&parts.headers, conn)));
        let by_certificate = || self.certificates.as_ref().and_then(|auth| note(auth.authenticate(conn)));
        if let Some(user) = by_proxy.or_else(by_certificate) {
            return Ok(Some(authenticated(Identity { user, audiences: Vec::new() })));
        }
        if let Some(token) = bearer_token(&parts.headers) {
            match self.token(&token, &self.api_audiences).await {
                Ok(Some(identity)) => return Ok(Some(identity)),
                Ok(None) => refused.push("nobody knows the bearer token".to_owned()),
                Err(Refused(why)) => refused.push(why),
            }
        }
        if refused.is_empty() { Ok(None) } else { Err(Refused(refused.join("; "))) }
    }
}

fn authenticated(mut identity: Identity) -> Identity {
    let groups = &mut identity.user.groups;
    if identity.user.name != ANONYMOUS && !groups.iter().any(|g| g == AUTHENTICATED || g == UNAUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    identity
}

impl Authenticator for Union {
    fn authenticate<'a>(&'a self, parts: &'a Parts, conn: &'a ConnInfo) -> BoxFuture<'a, Result<UserInfo, Status>> {
        Box::pin(async move {
            let begun = Instant::now();
            let identified = self.identify(parts, conn).await;
            let user = match identified {
                Ok(Some(identity)) => Ok(Some(identity.user)),
                Ok(None) => Ok(self.anonymous.user(parts.uri.path())),
                Err(why) => Err(why),
            };
            measure::attempt(&user, begun.elapsed());
            match user {
                Ok(user) => user.ok_or_else(Status::unauthorized),
                Err(Refused(why)) => {
                    tracing::warn!(peer = %conn.peer, path = parts.uri.path(), err = %why, "Unable to authenticate the request");
                    Err(Status::unauthorized())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Knows(Vec<String>);

    impl TokenAuthenticator for Knows {
        fn authenticate_token<'a>(
            &'a self,
            _: &'a str,
            _: &'a [String],
        ) -> BoxFuture<'a, Result<Option<Identity>, Refused>> {
            let user = UserInfo { name: "u".to_owned(), ..UserInfo::default() };
            Box::pin(std::future::ready(Ok(Some(Identity { user, audiences: self.0.clone() }))))
        }
    }

    #[tokio::test]
    async fn a_token_without_audiences_is_for_this_server_only() {
        let api = || vec!["api".to_owned()];
        let ask = |own: Vec<String>, wanted: &'static str| async move {
            let tokens: Vec<Box<dyn TokenAuthenticator>> = vec![Box::new(Knows(own))];
            let (request_header, certificates) = (None, None);
            let union = Union { request_header, certificates, tokens, anonymous: Anonymous::Off, api_audiences: api() };
            union.token("t", &[wanted.to_owned()]).await.unwrap().map(|identity| identity.audiences)
        };
        assert_eq!(ask(Vec::new(), "api").await, Some(api()));
        assert_eq!(ask(Vec::new(), "vault").await, None);
        assert_eq!(ask(vec!["vault".to_owned()], "vault").await, Some(vec!["vault".to_owned()]));
    }

    #[test]
    fn bearer_tokens() {
        let cases = [
            ("authorization", "Bearer abc", Some("abc")),
            ("authorization", "bearer  abc ", Some("abc")),
            ("authorization", "Basic abc", None),
            ("authorization", "Bearer", None),
            ("sec-websocket-protocol", "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj", Some("abc")),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.%%", None),
        ];
        for (name, value, token) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(name, http::HeaderValue::from_static(value));
            assert_eq!(bearer_token(&headers).as_deref(), token, "{name}: {value}");
        }
    }
}

//! Who is it? Client certificates, the front proxy's headers, bearer tokens, or nobody (anonymous).
//!
//! Guarantees: a request whose credentials are refused is 401, never anonymous; one without credentials is anonymous where
//! that is allowed, else 401. `system:authenticated` is added here and nowhere else. Nothing panics on input; secrets are
//! compared in constant time. Follows upstream's order: front proxy, certificate, token.

pub mod anonymous;
pub mod bootstrap_token;
pub mod impersonation;
pub mod request_header;
pub mod service_account;
pub mod static_token;
pub mod x509;

use std::path::PathBuf;
use std::sync::Arc;

use apimachinery::status::Status;
use component_base::serving::ConnInfo;
use futures::future::BoxFuture;
use http::HeaderMap;
use http::request::Parts;

use self::anonymous::Anonymous;
use self::request_header::RequestHeader;
use self::service_account::ServiceAccounts;
use self::static_token::StaticTokens;
use self::x509::ClientCertificates;
use crate::http::request::UserInfo;
use crate::objects::Objects;
use crate::tokens::KeyError;

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

/// A user, and the audiences for which a token vouches (empty for other credentials).
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

/// Sets authentication up.
///
/// # Errors
/// A file that cannot be used, named with its flag.
pub fn build(config: &AuthnConfig, objects: &Arc<dyn Objects>) -> Result<Union, ConfigError> {
    let certificates = match &config.client_ca_file {
        Some(path) => Some(ClientCertificates::new("--client-ca-file", path)?),
        None => None,
    };
    let request_header = match &config.request_header {
        Some(config) => Some(RequestHeader::new(config)?),
        None => None,
    };
    let mut tokens: Vec<Box<dyn TokenAuthenticator>> = Vec::new();
    if let Some(path) = &config.token_auth_file {
        tokens.push(Box::new(StaticTokens::load(path)?));
    }
    if !config.service_account_key_files.is_empty() {
        tokens.push(Box::new(ServiceAccounts::new(config, Arc::clone(objects))?));
    }
    if config.bootstrap_tokens {
        tokens.push(Box::new(bootstrap_token::BootstrapTokens::new(Arc::clone(objects))));
    }
    let anonymous = Anonymous::new(config.anonymous_auth, config.config_file.as_deref())?;
    Ok(Union { request_header, certificates, tokens, anonymous, api_audiences: config.api_audiences.clone() })
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
                Ok(Some(identity)) => return Ok(Some(authenticated(identity))),
                Ok(None) => {}
                Err(Refused(why)) => refused.push(why),
            }
        }
        if refused.is_empty() { Ok(None) } else { Err(Refused(refused.join("; "))) }
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
            match self.identify(parts, conn).await {
                Ok(Some(identity)) => Ok(identity.user),
                Ok(None) => self.anonymous.user(parts.uri.path()).ok_or_else(Status::unauthorized),
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

//! OpenID Connect: ID tokens of an issuer outside the cluster, whose claims name the user.
//!
//! Guarantees: a token is believed with a signature by one of the issuer's published keys, an allowed algorithm, the issuer
//! and one of the audiences configured, inside its time, and with every required claim. Tokens of other issuers are left to
//! the other authenticators. Follows upstream; distributed claims are refused, expressions (CEL) are refused at start.

mod keys;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use serde_json::{Map, Value};

use self::keys::RemoteKeys;
use super::{Identity, Refused, TokenAuthenticator};
use crate::http::request::UserInfo;
use crate::tokens::jwt::Unverified;

/// Clocks of the issuer and this server may differ by this many seconds where a token begins.
const LEEWAY_SECONDS: i64 = 60;
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// Which claim says it, and what is put before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Name of the claim.
    pub claim: String,
    /// Keeps the issuer's names apart from others.
    pub prefix: String,
}

/// An issuer and what its claims mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issuer {
    /// `iss` of its tokens, an https URL.
    pub url: String,
    /// Where its discovery document is, when not below the URL.
    pub discovery_url: Option<String>,
    /// One of these must be in `aud`.
    pub audiences: Vec<String>,
    /// Authorities of its certificate; the system's when absent.
    pub ca_pem: Option<Vec<u8>>,
    /// Algorithms that its tokens may be signed with.
    pub algorithms: Vec<String>,
    /// The user's name.
    pub username: Mapping,
    /// The groups, a text or a list of them.
    pub groups: Option<Mapping>,
    /// The uid.
    pub uid_claim: Option<String>,
    /// Claims that must have exactly these values.
    pub required: BTreeMap<String, String>,
}

/// Believes the tokens of one issuer.
pub struct Oidc {
    issuer: Issuer,
    keys: RemoteKeys,
}

impl Oidc {
    /// The issuer is asked for its keys when the first token comes.
    pub fn new(issuer: Issuer) -> Self {
        Self::with_pause(issuer, keys::PAUSE)
    }

    fn with_pause(issuer: Issuer, pause: std::time::Duration) -> Self {
        let below = || format!("{}{WELL_KNOWN}", issuer.url.trim_end_matches('/'));
        let discovery_url = issuer.discovery_url.clone().unwrap_or_else(below);
        let keys = RemoteKeys::new(&issuer.url, discovery_url, issuer.ca_pem.clone(), pause);
        Self { issuer, keys }
    }

    async fn authenticate(&self, token: &str, now: i64) -> Result<Option<Identity>, Refused> {
        let Ok(read) = Unverified::parse(token) else { return Ok(None) };
        let Ok(claims) = read.claims::<Map<String, Value>>() else { return Ok(None) };
        let claims = Claims(claims);
        if claims.issuer() != self.issuer.url {
            return Ok(None);
        }
        let refuse = |why: String| Refused(format!("token of {}: {why}", self.issuer.url));
        if !self.issuer.algorithms.iter().any(|algorithm| algorithm == read.algorithm()) {
            return Err(refuse(format!("it is signed with {:?}, which is not allowed", read.algorithm())));
        }
        claims.check_use(&self.issuer.audiences, now).map_err(refuse)?;
        self.keys.verify(&read).await.map_err(refuse)?;
        let user = user_of(&self.issuer, &claims).map_err(refuse)?;
        Ok(Some(Identity { user, audiences: Vec::new() }))
    }
}

impl TokenAuthenticator for Oidc {
    fn authenticate_token<'a>(
        &'a self,
        token: &'a str,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<Option<Identity>, Refused>> {
        Box::pin(self.authenticate(token, jiff::Timestamp::now().as_second()))
    }
}

struct Claims(Map<String, Value>);

impl Claims {
    fn issuer(&self) -> &str {
        match self.0.get("iss").and_then(Value::as_str).unwrap_or_default() {
            // Google's tokens leave the scheme out.
            "accounts.google.com" => "https://accounts.google.com",
            issuer => issuer,
        }
    }

    fn text(&self, claim: &str) -> Result<String, String> {
        match self.0.get(claim) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(format!("claim {claim:?} is no text")),
            None => Err(format!("claim {claim:?} is not there")),
        }
    }

    /// A text, or a list of texts.
    fn texts(&self, claim: &str) -> Result<Vec<String>, String> {
        match self.0.get(claim) {
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(list)) => {
                let texts: Option<_> = list.iter().map(|item| item.as_str().map(str::to_owned)).collect();
                texts.ok_or_else(|| format!("claim {claim:?} has members that are no text"))
            }
            Some(_) => Err(format!("claim {claim:?} is neither a text nor a list of them")),
            None => Ok(Vec::new()),
        }
    }

    fn time(&self, claim: &str) -> Option<f64> {
        self.0.get(claim).and_then(Value::as_f64)
    }

    /// Meant for us, and now.
    fn check_use(&self, audiences: &[String], now: i64) -> Result<(), String> {
        let own = self.texts("aud")?;
        if !audiences.iter().any(|audience| own.contains(audience)) {
            return Err(format!("it is for {own:?}, expected one of {audiences:?}"));
        }
        if self.time("exp").is_none_or(|end| end < now as f64) {
            return Err("it has expired".to_owned());
        }
        if self.time("nbf").is_some_and(|begin| begin > now.saturating_add(LEEWAY_SECONDS) as f64) {
            return Err("it is not valid yet".to_owned());
        }
        Ok(())
    }
}

fn user_of(issuer: &Issuer, claims: &Claims) -> Result<UserInfo, String> {
    let name = claims.text(&issuer.username.claim)?;
    let verified = claims.0.get("email_verified");
    if issuer.username.claim == "email" && verified.is_some_and(|verified| *verified != Value::Bool(true)) {
        return Err("its e-mail address is not verified".to_owned());
    }
    let groups = match &issuer.groups {
        Some(mapping) => {
            let elsewhere = claims.0.get("_claim_names").is_some_and(|names| names.get(&mapping.claim).is_some());
            if elsewhere && !claims.0.contains_key(&mapping.claim) {
                return Err(format!("claim {:?} is distributed, which is not supported", mapping.claim));
            }
            claims.texts(&mapping.claim)?.iter().map(|group| format!("{}{group}", mapping.prefix)).collect()
        }
        None => Vec::new(),
    };
    let uid = issuer.uid_claim.as_deref().map_or(Ok(String::new()), |claim| claims.text(claim))?;
    for (claim, wanted) in &issuer.required {
        if claims.text(claim)? != *wanted {
            return Err(format!("claim {claim:?} has not the required value"));
        }
    }
    Ok(UserInfo { name: format!("{}{name}", issuer.username.prefix), uid, groups, ..UserInfo::default() })
}

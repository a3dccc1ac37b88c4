//! Bootstrap tokens (`id.secret`): what a new node shows before it has a certificate.
//!
//! A token lives in the secret `kube-system/bootstrap-token-ID` of type `bootstrap.kubernetes.io/token` and is good while
//! `usage-bootstrap-authentication` is `true` and `expiration` is not past. The secret is read at every use, so deleting it
//! ends the token at once.

use std::sync::Arc;

use base64::Engine as _;
use futures::future::BoxFuture;
use serde_json::Value;
use subtle::ConstantTimeEq;

use super::{Identity, Refused, TokenAuthenticator};
use crate::http::request::UserInfo;
use crate::objects::Objects;

/// Group of every bootstrap token.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// Looks tokens up in kube-system.
pub struct BootstrapTokens(Arc<dyn Objects>);

impl BootstrapTokens {
    /// Reads secrets through `objects`.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self(objects)
    }
}

/// Id and secret of a token, when it has their form (6 and 16 lower-case letters or digits).
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let form = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (form(id, 6) && form(secret, 16)).then_some((id, secret))
}

/// Whom the token makes, judged by its secret object; the error says why not.
fn judge(secret: &Value, id: &str, given: &str, now: jiff::Timestamp) -> Result<UserInfo, &'static str> {
    let data = |key: &str| -> String {
        let encoded = secret["data"][key].as_str().unwrap_or_default();
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    if secret["type"] != "bootstrap.kubernetes.io/token" {
        return Err("its secret has the wrong type");
    }
    if !secret["metadata"]["deletionTimestamp"].is_null() {
        return Err("its secret is being deleted");
    }
    let known = data("token-secret");
    if known.is_empty() || !bool::from(known.as_bytes().ct_eq(given.as_bytes())) || data("token-id") != id {
        return Err("id or secret is wrong");
    }
    let end = data("expiration");
    if !end.is_empty() {
        match end.parse::<jiff::Timestamp>() {
            Ok(end) if now <= end => {}
            Ok(_) => return Err("it has expired"),
            Err(_) => return Err("its expiration is not a time"),
        }
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("it is not meant for authentication");
    }
    let mut groups = vec![BOOTSTRAPPERS.to_owned()];
    for group in data("auth-extra-groups").split(',').map(str::trim).filter(|group| !group.is_empty()) {
        let Some(suffix) = group.strip_prefix("system:bootstrappers:") else {
            return Err("an extra group does not begin with system:bootstrappers:");
        };
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b':' || b == b'-';
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !suffix.bytes().all(inner) || !edge(suffix.bytes().next_back()) {
            return Err("an extra group is malformed");
        }
        groups.push(group.to_owned());
    }
    Ok(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

impl TokenAuthenticator for BootstrapTokens {
    fn authenticate_token<'a>(
        &'a self,
        token: &'a str,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<Option<Identity>, Refused>> {
        Box::pin(async move {
            let Some((id, secret)) = parse(token) else { return Ok(None) };
            let name = format!("bootstrap-token-{id}");
            let Some(object) = self.0.get(("", "secrets"), "kube-system", &name) else { return Ok(None) };
            match judge(&object, id, secret, jiff::Timestamp::now()) {
                Ok(user) => Ok(Some(Identity { user, audiences: Vec::new() })),
                Err(why) => Err(Refused(format!("bootstrap token {id}: {why}"))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(changes: &[(&str, &str)]) -> Value {
        let mut data = vec![
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:workers"),
            ("expiration", "2030-01-01T00:00:00Z"),
        ];
        data.extend_from_slice(changes);
        let encode = |text: &str| Value::from(base64::engine::general_purpose::STANDARD.encode(text));
        let data: serde_json::Map<_, _> = data.into_iter().map(|(k, v)| (k.to_owned(), encode(v))).collect();
        json!({"type": "bootstrap.kubernetes.io/token", "data": data})
    }

    #[test]
    fn table() {
        let now: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let judge = |secret: &Value, given: &str| judge(secret, "abcdef", given, now);
        let good = judge(&secret(&[]), "0123456789abcdef").unwrap();
        assert_eq!((good.name.as_str(), good.groups.len()), ("system:bootstrap:abcdef", 2));
        assert!(judge(&secret(&[]), "0123456789abcdee").is_err());
        for (key, value) in [
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "2020-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("auth-extra-groups", "system:masters"),
            ("token-id", "zzzzzz"),
        ] {
            assert!(judge(&secret(&[(key, value)]), "0123456789abcdef").is_err(), "{key}={value}");
        }
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in ["abcdef", "ABCDEF.0123456789abcdef", "abcdef.012345678", "a.b.c"] {
            assert_eq!(parse(bad), None);
        }
    }
}

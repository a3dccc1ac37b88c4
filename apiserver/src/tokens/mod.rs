//! Service-account tokens: the keys that sign and verify them, what stands in them, and the JWT form itself.
//!
//! Guarantees: a token is accepted only with a signature by one of the configured keys, an algorithm that fits that key,
//! and claims inside their time. Does not know of requests; [`crate::authn`] checks the bound objects.

pub mod claims;
pub mod issuer;
pub mod jwt;

pub use claims::{BoundObject, Claims, TokenSubject};
pub use issuer::{Discovery, Issuer};
pub use jwt::{JwtError, Verifier};
pub use pki::token_keys::{KeyError, PublicKey, Signer};

use crate::config::TokenConfig;

/// What issues tokens and what tells others how to verify them.
#[derive(Default)]
pub struct Tokens {
    /// Absent without a signing key: tokens cannot be requested then.
    pub issuer: Option<Issuer>,
    /// Absent when the issuer is no URL.
    pub discovery: Option<Discovery>,
}

/// Reads the keys. `base_url` is where clients reach this server.
///
/// # Errors
/// A key file cannot be used.
pub fn build(config: &TokenConfig, base_url: &str) -> Result<Tokens, KeyError> {
    const SIGNING: &str = "--service-account-signing-key-file";
    let mut keys = Vec::new();
    for path in &config.key_files {
        keys.extend(pki::token_keys::public_keys("--service-account-key-file", path)?);
    }
    let name = config.issuers.first().cloned().unwrap_or_default();
    let issuer = match &config.signing_key_file {
        Some(path) => {
            let signer = Signer::read(SIGNING, path)?;
            if !keys.contains(&signer.public) {
                tracing::warn!(
                    "{SIGNING} is none of --service-account-key-file: tokens issued here will be refused here"
                );
            }
            let max = config.max_expiration.and_then(|max| i64::try_from(max.as_secs()).ok());
            let audiences = config.api_audiences.clone();
            Some(Issuer::new(signer, name.clone(), audiences, config.extend_expiration, max))
        }
        None => None,
    };
    let jwks_uri =
        if config.jwks_uri.is_empty() { format!("{base_url}/openid/v1/jwks") } else { config.jwks_uri.clone() };
    Ok(Tokens { issuer, discovery: Discovery::new(&name, &jwks_uri, &Verifier::new(keys)) })
}

//! Service-account tokens: the keys that sign and verify them, what stands in them, and the JWT form itself.
//!
//! Guarantees: a token is accepted only with a signature by one of the configured keys, an algorithm that fits that key,
//! and claims inside their time. Does not know of requests; [`crate::authn`] checks the bound objects.

pub mod claims;
pub mod issuer;
pub mod jwks;
pub mod jwt;
pub mod tracking;

pub use claims::{BoundObject, Claims, TokenSubject};
pub use issuer::{Discovery, Issuer};
pub use jwt::{JwtError, Verifier};
pub use pki::token_keys::{KeyError, PublicKey, Signer};

use component_base::reload::Reloading;

use crate::config::TokenConfig;

/// The flag of the keys that verify.
pub const KEYS: &str = "--service-account-key-file";

/// What issues tokens and what tells others how to verify them.
#[derive(Default)]
pub struct Tokens {
    /// Absent without a signing key: tokens cannot be requested then.
    pub issuer: Option<Issuer>,
    /// Absent when the issuer is no URL.
    pub discovery: Option<Discovery>,
}

/// Reads the keys, and again when their files change. `base_url` is where clients reach this server.
///
/// # Errors
/// A key file cannot be used.
pub fn build(config: &TokenConfig, base_url: &str) -> Result<Tokens, KeyError> {
    const SIGNING: &str = "--service-account-signing-key-file";
    let name = config.issuers.first().cloned().unwrap_or_default();
    let issuer = match config.signing_key_file.clone() {
        Some(path) => {
            let signer = Reloading::new(SIGNING, vec![path.clone()], move || Signer::read(SIGNING, &path))?;
            if !Verifier::read(KEYS, &config.key_files)?.keys().contains(&signer.get().public) {
                tracing::warn!("{SIGNING} is none of {KEYS}: tokens issued here will be refused here");
            }
            let max = config.max_expiration.and_then(|max| i64::try_from(max.as_secs()).ok());
            let audiences = config.api_audiences.clone();
            Some(Issuer::new(signer, name.clone(), audiences, config.extend_expiration, max))
        }
        None => None,
    };
    let jwks_uri =
        if config.jwks_uri.is_empty() { format!("{base_url}/openid/v1/jwks") } else { config.jwks_uri.clone() };
    // Nobody could look up an issuer that is no URL.
    let discovery = match name.starts_with("https://") {
        true => Some(Discovery::new(name, jwks_uri, config.key_files.clone())?),
        false => None,
    };
    Ok(Tokens { issuer, discovery })
}

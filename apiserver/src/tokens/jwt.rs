//! The compact JWS form: signing, and verifying with a fixed set of keys.
//!
//! Guarantees: the header's `alg` must be the key's own (never `none`, never a symmetric one); a known `kid` selects the key,
//! otherwise every key of that algorithm is tried. Payloads are bounded by [`MAX_TOKEN_BYTES`].

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use pki::token_keys::{KeyError, PublicKey, SigningFailed};

use super::claims::Claims;

/// No real token comes near this; longer ones are refused unread.
pub const MAX_TOKEN_BYTES: usize = 64 * 1024;
/// Clocks of issuer and verifier may differ by this many seconds.
const LEEWAY_SECONDS: i64 = 60;

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not three base64 parts with JSON in them.
    #[error("the token is malformed")]
    Malformed,
    /// No key fits.
    #[error("the token's signature is by none of the configured keys")]
    Signature,
    /// Past its end.
    #[error("the token has expired")]
    Expired,
    /// Before its beginning.
    #[error("the token is not valid yet (clock skew?)")]
    NotYet,
    /// For somebody else.
    #[error("the token's audiences {0:?} are not this server's")]
    Audience(Vec<String>),
    /// The signing key failed.
    #[error(transparent)]
    Signing(#[from] SigningFailed),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// A token read but not verified: what its parts say.
#[derive(Debug)]
pub struct Unverified<'a> {
    message: &'a str,
    alg: String,
    kid: String,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    /// Takes the token apart.
    ///
    /// # Errors
    /// [`JwtError::Malformed`].
    pub fn parse(token: &'a str) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(JwtError::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| JwtError::Malformed)?;
        Ok(Self { message, alg: header.alg, kid: header.kid, payload: decode(payload)?, signature: decode(signature)? })
    }

    /// The algorithm that the header names.
    pub fn algorithm(&self) -> &str {
        &self.alg
    }

    /// The key that the header names; empty when it names none.
    pub fn key_id(&self) -> &str {
        &self.kid
    }

    /// What is signed, and the signature.
    pub fn signed(&self) -> (&[u8], &[u8]) {
        (self.message.as_bytes(), &self.signature)
    }

    /// The claims, which nobody has vouched for yet.
    ///
    /// # Errors
    /// [`JwtError::Malformed`].
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, JwtError> {
        serde_json::from_slice(&self.payload).map_err(|_| JwtError::Malformed)
    }
}

/// Verifies signatures with a set of keys.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    keys: Vec<PublicKey>,
}

impl Verifier {
    /// With these keys.
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self { keys }
    }

    /// With every key of these files; `flag` names them in errors.
    ///
    /// # Errors
    /// A file cannot be read or holds no key.
    pub fn read(flag: &'static str, files: &[PathBuf]) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for path in files {
            keys.extend(pki::token_keys::public_keys(flag, path)?);
        }
        Ok(Self { keys })
    }

    /// The keys, for the key set.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Whether one of the keys made the signature.
    ///
    /// # Errors
    /// [`JwtError::Signature`].
    pub fn verify(&self, token: &Unverified<'_>) -> Result<(), JwtError> {
        let named = !token.kid.is_empty() && self.keys.iter().any(|key| key.id == token.kid);
        let mut fitting =
            self.keys.iter().filter(|key| key.algorithm.name() == token.alg && (!named || key.id == token.kid));
        if fitting.any(|key| key.verifies(token.message.as_bytes(), &token.signature)) {
            Ok(())
        } else {
            Err(JwtError::Signature)
        }
    }
}

/// Holds the claims' times against the clock (seconds since the epoch).
///
/// # Errors
/// [`JwtError::Expired`] or [`JwtError::NotYet`].
pub fn check_times(claims: &Claims, now: i64) -> Result<(), JwtError> {
    if claims.exp.is_some_and(|end| now > end.saturating_add(LEEWAY_SECONDS)) {
        return Err(JwtError::Expired);
    }
    if claims.nbf.is_some_and(|start| now < start.saturating_sub(LEEWAY_SECONDS)) {
        return Err(JwtError::NotYet);
    }
    Ok(())
}

/// The audiences that the token and the server have in common.
///
/// # Errors
/// [`JwtError::Audience`] when there is none.
pub fn common_audiences(token: &[String], accepted: &[String]) -> Result<Vec<String>, JwtError> {
    let common: Vec<String> = accepted.iter().filter(|audience| token.contains(audience)).cloned().collect();
    if common.is_empty() { Err(JwtError::Audience(token.to_vec())) } else { Ok(common) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pki::token_keys::{self as keys, Signer};

    fn write(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn pair(dir: &tempfile::TempDir, name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let private = write(dir, &format!("{name}.key"), &key.serialize_pem());
        (private, write(dir, &format!("{name}.pub"), &key.public_key_pem()))
    }

    fn signer(path: &std::path::Path) -> Signer {
        Signer::read("--x", path).unwrap()
    }

    #[test]
    fn sign_and_verify_with_every_algorithm() {
        let dir = tempfile::tempdir().unwrap();
        let algorithms = [
            ("rs", &rcgen::PKCS_RSA_SHA256, "RS256"),
            ("p256", &rcgen::PKCS_ECDSA_P256_SHA256, "ES256"),
            ("p384", &rcgen::PKCS_ECDSA_P384_SHA384, "ES384"),
        ];
        for (name, algorithm, alg) in algorithms {
            let (private, public) = pair(&dir, name, algorithm);
            let claims = Claims { iss: "i".into(), sub: "s".into(), aud: vec!["a".into()], ..Claims::default() };
            let token = signer(&private).sign(&claims).unwrap();
            let read = Unverified::parse(&token).unwrap();
            assert_eq!(read.alg, alg);
            // From the public file and from the private one.
            for file in [&public, &private] {
                let verifier = Verifier::new(keys::public_keys("--x", file).unwrap());
                assert_eq!(verifier.verify(&read), Ok(()), "{name}");
            }
            assert_eq!(read.claims::<Claims>().unwrap(), claims);
            let (other, _) = pair(&dir, "other", algorithm);
            let verifier = Verifier::new(keys::public_keys("--x", &other).unwrap());
            assert_eq!(verifier.verify(&read), Err(JwtError::Signature));
        }
    }

    #[test]
    fn tampering_and_confusion() {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = pair(&dir, "k", &rcgen::PKCS_ECDSA_P256_SHA256);
        let verifier = Verifier::new(keys::public_keys("--x", &public).unwrap());
        let token = signer(&private).sign(&Claims { sub: "alice".into(), ..Claims::default() }).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let forged = format!("{}.{}.{}", parts[0], encode(r#"{"iss":"","sub":"root"}"#), parts[2]);
        let none = format!("{}.{}.", encode(r#"{"alg":"none"}"#), parts[1]);
        let hs = format!("{}.{}.{}", encode(r#"{"alg":"HS256"}"#), parts[1], parts[2]);
        for bad in [forged, none, hs] {
            assert_eq!(verifier.verify(&Unverified::parse(&bad).unwrap()), Err(JwtError::Signature), "{bad}");
        }
        for bad in ["", ".", "..", "a.b", "a.b.c", "💥.💥.💥"] {
            assert_eq!(Unverified::parse(bad).err(), Some(JwtError::Malformed), "{bad}");
        }
    }

    #[test]
    fn times() {
        let claims = Claims { exp: Some(1000), nbf: Some(500), ..Claims::default() };
        assert_eq!(check_times(&claims, 700), Ok(()));
        assert_eq!(check_times(&claims, 1060), Ok(()));
        assert_eq!(check_times(&claims, 1061), Err(JwtError::Expired));
        assert_eq!(check_times(&claims, 439), Err(JwtError::NotYet));
    }

    #[test]
    fn key_files_that_hold_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let text = write(&dir, "text", "hello");
        let error = keys::public_keys("--service-account-key-file", &text).unwrap_err().to_string();
        assert!(error.contains("--service-account-key-file") && error.contains("nothing"), "{error}");
        assert!(keys::private_key("--x", &dir.path().join("absent")).is_err());
    }
}

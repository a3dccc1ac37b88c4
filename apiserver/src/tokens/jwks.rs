//! Keys of other issuers, as they publish them: JSON Web Key Sets (RFC 7517), and verifying with them.
//!
//! Guarantees: a key is used only with algorithms of its own kind and, where it names one, only with that; keys for other
//! uses than signatures, of unknown kinds and RSA keys below 2048 bits verify nothing.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::jwt::Unverified;

/// Every algorithm that a foreign token may be signed with.
pub const ALGORITHMS: [&str; 9] = ["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

/// One published key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Jwk {
    kid: String,
    kty: String,
    alg: String,
    #[serde(rename = "use")]
    usage: String,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

/// A published set of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet(Vec<Jwk>);

impl KeySet {
    /// The keys of a document; those that cannot be understood are left out, as their owner may have them for others.
    ///
    /// # Errors
    /// It has no list of keys.
    pub fn parse(document: &Value) -> Result<Self, String> {
        let keys = document["keys"].as_array().ok_or("the key set has no keys")?;
        Ok(Self(keys.iter().filter_map(|key| Jwk::deserialize(key).ok()).collect()))
    }

    /// Whether one of the keys made the token's signature. A key id in the token must be the key's.
    pub fn verifies(&self, token: &Unverified<'_>) -> bool {
        let named = |key: &&Jwk| token.key_id().is_empty() || key.kid == token.key_id();
        self.0.iter().filter(named).any(|key| key.verifies(token))
    }
}

impl Jwk {
    fn verifies(&self, token: &Unverified<'_>) -> bool {
        let algorithm = token.algorithm();
        let meant = |own: &str, wanted: &str| own.is_empty() || own == wanted;
        if !meant(&self.usage, "sig") || !meant(&self.alg, algorithm) {
            return false;
        }
        match self.kty.as_str() {
            "RSA" => rsa(algorithm).is_some_and(|parameters| self.verifies_rsa(parameters, token)),
            "EC" => ec(algorithm).is_some_and(|(curve, bytes, algorithm)| {
                self.crv == curve && self.verifies_ec(bytes, algorithm, token)
            }),
            _ => false,
        }
    }

    fn verifies_rsa(&self, parameters: &'static RsaParameters, token: &Unverified<'_>) -> bool {
        let (Some(n), Some(e)) = (number(&self.n), number(&self.e)) else { return false };
        let (message, signature) = token.signed();
        RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
    }

    fn verifies_ec(
        &self,
        bytes: usize,
        algorithm: &'static EcdsaVerificationAlgorithm,
        token: &Unverified<'_>,
    ) -> bool {
        let (Some(x), Some(y)) = (number(&self.x), number(&self.y)) else { return false };
        if x.len() > bytes || y.len() > bytes {
            return false;
        }
        // An uncompressed point: 0x04, x, y, each as wide as the curve.
        let mut point = vec![0; 1 + 2 * bytes];
        point[0] = 4;
        point[1 + bytes - x.len()..=bytes].copy_from_slice(&x);
        point[1 + 2 * bytes - y.len()..].copy_from_slice(&y);
        let (message, signature) = token.signed();
        UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
    }
}

/// A number without leading zeros.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    (zeros < bytes.len()).then(|| bytes[zeros..].to_vec())
}

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "PS384" => &RSA_PSS_2048_8192_SHA384,
        "PS512" => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// Curve, bytes of a coordinate, and how to verify.
fn ec(algorithm: &str) -> Option<(&'static str, usize, &'static EcdsaVerificationAlgorithm)> {
    Some(match algorithm {
        "ES256" => ("P-256", 32, &ECDSA_P256_SHA256_FIXED),
        "ES384" => ("P-384", 48, &ECDSA_P384_SHA384_FIXED),
        "ES512" => ("P-521", 66, &ECDSA_P521_SHA512_FIXED),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{self, KeyPair as _, RsaEncoding};
    use pki::token_keys::{PrivateKey, Signer};
    use serde_json::json;

    use super::*;

    fn token(header: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let message = format!("{}.{}", encode(header.to_string().as_bytes()), encode(b"{}"));
        format!("{message}.{}", encode(&sign(message.as_bytes())))
    }

    fn accepted(key: &Value, token: &str) -> bool {
        KeySet::parse(&json!({"keys": [{"kty": "OKP", "kid": "k"}, key]}))
            .unwrap()
            .verifies(&Unverified::parse(token).unwrap())
    }

    #[test]
    fn every_rsa_algorithm_and_only_the_one_that_the_key_names() {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = pair.public_key();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let key = json!({"kty": "RSA", "kid": "k", "use": "sig",
            "n": text(public.modulus().big_endian_without_leading_zero()), "e": text(public.exponent().big_endian_without_leading_zero())});
        let encodings: [(&str, &'static dyn RsaEncoding); 6] = [
            ("RS256", &signature::RSA_PKCS1_SHA256),
            ("RS384", &signature::RSA_PKCS1_SHA384),
            ("RS512", &signature::RSA_PKCS1_SHA512),
            ("PS256", &signature::RSA_PSS_SHA256),
            ("PS384", &signature::RSA_PSS_SHA384),
            ("PS512", &signature::RSA_PSS_SHA512),
        ];
        for (algorithm, encoding) in encodings {
            let sign = |message: &[u8]| {
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), message, &mut out).unwrap();
                out
            };
            let good = token(&json!({"alg": algorithm, "kid": "k"}), sign);
            assert!(accepted(&key, &good), "{algorithm}");
            assert!(accepted(&key, &token(&json!({"alg": algorithm}), sign)), "{algorithm} without a key id");
            assert!(!accepted(&key, &token(&json!({"alg": algorithm, "kid": "other"}), sign)), "another key id");
            assert!(!accepted(&key, &token(&json!({"alg": "none", "kid": "k"}), sign)), "no algorithm");
            for (field, value) in [("alg", "ES256"), ("use", "enc"), ("kty", "EC")] {
                let mut other = key.clone();
                other[field] = json!(value);
                assert!(!accepted(&other, &good), "{algorithm} with {field}={value}");
            }
        }
    }

    #[test]
    fn elliptic_keys() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("key");
            std::fs::write(&path, rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem()).unwrap();
            let signer = Signer::read("--x", &path).unwrap();
            let private: PrivateKey = pki::token_keys::private_key("--x", &path).unwrap();
            let key = signer.public.jwk();
            let name = signer.public.algorithm.name();
            let sign = |message: &[u8]| private.sign(message).unwrap();
            assert!(accepted(&key, &token(&json!({"alg": name, "kid": signer.public.id}), sign)));
            assert!(!accepted(&key, &token(&json!({"alg": name}), |_: &[u8]| vec![0; 64])));
        }
    }

    #[test]
    fn no_set() {
        assert!(KeySet::parse(&json!({"error": "x"})).is_err());
        assert_eq!(KeySet::parse(&json!({"keys": [1, {"kty": 7}]})), Ok(KeySet::default()));
    }
}

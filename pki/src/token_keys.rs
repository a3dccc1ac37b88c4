//! Keys of service account tokens: reading RSA and EC keys from PEM files, signing tokens and verifying signatures.
//!
//! A verification file may hold public keys, certificates or private keys (whose public half is taken), several in one file,
//! as upstream accepts. A key's id is the URL-safe base64 of the SHA-256 of its SubjectPublicKeyInfo, as upstream's.

use std::path::Path;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as ParsedKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("{flag}: cannot read {path}: {source}")]
    Read {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// There is no key in it.
    #[error("{flag}: {path} holds no {wanted} in PEM form (found: {found})")]
    NoKey {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: String,
        /// What was looked for.
        wanted: &'static str,
        /// PEM labels that stand in the file.
        found: String,
    },
    /// A key is there but of a kind that tokens cannot use.
    #[error("{flag}: {path}: {why}; use an RSA key of at least 2048 bits or an EC key on P-256, P-384 or P-521")]
    Unusable {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// The JWS algorithms that tokens are signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
}

impl Algorithm {
    /// The `alg` of the header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }
}

/// A key that verifies tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Key id, as in the header's `kid`.
    pub id: String,
    /// The only algorithm that this key is used with.
    pub algorithm: Algorithm,
    /// What the verifier wants: the bit string of the SubjectPublicKeyInfo.
    bits: Vec<u8>,
    /// The key in JWK form, without `use`, `kid` and `alg`.
    jwk: Vec<(&'static str, String)>,
}

impl PublicKey {
    /// From a DER SubjectPublicKeyInfo; the error is a phrase.
    fn from_spki(der: &[u8]) -> Result<Self, String> {
        let (_, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|e| format!("not a public key: {e}"))?;
        let bits = spki.subject_public_key.data.to_vec();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (algorithm, jwk) = match spki.parsed().map_err(|e| format!("not a public key: {e}"))? {
            ParsedKey::RSA(rsa) => {
                let trim = |bytes: &[u8]| encode(&bytes[bytes.iter().take_while(|b| **b == 0).count()..]);
                if rsa.key_size() < 2048 {
                    return Err(format!("the RSA key has only {} bits", rsa.key_size()));
                }
                (Algorithm::Rs256, vec![("kty", "RSA".to_owned()), ("n", trim(rsa.modulus)), ("e", trim(rsa.exponent))])
            }
            ParsedKey::EC(_) => {
                // An uncompressed point: 0x04, x, y.
                let (algorithm, curve) = match bits.len() {
                    65 => (Algorithm::Es256, "P-256"),
                    97 => (Algorithm::Es384, "P-384"),
                    133 => (Algorithm::Es512, "P-521"),
                    _ => return Err("the EC key is on an unknown curve".to_owned()),
                };
                let half = bits.len() / 2;
                let (x, y) = (encode(&bits[1..=half]), encode(&bits[half + 1..]));
                (algorithm, vec![("kty", "EC".to_owned()), ("crv", curve.to_owned()), ("x", x), ("y", y)])
            }
            _ => return Err("neither an RSA nor an EC key".to_owned()),
        };
        Ok(Self { id: encode(&Sha256::digest(der)), algorithm, bits, jwk })
    }

    /// Whether the signature over the message is by this key.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        signature::UnparsedPublicKey::new(self.algorithm.verification(), &self.bits).verify(message, signature).is_ok()
    }

    /// The JWK for `/openid/v1/jwks`.
    pub fn jwk(&self) -> serde_json::Value {
        let mut map = serde_json::Map::new();
        map.insert("use".to_owned(), "sig".into());
        map.insert("kid".to_owned(), self.id.clone().into());
        map.insert("alg".to_owned(), self.algorithm.name().into());
        map.extend(self.jwk.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())));
        map.into()
    }
}

/// A key that signs tokens.
pub enum PrivateKey {
    /// RS256.
    Rsa(Box<RsaKeyPair>),
    /// ES256, ES384 or ES512.
    Ec(Box<EcdsaKeyPair>),
}

impl PrivateKey {
    /// From the DER of a PEM block; `None` when the label is not a private key's.
    fn from_pem(block: &Pem) -> Option<Result<Self, String>> {
        const CURVES: [&EcdsaSigningAlgorithm; 3] =
            [&ECDSA_P256_SHA256_FIXED_SIGNING, &ECDSA_P384_SHA384_FIXED_SIGNING, &ECDSA_P521_SHA512_FIXED_SIGNING];
        let der = &block.contents;
        let rsa = || RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)).ok();
        let ec = || {
            CURVES.iter().find_map(|curve| {
                EcdsaKeyPair::from_pkcs8(curve, der).or_else(|_| EcdsaKeyPair::from_private_key_der(curve, der)).ok()
            })
        };
        let key = match block.label.as_str() {
            "RSA PRIVATE KEY" | "PRIVATE KEY" | "EC PRIVATE KEY" => {
                rsa().map(|key| Self::Rsa(Box::new(key))).or_else(|| ec().map(|key| Self::Ec(Box::new(key))))
            }
            _ => return None,
        };
        Some(key.ok_or_else(|| format!("the {} block cannot be used", block.label.to_lowercase())))
    }

    /// The public half.
    ///
    /// # Errors
    /// A phrase, when the key is too short or on an unknown curve.
    pub fn public(&self) -> Result<PublicKey, String> {
        match self {
            Self::Rsa(key) => PublicKey::from_spki(key.public_key().as_der().map_err(|e| e.to_string())?.as_ref()),
            Self::Ec(key) => PublicKey::from_spki(key.public_key().as_der().map_err(|e| e.to_string())?.as_ref()),
        }
    }

    /// Signs; `None` when the crypto library fails.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = aws_lc_rs::rand::SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut out = vec![0; key.public_modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut out).ok()?;
                Some(out)
            }
            Self::Ec(key) => key.sign(&random, message).ok().map(|signature| signature.as_ref().to_vec()),
        }
    }
}

/// The crypto library failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signing failed")]
pub struct SigningFailed;

/// Signs tokens with one key.
pub struct Signer {
    key: PrivateKey,
    header: String,
    /// The public half, for the key set.
    pub public: PublicKey,
}

impl Signer {
    /// From a private key; the error is a phrase.
    ///
    /// # Errors
    /// The key is too short or on an unknown curve.
    pub fn new(key: PrivateKey) -> Result<Self, String> {
        let public = key.public()?;
        let header = serde_json::json!({"alg": public.algorithm.name(), "kid": public.id}).to_string();
        Ok(Self { key, header: URL_SAFE_NO_PAD.encode(header), public })
    }

    /// From the file that a flag names.
    ///
    /// # Errors
    /// The file cannot be read, holds no private key, or one that cannot sign tokens.
    pub fn read(flag: &'static str, path: &Path) -> Result<Self, KeyError> {
        let unusable = |why| KeyError::Unusable { flag, path: path.display().to_string(), why };
        Self::new(private_key(flag, path)?).map_err(unusable)
    }

    /// The JWT with these claims.
    ///
    /// # Errors
    /// The crypto library fails.
    pub fn sign(&self, claims: &impl serde::Serialize) -> Result<String, SigningFailed> {
        let payload = serde_json::to_vec(claims).map_err(|_| SigningFailed)?;
        let message = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(payload));
        let signature = self.key.sign(message.as_bytes()).ok_or(SigningFailed)?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn blocks(flag: &'static str, path: &Path) -> Result<Vec<Pem>, KeyError> {
    let bytes =
        std::fs::read(path).map_err(|source| KeyError::Read { flag, path: path.display().to_string(), source })?;
    Ok(Pem::iter_from_buffer(&bytes).filter_map(Result::ok).collect())
}

fn no_key(flag: &'static str, path: &Path, wanted: &'static str, blocks: &[Pem]) -> KeyError {
    let found = blocks.iter().map(|block| block.label.as_str()).collect::<Vec<_>>().join(", ");
    let found = if found.is_empty() { "nothing".to_owned() } else { found };
    KeyError::NoKey { flag, path: path.display().to_string(), wanted, found }
}

/// Reads the private key of `--service-account-signing-key-file`.
///
/// # Errors
/// The file cannot be read, holds no private key, or one that cannot sign tokens.
pub fn private_key(flag: &'static str, path: &Path) -> Result<PrivateKey, KeyError> {
    let blocks = blocks(flag, path)?;
    match blocks.iter().find_map(PrivateKey::from_pem) {
        Some(Ok(key)) => Ok(key),
        Some(Err(why)) => Err(KeyError::Unusable { flag, path: path.display().to_string(), why }),
        None => Err(no_key(flag, path, "private key", &blocks)),
    }
}

/// Reads every key of one `--service-account-key-file`.
///
/// # Errors
/// The file cannot be read, holds no key, or one that cannot verify tokens.
pub fn public_keys(flag: &'static str, path: &Path) -> Result<Vec<PublicKey>, KeyError> {
    let blocks = blocks(flag, path)?;
    let mut keys: Vec<PublicKey> = Vec::new();
    for block in &blocks {
        let key = match block.label.as_str() {
            "PUBLIC KEY" => PublicKey::from_spki(&block.contents),
            "RSA PUBLIC KEY" => PublicKey::from_spki(&wrap_rsa(&block.contents)),
            "CERTIFICATE" => block
                .parse_x509()
                .map_err(|e| format!("not a certificate: {e}"))
                .and_then(|cert| PublicKey::from_spki(cert.public_key().raw)),
            _ => match PrivateKey::from_pem(block) {
                Some(key) => key.and_then(|key| key.public()),
                None => continue,
            },
        };
        let key = key.map_err(|why| KeyError::Unusable { flag, path: path.display().to_string(), why })?;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    if keys.is_empty() { Err(no_key(flag, path, "public key", &blocks)) } else { Ok(keys) }
}

/// A PKCS#1 RSAPublicKey inside a SubjectPublicKeyInfo.
fn wrap_rsa(pkcs1: &[u8]) -> Vec<u8> {
    const RSA_ENCRYPTION: [u8; 15] =
        [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let mut bits = vec![0];
    bits.extend_from_slice(pkcs1);
    let mut body = RSA_ENCRYPTION.to_vec();
    body.extend(der_element(0x03, &bits));
    der_element(0x30, &body)
}

fn der_element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|b| **b == 0).count()..];
    if content.len() < 0x80 {
        out.push(u8::try_from(content.len()).unwrap_or_default());
    } else {
        out.push(0x80 | u8::try_from(significant.len()).unwrap_or_default());
        out.extend_from_slice(significant);
    }
    out.extend_from_slice(content);
    out
}

//! Private keys: generation, PEM in and out.

use rcgen::{KeyPair, PublicKeyData, RsaKeySize};

use crate::Error;

/// Algorithms a key can be made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256: small, fast, the default.
    #[default]
    EcdsaP256,
    /// RSA with 2048 bits, for clients that know nothing else.
    Rsa2048,
}

impl Algorithm {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ECDSA-P256",
            Self::Rsa2048 => "RSA-2048",
        }
    }
}

/// A private key.
pub struct PrivateKey(pub(crate) KeyPair);

impl PrivateKey {
    /// Makes a new one.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate(algorithm: Algorithm) -> Result<Self, Error> {
        let made = match algorithm {
            Algorithm::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Algorithm::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        };
        made.map(Self).map_err(|source| Error::GenerateKey { algorithm: algorithm.name(), source })
    }

    /// Reads PKCS#8, PKCS#1 or SEC1 PEM; `what` names it in the error.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn from_pem(pem: &str, what: &str) -> Result<Self, Error> {
        KeyPair::from_pem(pem).map(Self).map_err(|source| Error::ParseKey { what: what.to_owned(), source })
    }

    /// PKCS#8 PEM.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The public half as SubjectPublicKeyInfo PEM (`sa.pub`).
    pub fn public_pem(&self) -> String {
        self.0.public_key_pem()
    }

    /// The public half as SubjectPublicKeyInfo DER.
    pub fn public_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

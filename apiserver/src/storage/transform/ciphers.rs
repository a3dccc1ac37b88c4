//! The providers: how a value is marked, sealed and opened, in upstream's formats.
//!
//! `k8s:enc:CIPHER:v1:KEY:` and then: aescbc: a random IV of 16 bytes and the padded text; aesgcm: a nonce of 12 bytes and
//! text and tag, bound to the etcd key; secretbox: a nonce of 24 bytes and tag and text.

use std::borrow::Cow;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    self, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Nonce as BoxNonce, XSalsa20Poly1305};

use super::ENCRYPTED;

const CBC_IV_BYTES: usize = 16;
const GCM_NONCE_BYTES: usize = 12;
const BOX_NONCE_BYTES: usize = 24;

/// A key of one cipher.
pub(super) enum Cipher {
    Cbc(Box<(PaddedBlockEncryptingKey, PaddedBlockDecryptingKey)>),
    Gcm(Box<LessSafeKey>),
    Box(Box<XSalsa20Poly1305>),
}

impl Cipher {
    /// `None`: the key's length is not one of the cipher's.
    pub(super) fn new(name: &str, secret: &[u8]) -> Option<Self> {
        let by_length = |sizes: usize| (secret.len() == sizes).then_some(());
        match name {
            "aescbc" => {
                let algorithm = match secret.len() {
                    16 => &cipher::AES_128,
                    24 => &cipher::AES_192,
                    32 => &cipher::AES_256,
                    _ => return None,
                };
                let key = || UnboundCipherKey::new(algorithm, secret).ok();
                let seal = PaddedBlockEncryptingKey::cbc_pkcs7(key()?).ok()?;
                Some(Self::Cbc(Box::new((seal, PaddedBlockDecryptingKey::cbc_pkcs7(key()?).ok()?))))
            }
            "aesgcm" => {
                let algorithm = match secret.len() {
                    16 => &aead::AES_128_GCM,
                    24 => &aead::AES_192_GCM,
                    32 => &aead::AES_256_GCM,
                    _ => return None,
                };
                Some(Self::Gcm(Box::new(LessSafeKey::new(UnboundKey::new(algorithm, secret).ok()?))))
            }
            _ => {
                by_length(32)?;
                Some(Self::Box(Box::new(XSalsa20Poly1305::new_from_slice(secret).ok()?)))
            }
        }
    }

    /// Appends the sealed text to `out`.
    fn seal(&self, key: &str, mut text: Vec<u8>, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Cbc(keys) => {
                let context = keys.0.encrypt(&mut text).ok()?;
                out.extend_from_slice(<&[u8]>::try_from(&context).ok()?);
                out.append(&mut text);
            }
            Self::Gcm(cipher) => {
                let nonce: [u8; GCM_NONCE_BYTES] = rand::random();
                let bound = Aad::from(key.as_bytes());
                cipher.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound, &mut text).ok()?;
                out.extend_from_slice(&nonce);
                out.append(&mut text);
            }
            Self::Box(cipher) => {
                let nonce: [u8; BOX_NONCE_BYTES] = rand::random();
                out.extend_from_slice(&nonce);
                out.append(&mut cipher.encrypt(BoxNonce::from_slice(&nonce), text.as_slice()).ok()?);
            }
        }
        Some(())
    }

    fn open(&self, key: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Cbc(keys) => {
                let (iv, text) = sealed.split_first_chunk::<CBC_IV_BYTES>()?;
                let mut text = text.to_vec();
                let length = keys.1.decrypt(&mut text, DecryptionContext::Iv128(FixedLength::from(iv))).ok()?.len();
                text.truncate(length);
                Some(text)
            }
            Self::Gcm(cipher) => {
                let (nonce, text) = sealed.split_first_chunk::<GCM_NONCE_BYTES>()?;
                let mut text = text.to_vec();
                let bound = Aad::from(key.as_bytes());
                let length = cipher.open_in_place(Nonce::assume_unique_for_key(*nonce), bound, &mut text).ok()?.len();
                text.truncate(length);
                Some(text)
            }
            Self::Box(cipher) => {
                let (nonce, text) = sealed.split_first_chunk::<BOX_NONCE_BYTES>()?;
                cipher.decrypt(BoxNonce::from_slice(nonce), text).ok()
            }
        }
    }
}

/// One entry of a rule's `providers`.
pub(super) enum Provider {
    /// Plain JSON.
    Identity,
    /// A cipher with its keys by their marks, the writing one first.
    Keys {
        /// `k8s:enc:CIPHER:v1:`
        mark: String,
        /// Name with its colon, and the key.
        keys: Vec<(String, Cipher)>,
    },
}

impl Provider {
    /// Whether a stored value is of this provider's form.
    pub(super) fn wrote(&self, stored: &[u8]) -> bool {
        match self {
            Self::Identity => !stored.starts_with(ENCRYPTED),
            Self::Keys { mark, .. } => stored.starts_with(mark.as_bytes()),
        }
    }

    /// What to store for a text.
    pub(super) fn seal(&self, key: &str, text: Vec<u8>) -> Result<Vec<u8>, String> {
        let Self::Keys { mark, keys } = self else { return Ok(text) };
        let (name, cipher) = keys.first().ok_or("there is no key")?;
        let mut out = Vec::with_capacity(mark.len() + name.len() + text.len() + 64);
        out.extend_from_slice(mark.as_bytes());
        out.extend_from_slice(name.as_bytes());
        cipher.seal(key, text, &mut out).ok_or("it cannot be encrypted")?;
        Ok(out)
    }

    /// The text, and whether another key than the writing one opened it.
    pub(super) fn open<'a>(&self, key: &str, stored: &'a [u8]) -> Result<(Cow<'a, [u8]>, bool), String> {
        let Self::Keys { mark, keys } = self else { return Ok((Cow::Borrowed(stored), false)) };
        let rest = stored.get(mark.len()..).unwrap_or_default();
        for (at, (name, cipher)) in keys.iter().enumerate() {
            let sealed = rest.strip_prefix(name.as_bytes());
            if let Some(text) = sealed.and_then(|sealed| cipher.open(key, sealed)) {
                return Ok((Cow::Owned(text), at > 0));
            }
        }
        Err(format!("none of the configured keys opens it ({})", mark.trim_end_matches(':')))
    }
}

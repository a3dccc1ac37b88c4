//! TLS for daemons: server certificates and client authorities that reload without a restart, client configurations, and
//! words for what is wrong with a certificate.
//!
//! Guarantees: TLS 1.2 or newer from one provider (aws-lc-rs). A server asks for a client certificate and proves that the
//! peer holds its key, but leaves the chain to request authentication ([`ClientCa`]), as upstream does: a stranger's
//! certificate is a 401 with words instead of a broken handshake.

mod certificate;
mod client;
mod server;

use std::path::PathBuf;
use std::sync::Arc;

pub use certificate::{
    CertificateFacts, PeerIdentity, days_left, explain, facts, read_certificates, read_key, warn_validity,
};
pub use client::{ClientTlsOptions, client_config};
pub use rustls::pki_types::CertificateDer;
#[cfg(test)]
pub(crate) use server::self_signed_pem;
pub use server::{ClientCa, ServerTls, ServerTlsOptions, SniCert};

/// What can be wrong with keys, certificates and their files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {what} {}: {source}", path.display())]
    Read {
        /// "certificate", "key", "CA".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not PEM or holds none of what is needed.
    #[error("{origin} holds no usable {what}: {reason}")]
    Pem {
        /// "certificate" or "private key".
        what: &'static str,
        /// File name or a description.
        origin: String,
        /// Why.
        reason: String,
    },
    /// Certificate and key do not fit together, or the key's kind is unknown.
    #[error("certificate {certificate} and key {key} do not work together: {reason}")]
    Pair {
        /// File name or description.
        certificate: String,
        /// File name or description.
        key: String,
        /// Why.
        reason: String,
    },
    /// A flag value is unknown.
    #[error("{flag}: {value:?} is unknown, use one of {known}")]
    Unknown {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What could have been given.
        known: String,
    },
    /// The peer's chain was refused.
    #[error("x509: {0}")]
    Chain(String),
    /// The TLS library refused a setting.
    #[error("cannot set up TLS: {0}")]
    Setup(String),
}

/// The one crypto provider.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<rustls::crypto::CryptoProvider>> = std::sync::OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

#[cfg(test)]
mod tests;

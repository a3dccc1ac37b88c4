//! What can go wrong with keys and certificates, by step.

use std::path::PathBuf;

/// A failed step, naming the thing and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Key generation failed.
    #[error("cannot generate a {algorithm} key: {source}")]
    GenerateKey {
        /// Which algorithm.
        algorithm: &'static str,
        /// Why.
        source: rcgen::Error,
    },
    /// A private key does not parse.
    #[error("{what} is not a private key in PEM form (PKCS#8, PKCS#1 or SEC1): {source}")]
    ParseKey {
        /// File or thing.
        what: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A certificate does not parse.
    #[error("{what} is not a certificate in PEM form: {why}")]
    ParseCertificate {
        /// File or thing.
        what: String,
        /// Why.
        why: String,
    },
    /// A signing request does not parse or its signature is wrong.
    #[error("the certificate signing request is not valid: {0}")]
    ParseRequest(String),
    /// A name cannot stand in a certificate.
    #[error("{name:?} cannot be a subject alternative name: {source}")]
    AltName {
        /// The name.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
    /// Signing failed.
    #[error("cannot sign the certificate for {subject}: {source}")]
    Sign {
        /// Common name.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The authority is not one, or ends before the wanted date.
    #[error("the certificate authority {subject} cannot sign: {why}")]
    Authority {
        /// Common name of the authority.
        subject: String,
        /// Why.
        why: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A time is out of the range that X.509 can say.
    #[error("{0} is not a time that a certificate can carry")]
    Time(jiff::Timestamp),
}

//! Reading PEM, and saying in words who a certificate is for and until when.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::TlsError;

/// Who a verified client certificate speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Subject's CN: the user name.
    pub common_name: String,
    /// Subject's O values: the groups.
    pub organizations: Vec<String>,
    /// Lower-case SHA-256 of the leaf, for audit.
    pub fingerprint: String,
}

/// What people need to know of a certificate.
#[derive(Clone, Debug)]
pub struct CertificateFacts {
    /// Subject's CN.
    pub common_name: String,
    /// Subject's O values.
    pub organizations: Vec<String>,
    /// Issuer's CN.
    pub issuer: String,
    /// DNS and IP names.
    pub names: Vec<String>,
    /// Start of validity, Unix seconds.
    pub not_before: i64,
    /// End of validity, Unix seconds.
    pub not_after: i64,
    /// Whether it may sign others.
    pub is_ca: bool,
}

/// All certificates of a PEM text, in order; at least one.
pub fn read_certificates(pem: &[u8], origin: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |reason: String| TlsError::Pem { what: "certificate", origin: origin.to_owned(), reason };
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| fail(e.to_string()))?;
    if found.is_empty() {
        return Err(fail("no CERTIFICATE block".to_owned()));
    }
    Ok(found)
}

/// The first private key of a PEM text (PKCS#8, PKCS#1 or SEC1).
pub fn read_key(pem: &[u8], origin: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| TlsError::Pem {
        what: "private key",
        origin: origin.to_owned(),
        reason: e.to_string(),
    })
}

pub(super) fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { what, path: path.to_owned(), source })
}

/// Reads the facts out of a certificate.
pub fn facts(der: &[u8]) -> Result<CertificateFacts, TlsError> {
    let (_, cert) = X509Certificate::from_der(der).map_err(|e| TlsError::Chain(format!("not a certificate: {e}")))?;
    let text = |a: &x509_parser::prelude::AttributeTypeAndValue<'_>| a.as_str().unwrap_or_default().to_owned();
    let names = cert.subject_alternative_name().ok().flatten().map(|san| {
        let render = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(dns) => Some((*dns).to_owned()),
            GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                Ok(four) => Some(std::net::Ipv4Addr::from(four).to_string()),
                Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::Ipv6Addr::from(b).to_string()),
            },
            _ => None,
        };
        san.value.general_names.iter().filter_map(render).collect()
    });
    Ok(CertificateFacts {
        common_name: cert.subject().iter_common_name().next().map(text).unwrap_or_default(),
        organizations: cert.subject().iter_organization().map(text).collect(),
        issuer: cert.issuer().iter_common_name().next().map(text).unwrap_or_default(),
        names: names.unwrap_or_default(),
        not_before: cert.validity().not_before.timestamp(),
        not_after: cert.validity().not_after.timestamp(),
        is_ca: cert.is_ca(),
    })
}

/// Days until the end of validity; negative when it is over.
pub fn days_left(facts: &CertificateFacts, now: jiff::Timestamp) -> i64 {
    (facts.not_after - now.as_second()).div_euclid(86_400)
}

fn date(unix_seconds: i64) -> String {
    jiff::Timestamp::from_second(unix_seconds).map_or_else(|_| unix_seconds.to_string(), |t| t.to_string())
}

/// Why a certificate is not good now, in words; `None` when it is and stays so for 30 days.
pub fn explain(facts: &CertificateFacts, origin: &str, now: jiff::Timestamp) -> Option<String> {
    let who = if facts.common_name.is_empty() { "certificate" } else { facts.common_name.as_str() };
    if now.as_second() < facts.not_before {
        return Some(format!(
            "{origin} ({who}) is valid only from {}, and it is {now} here: clock skew?",
            date(facts.not_before)
        ));
    }
    match days_left(facts, now) {
        d if d < 0 => Some(format!("{origin} ({who}) expired on {} (now {now}): renew it", date(facts.not_after))),
        d if d < 30 => {
            Some(format!("{origin} ({who}) expires in {d} days, on {}: renew it soon", date(facts.not_after)))
        }
        _ => None,
    }
}

/// Logs [`explain`]'s words for the first certificate of a chain.
pub fn warn_validity(chain: &[CertificateDer<'_>], origin: &str) {
    let words =
        chain.first().and_then(|leaf| facts(leaf).ok()).and_then(|f| explain(&f, origin, jiff::Timestamp::now()));
    if let Some(words) = words {
        tracing::warn!("{words}");
    }
}

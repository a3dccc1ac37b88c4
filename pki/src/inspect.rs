//! What a certificate says, as data and in words.

use jiff::Timestamp;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Error;
use crate::csr::{AltNames, Subject, collect_names, subject_of};

/// Days before the end from which a certificate is worth a warning.
pub const WARN_DAYS: i64 = 30;

/// The parts of a certificate that decide what it is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Whom it names.
    pub subject: Subject,
    /// Who signed it.
    pub issuer: Subject,
    /// Under which names its holder is reached.
    pub alt_names: AltNames,
    /// Begin.
    pub not_before: Timestamp,
    /// End.
    pub not_after: Timestamp,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// Good for TLS servers.
    pub server_auth: bool,
    /// Good for TLS clients.
    pub client_auth: bool,
    /// SubjectPublicKeyInfo.
    pub public_key_der: Vec<u8>,
}

/// Reads the first certificate of a PEM text; `what` names it in errors.
///
/// # Errors
/// When there is none or it does not parse.
pub fn certificate(pem: &[u8], what: &str) -> Result<CertificateInfo, Error> {
    let wrong = |why: String| Error::ParseCertificate { what: what.to_owned(), why };
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|e| wrong(e.to_string()))?;
    if block.label != "CERTIFICATE" {
        return Err(wrong(format!("it begins with a {}", block.label)));
    }
    let (_, cert) = X509Certificate::from_der(&block.contents).map_err(|e| wrong(e.to_string()))?;
    let mut alt_names = AltNames::default();
    if let Ok(Some(names)) = cert.subject_alternative_name() {
        let general: &Vec<GeneralName<'_>> = &names.value.general_names;
        collect_names(general, &mut alt_names);
    }
    let (mut server_auth, mut client_auth) = (false, false);
    for extension in cert.extensions() {
        if let ParsedExtension::ExtendedKeyUsage(usage) = extension.parsed_extension() {
            (server_auth, client_auth) = (usage.server_auth, usage.client_auth);
        }
    }
    let time = |at: x509_parser::time::ASN1Time| {
        Timestamp::from_second(at.timestamp()).map_err(|e| wrong(format!("its dates: {e}")))
    };
    Ok(CertificateInfo {
        subject: subject_of(cert.subject()),
        issuer: subject_of(cert.issuer()),
        alt_names,
        not_before: time(cert.validity().not_before)?,
        not_after: time(cert.validity().not_after)?,
        is_ca: cert.is_ca(),
        server_auth,
        client_auth,
        public_key_der: cert.public_key().raw.to_vec(),
    })
}

/// Where now stands in a certificate's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It begins later: a wrong clock, usually.
    NotYet,
    /// Fine for this many days.
    Valid(i64),
    /// Ends within [`WARN_DAYS`].
    EndsSoon(i64),
    /// Over since this many days.
    Expired(i64),
}

impl CertificateInfo {
    /// Judges the dates.
    pub fn validity(&self, now: Timestamp) -> Validity {
        const DAY_SECONDS: i64 = 86_400;
        let left = self.not_after.as_second() - now.as_second();
        if now < self.not_before {
            Validity::NotYet
        } else if left < 0 {
            Validity::Expired(-left / DAY_SECONDS)
        } else if left < WARN_DAYS * DAY_SECONDS {
            Validity::EndsSoon(left / DAY_SECONDS)
        } else {
            Validity::Valid(left / DAY_SECONDS)
        }
    }

    /// One sentence on the end, for `hardway certs`.
    pub fn end_in_words(&self, now: Timestamp) -> String {
        let day = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
        match self.validity(now) {
            Validity::NotYet => format!("begins only on {} (is this host's clock right?)", day(self.not_before)),
            Validity::Valid(days) => format!("good until {}, {days} days", day(self.not_after)),
            Validity::EndsSoon(days) => format!("ends on {}, in {days} days: renew it", day(self.not_after)),
            Validity::Expired(days) => format!("ended on {}, {days} days ago", day(self.not_after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_told_in_words() {
        let day = std::time::Duration::from_secs(86_400);
        let now: Timestamp = "2026-01-15T00:00:00Z".parse().unwrap();
        let made =
            crate::authority::Authority::generate("ca", crate::key::Algorithm::EcdsaP256, 40 * day, now).unwrap();
        let info = made.0.info();
        let at = |text: &str| info.end_in_words(text.parse().unwrap());
        assert_eq!(at("2026-01-15T00:00:00Z"), "good until 2026-02-24, 40 days");
        assert_eq!(at("2026-02-14T00:00:00Z"), "ends on 2026-02-24, in 10 days: renew it");
        assert_eq!(at("2026-03-01T00:00:00Z"), "ended on 2026-02-24, 5 days ago");
        assert!(at("2026-01-01T00:00:00Z").contains("clock"));
        assert!(certificate(b"nonsense", "x").is_err());
    }
}

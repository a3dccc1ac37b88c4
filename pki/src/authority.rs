//! A certificate authority: made, loaded, and signing leaves by policy.
//!
//! Rules: a leaf never outlives its authority, gets `CA:FALSE` explicitly only through absence of CA bits, and carries the
//! usages of the policy alone. Extensions that a request asks for are not copied.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData,
    SubjectPublicKeyInfo,
};
use time::OffsetDateTime;

use crate::Error;
use crate::csr::{AltNames, Request, Subject};
use crate::inspect::{self, CertificateInfo};
use crate::key::{Algorithm, PrivateKey};

/// How far before now a certificate begins, so that hosts with slightly slow clocks accept it (upstream's 5 minutes).
pub const BACKDATE: Duration = Duration::from_secs(300);

/// What a leaf may be used for, by the API's names (`certificates.k8s.io/v1` usages).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// TLS handshakes with ephemeral keys.
    DigitalSignature,
    /// RSA key exchange.
    KeyEncipherment,
    /// TLS server.
    ServerAuth,
    /// TLS client.
    ClientAuth,
}

impl Usage {
    /// Parses the API's name; `None` for usages this signer does not issue.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "digital signature" => Self::DigitalSignature,
            "key encipherment" => Self::KeyEncipherment,
            "server auth" => Self::ServerAuth,
            "client auth" => Self::ClientAuth,
            _ => return None,
        })
    }
}

/// What a signer grants.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Key usages.
    pub usages: Vec<Usage>,
    /// Lifetime from now; shortened to the authority's own end.
    pub lifetime: Duration,
}

/// An authority: its certificate and key.
pub struct Authority {
    cert_pem: String,
    info: CertificateInfo,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    /// Makes a self-signed authority; returns it with its key to be stored.
    ///
    /// # Errors
    /// Key generation or signing failed, or the time is out of range.
    pub fn generate(
        common_name: &str,
        algorithm: Algorithm,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<(Self, String), Error> {
        let key = PrivateKey::generate(algorithm)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = Subject::new(common_name, &[]).to_rcgen()?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
        (params.not_before, params.not_after) = validity(now, lifetime)?;
        let sign = |source| Error::Sign { subject: common_name.to_owned(), source };
        let cert_pem = params.self_signed(&key.0).map_err(sign)?.pem();
        let key_pem = key.to_pem();
        Ok((Self::from_parts(cert_pem, key, common_name)?, key_pem))
    }

    /// Loads an authority; `what` names it in errors.
    ///
    /// # Errors
    /// Either PEM does not parse, the certificate is no authority, or the key is another certificate's.
    pub fn from_pem(cert_pem: &str, key_pem: &str, what: &str) -> Result<Self, Error> {
        Self::from_parts(cert_pem.to_owned(), PrivateKey::from_pem(key_pem, what)?, what)
    }

    fn from_parts(cert_pem: String, key: PrivateKey, what: &str) -> Result<Self, Error> {
        let info = inspect::certificate(cert_pem.as_bytes(), what)?;
        let refuse = |why: &str| Error::Authority { subject: info.subject.common_name.clone(), why: why.to_owned() };
        if !info.is_ca {
            return Err(refuse("its certificate is not marked as an authority (CA:TRUE)"));
        }
        if info.public_key_der != key.public_der() {
            return Err(refuse("its key does not belong to its certificate"));
        }
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key.0)
            .map_err(|e| Error::ParseCertificate { what: what.to_owned(), why: e.to_string() })?;
        Ok(Self { cert_pem, info, issuer })
    }

    /// The authority's certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// What the authority's certificate says.
    pub fn info(&self) -> &CertificateInfo {
        &self.info
    }

    /// Issues a leaf for a key of our own.
    ///
    /// # Errors
    /// A name cannot stand in a certificate, the authority has ended, or signing failed.
    pub fn issue(
        &self,
        key: &PrivateKey,
        subject: &Subject,
        names: &AltNames,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<String, Error> {
        self.sign(&key.0, subject, names, policy, now)
    }

    /// Issues what a request asks for, within the policy: subject and names are the request's (the caller has judged
    /// them), usages and lifetime the policy's.
    ///
    /// # Errors
    /// As [`Authority::issue`], or the request's key is of an unknown kind.
    pub fn sign_request(&self, request: &Request, policy: &Policy, now: Timestamp) -> Result<String, Error> {
        let key = SubjectPublicKeyInfo::from_der(&request.public_key_der)
            .map_err(|e| Error::ParseRequest(format!("its public key cannot be certified: {e}")))?;
        self.sign(&key, &request.subject, &request.alt_names, policy, now)
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        subject: &Subject,
        names: &AltNames,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<String, Error> {
        if self.info.not_after <= now {
            let why = format!("it ended on {}", self.info.not_after);
            return Err(Error::Authority { subject: self.info.subject.common_name.clone(), why });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = subject.to_rcgen()?;
        params.subject_alt_names = names.to_rcgen()?;
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        for usage in &policy.usages {
            match usage {
                Usage::DigitalSignature => params.key_usages.push(KeyUsagePurpose::DigitalSignature),
                Usage::KeyEncipherment => params.key_usages.push(KeyUsagePurpose::KeyEncipherment),
                Usage::ServerAuth => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
                Usage::ClientAuth => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth),
            }
        }
        (params.not_before, params.not_after) = validity(now, policy.lifetime)?;
        params.not_after = params.not_after.min(offset(self.info.not_after)?);
        let signed = params.signed_by(key, &self.issuer);
        Ok(signed.map_err(|source| Error::Sign { subject: subject.common_name.clone(), source })?.pem())
    }
}

fn offset(at: Timestamp) -> Result<OffsetDateTime, Error> {
    OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| Error::Time(at))
}

fn validity(now: Timestamp, lifetime: Duration) -> Result<(OffsetDateTime, OffsetDateTime), Error> {
    let begin = now.checked_sub(BACKDATE).map_err(|_| Error::Time(now))?;
    let end = now.checked_add(lifetime).map_err(|_| Error::Time(now))?;
    Ok((offset(begin)?, offset(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> Timestamp {
        "2026-01-15T00:00:00Z".parse().unwrap()
    }

    fn client_policy() -> Policy {
        Policy { usages: vec![Usage::DigitalSignature, Usage::ClientAuth], lifetime: 30 * DAY }
    }

    #[test]
    fn a_leaf_says_who_it_is_and_ends_with_its_authority() {
        let (ca, _) = Authority::generate("test-ca", Algorithm::EcdsaP256, 10 * DAY, now()).unwrap();
        let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
        let names = AltNames::new(["localhost"], ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]);
        let subject = Subject::new("system:node:a", &["system:nodes", "second"]);
        let pem = ca.issue(&key, &subject, &names, &client_policy(), now()).unwrap();
        let info = inspect::certificate(pem.as_bytes(), "leaf").unwrap();
        assert_eq!((&info.subject, &info.alt_names), (&subject, &names));
        assert_eq!(info.issuer.common_name, "test-ca");
        assert_eq!(info.not_after, ca.info().not_after);
        assert!(!info.is_ca && info.client_auth && !info.server_auth);
    }

    #[test]
    fn a_request_is_signed_by_policy_for_ecdsa_and_rsa_keys() {
        let (ca, _) = Authority::generate("test-ca", Algorithm::EcdsaP256, 100 * DAY, now()).unwrap();
        for algorithm in [Algorithm::EcdsaP256, Algorithm::Rsa2048] {
            let key = PrivateKey::generate(algorithm).unwrap();
            let pem = crate::csr::make(&key, &Subject::new("jane", &["dev"]), &AltNames::default()).unwrap();
            let request = Request::from_pem(pem.as_bytes()).unwrap();
            assert_eq!(request.subject, Subject::new("jane", &["dev"]));
            let cert = ca.sign_request(&request, &client_policy(), now()).unwrap();
            let info = inspect::certificate(cert.as_bytes(), "cert").unwrap();
            assert_eq!(info.public_key_der, key.public_der());
            assert_eq!(info.not_after, now() + jiff::SignedDuration::try_from(30 * DAY).unwrap());
        }
    }

    #[test]
    fn a_tampered_request_is_refused() {
        let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
        let pem = crate::csr::make(&key, &Subject::new("jane", &["dev"]), &AltNames::default()).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let mut der = block.contents.clone();
        let at = der.windows(4).position(|w| w == b"jane").unwrap();
        der[at] = b'p';
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(&der);
        let forged = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        let error = Request::from_pem(forged.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("does not verify"), "{error}");
    }

    #[test]
    fn an_ended_or_foreign_authority_does_not_sign() {
        let (ca, key_pem) = Authority::generate("old", Algorithm::EcdsaP256, DAY, now()).unwrap();
        let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
        let later = now() + jiff::SignedDuration::from_hours(48);
        let wish = ca.issue(&key, &Subject::new("x", &[]), &AltNames::default(), &client_policy(), later);
        assert!(wish.unwrap_err().to_string().contains("ended on 2026-01-16"));
        let (other, _) = Authority::generate("other", Algorithm::EcdsaP256, DAY, now()).unwrap();
        assert!(Authority::from_pem(other.cert_pem(), &key_pem, "other").is_err());
    }
}

//! Certificate signing requests, read and made.
//!
//! A request is a wish: [`Request`] shows what it asks for, with its signature checked; what is granted is the signer's
//! decision ([`crate::authority::Authority::sign_request`]).

use std::net::IpAddr;

use rcgen::{CertificateParams, DistinguishedName, DnType, SanType};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::Error;
use crate::key::PrivateKey;

/// What a certificate speaks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// CN: the user name.
    pub common_name: String,
    /// O: the groups.
    pub organizations: Vec<String>,
}

/// Under which names a server is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AltNames {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// URIs.
    pub uris: Vec<String>,
    /// Mail addresses.
    pub emails: Vec<String>,
}

impl AltNames {
    /// DNS names and addresses.
    pub fn new<D: Into<String>>(dns: impl IntoIterator<Item = D>, ips: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { dns: dns.into_iter().map(Into::into).collect(), ips: ips.into_iter().collect(), ..Self::default() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.ips.is_empty() && self.uris.is_empty() && self.emails.is_empty()
    }

    pub(crate) fn to_rcgen(&self) -> Result<Vec<SanType>, Error> {
        let text = |name: &String| {
            rcgen::string::Ia5String::try_from(name.as_str())
                .map_err(|source| Error::AltName { name: name.clone(), source })
        };
        let mut out = Vec::new();
        for name in &self.dns {
            out.push(SanType::DnsName(text(name)?));
        }
        for name in &self.emails {
            out.push(SanType::Rfc822Name(text(name)?));
        }
        out.extend(self.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        for name in &self.uris {
            out.push(SanType::URI(text(name)?));
        }
        Ok(out)
    }
}

impl Subject {
    /// A user with groups.
    pub fn new(common_name: impl Into<String>, organizations: &[&str]) -> Self {
        let organizations = organizations.iter().map(|o| (*o).to_owned()).collect();
        Self { common_name: common_name.into(), organizations }
    }

    /// The writer keeps one value per attribute type; a second organization goes in under the same OID spelt as a custom
    /// type, which covers every subject Kubernetes itself makes.
    pub(crate) fn to_rcgen(&self) -> Result<DistinguishedName, Error> {
        let mut name = DistinguishedName::new();
        let types = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
        if self.organizations.len() > types.len() {
            let why =
                format!("{} organizations asked for, at most {} are supported", self.organizations.len(), types.len());
            return Err(Error::ParseRequest(why));
        }
        for (ty, organization) in types.into_iter().zip(&self.organizations) {
            name.push(ty, organization.as_str());
        }
        if !self.common_name.is_empty() {
            name.push(DnType::CommonName, self.common_name.as_str());
        }
        Ok(name)
    }
}

/// A parsed request whose signature proves that the asker holds the key.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who.
    pub subject: Subject,
    /// Under which names.
    pub alt_names: AltNames,
    pub(crate) public_key_der: Vec<u8>,
}

impl Request {
    /// Reads a PEM `CERTIFICATE REQUEST` and checks its signature.
    ///
    /// # Errors
    /// Not PEM, another PEM type, broken DER, or a wrong signature.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let wrong = |e: &dyn std::fmt::Display| Error::ParseRequest(e.to_string());
        let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|e| wrong(&e))?;
        if block.label != "CERTIFICATE REQUEST" && block.label != "NEW CERTIFICATE REQUEST" {
            return Err(Error::ParseRequest(format!("PEM block type is {:?}, not CERTIFICATE REQUEST", block.label)));
        }
        let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|e| wrong(&e))?;
        request.verify_signature().map_err(|e| Error::ParseRequest(format!("its signature does not verify: {e}")))?;
        let info = &request.certification_request_info;
        let mut alt_names = AltNames::default();
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                collect_names(&names.general_names, &mut alt_names);
            }
        }
        Ok(Self { subject: subject_of(&info.subject), alt_names, public_key_der: info.subject_pki.raw.to_vec() })
    }
}

pub(crate) fn subject_of(name: &x509_parser::x509::X509Name<'_>) -> Subject {
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().unwrap_or_default().to_owned();
    Subject {
        common_name: name.iter_common_name().next().map(text).unwrap_or_default(),
        organizations: name.iter_organization().map(text).collect(),
    }
}

pub(crate) fn collect_names(names: &[GeneralName<'_>], out: &mut AltNames) {
    for name in names {
        match name {
            GeneralName::DNSName(dns) => out.dns.push((*dns).to_owned()),
            GeneralName::RFC822Name(mail) => out.emails.push((*mail).to_owned()),
            GeneralName::URI(uri) => out.uris.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => {
                if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                    out.ips.push(v4.into());
                } else if let Ok(v6) = <[u8; 16]>::try_from(*bytes) {
                    out.ips.push(v6.into());
                }
            }
            _ => {}
        }
    }
}

/// Makes a request for `subject` signed with `key`, as PEM.
///
/// # Errors
/// When a name cannot stand in a certificate.
pub fn make(key: &PrivateKey, subject: &Subject, alt_names: &AltNames) -> Result<String, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject.to_rcgen()?;
    params.subject_alt_names = alt_names.to_rcgen()?;
    let sign = |source| Error::Sign { subject: subject.common_name.clone(), source };
    params.serialize_request(&key.0).map_err(sign)?.pem().map_err(sign)
}

//! Client certificates: the chain is verified against a file of authorities, the subject names the user.
//!
//! Common name → user, organizations → groups, OID 1.3.6.1.4.1.57683.2 → uid; the certificate's SHA-256 becomes the
//! credential id. The file is read again when it changes. A verified certificate is remembered for [`REMEMBER_SECONDS`],
//! so that a busy connection costs one chain verification a minute.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use component_base::serving::ConnInfo;
use component_base::tls::{CertificateDer, ClientCa};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{ConfigError, Refused};
use crate::http::request::UserInfo;
use crate::remembered::Remembered;

/// A verified certificate is trusted this many seconds before it is verified again.
pub const REMEMBER_SECONDS: u64 = 60;
const MAX_REMEMBERED: usize = 4096;
const UID_OID: &str = "1.3.6.1.4.1.57683.2";
/// `extra` key of the credential's id.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

type Digest32 = [u8; 32];

/// A file of certificate authorities that vouch for clients.
pub struct ClientCertificates {
    flag: &'static str,
    authorities: ClientCa,
    remembered: Remembered<Digest32, Arc<UserInfo>>,
}

impl ClientCertificates {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read or holds no usable certificate.
    pub fn new(flag: &'static str, path: &Path) -> Result<Self, ConfigError> {
        let authorities = ClientCa::from_file(path).map_err(|source| ConfigError::Authorities { flag, source })?;
        Ok(Self { flag, authorities, remembered: Remembered::new(MAX_REMEMBERED) })
    }

    /// Who the connection's certificate says it is; `None` without one.
    ///
    /// # Errors
    /// The certificate is not vouched for, has expired, or is not meant for clients.
    pub fn authenticate(&self, conn: &ConnInfo) -> Result<Option<UserInfo>, Refused> {
        if conn.peer_certs.is_empty() {
            return Ok(None);
        }
        self.verify(&conn.peer_certs).map(|user| Some(UserInfo::clone(&user)))
    }

    /// Verifies the chain, leaf first, and reads the subject.
    ///
    /// # Errors
    /// As [`Self::authenticate`].
    pub fn verify(&self, chain: &[CertificateDer<'static>]) -> Result<Arc<UserInfo>, Refused> {
        let leaf = chain.first().ok_or_else(|| Refused("no client certificate".to_owned()))?;
        let digest: Digest32 = Sha256::digest(leaf).into();
        if let Some(user) = self.remembered.get(&digest) {
            return Ok(user);
        }
        self.authorities
            .verify(chain, jiff::Timestamp::now())
            .map_err(|err| Refused(format!("the client certificate is refused by {}: {err}", self.flag)))?;
        let (user, remaining) = read(leaf, &digest)?;
        let user = Arc::new(user);
        super::measure::certificate(remaining);
        let lasts = remaining.min(Duration::from_secs(REMEMBER_SECONDS));
        self.remembered.insert(digest, Arc::clone(&user), lasts);
        Ok(user)
    }
}

/// The user that the subject names, and how long the certificate is still good.
fn read(leaf: &[u8], digest: &[u8]) -> Result<(UserInfo, Duration), Refused> {
    let (_, cert) =
        X509Certificate::from_der(leaf).map_err(|e| Refused(format!("cannot read the certificate: {e}")))?;
    let subject = cert.subject();
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().map(str::to_owned).ok();
    // As in Go, the last common name counts.
    let name = subject.iter_common_name().filter_map(text).last().unwrap_or_default();
    if name.is_empty() {
        return Err(Refused("the client certificate has no common name".to_owned()));
    }
    let uid = subject
        .iter_attributes()
        .find(|attribute| attribute.attr_type().to_id_string() == UID_OID)
        .and_then(text)
        .unwrap_or_default();
    let mut user =
        UserInfo { name, uid, groups: subject.iter_organization().filter_map(text).collect(), ..UserInfo::default() };
    user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={}", hex::encode(digest))]);
    let end = cert.validity().not_after.timestamp();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let remaining = Duration::from_secs(u64::try_from(end).unwrap_or_default()).saturating_sub(now);
    Ok((user, remaining))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };

    use super::*;

    fn authority() -> (String, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        (pem, Issuer::new(params, key))
    }

    fn leaf(
        issuer: &Issuer<'static, KeyPair>,
        name: &str,
        usage: ExtendedKeyUsagePurpose,
        days: i64,
    ) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.extended_key_usages = vec![usage];
        let year = if days > 0 { 2099 } else { 2001 };
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.signed_by(&key, issuer).unwrap().der().clone()
    }

    #[test]
    fn who_is_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.crt");
        let (pem, ours) = authority();
        let (_, theirs) = authority();
        std::fs::write(&path, pem).unwrap();
        let auth = ClientCertificates::new("--client-ca-file", &path).unwrap();
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let user = auth.verify(&[leaf(&ours, "system:node:n1", client.clone(), 1)]).unwrap();
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("system:node:n1", &["system:nodes".to_owned()][..]));
        assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
        assert!(auth.verify(&[leaf(&theirs, "x", client.clone(), 1)]).is_err());
        assert!(auth.verify(&[leaf(&ours, "x", client.clone(), -1)]).is_err());
        assert!(auth.verify(&[leaf(&ours, "x", ExtendedKeyUsagePurpose::ServerAuth, 1)]).is_err());
        assert!(auth.verify(&[leaf(&ours, "", client, 1)]).is_err());
        assert!(auth.verify(&[CertificateDer::from(vec![1, 2, 3])]).is_err());
    }
}

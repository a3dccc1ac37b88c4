//! The server's side: certificate files that reload, and the authority behind client certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

use jiff::ToSpan;

use super::certificate::read_file;
use crate::reload::Reloading;

use super::{PeerIdentity, TlsError, facts, provider, read_certificates, read_key, warn_validity};

/// An additional certificate for some server names (`--tls-sni-cert-key`).
#[derive(Clone, Debug)]
pub struct SniCert {
    /// Certificate chain file.
    pub cert: PathBuf,
    /// Key file.
    pub key: PathBuf,
    /// Names it is for; those of the certificate when empty. `*.example.com` matches one label.
    pub names: Vec<String>,
}

/// Settings of a TLS server, as flags give them.
#[derive(Clone, Debug, Default)]
pub struct ServerTlsOptions {
    /// `VersionTLS12` (default when empty) or `VersionTLS13`.
    pub min_version: String,
    /// Go's names; empty for the provider's choice. TLS 1.3 suites are always on.
    pub cipher_suites: Vec<String>,
    /// Authorities whose names are sent as a hint when asking for a client certificate; none asks for no certificate.
    pub client_ca: Option<ClientCa>,
    /// Certificates for further names.
    pub sni: Vec<SniCert>,
    /// Offer HTTP/2 (true unless switched off by `disable_http2`).
    pub disable_http2: bool,
}

/// A server's TLS settings; cheap to clone, reloads its files.
#[derive(Clone, Debug)]
pub struct ServerTls {
    current: Arc<Reloading<ServerConfig>>,
}

#[derive(Debug)]
enum Source {
    Files { cert: PathBuf, key: PathBuf },
    Memory { cert_pem: Vec<u8>, key_pem: Vec<u8> },
}

impl ServerTls {
    /// From certificate and key files, which are watched.
    pub fn from_files(cert: &Path, key: &Path, options: ServerTlsOptions) -> Result<Self, TlsError> {
        Self::new(Source::Files { cert: cert.to_owned(), key: key.to_owned() }, options)
    }

    /// From PEM in memory.
    pub fn from_pem(cert_pem: &[u8], key_pem: &[u8], options: ServerTlsOptions) -> Result<Self, TlsError> {
        Self::new(Source::Memory { cert_pem: cert_pem.to_vec(), key_pem: key_pem.to_vec() }, options)
    }

    /// A fresh self-signed certificate for `names` (DNS names or addresses), kept in memory: what upstream's daemons do
    /// when no certificate is configured. Good for a year.
    pub fn self_signed(names: &[String], options: ServerTlsOptions) -> Result<Self, TlsError> {
        let (cert, key) = self_signed_pem(names)?;
        Self::from_pem(cert.as_bytes(), key.as_bytes(), options)
    }

    fn new(source: Source, options: ServerTlsOptions) -> Result<Self, TlsError> {
        let paths = source.paths(&options);
        let current = Reloading::new("serving certificate", paths, move || build(&source, &options))?;
        Ok(Self { current: Arc::new(current) })
    }

    /// The settings for a new connection; files that changed are read again first. A half-written or broken file leaves
    /// the old settings in place and is logged.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.get()
    }

    /// Looks at the files now.
    pub fn reload_if_changed(&self) {
        self.current.reload_if_changed();
    }
}

/// Certificate and key PEM of a fresh self-signed certificate for `names`.
pub(crate) fn self_signed_pem(names: &[String]) -> Result<(String, String), TlsError> {
    let fail = |e: rcgen::Error| TlsError::Setup(format!("cannot make a self-signed certificate: {e}"));
    let mut params = rcgen::CertificateParams::new(names.to_vec()).map_err(fail)?;
    let now = jiff::Zoned::now();
    let midnight = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let first = names.first().map_or("localhost", String::as_str);
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("{first}@{}", now.timestamp().as_second()));
    params.not_before = midnight(now.date() - 1.day());
    params.not_after = midnight(now.date() + 365.days());
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    let key = rcgen::KeyPair::generate().map_err(fail)?;
    let cert = params.self_signed(&key).map_err(fail)?;
    Ok((cert.pem(), key.serialize_pem()))
}

impl Source {
    fn paths(&self, options: &ServerTlsOptions) -> Vec<PathBuf> {
        let mut paths = match self {
            Self::Files { cert, key } => vec![cert.clone(), key.clone()],
            Self::Memory { .. } => Vec::new(),
        };
        paths.extend(options.sni.iter().flat_map(|s| [s.cert.clone(), s.key.clone()]));
        // The client CA's names are part of the settings (they are sent as a hint).
        paths.extend(options.client_ca.iter().flat_map(|ca| ca.paths.iter().cloned()));
        paths
    }
}

fn load_pair(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = read_file("certificate", cert)?;
    let secret = read_file("key", key)?;
    certified(&chain, &secret, &cert.display().to_string(), &key.display().to_string())
}

fn certified(cert_pem: &[u8], key_pem: &[u8], cert_origin: &str, key_origin: &str) -> Result<CertifiedKey, TlsError> {
    let chain = read_certificates(cert_pem, cert_origin)?;
    warn_validity(&chain, cert_origin);
    let fail = |e: rustls::Error| TlsError::Pair {
        certificate: cert_origin.to_owned(),
        key: key_origin.to_owned(),
        reason: e.to_string(),
    };
    let key = provider().key_provider.load_private_key(read_key(key_pem, key_origin)?).map_err(fail)?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) | Ok(()) => Ok(pair),
        Err(error) => Err(fail(error)),
    }
}

fn build(source: &Source, options: &ServerTlsOptions) -> Result<ServerConfig, TlsError> {
    let default = match source {
        Source::Files { cert, key } => load_pair(cert, key)?,
        Source::Memory { cert_pem, key_pem } => certified(cert_pem, key_pem, "certificate in memory", "its key")?,
    };
    let mut named = Vec::new();
    for sni in &options.sni {
        let pair = load_pair(&sni.cert, &sni.key)?;
        let names = match (sni.names.is_empty(), pair.cert.first()) {
            (true, Some(leaf)) => facts(leaf)?.names,
            _ => sni.names.clone(),
        };
        named.push((names, Arc::new(pair)));
    }
    let resolver = Arc::new(Resolver { default: Arc::new(default), named });
    let mut crypto = (*provider()).clone();
    crypto.cipher_suites = suites(&options.cipher_suites)?;
    let versions: &[&rustls::SupportedProtocolVersion] = match options.min_version.as_str() {
        "" | "VersionTLS12" | "VersionTLS10" | "VersionTLS11" => &[&rustls::version::TLS13, &rustls::version::TLS12],
        "VersionTLS13" => &[&rustls::version::TLS13],
        other => {
            return Err(TlsError::Unknown {
                flag: "--tls-min-version",
                value: other.to_owned(),
                known: "VersionTLS12, VersionTLS13".to_owned(),
            });
        }
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(crypto))
        .with_protocol_versions(versions)
        .map_err(|e| TlsError::Setup(e.to_string()))?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(Arc::new(AskForCertificate { hints: ca.hints() })),
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols =
        if options.disable_http2 { vec![b"http/1.1".to_vec()] } else { vec![b"h2".to_vec(), b"http/1.1".to_vec()] };
    Ok(config)
}

fn suites(names: &[String]) -> Result<Vec<rustls::SupportedCipherSuite>, TlsError> {
    let all = &provider().cipher_suites;
    if names.is_empty() {
        return Ok(all.clone());
    }
    // rustls writes TLS13_AES_128_GCM_SHA256 where IANA and Go write TLS_AES_128_GCM_SHA256.
    let name_of = |s: &rustls::SupportedCipherSuite| format!("{:?}", s.suite()).replacen("TLS13_", "TLS_", 1);
    for name in names {
        let plain = name.strip_suffix("_SHA256").unwrap_or(name);
        if !all.iter().any(|s| name_of(s) == *name || name_of(s).strip_suffix("_SHA256") == Some(plain)) {
            let known = all.iter().map(name_of).collect::<Vec<_>>().join(", ");
            return Err(TlsError::Unknown { flag: "--tls-cipher-suites", value: name.clone(), known });
        }
    }
    Ok(all.iter().filter(|s| s.tls13().is_some() || names.contains(&name_of(s))).copied().collect())
}

#[derive(Debug)]
struct Resolver {
    default: Arc<CertifiedKey>,
    named: Vec<(Vec<String>, Arc<CertifiedKey>)>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().unwrap_or_default();
        let covers = |pattern: &String| match pattern.strip_prefix('*') {
            Some(suffix) => asked.strip_suffix(suffix).is_some_and(|label| !label.is_empty() && !label.contains('.')),
            None => pattern.eq_ignore_ascii_case(asked),
        };
        let found = self.named.iter().find(|(names, _)| names.iter().any(covers)).map(|(_, pair)| pair);
        Some(Arc::clone(found.unwrap_or(&self.default)))
    }
}

/// Asks for a certificate and checks that the peer holds its key; the chain is request authentication's business.
#[derive(Debug)]
struct AskForCertificate {
    hints: Vec<DistinguishedName>,
}

impl ClientCertVerifier for AskForCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The authorities behind client certificates (`--client-ca-file`, `--requestheader-client-ca-file`); reloads.
#[derive(Clone, Debug)]
pub struct ClientCa {
    paths: Arc<[PathBuf]>,
    verifier: Option<Arc<Reloading<Arc<dyn ClientCertVerifier>>>>,
}

impl ClientCa {
    /// From a bundle file, which is watched.
    pub fn from_file(path: &Path) -> Result<Self, TlsError> {
        Self::from_files(&[path.to_owned()])
    }

    /// From several bundle files, which are watched.
    pub fn from_files(paths: &[PathBuf]) -> Result<Self, TlsError> {
        let paths: Arc<[PathBuf]> = paths.into();
        let read = Arc::clone(&paths);
        let load = move || {
            let mut pem = Vec::new();
            for path in read.iter() {
                pem.extend(read_file("CA", path)?);
                pem.push(b'\n');
            }
            chain_verifier(&pem, &origin_of(&read))
        };
        let verifier = Arc::new(Reloading::new("client CA", paths.to_vec(), load)?);
        Ok(Self { paths, verifier: Some(verifier) })
    }

    /// From PEM in memory (the `extension-apiserver-authentication` ConfigMap).
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        let pem = pem.to_vec();
        let verifier = Reloading::new("client CA", Vec::new(), move || chain_verifier(&pem, "client CA"))?;
        Ok(Self { paths: Arc::new([]), verifier: Some(Arc::new(verifier)) })
    }

    /// Nobody yet: certificates are asked for, and none passes.
    pub fn unknown() -> Self {
        Self { paths: Arc::new([]), verifier: None }
    }

    fn verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.verifier.as_ref().map(|verifier| (*verifier.get()).clone())
    }

    /// Looks at the files now; tells whether the authorities are others than before.
    pub fn reload_if_changed(&self) -> bool {
        self.verifier.as_ref().is_some_and(|verifier| verifier.reload_if_changed())
    }

    fn hints(&self) -> Vec<DistinguishedName> {
        self.verifier().map(|verifier| verifier.root_hint_subjects().to_vec()).unwrap_or_default()
    }

    /// Verifies a chain for client use at `now` and tells whom it speaks for; the error says what is wrong and, where
    /// dates matter, which.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: jiff::Timestamp) -> Result<PeerIdentity, TlsError> {
        let (leaf, rest) = chain.split_first().ok_or_else(|| TlsError::Chain("no client certificate".to_owned()))?;
        let since_epoch = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
        let leaf_facts = facts(leaf)?;
        let verifier = self.verifier().ok_or_else(|| TlsError::Chain("no authority is known yet".to_owned()))?;
        verifier.verify_client_cert(leaf, rest, UnixTime::since_unix_epoch(since_epoch)).map_err(|e| {
            let dates = super::explain(&leaf_facts, "client certificate", now).unwrap_or_default();
            let hint = match &e {
                rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
                    format!(
                        "certificate of {:?} signed by unknown authority {:?}",
                        leaf_facts.common_name, leaf_facts.issuer
                    )
                }
                other => other.to_string(),
            };
            TlsError::Chain(if dates.is_empty() { hint } else { format!("{hint}: {dates}") })
        })?;
        Ok(PeerIdentity {
            common_name: leaf_facts.common_name,
            organizations: leaf_facts.organizations,
            fingerprint: fingerprint(leaf),
        })
    }
}

fn fingerprint(der: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn origin_of(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn chain_verifier(pem: &[u8], origin: &str) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(read_certificates(pem, origin)?);
    let fail = |reason: String| TlsError::Pem { what: "certificate authority", origin: origin.to_owned(), reason };
    if added == 0 {
        return Err(fail("no certificate in it can be used as an authority".to_owned()));
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().map_err(|e| fail(e.to_string()))
}

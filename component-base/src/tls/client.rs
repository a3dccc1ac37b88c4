//! Client configurations: whom to trust and who to be.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{TlsError, provider, read_certificates, read_key};

/// Where Debian, and most others through a link, keep the system's authorities.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What a client connection needs; all material is PEM.
#[derive(Clone, Debug, Default)]
pub struct ClientTlsOptions {
    /// Authorities to trust; the system's when absent.
    pub ca_pem: Option<Vec<u8>>,
    /// Own certificate chain and key.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// Trust any server: only when its operator asked for exactly that.
    pub insecure_skip_verify: bool,
    /// Protocols to offer, in order.
    pub alpn: Vec<Vec<u8>>,
}

/// Builds rustls' configuration.
pub fn client_config(options: &ClientTlsOptions) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Setup(e.to_string()))?;
    let builder = if options.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAnyServer))
    } else {
        builder.with_root_certificates(roots(options.ca_pem.as_deref())?)
    };
    let mut config = match &options.identity_pem {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = read_certificates(cert, "client certificate")?;
            super::warn_validity(&chain, "client certificate");
            let key = read_key(key, "client key")?;
            builder.with_client_auth_cert(chain, key).map_err(|e| TlsError::Pair {
                certificate: "client certificate".to_owned(),
                key: "client key".to_owned(),
                reason: e.to_string(),
            })?
        }
    };
    config.alpn_protocols.clone_from(&options.alpn);
    Ok(config)
}

fn roots(ca_pem: Option<&[u8]>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    let certificates = match ca_pem {
        Some(pem) => read_certificates(pem, "certificate authority")?,
        None => match std::fs::read(SYSTEM_ROOTS) {
            Ok(pem) => read_certificates(&pem, SYSTEM_ROOTS)?,
            Err(_) => Vec::new(),
        },
    };
    store.add_parsable_certificates(certificates);
    Ok(store)
}

/// `insecure-skip-tls-verify`: the signature is still checked, the name and the issuer are not.
#[derive(Debug)]
struct TrustAnyServer;

impl ServerCertVerifier for TrustAnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
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

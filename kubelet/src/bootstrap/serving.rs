//! The serving certificate: given files, one by CSR, or a self-signed one that is kept.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use client::Client;
use component_base::fs::write_atomic;
use component_base::tls::{ClientCa, ServerTls, ServerTlsOptions};
use pki::key::{Algorithm, PrivateKey};
use tokio_util::sync::CancellationToken;

use super::csr::{Wanted, request};
use super::{BootstrapError, current, store, time_left};
use crate::config::Config;

const NAME: &str = "kubelet-server";
const SIGNER: &str = "kubernetes.io/kubelet-serving";
/// Delay after a failed request.
const RETRY: Duration = Duration::from_secs(60);

/// The server's TLS by the configuration. With serverTLSBootstrap it starts self-signed and takes the signed
/// certificate over as soon as it is there.
///
/// # Errors
/// Unusable files.
pub fn server_tls(
    config: &Config,
    host_ips: &[String],
    client_ca: Option<ClientCa>,
) -> Result<ServerTls, BootstrapError> {
    let file = &config.file;
    let options = ServerTlsOptions {
        min_version: file.tls_min_version.clone(),
        cipher_suites: file.tls_cipher_suites.clone(),
        client_ca,
        ..ServerTlsOptions::default()
    };
    if !file.tls_cert_file.is_empty() {
        let (cert, key) = (Path::new(&file.tls_cert_file), Path::new(&file.tls_private_key_file));
        return Ok(ServerTls::from_files(cert, key, options)?);
    }
    if file.server_tls_bootstrap {
        let pair = current(&config.cert_dir, NAME);
        if time_left(&pair).is_none() {
            let (cert, key) = self_signed(config, host_ips)?;
            store(&config.cert_dir, NAME, &cert, &key)?;
        }
        return Ok(ServerTls::from_files(&pair, &pair, options)?);
    }
    let (cert_path, key_path) = (config.cert_dir.join("kubelet.crt"), config.cert_dir.join("kubelet.key"));
    if time_left(&cert_path).is_none() || !key_path.exists() {
        let (cert, key) = self_signed(config, host_ips)?;
        std::fs::create_dir_all(&config.cert_dir)
            .map_err(|source| BootstrapError::File { path: config.cert_dir.clone(), source })?;
        write_atomic(&key_path, key.as_bytes(), 0o600)?;
        write_atomic(&cert_path, cert.as_bytes(), 0o644)?;
    }
    Ok(ServerTls::from_files(&cert_path, &key_path, options)?)
}

fn self_signed(config: &Config, host_ips: &[String]) -> Result<(String, String), BootstrapError> {
    let key = PrivateKey::generate(Algorithm::EcdsaP256)?;
    let pair = rcgen::KeyPair::from_pem(&key.to_pem());
    let names: Vec<String> = std::iter::once(config.node_name.clone()).chain(host_ips.iter().cloned()).collect();
    let made = pair.and_then(|pair| {
        let mut params = rcgen::CertificateParams::new(names)?;
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("{}@self-signed", config.node_name));
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let now = std::time::SystemTime::now();
        params.not_before = (now - Duration::from_secs(3600)).into();
        params.not_after = (now + Duration::from_secs(365 * 24 * 3600)).into();
        params.self_signed(&pair)
    });
    let cert =
        made.map_err(|e| component_base::tls::TlsError::Setup(format!("cannot make a self-signed certificate: {e}")))?;
    Ok((cert.pem(), key.to_pem()))
}

/// Whether the current pair is the kubelet's own and not a signed one.
fn is_self_signed(path: &Path) -> bool {
    let info = std::fs::read(path).ok().and_then(|pem| pki::inspect::certificate(&pem, "serving certificate").ok());
    info.is_none_or(|i| i.issuer == i.subject)
}

/// Gets a signed serving certificate and renews it until shutdown.
pub async fn obtain(config: &Config, client: &Client, host_ips: &[String], shutdown: &CancellationToken) {
    let path = current(&config.cert_dir, NAME);
    loop {
        let left = if is_self_signed(&path) { Duration::ZERO } else { time_left(&path).unwrap_or_default() };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(left) => {}
        }
        let ips: Vec<IpAddr> = host_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        let dns = vec![config.node_name.clone()];
        let wanted = Wanted { node: &config.node_name, signer: SIGNER, usage: "server auth", dns, ips };
        let obtained = async {
            let key = PrivateKey::generate(Algorithm::EcdsaP256)?;
            let certificate = request(client, &key, &wanted, shutdown).await?;
            store(&config.cert_dir, NAME, &certificate, &key.to_pem())
        };
        match obtained.await {
            Ok(_) => tracing::info!("The serving certificate is signed"),
            Err(error) => {
                tracing::error!(%error, "Cannot get a signed serving certificate; trying again");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }
}

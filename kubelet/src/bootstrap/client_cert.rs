//! The client certificate: got with a bootstrap token when there is none, renewed with itself before it ends.

use std::path::Path;
use std::time::Duration;

use client::{Client, ClientConfig, Material};
use component_base::fs::write_atomic;
use pki::key::{Algorithm, PrivateKey};
use pki::kubeconfig::{Credentials, render};
use tokio_util::sync::CancellationToken;

use super::csr::{Wanted, request};
use super::{BootstrapError, current, store, time_left};
use crate::config::Config;

const NAME: &str = "kubelet-client";
const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Delay after a failed renewal.
const RETRY: Duration = Duration::from_secs(60);

fn wanted(config: &Config) -> Wanted<'_> {
    Wanted { node: &config.node_name, signer: SIGNER, usage: "client auth", dns: Vec::new(), ips: Vec::new() }
}

/// Whether the kubeconfig can be used as it is: its certificate, when it is ours, has not ended.
fn usable(config: &Config, kubeconfig: &Path) -> bool {
    let Ok(settings) = ClientConfig::from_kubeconfig(kubeconfig, "kubelet") else { return false };
    let own = current(&config.cert_dir, NAME);
    match settings.access.certificate {
        Some(Material::File(path)) if path == own => time_left(&path).is_some(),
        Some(_) => true,
        None => settings.access.token.is_some(),
    }
}

/// Makes sure that `--kubeconfig` exists, with the help of `--bootstrap-kubeconfig` when it does not.
///
/// # Errors
/// Why there is no certificate.
pub async fn ensure(config: &Config, shutdown: &CancellationToken) -> Result<(), BootstrapError> {
    let (Some(kubeconfig), Some(bootstrap)) = (&config.kubeconfig, &config.bootstrap_kubeconfig) else {
        return Ok(());
    };
    if usable(config, kubeconfig) {
        return Ok(());
    }
    tracing::info!(bootstrap = %bootstrap.display(), "Asking for a client certificate with the bootstrap kubeconfig");
    let fail = |source| BootstrapError::Kubeconfig { path: bootstrap.clone(), source };
    let settings = ClientConfig::from_kubeconfig(bootstrap, "kubelet").map_err(fail)?;
    let (server, ca) = (settings.access.server.clone(), settings.access.ca.clone());
    let client = Client::new(settings).map_err(fail)?;
    let key = pending_key(config)?;
    let certificate = request(&client, &key, &wanted(config), shutdown).await?;
    let pair = store(&config.cert_dir, NAME, &certificate, &key.to_pem())?;
    let _ = std::fs::remove_file(config.cert_dir.join(format!("{NAME}.key.tmp")));
    let ca = match ca {
        Some(Material::Inline(bytes)) => bytes,
        Some(Material::File(path)) => std::fs::read(&path).map_err(|source| BootstrapError::File { path, source })?,
        None => Vec::new(),
    };
    let pair = pair.to_string_lossy();
    let credentials = Credentials::Files { cert: &pair, key: &pair };
    let text = render("default-cluster", &server, &String::from_utf8_lossy(&ca), "default-auth", &credentials);
    write_atomic(kubeconfig, text.as_bytes(), 0o600)?;
    Ok(())
}

/// The key of an open request, kept so that a restart asks for the same certificate.
fn pending_key(config: &Config) -> Result<PrivateKey, BootstrapError> {
    let path = config.cert_dir.join(format!("{NAME}.key.tmp"));
    let known = std::fs::read_to_string(&path).ok();
    if let Some(Ok(key)) = known.map(|pem| PrivateKey::from_pem(&pem, &path.display().to_string())) {
        return Ok(key);
    }
    let key = PrivateKey::generate(Algorithm::EcdsaP256)?;
    std::fs::create_dir_all(&config.cert_dir)
        .map_err(|source| BootstrapError::File { path: config.cert_dir.clone(), source })?;
    write_atomic(&path, key.to_pem().as_bytes(), 0o600)?;
    Ok(key)
}

/// Renews the certificate until shutdown, when it is one that the kubelet asked for. The client notices the new file.
pub async fn rotate(config: &Config, client: &Client, shutdown: &CancellationToken) {
    let path = current(&config.cert_dir, NAME);
    loop {
        let Some(left) = time_left(&path) else { return };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(left) => {}
        }
        let renewed = async {
            let key = PrivateKey::generate(Algorithm::EcdsaP256)?;
            let certificate = request(client, &key, &wanted(config), shutdown).await?;
            store(&config.cert_dir, NAME, &certificate, &key.to_pem())
        };
        match renewed.await {
            Ok(_) => tracing::info!("The client certificate is renewed"),
            Err(error) => {
                tracing::error!(%error, "Cannot renew the client certificate; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

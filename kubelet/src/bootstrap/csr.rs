//! One certificate signing request: created, awaited, and its certificate taken.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Client, resources};
use pki::csr::{AltNames, Subject, make};
use pki::key::PrivateKey;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::BootstrapError;

/// How often an open request is looked at.
const POLL_PERIOD: Duration = Duration::from_secs(1);

/// What is asked for.
pub struct Wanted<'a> {
    pub node: &'a str,
    pub signer: &'a str,
    pub usage: &'a str,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
}

/// The request object; its name comes from the key, so that a repeated request is the same object.
fn object(name: &str, request_pem: &str, wanted: &Wanted<'_>) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {"request": STANDARD.encode(request_pem), "signerName": wanted.signer,
            "usages": ["digital signature", wanted.usage]}})
}

/// What an object's status says: the certificate, a refusal, or nothing yet.
fn verdict(name: &str, object: &Value) -> Result<Option<String>, BootstrapError> {
    for condition in object["status"]["conditions"].as_array().into_iter().flatten() {
        let what = match condition["type"].as_str() {
            Some("Denied") => "denied",
            Some("Failed") => "failed",
            _ => continue,
        };
        let message = condition["message"].as_str().unwrap_or_default().to_owned();
        return Err(BootstrapError::Refused { name: name.to_owned(), what, message });
    }
    let certificate = object["status"]["certificate"].as_str().and_then(|text| STANDARD.decode(text).ok());
    Ok(certificate.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|pem| !pem.is_empty()))
}

/// Asks for a certificate of `key` and waits for it.
///
/// # Errors
/// A refusal, or shutdown.
pub async fn request(
    client: &Client,
    key: &PrivateKey,
    wanted: &Wanted<'_>,
    shutdown: &CancellationToken,
) -> Result<String, BootstrapError> {
    let subject = Subject::new(format!("system:node:{}", wanted.node), &["system:nodes"]);
    let names = AltNames::new(wanted.dns.iter().cloned(), wanted.ips.iter().copied());
    let pem = make(key, &subject, &names)?;
    let mut digest = Sha256::new();
    for part in [key.public_der().as_slice(), wanted.node.as_bytes(), wanted.signer.as_bytes()] {
        digest.update(part);
    }
    let name = format!("node-csr-{}", &hex::encode(digest.finalize())[..43]);
    let object = object(&name, &pem, wanted);
    let requests = &resources::CERTIFICATE_SIGNING_REQUESTS;
    let mut announced = false;
    loop {
        match client.create::<Value>(requests, None, &object).await {
            Ok(_) => break,
            Err(error) if error.is_already_exists() => break,
            Err(error) if error.status().is_some() && !error.is_too_many_requests() => {
                return Err(BootstrapError::Request(error));
            }
            Err(error) => {
                if !announced {
                    tracing::warn!(%error, "Cannot reach the API server to ask for a certificate; trying again");
                    announced = true;
                }
                pause(shutdown).await?;
            }
        }
    }
    tracing::info!(name, signer = wanted.signer, "Waiting for the certificate signing request to be approved");
    loop {
        match client.get::<Value>(requests, None, &name).await {
            Ok(object) => {
                if let Some(certificate) = verdict(&name, &object)? {
                    return Ok(certificate);
                }
            }
            Err(error) if error.is_not_found() || error.is_forbidden() => return Err(BootstrapError::Request(error)),
            Err(error) => tracing::debug!(%error, "Cannot read the certificate signing request"),
        }
        pause(shutdown).await?;
    }
}

async fn pause(shutdown: &CancellationToken) -> Result<(), BootstrapError> {
    tokio::select! {
        () = shutdown.cancelled() => Err(BootstrapError::Ended),
        () = tokio::time::sleep(POLL_PERIOD) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        assert!(verdict("n", &json!({})).unwrap().is_none());
        let issued = json!({"status": {"certificate": STANDARD.encode("PEM")}});
        assert_eq!(verdict("n", &issued).unwrap().as_deref(), Some("PEM"));
        let denied = json!({"status": {"conditions": [{"type": "Denied", "message": "no"}]}});
        assert_eq!(verdict("n", &denied).unwrap_err().to_string(), "certificate signing request n was denied: no");
    }
}

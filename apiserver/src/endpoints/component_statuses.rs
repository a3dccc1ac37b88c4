//! `componentstatuses`: how etcd, the scheduler and the controller manager of this host are, asked when the client asks.
//!
//! Deprecated upstream and kept for `kubectl get cs`. The daemons are asked on the loopback ports that they have by default.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use component_base::tls::{ClientTlsOptions, client_config};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::registry::Registry;

/// What is asked, and the port of its health endpoint; etcd is asked through the store.
const COMPONENTS: [(&str, u16); 3] = [("controller-manager", 10257), ("scheduler", 10259), ("etcd-0", 0)];
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: u64 = 4096;

/// Every component's status, in order of names.
pub async fn list(registry: &Registry) -> Vec<Value> {
    futures::future::join_all(COMPONENTS.map(|(name, port)| status(registry, name, port))).await
}

/// One component's status.
///
/// # Errors
/// 404.
pub async fn get(registry: &Registry, wanted: &str) -> Result<Value, Status> {
    match COMPONENTS.iter().find(|(name, _)| *name == wanted) {
        Some((name, port)) => Ok(status(registry, name, *port).await),
        // Upstream's singular.
        None => Err(Status::not_found(&GroupResource::new("", "componentstatus"), wanted)),
    }
}

async fn status(registry: &Registry, name: &str, port: u16) -> Value {
    let outcome = if port == 0 {
        registry.clock().catch_up().await.map(|_| "ok".to_owned()).map_err(|error| error.to_string())
    } else {
        let asked = tokio::time::timeout(PATIENCE, health(port)).await;
        asked.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    };
    let condition = match outcome {
        Ok(message) => json!({"type": "Healthy", "status": "True", "message": message}),
        Err(message) => json!({"type": "Healthy", "status": "False", "message": message}),
    };
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]})
}

/// What `/healthz` says. Whoever listens on the loopback port is believed, as upstream does.
async fn health(port: u16) -> Result<String, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let options = ClientTlsOptions { insecure_skip_verify: true, ..ClientTlsOptions::default() };
    let tls = TlsConnector::from(Arc::new(client_config(&options).map_err(|e| text(&e))?));
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| text(&e))?;
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let mut stream = tls.connect(name, tcp).await.map_err(|e| text(&e))?;
    let request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.map_err(|e| text(&e))?;
    let mut answer = Vec::new();
    // An end without a goodbye is an end all the same.
    let _ = stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    if head.split(' ').nth(1) == Some("200") { Ok(body.to_owned()) } else { Err(body.to_owned()) }
}

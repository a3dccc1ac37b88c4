//! TLS without verification, for HTTPS probes: as upstream's, they ask whether something answers, not who.

use std::sync::Arc;

use component_base::tls::{ClientTlsOptions, client_config};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Makes a TLS connection to whoever answers.
///
/// # Errors
/// A failed handshake.
pub async fn connect_unverified(tcp: TcpStream, host: &str) -> Result<TlsStream<TcpStream>, String> {
    let options = ClientTlsOptions { insecure_skip_verify: true, ..ClientTlsOptions::default() };
    let config = client_config(&options).map_err(|e| e.to_string())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|e| e.to_string())
}

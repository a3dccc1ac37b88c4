//! One HTTP/2 connection to the API server, made when needed, pinged while idle, remade when it breaks or when a
//! credential file changes (requests in flight finish on the old one).
//!
//! Guarantees: errors say what to look at (wrong CA, expired certificate, clock, refused port); at most one connection
//! attempt at a time.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};
use tokio_rustls::client::TlsStream;

use component_base::tls::{ClientTlsOptions, client_config};

use crate::config::{Access, ClientConfigError, Material};
use crate::error::ClientError;

/// A handle that sends requests; many share the connection.
pub(crate) type Sender = SendRequest<Full<Bytes>>;

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Credential files are looked at no more often than this.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// A lasting failure is logged no more often than this.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Received but unread bytes that one response may hold.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Received but unread bytes of the whole connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

pub(crate) struct Connection {
    access: Access,
    host: String,
    port: u16,
    tls: bool,
    state: Mutex<State>,
    /// Counts successful connections: loops that pause because there is none wait for the next one.
    made: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    sender: Option<Sender>,
    stamps: Vec<Option<SystemTime>>,
    checked: Option<Instant>,
    authorization: Option<HeaderValue>,
    failed: Option<(Instant, String)>,
    /// When a failure was last logged; many loops share one connection and would all say the same.
    complained: Option<Instant>,
}

impl Connection {
    /// Checks what can be checked without the network: the URL, and that the credentials can be read and fit together.
    pub(crate) fn new(access: Access) -> Result<Self, ClientConfigError> {
        let bad = || ClientConfigError::Server(access.server.clone());
        let uri: Uri = access.server.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let fail = |reason| ClientConfigError::Credentials { server: access.server.clone(), reason };
        if tls {
            tls_config(&access, HTTP2).map_err(fail)?;
        }
        authorization(&access).map_err(fail)?;
        Ok(Self { host, port, tls, state: Mutex::default(), made: watch::Sender::new(0), access })
    }

    pub(crate) fn server(&self) -> &str {
        &self.access.server
    }

    /// Absolute form of a path, as HTTP/2 wants it.
    pub(crate) fn uri(&self, path_and_query: &str) -> Result<Uri, ClientError> {
        let scheme = if self.tls { "https" } else { "http" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        Uri::builder()
            .scheme(scheme)
            .authority(format!("{host}:{}", self.port))
            .path_and_query(path_and_query)
            .build()
            .map_err(|e| ClientError::Request(format!("{path_and_query}: {e}")))
    }

    /// A usable sender and the Authorization header of the moment.
    pub(crate) async fn ready(&self) -> Result<(Sender, Option<HeaderValue>), ClientError> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        self.notice_changed_files(&mut state)?;
        if let Some(sender) = state.sender.as_ref().filter(|s| !s.is_closed()) {
            return Ok((sender.clone(), state.authorization.clone()));
        }
        // Who waited for an attempt that failed shares its outcome instead of making the next one wait.
        if let Some((_, reason)) = state.failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(self.fail(reason.clone()));
        }
        state.sender = None;
        let connecting = async {
            let authorization = authorization(&self.access)?;
            let attempt = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await;
            let sender = attempt.unwrap_or_else(|_| {
                Err(format!("no answer within {} s: is a firewall in between?", CONNECT_TIMEOUT.as_secs()))
            })?;
            Ok::<_, String>((sender, authorization))
        };
        match connecting.await {
            Ok((sender, authorization)) => {
                state.failed = None;
                if state.complained.take().is_some() {
                    tracing::info!(server = self.access.server, "connected again");
                }
                self.made.send_modify(|count| *count += 1);
                (state.sender, state.authorization) = (Some(sender.clone()), authorization.clone());
                Ok((sender, authorization))
            }
            Err(reason) => {
                state.failed = Some((Instant::now(), reason.clone()));
                if state.complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
                    state.complained = Some(Instant::now());
                    tracing::warn!(server = self.access.server, reason, "cannot connect");
                }
                Err(self.fail(reason))
            }
        }
    }

    /// Tells of each new connection.
    pub(crate) fn made(&self) -> watch::Receiver<u64> {
        self.made.subscribe()
    }

    /// Forgets a connection that failed, unless it was replaced already.
    pub(crate) async fn broken(&self) {
        let mut state = self.state.lock().await;
        if state.sender.as_ref().is_some_and(Sender::is_closed) {
            state.sender = None;
        }
    }

    #[cfg(test)]
    pub(crate) async fn look_at_files_again(&self) {
        self.state.lock().await.checked = None;
    }

    fn fail(&self, reason: String) -> ClientError {
        ClientError::Connect { server: self.access.server.clone(), reason }
    }

    fn notice_changed_files(&self, state: &mut State) -> Result<(), ClientError> {
        if state.checked.is_some_and(|at| at.elapsed() < CHECK_EVERY) {
            return Ok(());
        }
        state.checked = Some(Instant::now());
        let stamps = stamps(&self.access);
        if state.stamps == stamps {
            return Ok(());
        }
        if !state.stamps.is_empty() {
            tracing::info!(server = self.access.server, "credential files changed, connecting anew");
            state.sender = None;
            state.authorization = authorization(&self.access).map_err(|reason| self.fail(reason))?;
        }
        state.stamps = stamps;
        Ok(())
    }

    /// One request over HTTP/1.1, on a connection of its own.
    pub(crate) async fn once(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        let stream = self.tcp().await?;
        if self.tls {
            exchange(self.secure(stream, HTTP1).await?, request).await
        } else {
            exchange(stream, request).await
        }
    }

    async fn tcp(&self) -> Result<TcpStream, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| {
            let hint = match e.kind() {
                std::io::ErrorKind::ConnectionRefused => ": nothing listens there; is the API server running?",
                _ => "",
            };
            format!("{e}{hint}")
        })?;
        // Small requests must not wait for a full packet.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    async fn secure(&self, stream: TcpStream, protocol: &[u8]) -> Result<TlsStream<TcpStream>, String> {
        let config = tls_config(&self.access, protocol)?;
        let name = self.access.tls_server_name.clone().unwrap_or_else(|| self.host.clone());
        let name = ServerName::try_from(name.clone()).map_err(|_| format!("{name:?} is no host name"))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.map_err(|e| explain(&e, &self.access))
    }

    async fn connect(&self) -> Result<Sender, String> {
        let stream = self.tcp().await?;
        if !self.tls {
            return self.handshake(TokioIo::new(stream)).await;
        }
        let stream = self.secure(stream, HTTP2).await?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            let what = "the server does not speak HTTP/2; a proxy in between must pass TLS through";
            return Err(what.to_owned());
        }
        self.handshake(TokioIo::new(stream)).await
    }

    async fn handshake<I>(&self, io: I) -> Result<Sender, String>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(15))
            .keep_alive_while_idle(true)
            .max_send_buf_size(256 << 10)
            .handshake(io)
            .await
            .map_err(|e| format!("HTTP/2 handshake failed: {e}"))?;
        let server = self.access.server.clone();
        // The connection's own task; it ends when the last sender is gone or the peer closes.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(server, %error, "connection to the API server ended");
            }
        });
        Ok(sender)
    }
}

fn stamps(access: &Access) -> Vec<Option<SystemTime>> {
    [&access.ca, &access.certificate, &access.key, &access.token]
        .into_iter()
        .flatten()
        .map(|material| match material {
            Material::File(path) => std::fs::metadata(path).and_then(|m| m.modified()).ok(),
            Material::Inline(_) => None,
        })
        .collect()
}

fn authorization(access: &Access) -> Result<Option<HeaderValue>, String> {
    let Some(token) = &access.token else { return Ok(None) };
    let bytes = token.read()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut header = HeaderValue::try_from(format!("Bearer {}", text.trim()))
        .map_err(|_| format!("the token in {} holds characters that no token has", token.describe()))?;
    header.set_sensitive(true);
    Ok(Some(header))
}

async fn exchange<I>(io: I, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|e| e.to_string())?;
    // Ends with the answer.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|e| e.to_string())
}

fn tls_config(access: &Access, protocol: &[u8]) -> Result<rustls::ClientConfig, String> {
    let ca_pem = access.ca.as_ref().map(Material::read).transpose()?;
    let identity_pem = match (&access.certificate, &access.key) {
        (Some(certificate), Some(key)) => Some((certificate.read()?, key.read()?)),
        (None, None) => None,
        (Some(_), None) => return Err("a client certificate is given without its key".to_owned()),
        (None, Some(_)) => return Err("a client key is given without its certificate".to_owned()),
    };
    let options = ClientTlsOptions {
        ca_pem,
        identity_pem,
        insecure_skip_verify: access.insecure_skip_tls_verify,
        alpn: vec![protocol.to_vec()],
    };
    client_config(&options).map_err(|e| e.to_string())
}

/// Words for a failed TLS handshake.
fn explain(error: &std::io::Error, access: &Access) -> String {
    use rustls::{AlertDescription, CertificateError, Error};
    let ca = access.ca.as_ref().map_or_else(|| "the system's authorities".to_owned(), Material::describe);
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return format!("TLS handshake failed: {error}");
    };
    match tls {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            format!("the server's certificate is not signed by an authority in {ca}: wrong CA file or wrong server")
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            format!("the server's certificate has expired ({tls}): renew it, or set this machine's clock")
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            format!("the server's certificate is not valid yet ({tls}): clock skew?")
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            format!("the server's certificate is for other names ({tls})")
        }
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "the server does not speak HTTP/2; a proxy in between must pass TLS through".to_owned()
        }
        other => format!("TLS handshake failed: {other}"),
    }
}

#[cfg(test)]
mod tests;

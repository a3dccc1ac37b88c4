//! Connections to webhooks, kept for the next call. HTTP/2 where the server offers it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use component_base::tls::{ClientTlsOptions, client_config};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Connections kept for one server.
const MAX_IDLE_PER_SERVER: usize = 8;
/// Servers for which connections are kept.
const MAX_SERVERS: usize = 256;
/// How long a connection is kept unused.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// Address, name in the certificate, authorities.
type Server = (String, String, Arc<Trust>);

/// Whom to trust, and who to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Trust {
    /// The system's authorities when absent.
    pub(super) ca_pem: Option<Vec<u8>>,
    /// Certificate and key.
    pub(super) identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) insecure: bool,
}

/// A connection that can take a request.
pub(super) enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<HashMap<Server, Vec<(Instant, Sender)>>>,
}

impl Pool {
    /// A connection to the server, and whether it is a new one.
    pub(super) async fn sender(
        &self,
        address: &str,
        name: &str,
        trust: &Arc<Trust>,
        fresh: bool,
    ) -> Result<(Sender, bool), String> {
        if !fresh && let Some(sender) = self.take(&(address.to_owned(), name.to_owned(), Arc::clone(trust))) {
            return Ok((sender, false));
        }
        connect(address, name, trust).await.map(|sender| (sender, true))
    }

    fn take(&self, server: &Server) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(server)?;
        kept.retain(|(since, sender)| since.elapsed() < MAX_IDLE && sender.is_ready());
        match kept.pop()?.1 {
            Sender::Http2(shared) => {
                // Requests share it; it stays.
                kept.push((Instant::now(), Sender::Http2(shared.clone())));
                Some(Sender::Http2(shared))
            }
            own @ Sender::Http1(_) => Some(own),
        }
    }

    /// Keeps a connection whose answer was read to the end.
    pub(super) fn give_back(&self, address: &str, name: &str, trust: &Arc<Trust>, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= MAX_SERVERS {
            idle.retain(|_, kept| kept.iter().any(|(since, sender)| since.elapsed() < MAX_IDLE && sender.is_ready()));
        }
        if idle.len() >= MAX_SERVERS {
            idle.clear();
        }
        let kept = idle.entry((address.to_owned(), name.to_owned(), Arc::clone(trust))).or_default();
        let shared = sender.is_http2() && kept.iter().any(|(_, kept)| kept.is_http2());
        if kept.len() < MAX_IDLE_PER_SERVER && !shared {
            kept.push((Instant::now(), sender));
        }
    }
}

async fn connect(address: &str, name: &str, trust: &Trust) -> Result<Sender, String> {
    let options = ClientTlsOptions {
        ca_pem: trust.ca_pem.clone(),
        identity_pem: trust.identity_pem.clone(),
        insecure_skip_verify: trust.insecure,
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    let tls = client_config(&options).map_err(|error| error.to_string())?;
    let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let tcp = TcpStream::connect(address).await.map_err(|error| format!("dial tcp {address}: {error}"))?;
    let _ = tcp.set_nodelay(true);
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.map_err(|error| format!("tls: {error}"))?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    if http2 {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), io).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move { connection.await.map_err(|error| tracing::debug!(%error, "webhook connection")) });
        return Ok(Sender::Http2(sender));
    }
    let (sender, connection) = http1::handshake(io).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move { connection.await.map_err(|error| tracing::debug!(%error, "webhook connection")) });
    Ok(Sender::Http1(sender))
}

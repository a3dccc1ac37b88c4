//! The accept loop of every daemon, the API server's included.
//!
//! Guarantees: TLS with ALPN (`h2`, `http/1.1`) or plain HTTP; a handshake that stalls is ended; at most
//! `max_connections` at once (further ones wait in the kernel's queue); HTTP/1.1 upgrades work; a [`ConnInfo`] is in every
//! request's extensions. On shutdown no new connection is accepted, HTTP/2 peers get GOAWAY, idle connections close at
//! once, and requests in flight get `drain` to finish.
//! The handler decides everything above: authentication, limits on bodies, routing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::BoxError;
use crate::tls::{CertificateDer, ServerTls};

pub use hyper::service::service_fn;

/// A response body of any origin.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// A body of known content.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    use http_body_util::BodyExt;
    Body::new(http_body_util::Full::new(bytes.into()).map_err(|never| match never {}))
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// The peer's address.
    pub peer: SocketAddr,
    /// The address that was connected to.
    pub local: SocketAddr,
    /// The peer's certificate chain, leaf first; possession of the key is proven, the chain is not verified.
    pub peer_certs: Arc<[CertificateDer<'static>]>,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// Connections that wait to be accepted: after a restart all nodes come at once.
const BACKLOG: u32 = 4096;

/// Bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub max_connections: usize,
    /// Until when a TLS handshake must be done.
    pub handshake_timeout: Duration,
    /// Until when a request's head must have arrived, and how long an HTTP/1.1 connection may idle.
    pub header_read_timeout: Duration,
    /// Size of a request's head.
    pub max_header_bytes: usize,
    /// HTTP/2 streams at once per connection.
    pub max_concurrent_streams: u32,
    /// HTTP/2 flow-control window of a stream, for request bodies.
    pub stream_window_bytes: u32,
    /// HTTP/2 flow-control window of a connection.
    pub connection_window_bytes: u32,
    /// Response bytes buffered per HTTP/2 stream.
    pub max_send_buffer_bytes: usize,
    /// HTTP/2 ping interval that finds dead peers.
    pub keep_alive_interval: Duration,
    /// How long requests in flight may take after shutdown began.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            handshake_timeout: Duration::from_secs(10),
            header_read_timeout: Duration::from_secs(90),
            max_header_bytes: 1 << 20,
            max_concurrent_streams: 250,
            stream_window_bytes: 256 << 10,
            connection_window_bytes: 1 << 20,
            max_send_buffer_bytes: 64 << 10,
            keep_alive_interval: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error("cannot listen on {0}: the port is in use by another process; stop it or choose another port")]
    InUse(SocketAddr),
    /// The address is not on this machine.
    #[error("cannot listen on {0}: this machine has no such address")]
    NoSuchAddress(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {addr}: {source}")]
    Other {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A bound, not yet accepting server.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local: SocketAddr,
    limits: Limits,
}

impl Server {
    /// Binds `addr:port`; port 0 lets the kernel choose. Needs a tokio runtime.
    pub fn bind(addr: IpAddr, port: u16) -> Result<Self, BindError> {
        let addr = SocketAddr::new(addr, port);
        let fail = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => BindError::InUse(addr),
            std::io::ErrorKind::AddrNotAvailable => BindError::NoSuchAddress(addr),
            _ => BindError::Other { addr, source },
        };
        let open = || -> std::io::Result<std::net::TcpListener> {
            let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // A restart must not wait for the connections of the last run.
            socket.set_reuseaddr(true)?;
            socket.bind(addr)?;
            socket.listen(BACKLOG)?.into_std()
        };
        Self::from_listener(open().map_err(fail)?)
    }

    /// Takes over a bound listener (socket activation, `SO_REUSEPORT`).
    pub fn from_listener(listener: std::net::TcpListener) -> Result<Self, BindError> {
        let unspecified = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
        let fail = |source| BindError::Other { addr: unspecified, source };
        let listener = TcpListener::from_std(listener).map_err(fail)?;
        let local = listener.local_addr().map_err(fail)?;
        Ok(Self { listener, local, limits: Limits::default() })
    }

    /// Replaces the default [`Limits`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The address that clients use, with the port the kernel chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Accepts and serves until `shutdown`, then drains. Plain HTTP without `tls`.
    pub async fn serve<S, B>(self, tls: Option<ServerTls>, service: S, shutdown: CancellationToken)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let Self { listener, limits, .. } = self;
        let builder = Arc::new(builder(&limits));
        let slots = Arc::new(Semaphore::new(limits.max_connections));
        let connections = TaskTracker::new();
        // Cancelled when the drain is over: what still runs then is cut.
        let cut = CancellationToken::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept(&listener, &slots) => accepted,
            };
            let Some((stream, peer, slot)) = accepted else { continue };
            let (tls, service, builder) = (tls.clone(), service.clone(), Arc::clone(&builder));
            let (shutdown, cut) = (shutdown.clone(), cut.clone());
            connections.spawn(async move {
                let served = serve_stream(stream, peer, tls, service, &builder, &limits, &shutdown);
                tokio::select! {
                    () = served => {}
                    () = cut.cancelled() => {}
                }
                drop(slot);
            });
        }
        drop(listener);
        connections.close();
        if tokio::time::timeout(limits.drain, connections.wait()).await.is_err() {
            tracing::info!(connections = connections.len(), "drain time is over, cutting connections");
            cut.cancel();
            connections.wait().await;
        }
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, slot)),
        Err(error) => {
            // Out of file descriptors, mostly: accepting at once again would spin.
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(limits.max_header_bytes.max(64 << 10))
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_send_buf_size(limits.max_send_buffer_bytes)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(limits.keep_alive_interval)
        .keep_alive_timeout(Duration::from_secs(15));
    builder
}

async fn serve_stream<S, B>(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<ServerTls>,
    service: S,
    builder: &auto::Builder<TokioExecutor>,
    limits: &Limits,
    shutdown: &CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    // Small frames (watch events, exec bytes) must not wait for a full packet.
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().unwrap_or(peer);
    let Some(tls) = tls else {
        let info = ConnInfo { peer, local, peer_certs: Arc::new([]), tls: false };
        return drive(TokioIo::new(stream), info, service, builder, shutdown).await;
    };
    let handshake = tokio_rustls::TlsAcceptor::from(tls.config()).accept(stream);
    let stream = match tokio::time::timeout(limits.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    let peer_certs: Arc<[_]> =
        stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
    let info = ConnInfo { peer, local, peer_certs, tls: true };
    drive(TokioIo::new(stream), info, service, builder, shutdown).await;
}

async fn drive<I, S, B>(
    io: I,
    info: ConnInfo,
    service: S,
    builder: &auto::Builder<TokioExecutor>,
    shutdown: &CancellationToken,
) where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let peer = info.peer;
    let service = WithInfo { inner: service, info };
    let connection = builder.serve_connection_with_upgrades(io, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = %error, "connection ended");
    }
}

/// Puts the [`ConnInfo`] into every request.
#[derive(Clone)]
struct WithInfo<S> {
    inner: S,
    info: ConnInfo,
}

impl<S, B> Service<Request<Incoming>> for WithInfo<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.info.clone());
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests;

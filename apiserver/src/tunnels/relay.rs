//! One HTTP/1.1 connection per request to the backend, and the pipe after an upgrade.
//!
//! Guarantees: the backend's answer comes back as it is; after `101` bytes flow both ways until one side ends, and an upgrade
//! that does not happen leaves no connection behind. Credentials and impersonation headers of the client are removed.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use component_base::BoxError;
use component_base::serving::{Body, full};
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::unreachable;

/// Bytes buffered in each direction of a pipe.
const PIPE_BUFFER_BYTES: usize = 32 << 10;
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// TLS towards the backend.
pub struct Security {
    /// Whom to trust and who to be.
    pub tls: Arc<rustls::ClientConfig>,
    /// The name that must stand in the certificate.
    pub name: ServerName<'static>,
}

/// Where to.
pub struct Target {
    /// `host:port`.
    pub authority: String,
    /// TLS, or plain when absent.
    pub security: Option<Security>,
    /// Path and query there.
    pub path_and_query: String,
    /// Until when the TCP connection must be there.
    pub connect_timeout: Duration,
    /// Headers that say who asks, added to the client's.
    pub identity: HeaderMap,
}

/// Anything that bytes flow through.
trait Pipe: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Pipe for T {}

pub(super) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Whether the request asks for another protocol.
pub(super) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
}

/// Why a WebSocket request cannot be passed through: it offers only protocols that a container runtime does not speak.
pub(super) fn untranslatable(headers: &HeaderMap) -> Option<&'static str> {
    const SPOKEN: [&str; 6] = [
        "channel.k8s.io", "base64.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io",
        "portforward.k8s.io", "v4.base64.portforward.k8s.io",
    ];
    let mut offered = super::websocket::offered(headers).peekable();
    if offered.peek().is_none() || offered.any(|protocol| SPOKEN.contains(&protocol)) {
        return None;
    }
    Some("none of the offered WebSocket subprotocols is supported; use SPDY/3.1")
}

/// Asks a backend for a SPDY connection of one of these protocols. The answer may be a refusal.
pub(super) async fn ask_upgrade(target: &Target, protocols: &[String]) -> Result<Response<Incoming>, Status> {
    let mut request = Request::new(full(""));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri(target)?;
    let mut headers = outgoing_headers(&HeaderMap::new(), target, true);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    for protocol in protocols {
        let value = HeaderValue::from_str(protocol).map_err(|error| Status::bad_request(error.to_string()))?;
        headers.append("x-stream-protocol-version", value);
    }
    *request.headers_mut() = headers;
    send(target, request).await
}

async fn connect(target: &Target) -> Result<Box<dyn Pipe>, Status> {
    let tcp = tokio::time::timeout(target.connect_timeout, TcpStream::connect(&target.authority))
        .await
        .map_err(|_| unreachable(target, &"i/o timeout"))?
        .map_err(|err| unreachable(target, &err))?;
    let _ = tcp.set_nodelay(true);
    let keep_alive =
        socket2::TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(15));
    let _ = socket2::SockRef::from(&tcp).set_tcp_keepalive(&keep_alive);
    let Some(security) = &target.security else { return Ok(Box::new(tcp)) };
    let handshake = TlsConnector::from(Arc::clone(&security.tls)).connect(security.name.clone(), tcp);
    let tls = tokio::time::timeout(TLS_HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| unreachable(target, &"TLS handshake timeout"))?
        .map_err(|err| unreachable(target, &format!("tls: {err}")))?;
    Ok(Box::new(tls))
}

/// Headers that end here: they concern only this hop, or are the client's credentials.
fn ends_here(name: &HeaderName) -> bool {
    const NAMES: [&str; 9] = [
        "authorization", "proxy-authorization", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding",
        "host", "content-length",
    ];
    let name = name.as_str();
    NAMES.contains(&name) || name.starts_with("impersonate-") || name.starts_with("x-remote-")
}

fn outgoing_headers(headers: &HeaderMap, target: &Target, upgrade: bool) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let hop = name == CONNECTION || name == UPGRADE;
        let token = *name == HeaderName::from_static("sec-websocket-protocol");
        if ends_here(name) || (hop && !upgrade) {
            continue;
        }
        if token {
            let kept: Vec<&str> = value.to_str().unwrap_or_default().split(',').map(str::trim).collect();
            let kept: Vec<&str> = kept.into_iter().filter(|p| !p.starts_with("base64url.bearer.")).collect();
            if let Ok(value) = HeaderValue::from_str(&kept.join(", ")) {
                out.append(name.clone(), value);
            }
            continue;
        }
        out.append(name.clone(), value.clone());
    }
    if let Ok(host) = HeaderValue::from_str(&target.authority) {
        out.insert(HOST, host);
    }
    out.extend(target.identity.clone());
    out
}

async fn send(target: &Target, request: Request<Body>) -> Result<Response<Incoming>, Status> {
    let io = connect(target).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|err| unreachable(target, &err))?;
    tokio::spawn(async move {
        if let Err(err) = connection.with_upgrades().await {
            tracing::debug!(%err, "Backend connection ended");
        }
    });
    sender.send_request(request).await.map_err(|err| unreachable(target, &err))
}

fn uri(target: &Target) -> Result<Uri, Status> {
    target
        .path_and_query
        .parse()
        .map_err(|err| Status::bad_request(format!("{:?} is no path: {err}", target.path_and_query)))
}

/// A backend's answer as ours, without what concerns only that hop.
pub(super) fn boxed(response: Response<Incoming>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    for name in [CONNECTION, HeaderName::from_static("keep-alive"), http::header::TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    Response::from_parts(parts, Body::new(body.map_err(BoxError::from)))
}

/// A GET without a body.
pub async fn get(target: Target) -> Result<Response<Body>, Status> {
    let mut request = Request::new(full(""));
    *request.uri_mut() = uri(&target)?;
    *request.method_mut() = Method::GET;
    *request.headers_mut() = outgoing_headers(&HeaderMap::new(), &target, false);
    send(&target, request).await.map(boxed)
}

/// The beginning of a body as text.
pub async fn text(response: Response<Body>, max_bytes: usize) -> String {
    let mut body = response.into_body();
    let mut collected = Vec::new();
    while collected.len() < max_bytes
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(data) = frame.into_data() {
            collected.extend_from_slice(&data);
        }
    }
    collected.truncate(max_bytes);
    String::from_utf8_lossy(&collected).into_owned()
}

/// Passes a request on, and after `101` becomes a pipe.
pub async fn forward(target: Target, mut request: Request<Incoming>) -> Result<Response<Body>, Status> {
    let upgrade = wants_upgrade(request.headers());
    let client = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let body = if upgrade { full("") } else { Body::new(body.map_err(BoxError::from)) };
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = uri(&target)?;
    *outgoing.headers_mut() = outgoing_headers(&parts.headers, &target, upgrade);
    if !upgrade && let Some(length) = parts.headers.get(http::header::CONTENT_LENGTH) {
        outgoing.headers_mut().insert(http::header::CONTENT_LENGTH, length.clone());
    }
    let mut response = send(&target, outgoing).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(boxed(response));
    }
    let Some(client) = client else {
        return Err(unreachable(&target, &"the backend switched protocols without being asked"));
    };
    let backend = hyper::upgrade::on(&mut response);
    let authority = target.authority;
    tokio::spawn(async move {
        // Either side failing to upgrade drops the other, which closes it.
        let (client, backend) = match tokio::try_join!(client, backend) {
            Ok(both) => both,
            Err(err) => return tracing::debug!(%err, backend = authority, "Upgrade did not complete"),
        };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        let copied =
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut backend, PIPE_BUFFER_BYTES, PIPE_BUFFER_BYTES);
        if let Err(err) = copied.await {
            tracing::debug!(%err, backend = authority, "Tunnel ended");
        }
    });
    let mut answer = Response::new(full(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = response.headers().clone();
    Ok(answer)
}

#[cfg(test)]
mod tests;

//! Our end of a client's WebSocket: the handshake of RFC 6455, then messages by `tungstenite`.
//!
//! The handshake is the answer to a request that was already authenticated and authorized; nothing of it is trusted beyond
//! the protocol names that the client offers.

use apimachinery::status::Status;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use component_base::serving::{Body, full};
use futures::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::relay::tokens;

/// Longest message that a client may send, as upstream.
const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// Of RFC 6455: what the server adds to the key before it digests it.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Subprotocols of one stream of bytes.
const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// A client's WebSocket.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether a request asks for a WebSocket.
pub(super) fn asked(headers: &HeaderMap) -> bool {
    tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket"))
}

/// The subprotocols that a WebSocket request offers, without credentials; nothing of any other request.
pub(super) fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let websocket = asked(headers);
    let offered = tokens(headers, &SEC_WEBSOCKET_PROTOCOL).filter(|p| !p.starts_with("base64url.bearer."));
    offered.filter(move |_| websocket)
}

/// The answer that makes the connection a WebSocket; the error is a phrase.
pub(super) fn accept(headers: &HeaderMap, protocol: Option<&str>) -> Result<Response<Body>, &'static str> {
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err("websocket: Sec-WebSocket-Version must be 13");
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
    if STANDARD.decode(key).is_ok_and(|bytes| bytes.len() != 16) || key.is_empty() {
        return Err("websocket: Sec-WebSocket-Key must be 16 bytes in base64");
    }
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{ACCEPT_SUFFIX}").as_bytes());
    let text = |text: &str| HeaderValue::from_str(text).map_err(|_| "websocket: bad subprotocol");
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(SEC_WEBSOCKET_ACCEPT, text(&STANDARD.encode(digest))?);
    if let Some(protocol) = protocol {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, text(protocol)?);
    }
    Ok(response)
}

/// Answers with a WebSocket that carries `body`: an empty message, then its bytes as they come, in base64 when the client
/// offers only that. What the client sends is not looked at; its end ends the body.
///
/// # Errors
/// 400 when the handshake is wrong or offers none of the protocols.
pub(super) fn send(mut request: Request<Incoming>, mut body: Body) -> Result<Response<Body>, Status> {
    let protocol = offered(request.headers()).find(|protocol| [BINARY, BASE64].contains(protocol)).map(str::to_owned);
    if protocol.is_none() && offered(request.headers()).next().is_some() {
        return Err(Status::bad_request("none of the offered WebSocket subprotocols is supported"));
    }
    let answer = accept(request.headers(), protocol.as_deref()).map_err(Status::bad_request)?;
    let encoded = protocol.as_deref() == Some(BASE64);
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let (mut sink, mut stream) = socket(upgraded).await.split();
        let message = |bytes: Bytes| {
            if encoded { Message::text(STANDARD.encode(bytes)) } else { Message::Binary(bytes) }
        };
        let sending = async {
            let mut sent = sink.send(message(Bytes::new())).await;
            while sent.is_ok()
                && let Some(Ok(frame)) = body.frame().await
            {
                if let Ok(bytes) = frame.into_data() {
                    sent = sink.send(message(bytes)).await;
                }
            }
            // A client that went away does not wait for it.
            let _ = sink.close().await;
        };
        let receiving = async { while let Some(Ok(_)) = stream.next().await {} };
        tokio::select! { () = sending => {} () = receiving => {} }
    });
    Ok(answer)
}

/// Messages over the connection, once it is one.
pub(super) async fn socket(upgraded: Upgraded) -> Socket {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES)).max_frame_size(Some(MAX_MESSAGE_BYTES));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;

    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn handshake() {
        let good = [("sec-websocket-version", "13"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")];
        let answer = accept(&headers(&good), Some("v5.channel.k8s.io")).unwrap();
        // The example of RFC 6455.
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        assert!(accept(&headers(&good[..1]), None).is_err());
        assert!(accept(&headers(&good[1..]), None).is_err());
        assert!(accept(&headers(&[good[0], ("sec-websocket-key", "c2hvcnQ=")]), None).is_err());
    }

    #[test]
    fn offers() {
        let list = [("upgrade", "WebSocket"), ("sec-websocket-protocol", "v5.channel.k8s.io, base64url.bearer.x.y, a")];
        assert_eq!(offered(&headers(&list)).collect::<Vec<_>>(), ["v5.channel.k8s.io", "a"]);
        assert_eq!(offered(&headers(&list[1..])).count(), 0);
    }
}

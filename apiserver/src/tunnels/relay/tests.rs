//! Pipes over real sockets: a client, this relay behind a hyper server, and a backend written by hand.

use std::net::SocketAddr;

use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
    list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

#[test]
fn which_websockets_pass() {
    let cases = [
        (&[("upgrade", "SPDY/3.1")][..], true),
        (&[("upgrade", "websocket"), ("sec-websocket-protocol", "v5.channel.k8s.io")], false),
        (&[("upgrade", "websocket"), ("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io")], true),
        (&[("upgrade", "websocket"), ("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io")], false),
        (&[("upgrade", "websocket"), ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.eA")], true),
    ];
    for (list, passes) in cases {
        assert_eq!(untranslatable(&headers(list)).is_none(), passes, "{list:?}");
    }
}

#[test]
fn credentials_stay_here() {
    let client = headers(&[
        ("authorization", "Bearer x"),
        ("impersonate-user", "root"),
        ("x-remote-user", "root"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.eA"),
        ("accept", "*/*"),
    ]);
    let target = Target {
        authority: "n:1".to_owned(),
        security: None,
        path_and_query: String::new(),
        connect_timeout: Duration::ZERO,
        identity: HeaderMap::from_iter([(HeaderName::from_static("x-remote-user"), HeaderValue::from_static("u"))]),
    };
    let out = outgoing_headers(&client, &target, true);
    let mut names: Vec<&str> = out.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "connection", "host", "sec-websocket-protocol", "upgrade", "x-remote-user"]);
    assert_eq!(out["x-remote-user"], "u");
    assert_eq!(out["sec-websocket-protocol"], "v4.channel.k8s.io");
    assert!(!outgoing_headers(&client, &target, false).contains_key("upgrade"));
}

/// A server that passes every request on to `backend`.
async fn relay(backend: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request: Request<Incoming>| async move {
                let target = Target {
                    authority: backend.to_string(),
                    security: None,
                    path_and_query: "/there".to_owned(),
                    connect_timeout: Duration::from_secs(5),
                    identity: HeaderMap::new(),
                };
                let response = forward(target, request).await;
                Ok::<_, std::convert::Infallible>(response.unwrap_or_else(|status| {
                    let mut response = Response::new(full(status.message));
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    response
                }))
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades(),
            );
        }
    });
    here
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

const UPGRADE_REQUEST: &[u8] = b"POST /here HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";

#[tokio::test]
async fn bytes_flow_both_ways_after_the_upgrade() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(relay(listener.local_addr().unwrap()).await).await.unwrap();
    client.write_all(UPGRADE_REQUEST).await.unwrap();
    let (mut backend, _) = listener.accept().await.unwrap();
    let head = read_head(&mut backend).await.to_lowercase();
    assert!(
        head.starts_with("post /there http/1.1")
            && head.contains("upgrade: spdy/3.1")
            && head.contains("x-stream-protocol-version"),
        "{head}"
    );
    backend.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nfirst").await.unwrap();
    let head = read_head(&mut client).await.to_lowercase();
    assert!(
        head.starts_with("http/1.1 101") && head.contains("x-stream-protocol-version: v4.channel.k8s.io"),
        "{head}"
    );
    let mut bytes = [0; 5];
    client.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"first");
    client.write_all(b"hello").await.unwrap();
    backend.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"hello");
    drop(backend);
    assert_eq!(client.read(&mut bytes).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_refusal_comes_back_unchanged_and_nothing_stays_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(relay(listener.local_addr().unwrap()).await).await.unwrap();
    client.write_all(UPGRADE_REQUEST).await.unwrap();
    let (mut backend, _) = listener.accept().await.unwrap();
    read_head(&mut backend).await;
    backend
        .write_all(b"HTTP/1.1 403 Forbidden\r\nX-Why: no\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope")
        .await
        .unwrap();
    let head = read_head(&mut client).await.to_lowercase();
    assert!(head.starts_with("http/1.1 403") && head.contains("x-why: no"), "{head}");
    let mut body = [0; 4];
    client.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"nope");
    drop(client);
    assert_eq!(backend.read(&mut body).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn redirects_are_not_followed_and_absent_backends_are_said() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(relay(address).await).await.unwrap();
    client.write_all(b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut backend, _) = listener.accept().await.unwrap();
    read_head(&mut backend).await;
    backend
        .write_all(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 302"));
    drop((listener, backend));
    let mut client = TcpStream::connect(relay(address).await).await.unwrap();
    client.write_all(UPGRADE_REQUEST).await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 500"));
}

//! Sessions over real sockets: a WebSocket client, the translation behind a hyper server, and a backend written by hand.

use std::net::SocketAddr;

use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };

/// A server that translates every request for `backend`.
async fn server(backend: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request: Request<Incoming>| async move {
                let target = Target {
                    authority: backend.to_string(),
                    security: None,
                    path_and_query: "/exec".to_owned(),
                    connect_timeout: Duration::from_secs(5),
                    identity: http::HeaderMap::new(),
                };
                let protocols = tunnelled(request.headers());
                let answer = match wants_v5(request.headers()) {
                    true => remote_command(target, request, ALL),
                    false => tunnel(target, request, &protocols).await,
                };
                Ok::<_, std::convert::Infallible>(answer.unwrap_or_else(|status| crate::http::respond::status(&status)))
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
    String::from_utf8(head).unwrap().to_lowercase()
}

fn handshake(protocol: &str) -> String {
    format!(
        "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
}

async fn client(server: SocketAddr, protocol: &str) -> TcpStream {
    let mut client = TcpStream::connect(server).await.unwrap();
    client.write_all(handshake(protocol).as_bytes()).await.unwrap();
    client
}

async fn upgraded(mut client: TcpStream, protocol: &str) -> WebSocketStream<TcpStream> {
    let head = read_head(&mut client).await;
    let named = format!("sec-websocket-protocol: {}", protocol.to_lowercase());
    assert!(head.starts_with("http/1.1 101") && head.contains(&named), "{head}");
    WebSocketStream::from_raw_socket(client, Role::Client, None).await
}

/// The backend's next connection, upgraded.
async fn backend(listener: &TcpListener, protocol: &str) -> TcpStream {
    let (mut backend, _) = listener.accept().await.unwrap();
    let head = read_head(&mut backend).await;
    let asked = ["post /exec", "upgrade: spdy/3.1", &format!("x-stream-protocol-version: {protocol}")];
    assert!(asked.iter().all(|asked| head.contains(asked)), "{head}");
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n"
    );
    backend.write_all(answer.as_bytes()).await.unwrap();
    backend
}

async fn bytes(socket: &mut WebSocketStream<TcpStream>) -> Vec<u8> {
    match socket.next().await.unwrap().unwrap() {
        Message::Binary(bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

async fn next(reader: &mut Reader<ReadHalf<TcpStream>>) -> Event {
    reader.next().await.unwrap().unwrap()
}

fn status_of(message: &[u8]) -> serde_json::Value {
    assert_eq!(message[0], ERROR);
    serde_json::from_slice(&message[1..]).unwrap()
}

// Ids as `Streams::opened` gives them.
const ERROR_ID: u32 = 1;
const STDIN_ID: u32 = 3;
const STDOUT_ID: u32 = 5;
const STDERR_ID: u32 = 7;

#[tokio::test]
async fn a_command_from_its_input_to_its_status() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(server(listener.local_addr().unwrap()).await, V5).await;
    let mut socket = upgraded(client, V5).await;
    assert_eq!(bytes(&mut socket).await, [STDOUT]);
    let (read, mut write) = tokio::io::split(backend(&listener, V4).await);
    let mut reader = Reader::new(read);
    socket.send(message(STDIN, b"hello")).await.unwrap();
    socket.send(message(CLOSE, &[STDIN])).await.unwrap();
    let got = Event::Data { stream: STDIN_ID, bytes: Bytes::from_static(b"hello"), last: false };
    assert_eq!(next(&mut reader).await, got);
    assert_eq!(next(&mut reader).await, Event::Data { stream: STDIN_ID, bytes: Bytes::new(), last: true });
    write.write_all(&spdy::ping(2)).await.unwrap();
    assert_eq!(next(&mut reader).await, Event::Ping(2));
    let failed = br#"{"metadata":{},"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
    for frame in [
        spdy::data(STDOUT_ID, b"out", true),
        spdy::data(ERROR_ID, failed, true),
        // Output that comes after the status is still the client's.
        spdy::data(STDERR_ID, b"err", true),
    ] {
        write.write_all(&frame).await.unwrap();
    }
    assert_eq!(bytes(&mut socket).await, [&[STDOUT][..], b"out"].concat());
    assert_eq!(bytes(&mut socket).await, [&[STDERR][..], b"err"].concat());
    let status = status_of(&bytes(&mut socket).await);
    assert_eq!(
        (&status["reason"], &status["details"]["causes"][0]["message"]),
        (&json!("NonZeroExitCode"), &json!("3"))
    );
    let Some(Ok(Message::Close(Some(close)))) = socket.next().await else { panic!("no close") };
    assert_eq!(u16::from(close.code), 1000);
    // The answer to the close goes out by itself.
    assert!(socket.next().await.is_none());
    assert_eq!(reader.next().await.unwrap_or(None), None, "the backend's connection is closed");
}

#[tokio::test]
async fn a_client_that_goes_closes_the_backend() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(server(listener.local_addr().unwrap()).await, V5).await;
    let socket = upgraded(client, V5).await;
    let (read, _write) = tokio::io::split(backend(&listener, V4).await);
    drop(socket);
    assert_eq!(Reader::new(read).next().await.unwrap_or(None), None);
}

#[tokio::test]
async fn a_backend_that_refuses_is_said_on_the_error_channel_and_let_go() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(server(listener.local_addr().unwrap()).await, V5).await;
    let mut socket = upgraded(client, V5).await;
    assert_eq!(bytes(&mut socket).await, [STDOUT]);
    let (mut backend, _) = listener.accept().await.unwrap();
    read_head(&mut backend).await;
    backend.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope").await.unwrap();
    let status = status_of(&bytes(&mut socket).await);
    let said = status["message"].as_str().unwrap();
    assert!(status["code"] == 500 && said.contains("unable to upgrade connection: nope"), "{status}");
    assert_eq!(backend.read(&mut [0; 1]).await.unwrap_or(0), 0);
    // What the client sends now goes nowhere.
    socket.send(message(STDIN, b"rm -rf /")).await.unwrap();
    assert_eq!(backend.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_backend_that_breaks_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(server(listener.local_addr().unwrap()).await, V5).await;
    let mut socket = upgraded(client, V5).await;
    assert_eq!(bytes(&mut socket).await, [STDOUT]);
    drop(backend(&listener, V4).await);
    assert_eq!(status_of(&bytes(&mut socket).await)["status"], "Failure");
}

#[tokio::test]
async fn port_forward_travels_inside() {
    const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(server(listener.local_addr().unwrap()).await, PROTOCOL).await;
    let mut backend = backend(&listener, "portforward.k8s.io").await;
    let mut socket = upgraded(client, PROTOCOL).await;
    socket.send(Message::Binary(Bytes::from_static(b"ping"))).await.unwrap();
    let mut four = [0; 4];
    backend.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
    backend.write_all(b"pong").await.unwrap();
    assert_eq!(bytes(&mut socket).await, b"pong");
    drop(backend);
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
}

#[tokio::test]
async fn a_handshake_that_fails_leaves_no_tunnel() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = server(listener.local_addr().unwrap()).await;
    let mut client = TcpStream::connect(server).await.unwrap();
    let bad = handshake("SPDY/3.1+portforward.k8s.io").replace("Version: 13", "Version: 12");
    client.write_all(bad.as_bytes()).await.unwrap();
    let mut backend = backend(&listener, "portforward.k8s.io").await;
    assert!(read_head(&mut client).await.starts_with("http/1.1 400"));
    assert_eq!(backend.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_refused_tunnel_comes_back_unchanged() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = client(server(listener.local_addr().unwrap()).await, "SPDY/3.1+portforward.k8s.io").await;
    let (mut backend, _) = listener.accept().await.unwrap();
    read_head(&mut backend).await;
    backend.write_all(b"HTTP/1.1 404 Not Found\r\nX-Why: gone\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    let head = read_head(&mut client).await;
    assert!(head.starts_with("http/1.1 404") && head.contains("x-why: gone"), "{head}");
}

#[test]
fn streams_and_channels() {
    let names = |streams: Streams| streams.opened().into_iter().map(|(_, id, name)| (id, name)).collect::<Vec<_>>();
    assert_eq!(names(ALL), [(ERROR_ID, "error"), (STDIN_ID, "stdin"), (STDOUT_ID, "stdout"), (STDERR_ID, "stderr")]);
    let terminal = Streams { tty: true, ..ALL };
    assert_eq!(names(terminal), [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "resize")]);
    let opened = ALL.opened();
    assert_eq!(input(&[RESIZE, b'x'], &opened), None, "without a terminal");
    assert_eq!(input(&[STDOUT, b'x'], &opened), None, "not the client's to write");
    assert_eq!(input(&[CLOSE, STDOUT], &opened), None);
    assert_eq!(input(&[], &opened), None);
    assert_eq!(outcome(b"").status, "Success");
    assert_eq!(outcome(b"what?").code, 500);
}

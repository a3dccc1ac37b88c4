//! The front door under abuse: what is too deep, too large, too slow or too much is refused within the bounds of
//! `docs/limits.md`, and others are answered meanwhile.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use component_base::tls::{ClientTlsOptions, client_config};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use tests::{ControlPlane, Options};

type Stream = StreamOwned<ClientConnection, TcpStream>;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const IDLE_CONNECTIONS: usize = 1000;
const RESETS: u32 = 5000;
const PATIENCE: Duration = Duration::from_secs(60);

fn open(plane: &ControlPlane, protocol: &str) -> Stream {
    let read = |file: &str| std::fs::read(plane.path("pki").join(file)).unwrap();
    let config = client_config(&ClientTlsOptions {
        ca_pem: Some(read("ca.crt")),
        identity_pem: Some((read("admin.crt"), read("admin.key"))),
        alpn: vec![protocol.as_bytes().to_vec()],
        ..ClientTlsOptions::default()
    });
    let server = plane.raw().server;
    let address = server.trim_start_matches("https://");
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.set_write_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config.unwrap()), name).unwrap(), tcp);
    stream.conn.complete_io(&mut stream.sock).unwrap();
    stream
}

/// What an HTTP/1.1 request is answered with; `None` when the connection ends without an answer.
fn status(plane: &ControlPlane, head: &str, body: &[u8]) -> Option<u16> {
    let mut stream = open(plane, "http/1.1");
    // A server that has seen enough may close before all is sent.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(b"\r\n\r\n"))
        .and_then(|()| stream.write_all(body));
    let mut line = [0; 12];
    stream.read_exact(&mut line).ok()?;
    std::str::from_utf8(&line).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

fn post(length: usize, more: &str) -> String {
    format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}{more}"
    )
}

/// A request that is taken back at once, many times over; whether the server ends the connection for it.
fn resets_end_the_connection(plane: &ControlPlane) -> bool {
    const GOAWAY: u8 = 7;
    let mut stream = open(plane, "h2");
    let frame = |kind: u8, flags: u8, id: u32, payload: &[u8]| {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(id.to_be_bytes());
        frame.extend(payload);
        frame
    };
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    // GET, https, a path and an authority, all in one frame that also ends the request.
    let mut request = vec![0x82, 0x87, 0x04, 7];
    request.extend(b"/readyz");
    request.extend([0x01, 1, b'x']);
    for id in (1..2 * RESETS).step_by(2) {
        sent.extend(frame(1, 0b101, id, &request));
        sent.extend(frame(3, 0, id, &8_u32.to_be_bytes()));
    }
    let mut ended = stream.write_all(&sent).is_err();
    let mut head = [0; 9];
    while !ended {
        ended = match stream.read_exact(&mut head) {
            Ok(()) if head[3] == GOAWAY => true,
            Ok(()) => {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                stream.read_exact(&mut vec![0; length]).is_err()
            }
            // Silence is no end.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(_) => true,
        };
    }
    ended
}

#[test]
fn abuse_is_refused_and_others_are_answered() {
    let plane = ControlPlane::start(Options::default());
    let answered = |what: &str| {
        let answer = plane.raw().get("/api/v1/namespaces/default");
        assert!(answer.is_ok(), "{what}: {answer:?}");
    };
    let deep = "[".repeat(100_000);
    assert_eq!(status(&plane, &post(deep.len(), ""), deep.as_bytes()), Some(400), "deep JSON");
    let large = vec![b' '; 4 << 20];
    assert_eq!(status(&plane, &post(1 << 30, ""), &large), Some(413), "a large body");
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let refused = status(&plane, &post(gzip.len(), "\r\nContent-Encoding: gzip"), &gzip);
    assert!(matches!(refused, Some(400 | 415)), "a compressed body: {refused:?}");
    let head = format!("GET /readyz HTTP/1.1\r\nHost: x\r\nX-Large: {}", "x".repeat(4 << 20));
    assert!(matches!(status(&plane, &head, &[]), Some(431) | None), "a large head");
    answered("after requests that are too large");
    assert!(resets_end_the_connection(&plane), "rapid resets");
    answered("after rapid resets");
    let mut idle: Vec<Stream> = (0..IDLE_CONNECTIONS).map(|_| open(&plane, "http/1.1")).collect();
    for half in idle.iter_mut().take(IDLE_CONNECTIONS / 2) {
        half.write_all(b"GET /readyz HT").unwrap();
    }
    answered("with a thousand idle connections");
}

use super::*;
use http_body_util::{BodyExt, Empty};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::tls::{ClientTlsOptions, ServerTlsOptions, client_config};

async fn hello(request: Request<Incoming>) -> Result<Response<Body>, std::convert::Infallible> {
    let info = request.extensions().get::<ConnInfo>().unwrap();
    let text = format!("{:?} tls={} {}", request.version(), info.tls, info.peer.ip());
    Ok(Response::new(full(text)))
}

fn start(tls: Option<ServerTls>, limits: Limits) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let server = Server::bind("127.0.0.1".parse().unwrap(), 0).unwrap().limits(limits);
    let (addr, shutdown) = (server.local_addr(), CancellationToken::new());
    let task = tokio::spawn(server.serve(tls, service_fn(hello), shutdown.clone()));
    (addr, shutdown, task)
}

async fn get_tls(addr: SocketAddr, alpn: &str) -> String {
    let options = ClientTlsOptions {
        insecure_skip_verify: true,
        alpn: vec![alpn.as_bytes().to_vec()],
        ..ClientTlsOptions::default()
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(&options).unwrap()));
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, TcpStream::connect(addr).await.unwrap()).await.unwrap();
    let request = Request::get("https://localhost/x").body(Empty::<Bytes>::new()).unwrap();
    let response = if alpn == "h2" {
        let (mut send, conn) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(conn);
        send.send_request(request).await.unwrap()
    } else {
        let (mut send, conn) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(conn);
        send.send_request(request).await.unwrap()
    };
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn serves_both_protocols_and_plain_http() {
    let tls = ServerTls::self_signed(&["localhost".to_owned()], ServerTlsOptions::default()).unwrap();
    let (addr, shutdown, task) = start(Some(tls), Limits::default());
    assert_eq!(get_tls(addr, "h2").await, "HTTP/2.0 tls=true 127.0.0.1");
    assert_eq!(get_tls(addr, "http/1.1").await, "HTTP/1.1 tls=true 127.0.0.1");
    shutdown.cancel();
    task.await.unwrap();

    let (addr, shutdown, task) = start(None, Limits::default());
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("HTTP/1.1 tls=false 127.0.0.1"), "{text}");
    shutdown.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_stalled_handshakes() {
    let tls = ServerTls::self_signed(&["localhost".to_owned()], ServerTlsOptions::default()).unwrap();
    let limits = Limits { handshake_timeout: Duration::from_millis(50), ..Limits::default() };
    let (addr, shutdown, task) = start(Some(tls), limits);
    let mut stalled = TcpStream::connect(addr).await.unwrap();
    let mut byte = [0u8; 1];
    assert_eq!(stalled.read(&mut byte).await.unwrap_or(0), 0);
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_is_explained() {
    let server = Server::bind("127.0.0.1".parse().unwrap(), 0).unwrap();
    let error = Server::bind("127.0.0.1".parse().unwrap(), server.local_addr().port()).unwrap_err();
    assert!(matches!(error, BindError::InUse(_)), "{error}");
}

#[tokio::test]
async fn shutdown_lets_requests_finish_and_refuses_new_ones() {
    let (entered, release) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (enter, wait) = (Arc::clone(&entered), Arc::clone(&release));
    let service = service_fn(move |_: Request<Incoming>| {
        let (enter, wait) = (Arc::clone(&enter), Arc::clone(&wait));
        async move {
            enter.notify_one();
            wait.notified().await;
            Ok::<_, std::convert::Infallible>(Response::new(full("done")))
        }
    });
    let server = Server::bind("127.0.0.1".parse().unwrap(), 0).unwrap();
    let (addr, shutdown) = (server.local_addr(), CancellationToken::new());
    let task = tokio::spawn(server.serve(None, service, shutdown.clone()));
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut send, conn) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(conn);
    let request = Request::get("http://localhost/").body(Empty::<Bytes>::new()).unwrap();
    let answer = tokio::spawn(send.send_request(request));
    entered.notified().await;
    shutdown.cancel();
    // The listener is gone as soon as the loop has seen the token; the request still runs.
    let refused = async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap();
    assert!(!task.is_finished());
    release.notify_one();
    let body = answer.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "done");
    tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_finish_is_cut_when_the_drain_is_over() {
    let service = service_fn(|_: Request<Incoming>| std::future::pending::<Result<Response<Body>, std::io::Error>>());
    let limits = Limits { drain: Duration::from_millis(50), ..Limits::default() };
    let server = Server::bind("127.0.0.1".parse().unwrap(), 0).unwrap().limits(limits);
    let (addr, shutdown) = (server.local_addr(), CancellationToken::new());
    let task = tokio::spawn(server.serve(None, service, shutdown.clone()));
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
}

#[tokio::test]
async fn upgrades_work() {
    let service = service_fn(|mut request: Request<Incoming>| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut bytes = [0u8; 4];
            io.read_exact(&mut bytes).await.unwrap();
            bytes.reverse();
            io.write_all(&bytes).await.unwrap();
        });
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
        Ok::<_, std::convert::Infallible>(response.body(full("")).unwrap())
    });
    let server = Server::bind("127.0.0.1".parse().unwrap(), 0).unwrap();
    let (addr, shutdown) = (server.local_addr(), CancellationToken::new());
    tokio::spawn(server.serve(None, service, shutdown.clone()));
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = b"GET /exec HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    stream.write_all(b"abcd").await.unwrap();
    let mut echoed = [0u8; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"dcba");
    shutdown.cancel();
}

#[tokio::test]
async fn no_more_connections_than_allowed_are_served_at_once() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let (addr, _shutdown, _task) = start(None, limits);
    let mut first = TcpStream::connect(addr).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut byte = [0u8; 1];
    first.read_exact(&mut byte).await.unwrap();
    let mut second = TcpStream::connect(addr).await.unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(200), second.read_exact(&mut byte)).await;
    assert!(waiting.is_err(), "the second connection waits in the kernel's queue");
    drop(first);
    tokio::time::timeout(Duration::from_secs(5), second.read_exact(&mut byte)).await.unwrap().unwrap();
}

//! Against a real server with an authority of its own.

use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::objects::fake::Fake;

/// What a test server answers to a request's path and document.
pub(crate) type Answer = fn(&str, &Value) -> (u16, Value);

/// A webhook server that lives as long as the test's runtime.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) ca_bundle: String,
    pub(crate) connections: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) async fn start(names: &[&str], answer: Answer, http2: bool) -> Self {
        Self::start_with(names, move |path, asked, _| answer(path, asked), http2).await
    }

    /// With an answer that knows the server's port.
    pub(crate) async fn start_with(
        names: &[&str],
        answer: impl Fn(&str, &Value, u16) -> (u16, Value) + Send + Sync + 'static,
        http2: bool,
    ) -> Self {
        let answer = Arc::new(answer);
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &Issuer::new(params, ca_key)).unwrap();
        let options = component_base::tls::ServerTlsOptions::default();
        let tls =
            component_base::tls::ServerTls::from_pem(leaf.pem().as_bytes(), key.serialize_pem().as_bytes(), options);
        let mut config = (*tls.unwrap().config()).clone();
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(move |request: http::Request<Incoming>| {
                        let answer = Arc::clone(&answer);
                        async move {
                            let path = request.uri().path().to_owned();
                            let body = request.into_body().collect().await?.to_bytes();
                            let asked = serde_json::from_slice(&body).unwrap_or_default();
                            if path == "/never" {
                                std::future::pending::<()>().await;
                            }
                            let (code, answer) = answer(&path, &asked, port);
                            let body = Full::new(Bytes::from(answer.to_string()));
                            let response =
                                http::Response::builder().status(code).header("location", "/echo").body(body);
                            Ok::<_, hyper::Error>(response.unwrap())
                        }
                    });
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let ca_bundle = base64::engine::general_purpose::STANDARD.encode(ca.pem());
        Self { port, ca_bundle, connections }
    }

    /// A kubeconfig in `dir` that leads to a path of it.
    pub(crate) fn kubeconfig(&self, dir: &Path, path: &str) -> std::path::PathBuf {
        let (port, ca) = (self.port, &self.ca_bundle);
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("https://localhost:{port}{path}"), "certificate-authority-data": ca}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "users": [{"name": "u", "user": {}}]});
        let file = dir.join("webhook.kubeconfig");
        std::fs::write(&file, config.to_string()).unwrap();
        file
    }

    pub(crate) fn url(&self, path: &str) -> Value {
        json!({"url": format!("https://localhost:{}{path}", self.port), "caBundle": self.ca_bundle})
    }
}

fn echo(path: &str, asked: &Value) -> (u16, Value) {
    match path {
        "/echo" => (200, asked.clone()),
        "/moved" => (302, json!({})),
        _ => (500, json!("broken")),
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn calls_over_verified_tls() {
    for http2 in [false, true] {
        let server = Server::start(&["localhost"], echo, http2).await;
        let client = Client::new(Arc::new(Fake::default()));
        let config = ClientConfig::parse(&server.url("/echo")).unwrap();
        for n in 0..3 {
            assert_eq!(client.call(&config, &json!({"n": n}), 10 * SECOND).await, Ok(json!({"n": n})));
        }
        assert_eq!(server.connections.load(Ordering::SeqCst), 1);
        for path in ["/moved", "/broken"] {
            let config = ClientConfig::parse(&server.url(path)).unwrap();
            assert!(
                matches!(client.call(&config, &json!({}), 10 * SECOND).await, Err(CallError::Answer { .. })),
                "{path}"
            );
        }
        let never = ClientConfig::parse(&server.url("/never")).unwrap();
        let short = Duration::from_millis(50);
        assert!(matches!(client.call(&never, &json!({}), short).await, Err(CallError::Timeout { .. })));
        let other = Server::start(&["localhost"], echo, http2).await;
        let mut wrong = server.url("/echo");
        wrong["caBundle"] = json!(other.ca_bundle);
        let wrong = ClientConfig::parse(&wrong).unwrap();
        assert!(matches!(client.call(&wrong, &json!({}), 10 * SECOND).await, Err(CallError::Unreachable { .. })));
    }
}

#[tokio::test]
async fn services_by_name() {
    let service =
        json!({"metadata": {"namespace": "ns", "name": "hook"}, "spec": {"ports": [{"name": "https", "port": 443}]}});
    let slice = json!({"metadata": {"namespace": "ns", "name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "ports": [{"name": "https", "port": 8443}], "endpoints": [{"addresses": ["10.1.2.3"]}]});
    let cluster = Fake::default().with(("", "services"), service).with(("discovery.k8s.io", "endpointslices"), slice);
    let client = Client::new(Arc::new(cluster));
    let config =
        |name: &str| ClientConfig::parse(&json!({"service": {"namespace": "ns", "name": name, "path": "/x"}})).unwrap();
    let target = client.locate(&config("hook"), Some(5 * SECOND)).await.unwrap();
    assert_eq!(
        (target.address.as_str(), target.server_name.as_str(), target.call.as_str()),
        ("10.1.2.3:8443", "hook.ns.svc", "Post \"https://hook.ns.svc:443/x?timeout=5s\"")
    );
    assert!(matches!(client.locate(&config("nope"), Some(SECOND)).await, Err(CallError::Unreachable { .. })));
    assert!(ClientConfig::parse(&json!({})).is_err());
}

//! Over real TLS: who is trusted, what changes on disk, what breaks.

use std::convert::Infallible;
use std::path::Path;

use component_base::serving::{Body, ConnInfo, Server, full, service_fn};
use component_base::tls::{ClientCa, ServerTls, ServerTlsOptions};
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{Client, ClientConfig, resources::PODS};

struct Authority {
    pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

fn authority() -> Authority {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { pem, issuer: rcgen::Issuer::new(params, key) }
}

impl Authority {
    fn leaf(&self, common_name: &str, name: &str, year: i32) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Answers who the client is, by certificate and by token.
fn serve(authority: &Authority, name: &str, year: i32, port: u16) -> (u16, CancellationToken) {
    let ca = ClientCa::from_pem(authority.pem.as_bytes()).unwrap();
    let (cert, key) = authority.leaf("kube-apiserver", name, year);
    let options = ServerTlsOptions { client_ca: Some(ca.clone()), ..ServerTlsOptions::default() };
    let tls = ServerTls::from_pem(cert.as_bytes(), key.as_bytes(), options).unwrap();
    let server = Server::bind("127.0.0.1".parse().unwrap(), port).unwrap();
    let (port, shutdown) = (server.local_addr().port(), CancellationToken::new());
    let service = service_fn(move |request: Request<Incoming>| {
        let conn = request.extensions().get::<ConnInfo>().unwrap();
        let user = ca.verify(&conn.peer_certs, jiff::Timestamp::now()).map(|peer| peer.common_name).unwrap_or_default();
        let token = request.headers().get("authorization").map(|t| t.to_str().unwrap().to_owned());
        let body = json!({"user": user, "token": token}).to_string();
        async move { Ok::<_, Infallible>(Response::<Body>::new(full(body))) }
    });
    tokio::spawn(server.serve(Some(tls), service, shutdown.clone()));
    (port, shutdown)
}

fn write(dir: &Path, name: &str, content: &str) -> Option<Material> {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    Some(Material::File(path))
}

fn client(access: Access) -> Client {
    Client::new(ClientConfig::with_access(access, "test")).unwrap()
}

async fn whoami(client: &Client) -> Result<Value, ClientError> {
    client.get(&PODS, Some("x"), "whoami").await
}

#[tokio::test]
async fn what_is_wrong_with_the_server_is_said() {
    let (ours, theirs) = (authority(), authority());
    let ask = async |access: Access| whoami(&client(access)).await.unwrap_err().to_string();
    let access = |port: u16, ca: &Authority| Access {
        server: format!("https://localhost:{port}"),
        ca: Some(Material::Inline(ca.pem.clone().into_bytes())),
        ..Access::default()
    };
    let (port, _stop) = serve(&ours, "localhost", 2090, 0);
    assert!(whoami(&client(access(port, &ours))).await.is_ok());
    let words = ask(access(port, &theirs)).await;
    assert!(words.contains("wrong CA file or wrong server"), "{words}");
    let (port, _stop) = serve(&ours, "elsewhere", 2090, 0);
    let words = ask(access(port, &ours)).await;
    assert!(words.contains("for other names"), "{words}");
    let renamed = Access { tls_server_name: Some("elsewhere".into()), ..access(port, &ours) };
    assert!(whoami(&client(renamed)).await.is_ok());
    let (port, _stop) = serve(&ours, "localhost", 2001, 0);
    let words = ask(access(port, &ours)).await;
    assert!(words.contains("has expired"), "{words}");
    let trusting = Access { insecure_skip_tls_verify: true, ca: None, ..access(port, &ours) };
    assert!(whoami(&client(trusting)).await.is_ok());
}

#[tokio::test]
async fn changed_credential_files_are_used() {
    let ca = authority();
    let dir = tempfile::tempdir().unwrap();
    let (port, _stop) = serve(&ca, "localhost", 2090, 0);
    let put = |name: &str| {
        let (cert, key) = ca.leaf(name, "client", 2090);
        (write(dir.path(), "crt", &cert), write(dir.path(), "key", &key), write(dir.path(), "token", name))
    };
    let (certificate, key, token) = put("alice");
    let access = Access {
        server: format!("https://localhost:{port}"),
        ca: Some(Material::Inline(ca.pem.clone().into_bytes())),
        certificate,
        key,
        token,
        ..Access::default()
    };
    let client = client(access);
    assert_eq!(whoami(&client).await.unwrap(), json!({"user": "alice", "token": "Bearer alice"}));
    put("bob");
    for name in ["crt", "key", "token"] {
        let file = std::fs::File::options().write(true).open(dir.path().join(name)).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
    }
    // The files are looked at each ten seconds; this test does not wait for them.
    client.look_at_files_again().await;
    assert_eq!(whoami(&client).await.unwrap(), json!({"user": "bob", "token": "Bearer bob"}));
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let ca = authority();
    let (port, stop) = serve(&ca, "localhost", 2090, 0);
    let access = Access {
        server: format!("https://localhost:{port}"),
        ca: Some(Material::Inline(ca.pem.clone().into_bytes())),
        ..Access::default()
    };
    let client = client(access);
    whoami(&client).await.unwrap();
    stop.cancel();
    let gone = async {
        while whoami(&client).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    let (_, _stop) = serve(&ca, "localhost", 2090, port);
    whoami(&client).await.unwrap();
}

#[tokio::test]
async fn unreadable_credentials_are_named_at_start() {
    let access = Access {
        server: "https://localhost:1".into(),
        ca: Some(Material::File("/does/not/exist.crt".into())),
        ..Access::default()
    };
    let error = Client::new(ClientConfig::with_access(access, "test")).unwrap_err().to_string();
    assert!(error.contains("/does/not/exist.crt"), "{error}");
    let access = Access { server: "localhost:6443".into(), ..Access::default() };
    assert!(Client::new(ClientConfig::with_access(access, "test")).unwrap_err().to_string().contains("is no URL"));
}

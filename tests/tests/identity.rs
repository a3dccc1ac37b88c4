//! Who a caller is: tokens of an OpenID issuer, and certificates that change under a running server.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use pki::key::{Algorithm, PrivateKey};
use pki::token_keys::Signer;
use serde_json::{Value, json};
use tests::{ControlPlane, Options, Peer, Process, eventually, free_port, output};

/// The name and groups under which a server knows the caller, or the status with which it sends it away.
fn who(plane: &ControlPlane, server: &str, credentials: &[&str]) -> Result<(String, BTreeSet<String>), String> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--http1.1", "--max-time", "10", "--cacert"]).arg(plane.path("pki/ca.crt")).args(credentials);
    curl.args(["-H", "Content-Type: application/json", "--data", &review]);
    curl.arg(format!("{server}/apis/authentication.k8s.io/v1/selfsubjectreviews"));
    let answer: Value = serde_json::from_str(&output(&mut curl)?).map_err(|error| error.to_string())?;
    let user = &answer["status"]["userInfo"];
    let name = user["username"].as_str().ok_or_else(|| answer["code"].to_string())?;
    let groups = user["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok((name.to_owned(), groups.map(str::to_owned).collect()))
}

/// An issuer whose documents are files, and the server that shows them.
struct Issuer {
    dir: PathBuf,
    url: String,
    _server: Process,
}

impl Issuer {
    fn start(plane: &ControlPlane) -> Self {
        let (dir, port) = (plane.path("issuer"), free_port());
        std::fs::create_dir_all(dir.join(".well-known")).unwrap();
        let url = format!("https://127.0.0.1:{port}");
        let document = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
        std::fs::write(dir.join(".well-known/openid-configuration"), document.to_string()).unwrap();
        let mut server = Command::new("openssl");
        server.args(["s_server", "-WWW", "-quiet", "-accept", &port.to_string(), "-cert"]);
        server.arg(plane.path("pki/apiserver.crt")).arg("-key").arg(plane.path("pki/apiserver.key"));
        let process = Process::start(server.current_dir(&dir), &plane.path("issuer.log"));
        Self { dir, url, _server: process }
    }

    fn key(&self, name: &str, algorithm: Algorithm) -> Signer {
        let path = self.dir.join(name);
        std::fs::write(&path, PrivateKey::generate(algorithm).unwrap().to_pem()).unwrap();
        Signer::read("--key", &path).unwrap()
    }

    fn publish(&self, keys: &[&Signer]) {
        let set = json!({"keys": keys.iter().map(|key| key.public.jwk()).collect::<Vec<_>>()});
        let new = self.dir.join("keys.new");
        std::fs::write(&new, set.to_string()).unwrap();
        std::fs::rename(new, self.dir.join("keys")).unwrap();
    }

    fn token(&self, key: &Signer, change: &Value) -> String {
        let now = jiff::Timestamp::now().as_second();
        let mut claims = json!({"iss": self.url, "aud": "cluster", "sub": "jane", "groups": ["dev", "ops"],
            "iat": now - 10, "exp": now + 3600});
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        format!("Authorization: Bearer {}", key.sign(&claims).unwrap())
    }
}

#[test]
fn tokens_of_an_openid_issuer() {
    let plane = ControlPlane::start(Options::default());
    let issuer = Issuer::start(&plane);
    let peer = plane.start_peer(
        "openid",
        &[
            format!("--oidc-issuer-url={}", issuer.url),
            "--oidc-client-id=cluster".to_owned(),
            format!("--oidc-ca-file={}", plane.path("pki/ca.crt").display()),
            "--oidc-username-prefix=o:".to_owned(),
            "--oidc-groups-claim=groups".to_owned(),
            "--oidc-groups-prefix=team-".to_owned(),
            "--oidc-signing-algs=RS256,ES256".to_owned(),
        ],
    );
    let ask = |token: &str| who(&plane, &peer.server, &["-H", token]);
    let (rsa, curve) = (issuer.key("rsa", Algorithm::Rsa2048), issuer.key("curve", Algorithm::EcdsaP256));
    issuer.publish(&[&rsa, &curve]);

    // Signed either way, the claims are the user.
    let jane = ("o:jane".to_owned(), ["system:authenticated", "team-dev", "team-ops"].map(str::to_owned).into());
    for key in [&rsa, &curve] {
        let known = eventually("the issuer's keys", || ask(&issuer.token(key, &json!({}))));
        assert_eq!(known, jane);
    }
    // What is not for this cluster, over, not begun, of somebody else or changed is nobody's.
    let now = jiff::Timestamp::now().as_second();
    let refused = [
        json!({"aud": "another"}),
        json!({"exp": now - 5}),
        json!({"nbf": now + 600}),
        json!({"iss": "https://127.0.0.1:1"}),
        json!({"sub": null}),
    ];
    for change in refused {
        assert_eq!(ask(&issuer.token(&rsa, &change)), Err("401".to_owned()), "{change}");
    }
    let token = issuer.token(&rsa, &json!({}));
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", signature.chars().rev().collect::<String>());
    assert_eq!(ask(&forged), Err("401".to_owned()));

    // A key that nobody published is no key until the issuer turns to it.
    let next = issuer.key("next", Algorithm::EcdsaP256);
    let token = issuer.token(&next, &json!({}));
    assert_eq!(ask(&token), Err("401".to_owned()));
    issuer.publish(&[&next]);
    assert_eq!(eventually("the new key", || ask(&token)), jane);
}

/// A peer whose own copies of a few files can be changed.
struct Changing<'p> {
    plane: &'p ControlPlane,
    dir: PathBuf,
}

impl Changing<'_> {
    /// In one step, as those do it who know that a server is looking.
    fn put(&self, name: &str, text: &str) -> String {
        let (new, path) = (self.dir.join("new"), self.dir.join(name));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &path).unwrap();
        path.display().to_string()
    }

    fn pki(&self, file: &str) -> String {
        std::fs::read_to_string(self.plane.path("pki").join(file)).unwrap()
    }

    fn encrypt_with(&self, provider: &Value) -> String {
        let resources = json!([{"resources": ["configmaps"], "providers": [provider, {"identity": {}}]}]);
        let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": resources});
        self.put("encryption.yaml", &config.to_string())
    }

    fn start(&self) -> Peer {
        let flag = |name: &str, path: String| format!("--{name}={path}");
        let flags = [
            flag("tls-cert-file", self.put("tls.crt", &self.pki("apiserver.crt"))),
            flag("tls-private-key-file", self.put("tls.key", &self.pki("apiserver.key"))),
            flag("client-ca-file", self.put("clients.crt", &self.pki("ca.crt"))),
            flag("encryption-provider-config", self.encrypt_with(&json!({"identity": {}}))),
            "--encryption-provider-config-automatic-reload=true".to_owned(),
        ];
        self.plane.start_peer("changing", &flags)
    }
}

fn shown_certificate(server: &str) -> Result<String, String> {
    let address = server.trim_start_matches("https://");
    let shown = output(Command::new("sh").args(["-c", &format!("openssl s_client -connect {address} </dev/null")]))?;
    let begin = shown.find("-----BEGIN").ok_or("no certificate")?;
    let end = shown.find("-----END CERTIFICATE-----").ok_or("no certificate")?;
    Ok(shown[begin..end].to_owned())
}

#[test]
fn files_change_under_a_running_server() {
    let plane = ControlPlane::start(Options::default());
    let files = Changing { plane: &plane, dir: plane.path("changing") };
    std::fs::create_dir_all(&files.dir).unwrap();
    let peer = files.start();

    // The certificate that is shown.
    let shows = |file: &str| match shown_certificate(&peer.server) {
        Ok(shown) if files.pki(file).starts_with(&shown) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    assert_eq!(shows("apiserver.crt"), Ok(()));
    files.put("tls.crt", &files.pki("scheduler-serving.crt"));
    files.put("tls.key", &files.pki("scheduler-serving.key"));
    eventually("the new serving certificate", || shows("scheduler-serving.crt"));
    files.put("tls.crt", &files.pki("apiserver.crt"));
    files.put("tls.key", &files.pki("apiserver.key"));
    eventually("the first serving certificate", || shows("apiserver.crt"));

    // Whose certificates are believed.
    let pki = |file: &str| plane.path("pki").join(file).display().to_string();
    let (cert, key) = (pki("front-proxy-client.crt"), pki("front-proxy-client.key"));
    let ask = || who(&plane, &peer.server, &["--cert", &cert, "--key", &key]);
    assert!(ask().is_err(), "of an authority that is none here");
    files.put("clients.crt", &[files.pki("ca.crt"), files.pki("front-proxy-ca.crt")].concat());
    assert_eq!(eventually("the new client authority", ask).0, "front-proxy-client");

    // How new objects lie in etcd.
    let make = |name: &str| plane.kubectl(&["--server", &peer.server, "create", "configmap", name, "-n", "default"]);
    let stored = |name: &str| plane.stored(&format!("/registry/configmaps/default/{name}"));
    make("plain").unwrap();
    assert!(stored("plain").contains("\"plain\""), "{}", stored("plain"));
    let secret = base64::engine::general_purpose::STANDARD.encode([7; 32]);
    files.encrypt_with(&json!({"secretbox": {"keys": [{"name": "k1", "secret": secret}]}}));
    let mut number = 0;
    eventually("encryption", || {
        number += 1;
        let name = format!("sealed-{number}");
        make(&name)?;
        let stored = stored(&name);
        if stored.starts_with("k8s:enc:secretbox:v1:k1:") { Ok(()) } else { Err(stored) }
    });
    let read = plane.kubectl(&["--server", &peer.server, "get", "configmaps", "-n", "default", "-o", "name"]).unwrap();
    assert!(read.contains("configmap/plain") && read.contains(&format!("configmap/sealed-{number}")), "{read}");
}

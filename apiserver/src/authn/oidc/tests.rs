//! Against an issuer of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use pki::token_keys::Signer;
use serde_json::json;

use super::*;
use crate::webhook::tests::Server;

const NOW: i64 = 1_800_000_000;
const NO_PAUSE: Duration = Duration::ZERO;

fn signer() -> Signer {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    Signer::read("--x", &path).unwrap()
}

/// An issuer: its server, and whose keys it publishes.
struct World {
    server: Server,
    keys: Arc<std::sync::Mutex<Vec<Value>>>,
    fetched: Arc<AtomicUsize>,
}

impl World {
    async fn start() -> Self {
        let keys: Arc<std::sync::Mutex<Vec<Value>>> = Arc::default();
        let fetched: Arc<AtomicUsize> = Arc::default();
        let (published, counted) = (Arc::clone(&keys), Arc::clone(&fetched));
        let answer = move |asked: &str, _: &Value, port: u16| match asked {
            "/.well-known/openid-configuration" => {
                let issuer = format!("https://localhost:{port}");
                (200, json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys?p=1")}))
            }
            "/keys" => {
                counted.fetch_add(1, Ordering::SeqCst);
                (200, json!({"keys": *published.lock().unwrap()}))
            }
            _ => (404, Value::Null),
        };
        Self { server: Server::start_with(&["localhost"], answer, false).await, keys, fetched }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.server.port)
    }

    fn issuer(&self) -> Issuer {
        Issuer {
            url: self.url(),
            audiences: vec!["client".into()],
            ca_pem: base64::engine::general_purpose::STANDARD.decode(&self.server.ca_bundle).ok(),
            algorithms: vec!["ES256".into()],
            username: Mapping { claim: "sub".into(), prefix: "i:".into() },
            ..Issuer::default()
        }
    }

    fn claims(&self) -> Value {
        json!({"iss": self.url(), "sub": "alice", "aud": ["other", "client"], "exp": NOW + 60})
    }

    fn publish(&self, signers: &[&Signer]) {
        *self.keys.lock().unwrap() = signers.iter().map(|signer| signer.public.jwk()).collect();
    }
}

fn changed(mut claims: Value, field: &str, value: Value) -> Value {
    claims[field] = value;
    claims
}

#[tokio::test]
async fn keys_are_found_and_follow_the_issuer() {
    let world = World::start().await;
    let (first, second, stranger) = (signer(), signer(), signer());
    world.publish(&[&first]);
    let oidc = Oidc::with_pause(world.issuer(), NO_PAUSE);
    let token = |signer: &Signer| signer.sign(&world.claims()).unwrap();
    for _ in 0..3 {
        let identity = oidc.authenticate(&token(&first), NOW).await.unwrap().unwrap();
        assert_eq!((identity.user.name.as_str(), identity.audiences.len()), ("i:alice", 0));
    }
    assert_eq!(world.fetched.load(Ordering::SeqCst), 1);
    // Rotation: an unknown key makes it look again.
    world.publish(&[&first, &second]);
    assert!(oidc.authenticate(&token(&second), NOW).await.is_ok());
    assert_eq!(world.fetched.load(Ordering::SeqCst), 2);
    assert!(oidc.authenticate(&token(&stranger), NOW).await.is_err());
    // Another issuer's tokens are somebody else's business, as is what is no JWT.
    let foreign = changed(world.claims(), "iss", json!("https://elsewhere"));
    assert_eq!(oidc.authenticate(&first.sign(&foreign).unwrap(), NOW).await.unwrap(), None);
    assert_eq!(oidc.authenticate("opaque", NOW).await.unwrap(), None);
}

#[tokio::test]
async fn forged_tokens_do_not_become_requests() {
    let world = World::start().await;
    world.publish(&[&signer()]);
    let oidc = Oidc::with_pause(world.issuer(), Duration::from_secs(3600));
    for _ in 0..5 {
        assert!(oidc.authenticate(&signer().sign(&world.claims()).unwrap(), NOW).await.is_err());
    }
    assert_eq!(world.fetched.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_issuer_that_says_it_is_another_one() {
    let world = World::start().await;
    let key = signer();
    world.publish(&[&key]);
    let mut issuer = world.issuer();
    issuer.discovery_url = Some(format!("{}{WELL_KNOWN}", world.url()));
    issuer.url = "https://other".into();
    let oidc = Oidc::with_pause(issuer, NO_PAUSE);
    let claims = changed(world.claims(), "iss", json!("https://other"));
    let Refused(why) = oidc.authenticate(&key.sign(&claims).unwrap(), NOW).await.unwrap_err();
    assert!(why.contains("says that it is the issuer"), "{why}");
}

#[tokio::test]
async fn what_is_refused() {
    let world = World::start().await;
    let key = signer();
    world.publish(&[&key]);
    let oidc = Oidc::with_pause(world.issuer(), NO_PAUSE);
    let cases = [
        ("aud", json!("somebody"), "it is for"),
        ("exp", json!(NOW - 1), "expired"),
        ("exp", Value::Null, "expired"),
        ("nbf", json!(NOW + 61), "not valid yet"),
        ("sub", json!(7), "no text"),
    ];
    for (field, value, expected) in cases {
        let token = key.sign(&changed(world.claims(), field, value)).unwrap();
        let Refused(why) = oidc.authenticate(&token, NOW).await.unwrap_err();
        assert!(why.contains(expected), "{field}: {why}");
    }
    let early = key.sign(&changed(world.claims(), "nbf", json!(NOW + 60))).unwrap();
    assert!(oidc.authenticate(&early, NOW).await.is_ok());
    let rsa_only = Issuer { algorithms: vec!["RS256".into()], ..world.issuer() };
    let oidc = Oidc::with_pause(rsa_only, NO_PAUSE);
    let Refused(why) = oidc.authenticate(&key.sign(&world.claims()).unwrap(), NOW).await.unwrap_err();
    assert!(why.contains("not allowed"), "{why}");
}

#[test]
fn users() {
    let mapping = |claim: &str, prefix: &str| Mapping { claim: claim.into(), prefix: prefix.into() };
    let issuer = Issuer {
        username: mapping("email", ""),
        groups: Some(mapping("roles", "r:")),
        uid_claim: Some("id".into()),
        required: [("hd".to_owned(), "example.com".to_owned())].into(),
        ..Issuer::default()
    };
    let base = json!({"email": "a@example.com", "id": "7", "hd": "example.com", "roles": ["x", "y"]});
    let user = |claims: Value| user_of(&issuer, &Claims(claims.as_object().unwrap().clone()));
    let alice = user(base.clone()).unwrap();
    assert_eq!(
        (alice.name.as_str(), alice.uid.as_str(), alice.groups.join("+")),
        ("a@example.com", "7", "r:x+r:y".into())
    );
    assert_eq!(user(changed(base.clone(), "roles", json!("x"))).unwrap().groups, ["r:x"]);
    assert!(user(changed(base.clone(), "email_verified", json!(true))).is_ok());
    let mut without = base.clone();
    without.as_object_mut().unwrap().remove("roles");
    assert!(user(without.clone()).unwrap().groups.is_empty());
    without["_claim_names"] = json!({"roles": "elsewhere"});
    assert!(user(without).is_err());
    for (field, value) in [
        ("email_verified", json!(false)),
        ("email_verified", json!("true")),
        ("hd", json!("example.org")),
        ("hd", json!(1)),
        ("id", Value::Null),
        ("roles", json!([1])),
    ] {
        assert!(user(changed(base.clone(), field, value.clone())).is_err(), "{field}={value}");
    }
}

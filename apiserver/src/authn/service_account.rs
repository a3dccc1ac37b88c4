//! Service-account tokens: signature, issuer, audience, time, and that everything the token is bound to still exists.
//!
//! Guarantees: a token dies with its service account, pod, secret or node, also when a new object takes the name (uids are
//! compared), at latest a minute after the deletion begins. Key files are read again when they change. A verified signature is
//! remembered as long as the keys stay the same; times and objects are looked at on every use.

use std::sync::Arc;
use std::time::Duration;

use component_base::reload::Reloading;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{AuthnConfig, ConfigError, Identity, Refused, TokenAuthenticator};
use crate::objects::{Objects, ResourceName, find};
use crate::remembered::Remembered;
use crate::tokens::claims::{LEGACY_ISSUER, LegacyClaims, user_info};
use crate::tokens::jwt::{Unverified, Verifier, check_times, common_audiences};
use crate::tokens::tracking::{self, Uses};
use crate::tokens::{self, BoundObject, Claims, KeyError, TokenSubject};

const MAX_REMEMBERED: usize = 8192;
/// An object whose deletion began this long ago no longer carries a token.
const DELETION_LEEWAY_SECONDS: i64 = 60;

/// As long as the keys stay the same.
const FOR_LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// The keys, and the claims whose signatures they verified, by the token's digest.
struct Keys {
    verifier: Verifier,
    verified: Remembered<[u8; 32], Arc<Claims>>,
}

/// Verifies service-account tokens.
pub struct ServiceAccounts {
    keys: Reloading<Keys>,
    issuers: Vec<String>,
    lookup: bool,
    objects: Arc<dyn Objects>,
    uses: Uses,
}

impl ServiceAccounts {
    /// Reads the key files. Uses of legacy tokens are noted.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn new(config: &AuthnConfig, objects: Arc<dyn Objects>, uses: Uses) -> Result<Self, ConfigError> {
        let files = config.service_account_key_files.clone();
        let load = {
            let files = files.clone();
            move || {
                let verifier = Verifier::read(tokens::KEYS, &files)?;
                Ok::<_, KeyError>(Keys { verifier, verified: Remembered::new(MAX_REMEMBERED) })
            }
        };
        Ok(Self {
            keys: Reloading::new("keys of service accounts", files, load)?,
            issuers: config.service_account_issuers.clone(),
            lookup: config.service_account_lookup,
            objects,
            uses,
        })
    }

    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Identity>, Refused> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let keys = self.keys.get();
        let claims = match keys.verified.get(&digest) {
            Some(claims) => claims,
            None => match self.verify(&keys.verifier, token).await? {
                Verified::NotMine => return Ok(None),
                Verified::Legacy(identity) => return Ok(Some(*identity)),
                Verified::Bound(claims) => {
                    keys.verified.insert(digest, Arc::clone(&claims), FOR_LONG);
                    claims
                }
            },
        };
        let refuse = |err: crate::tokens::JwtError| Refused(format!("service account token of {}: {err}", claims.sub));
        let now = Timestamp::now().as_second();
        check_times(&claims, now).map_err(refuse)?;
        let accepted = common_audiences(&claims.aud, audiences).map_err(refuse)?;
        let Some(subject) = &claims.kubernetes else {
            return Err(Refused("the service account token lacks its kubernetes.io claims".to_owned()));
        };
        let (namespace, account) = (&subject.namespace, &subject.serviceaccount);
        if claims.sub != crate::tokens::claims::user_name(namespace, &account.name) {
            return Err(Refused("the service account token's sub and claims differ".to_owned()));
        }
        if self.lookup {
            self.check_bound(subject, now).await?;
        }
        count("serviceaccount_valid_tokens_total", "Uses of tokens that are bound and end");
        if subject.warnafter.is_some_and(|after| now > after) {
            count(
                "serviceaccount_stale_tokens_total",
                "Uses of tokens whose client should have read a new one long ago",
            );
        }
        Ok(Some(Identity { user: user_info(namespace, account, Some(&claims)), audiences: accepted }))
    }

    /// Signature and issuer.
    async fn verify(&self, verifier: &Verifier, token: &str) -> Result<Verified, Refused> {
        let Ok(read) = Unverified::parse(token) else { return Ok(Verified::NotMine) };
        let Ok(claims) = read.claims::<Claims>() else { return Ok(Verified::NotMine) };
        let legacy = claims.iss == LEGACY_ISSUER;
        if !legacy && !self.issuers.contains(&claims.iss) {
            return Ok(Verified::NotMine);
        }
        verifier.verify(&read).map_err(|err| Refused(err.to_string()))?;
        if !legacy {
            return Ok(Verified::Bound(Arc::new(claims)));
        }
        let claims = read.claims::<LegacyClaims>().map_err(|err| Refused(err.to_string()))?;
        self.check_legacy(token, &claims).await.map(|identity| Verified::Legacy(Box::new(identity)))
    }

    async fn check_bound(&self, subject: &TokenSubject, now: i64) -> Result<(), Refused> {
        let namespace = &subject.namespace;
        self.alive(("", "serviceaccounts"), namespace, &subject.serviceaccount, now).await?;
        if let Some(secret) = &subject.secret {
            self.alive(("", "secrets"), namespace, secret, now).await?;
        }
        if let Some(pod) = &subject.pod {
            self.alive(("", "pods"), namespace, pod, now).await?;
        } else if let Some(node) = &subject.node {
            self.alive(("", "nodes"), "", node, now).await?;
        }
        Ok(())
    }

    async fn alive(
        &self,
        resource: ResourceName<'_>,
        namespace: &str,
        bound: &BoundObject,
        now: i64,
    ) -> Result<(), Refused> {
        let what = || format!("{} {namespace}/{}", resource.1, bound.name);
        let found = find(&*self.objects, resource, namespace, &bound.name).await;
        let found = found.map_err(|err| Refused(format!("cannot read {}: {err}", what())))?;
        let Some(object) = found else { return Err(Refused(format!("{} of the token is gone", what()))) };
        if object["metadata"]["uid"].as_str() != Some(&bound.uid) {
            return Err(Refused(format!("{} was made anew since the token was issued", what())));
        }
        let deleted = object["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
        if deleted.is_some_and(|t| t.as_second() < now - DELETION_LEEWAY_SECONDS) {
            return Err(Refused(format!("{} of the token is being deleted", what())));
        }
        Ok(())
    }

    async fn check_legacy(&self, token: &str, claims: &LegacyClaims) -> Result<Identity, Refused> {
        let account = BoundObject { name: claims.account.clone(), uid: claims.uid.clone() };
        let expected = crate::tokens::claims::user_name(&claims.namespace, &account.name);
        if claims.sub != expected || claims.namespace.is_empty() || account.name.is_empty() || claims.secret.is_empty()
        {
            return Err(Refused("the legacy service account token's claims are incomplete".to_owned()));
        }
        if self.lookup {
            self.check_secret(token, claims, &account).await?;
        }
        count("serviceaccount_legacy_tokens_total", "Uses of legacy tokens");
        Ok(Identity { user: user_info(&claims.namespace, &account, None), audiences: Vec::new() })
    }

    /// That the secret of a legacy token still holds it and the account is the same; notes the use.
    async fn check_secret(&self, token: &str, claims: &LegacyClaims, account: &BoundObject) -> Result<(), Refused> {
        let (namespace, name) = (&claims.namespace, &claims.secret);
        let found = find(&*self.objects, ("", "secrets"), namespace, name).await;
        let found = found.map_err(|err| Refused(err.to_string()))?;
        let Some(secret) = found.filter(|secret| holds(secret, token)) else {
            return Err(Refused(format!("secret {namespace}/{name} no longer holds this token")));
        };
        let now = Timestamp::now();
        self.alive(("", "serviceaccounts"), namespace, account, now.as_second()).await?;
        self.uses.note(&secret, now);
        let invalid = &secret["metadata"]["labels"][tracking::INVALID_SINCE];
        if let Some(since) = invalid.as_str().filter(|since| !since.is_empty()) {
            count(
                "serviceaccount_invalid_legacy_auto_token_uses_total",
                "Uses of legacy tokens that are taken no more",
            );
            let label = tracking::INVALID_SINCE;
            return Err(Refused(format!(
                "the token in secret {namespace}/{name} is invalid since {since}; use the TokenRequest API, or remove the label {label}"
            )));
        }
        let account = self.objects.get(("", "serviceaccounts"), namespace, &claims.account);
        let made_for_it = account.is_some_and(|account| {
            let mut own = account["secrets"].as_array().into_iter().flatten();
            own.any(|reference| reference["name"].as_str() == Some(name))
        });
        if made_for_it {
            count("serviceaccount_legacy_auto_token_uses_total", "Uses of legacy tokens that were generated");
        } else {
            count("serviceaccount_legacy_manual_token_uses_total", "Uses of legacy tokens that were asked for");
        }
        Ok(())
    }
}

enum Verified {
    NotMine,
    Bound(Arc<Claims>),
    Legacy(Box<Identity>),
}

fn count(name: &'static str, help: &'static str) {
    component_base::metrics::counter(name, help, &[]).one().inc();
}

/// Whether the secret, not being deleted, holds the token.
fn holds(secret: &Value, token: &str) -> bool {
    use base64::Engine as _;
    let stored = secret["data"]["token"].as_str().unwrap_or_default();
    let stored = base64::engine::general_purpose::STANDARD.decode(stored).unwrap_or_default();
    secret["metadata"]["deletionTimestamp"].is_null() && bool::from(stored.as_slice().ct_eq(token.as_bytes()))
}

impl TokenAuthenticator for ServiceAccounts {
    fn authenticate_token<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<Identity>, Refused>> {
        Box::pin(self.authenticate(token, audiences))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::fake::Fake;
    use crate::tokens::Signer;

    struct World {
        signer: Signer,
        config: AuthnConfig,
        _dir: tempfile::TempDir,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sa.key");
        std::fs::write(&path, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let signer = Signer::read("--x", &path).unwrap();
        let config = AuthnConfig {
            service_account_key_files: vec![path],
            service_account_issuers: vec!["https://issuer".into()],
            service_account_lookup: true,
            ..AuthnConfig::default()
        };
        World { signer, config, _dir: dir }
    }

    fn claims() -> Claims {
        let now = Timestamp::now().as_second();
        Claims {
            aud: vec!["api".into(), "vault".into()],
            exp: Some(now + 600),
            nbf: Some(now),
            iat: Some(now),
            iss: "https://issuer".into(),
            jti: "id-1".into(),
            kubernetes: Some(TokenSubject {
                namespace: "ns".into(),
                serviceaccount: BoundObject { name: "sa".into(), uid: "u-sa".into() },
                pod: Some(BoundObject { name: "p".into(), uid: "u-p".into() }),
                ..TokenSubject::default()
            }),
            sub: "system:serviceaccount:ns:sa".into(),
        }
    }

    fn cluster(pod_uid: &str, pod_deleted: Option<&str>) -> Fake {
        Fake::default()
            .with(("", "serviceaccounts"), json!({"metadata": {"namespace": "ns", "name": "sa", "uid": "u-sa"}}))
            .with(
                ("", "pods"),
                json!({"metadata": {"namespace": "ns", "name": "p", "uid": pod_uid, "deletionTimestamp": pod_deleted}}),
            )
    }

    async fn ask(world: &World, cluster: Fake, claims: &Claims, audience: &str) -> Result<Option<Identity>, Refused> {
        let auth = ServiceAccounts::new(&world.config, Arc::new(cluster), Uses::channel().0).unwrap();
        auth.authenticate(&world.signer.sign(claims).unwrap(), &[audience.to_owned()]).await
    }

    #[tokio::test]
    async fn a_good_token() {
        let world = world();
        let identity = ask(&world, cluster("u-p", None), &claims(), "api").await.unwrap().unwrap();
        assert_eq!(identity.user.name, "system:serviceaccount:ns:sa");
        assert_eq!(identity.user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns"]);
        assert_eq!(identity.user.extra["authentication.kubernetes.io/credential-id"], ["JTI=id-1"]);
        assert_eq!(identity.user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(identity.audiences, ["api"]);
    }

    #[tokio::test]
    async fn what_ends_a_token() {
        let world = world();
        let cases = [
            ("another audience", cluster("u-p", None), claims(), "other"),
            ("pod made anew", cluster("u-p2", None), claims(), "api"),
            ("pod long being deleted", cluster("u-p", Some("2020-01-01T00:00:00Z")), claims(), "api"),
            ("everything gone", Fake::default(), claims(), "api"),
            ("expired", cluster("u-p", None), Claims { exp: Some(1000), ..claims() }, "api"),
            ("not yet", cluster("u-p", None), Claims { nbf: Some(i64::MAX), ..claims() }, "api"),
            (
                "sub differs",
                cluster("u-p", None),
                Claims { sub: "system:serviceaccount:ns:root".into(), ..claims() },
                "api",
            ),
            ("no private claims", cluster("u-p", None), Claims { kubernetes: None, ..claims() }, "api"),
        ];
        for (what, cluster, claims, audience) in cases {
            assert!(ask(&world, cluster, &claims, audience).await.is_err(), "{what}");
        }
        let foreign = Claims { iss: "https://elsewhere".into(), ..claims() };
        assert_eq!(ask(&world, cluster("u-p", None), &foreign, "api").await.unwrap(), None);
    }

    #[tokio::test]
    async fn another_key() {
        let ours = world();
        let theirs = world();
        let auth = ServiceAccounts::new(&ours.config, Arc::new(cluster("u-p", None)), Uses::channel().0).unwrap();
        let token = theirs.signer.sign(&claims()).unwrap();
        assert!(auth.authenticate(&token, &["api".to_owned()]).await.is_err());
    }

    #[tokio::test]
    async fn a_remembered_token_still_dies_with_its_pod() {
        let world = world();
        let auth = ServiceAccounts::new(&world.config, Arc::new(cluster("u-p", None)), Uses::channel().0).unwrap();
        let token = world.signer.sign(&claims()).unwrap();
        let api = ["api".to_owned()];
        assert!(auth.authenticate(&token, &api).await.is_ok());
        let gone = ServiceAccounts { objects: Arc::new(Fake::default()), ..auth };
        assert!(gone.authenticate(&token, &api).await.is_err());
    }

    #[tokio::test]
    async fn keys_are_read_again() {
        let (ours, theirs) = (world(), world());
        let auth = ServiceAccounts::new(&ours.config, Arc::new(cluster("u-p", None)), Uses::channel().0).unwrap();
        let (old, new) = (ours.signer.sign(&claims()).unwrap(), theirs.signer.sign(&claims()).unwrap());
        let api = ["api".to_owned()];
        assert!(auth.authenticate(&old, &api).await.is_ok() && auth.authenticate(&new, &api).await.is_err());
        let [own, other] = [&ours, &theirs].map(|world| world.config.service_account_key_files[0].clone());
        std::fs::rename(other, own).unwrap();
        assert!(auth.keys.reload_if_changed());
        assert!(auth.authenticate(&old, &api).await.is_err() && auth.authenticate(&new, &api).await.is_ok());
    }

    #[tokio::test]
    async fn legacy_tokens_live_in_their_secret_and_their_use_is_noted() {
        use base64::Engine as _;
        let world = world();
        let claims = json!({"iss": LEGACY_ISSUER, "sub": "system:serviceaccount:ns:sa",
            "kubernetes.io/serviceaccount/namespace": "ns", "kubernetes.io/serviceaccount/secret.name": "s",
            "kubernetes.io/serviceaccount/service-account.name": "sa", "kubernetes.io/serviceaccount/service-account.uid": "u-sa"});
        let token = world.signer.sign(&claims).unwrap();
        let ask = |token: String, held: String, labels: Value| {
            let data = json!({"token": base64::engine::general_purpose::STANDARD.encode(held)});
            let metadata = json!({"namespace": "ns", "name": "s", "uid": "u-s", "labels": labels});
            let cluster = cluster("u-p", None).with(("", "secrets"), json!({"metadata": metadata, "data": data}));
            let (uses, mut notes) = Uses::channel();
            let auth = ServiceAccounts::new(&world.config, Arc::new(cluster), uses).unwrap();
            async move {
                let outcome = auth.authenticate(&token, &[]).await;
                (outcome.map(|identity| identity.map(|identity| identity.user.name)), notes.try_recv().is_ok())
            }
        };
        let (good, noted) = ask(token.clone(), token.clone(), json!({})).await;
        assert_eq!((good.unwrap().as_deref(), noted), (Some("system:serviceaccount:ns:sa"), true));
        let (other, noted) = ask(token.clone(), "another".to_owned(), json!({})).await;
        assert!(other.is_err() && !noted);
        let (invalid, noted) = ask(token.clone(), token, json!({tracking::INVALID_SINCE: "2026-01-01"})).await;
        assert!(invalid.is_err_and(|Refused(why)| why.contains("invalid since 2026-01-01")) && noted);
    }
}

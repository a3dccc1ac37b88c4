//! As whom controllers act. With `--use-service-account-credentials` each has a service account of its own in
//! `kube-system`, with a token from the TokenRequest API that is renewed after four fifths of its life; otherwise all act
//! as the process itself.
//!
//! All accounts share one connection that carries no client certificate: the token of each request says who asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use apimachinery::time::parse_time;
use client::{Access, Client, ClientConfig, ClientConfigError, ClientError, resources};
use futures::future::join_all;
use http::HeaderValue;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
const LIFETIME_SECONDS: i64 = 3600;
const RETRY: Duration = Duration::from_secs(1);

type Token = Arc<RwLock<Option<HeaderValue>>>;

/// The identities of this process.
pub struct Credentials {
    own: Client,
    limits: (f32, u32),
    accounts: Option<Accounts>,
}

struct Accounts {
    connection: Client,
    tokens: Mutex<BTreeMap<String, Token>>,
}

impl Credentials {
    /// `config` is the process's own access; `per_controller` gives each controller its account.
    pub fn new(config: ClientConfig, per_controller: bool) -> Result<Self, ClientConfigError> {
        let limits = (config.qps, config.burst);
        let accounts = if per_controller {
            let access = Access { certificate: None, key: None, token: None, ..config.access.clone() };
            let connection = Client::new(ClientConfig { access, ..config.clone() })?;
            Some(Accounts { connection, tokens: Mutex::default() })
        } else {
            None
        };
        Ok(Self { own: Client::new(config)?, limits, accounts })
    }

    /// The process itself. Watches and leader election are not held up by controllers' limits.
    pub fn own(&self) -> Client {
        self.own.with_limits(0.0, 0)
    }

    /// The controller with this account. Each has limits of its own.
    pub fn client_for(&self, account: &str) -> Client {
        let (mut qps, mut burst) = self.limits;
        // It asks each kind of object of each namespace that goes; upstream's factors.
        if account == "namespace-controller" {
            (qps, burst) = (qps * 20.0, burst.saturating_mul(100));
        }
        let Some(accounts) = &self.accounts else { return self.own.with_limits(qps, burst) };
        let mut tokens = accounts.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let token = Arc::clone(tokens.entry(account.to_owned()).or_default());
        let source = move || token.read().unwrap_or_else(PoisonError::into_inner).clone();
        accounts.connection.with_token(Arc::new(source)).with_limits(qps, burst)
    }

    /// Gets a token for every account handed out so far, and keeps them fresh in the background.
    pub async fn start(&self, shutdown: &CancellationToken) {
        let Some(accounts) = &self.accounts else { return };
        let tokens: Vec<(String, Token)> = accounts
            .tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(account, token)| (account.clone(), Arc::clone(token)))
            .collect();
        let renewals = join_all(tokens.iter().map(|(account, token)| obtain(&self.own, account, token)));
        let renewals = tokio::select! {
            renewals = renewals => renewals,
            () = shutdown.cancelled() => return,
        };
        let (client, shutdown) = (self.own.clone(), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = renew(client, tokens, renewals) => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

/// Renews each token when its time comes. One task for all.
async fn renew(client: Client, tokens: Vec<(String, Token)>, mut renewals: Vec<Timestamp>) {
    loop {
        let Some(next) = renewals.iter().min() else { return };
        tokio::time::sleep(super::backoff::remaining(*next, 0, Timestamp::now())).await;
        let now = Timestamp::now();
        for ((account, token), renewal) in tokens.iter().zip(&mut renewals) {
            if *renewal <= now {
                *renewal = obtain(&client, account, token).await;
            }
        }
    }
}

/// Asks until there is a token; returns when to renew it.
async fn obtain(client: &Client, account: &str, token: &Token) -> Timestamp {
    let mut failures = 0_u32;
    loop {
        match request(client, account).await {
            Ok((value, renewal)) => {
                *token.write().unwrap_or_else(PoisonError::into_inner) = Some(value);
                return renewal;
            }
            Err(error) => {
                failures += 1;
                if failures % 10 == 1 {
                    tracing::warn!(account, %error, "no token for a controller's service account yet, trying again");
                }
                tokio::time::sleep(RETRY * failures.min(30)).await;
            }
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    status: AnswerStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerStatus {
    token: String,
    expiration_timestamp: String,
}

async fn request(client: &Client, account: &str) -> Result<(HeaderValue, Timestamp), ClientError> {
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": LIFETIME_SECONDS, "audiences": []},
    });
    let ask = async || -> Result<Answer, ClientError> {
        client.create_sub(&resources::SERVICE_ACCOUNTS, Some(NAMESPACE), account, "token", &body).await
    };
    let answer = match ask().await {
        Err(error) if error.is_not_found() => {
            create_account(client, account).await?;
            ask().await?
        }
        other => other?,
    };
    let broken = |reason: &str| ClientError::Decode {
        request: format!("token of service account {NAMESPACE}/{account}"),
        reason: reason.to_owned(),
    };
    let mut header = HeaderValue::try_from(format!("Bearer {}", answer.status.token))
        .map_err(|_| broken("the token cannot stand in a header"))?;
    header.set_sensitive(true);
    let now = Timestamp::now();
    let end = parse_time(&answer.status.expiration_timestamp).ok_or_else(|| broken("no expiration time"))?;
    let life_seconds = end.as_second() - now.as_second();
    let renewal = Timestamp::from_second(now.as_second() + (life_seconds * 4 / 5).max(1)).unwrap_or(end);
    Ok((header, renewal))
}

async fn create_account(client: &Client, account: &str) -> Result<(), ClientError> {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": account, "namespace": NAMESPACE},
    });
    match client.create::<Value>(&resources::SERVICE_ACCOUNTS, Some(NAMESPACE), &object).await {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

//! Leader election on a Lease, with upstream's record and timings.
//!
//! Guarantees: at most one leader, given clocks that run at about the same speed (they need not agree): a candidate waits
//! until it has seen the record unchanged for a whole lease duration on its own clock, and a leader that cannot renew
//! within the renew deadline stops before the lease is over. On shutdown the lease is released, so that a successor
//! starts at once.

use std::time::Duration;

use apimachinery::time::{format_micro_time, parse_micro_time};
use component_base::duration::GoDuration;
use component_base::metrics::{self, Counter, Family, Gauge};
use serde_json::{Value, json};
use std::future::Future;
use std::sync::LazyLock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::resources::LEASES;
use crate::{Client, ClientError};

/// Upstream's `--leader-elect*` flags; flatten into a daemon's clap struct.
#[derive(Clone, Debug, clap::Args)]
pub struct LeaderElectionFlags {
    /// Start a leader election client and gain leadership before executing the main loop.
    #[arg(long, default_value_t = true)]
    pub leader_elect: bool,
    /// How long a candidate waits after the last renewal it saw before it takes over.
    #[arg(long, default_value = "15s")]
    pub leader_elect_lease_duration: GoDuration,
    /// How long the leader tries to renew before it gives up.
    #[arg(long, default_value = "10s")]
    pub leader_elect_renew_deadline: GoDuration,
    /// Pause between tries.
    #[arg(long, default_value = "2s")]
    pub leader_elect_retry_period: GoDuration,
    /// Kind of the lock; only leases are supported.
    #[arg(long, default_value = "leases", value_parser = ["leases"])]
    pub leader_elect_resource_lock: String,
    /// Name of the Lease; the daemon's own name when not given.
    #[arg(long)]
    pub leader_elect_resource_name: Option<String>,
    /// Namespace of the Lease.
    #[arg(long, default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,
}

impl LeaderElectionFlags {
    /// The checked settings, or what is wrong with them.
    pub fn to_config(&self, component: &str) -> Result<LeaderElectionConfig, String> {
        let config = LeaderElectionConfig {
            enabled: self.leader_elect,
            lease_duration: self.leader_elect_lease_duration.0,
            renew_deadline: self.leader_elect_renew_deadline.0,
            retry_period: self.leader_elect_retry_period.0,
            namespace: self.leader_elect_resource_namespace.clone(),
            name: self.leader_elect_resource_name.clone().unwrap_or_else(|| component.to_owned()),
            identity: identity(),
        };
        config.check().map(|()| config)
    }
}

/// Settings of an election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderElectionConfig {
    /// Without election the work starts at once.
    pub enabled: bool,
    /// See the flags.
    pub lease_duration: Duration,
    /// See the flags.
    pub renew_deadline: Duration,
    /// See the flags.
    pub retry_period: Duration,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who we are: unique per process.
    pub identity: String,
}

impl LeaderElectionConfig {
    /// Upstream's relations between the three times.
    pub fn check(&self) -> Result<(), String> {
        if self.lease_duration <= self.renew_deadline {
            return Err("--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline".to_owned());
        }
        if self.renew_deadline <= self.retry_period.mul_f64(1.2) {
            return Err(
                "--leader-elect-renew-deadline must be greater than 1.2 times --leader-elect-retry-period".to_owned()
            );
        }
        if self.lease_duration < Duration::from_secs(1) || self.retry_period.is_zero() {
            return Err("--leader-elect-lease-duration must be at least 1s and --leader-elect-retry-period above zero"
                .to_owned());
        }
        Ok(())
    }
}

/// Host name and something random, as upstream's `host_uuid`.
pub fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{:032x}", host.trim(), rand::random::<u128>())
}

/// Why the work ended.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// Somebody else leads, or the API server could not be reached in time. The daemon must end.
    #[error("leader election lost for lease {0}")]
    Lost(String),
    /// The work itself failed.
    #[error(transparent)]
    Work(anyhow::Error),
}

static SLOWPATH: LazyLock<Family<Counter>> = LazyLock::new(|| {
    metrics::counter(
        "leader_election_slowpath_total",
        "Renewals that had to read the lease first. 'name' is the lease.",
        &["name"],
    )
});

static IS_LEADER: LazyLock<Family<Gauge>> = LazyLock::new(|| {
    metrics::gauge(
        "leader_election_master_status",
        "Whether this instance leads: 1 for yes, 0 for no. 'name' is the lease.",
        &["name"],
    )
});

/// Takes part in an election.
#[derive(Debug)]
pub struct LeaderElector {
    client: Client,
    config: LeaderElectionConfig,
    seen: Option<(Value, Instant)>,
    /// The lease as our last write left it.
    held: Option<Value>,
}

impl LeaderElector {
    /// Does nothing before [`run`](Self::run).
    pub fn new(client: &Client, config: LeaderElectionConfig) -> Self {
        Self { client: client.clone(), config, seen: None, held: None }
    }

    /// Waits for leadership, runs `lead` with a token that is cancelled when the lead or the daemon ends, and releases
    /// the lease. Returns `Ok` after shutdown.
    pub async fn run<F, Fut>(mut self, shutdown: &CancellationToken, lead: F) -> Result<(), LeaderError>
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = anyhow::Result<()>>,
    {
        if !self.config.enabled {
            return lead(shutdown.clone()).await.map_err(LeaderError::Work);
        }
        let status = IS_LEADER.with(&[&self.config.name]);
        status.set(0.0);
        tokio::select! {
            () = self.acquire() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        status.set(1.0);
        tracing::info!(lease = self.lease(), identity = self.config.identity, "leading");
        let token = shutdown.child_token();
        let work = lead(token.clone());
        tokio::pin!(work);
        let outcome = tokio::select! {
            done = &mut work => done.map_err(LeaderError::Work),
            () = self.renew() => {
                // No time to finish: another instance may lead already.
                token.cancel();
                Err(LeaderError::Lost(self.lease()))
            }
        };
        status.set(0.0);
        if outcome.is_ok() {
            self.release().await;
        }
        outcome
    }

    fn lease(&self) -> String {
        format!("{}/{}", self.config.namespace, self.config.name)
    }

    async fn acquire(&mut self) {
        tracing::info!(lease = self.lease(), "waiting for leadership");
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(lease = self.lease(), %error, "cannot take part in the election"),
            }
            tokio::time::sleep(self.config.retry_period.mul_f64(1.0 + 1.2 * rand::random::<f64>())).await;
        }
    }

    /// Returns when the lead is lost.
    async fn renew(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.config.retry_period).await;
            let deadline = renewed + self.config.renew_deadline;
            match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return tracing::error!(lease = self.lease(), "another instance leads now"),
                Ok(Err(error)) => tracing::warn!(lease = self.lease(), %error, "cannot renew, trying again"),
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                return tracing::error!(lease = self.lease(), "could not renew before the deadline");
            }
        }
    }

    /// One write where the lease is ours, on the assumption that nobody else wrote it; where that fails or it is not ours, a
    /// look at it, and a write where it may be taken.
    async fn attempt(&mut self) -> Result<bool, ClientError> {
        let (namespace, name) = (self.config.namespace.clone(), self.config.name.clone());
        let (namespace, name) = (Some(namespace.as_str()), name.as_str());
        if let Some(mut lease) = self.held.take() {
            lease["spec"] = next_spec(&lease["spec"], &self.config, jiff::Timestamp::now());
            match self.client.update::<Value>(&LEASES, namespace, name, &lease).await {
                Ok(lease) => return Ok(self.note(lease)),
                Err(error) => tracing::info!(lease = self.lease(), %error, "cannot renew at once, reading the lease"),
            }
            SLOWPATH.with(&[name]).inc();
        }
        let found = match self.client.get::<Value>(&LEASES, namespace, name).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let now = jiff::Timestamp::now();
        let written = match found {
            None => {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": name, "namespace": self.config.namespace},
                    "spec": next_spec(&Value::Null, &self.config, now),
                });
                self.client.create::<Value>(&LEASES, namespace, &lease).await
            }
            Some(mut lease) => {
                let spec = lease.get("spec").cloned().unwrap_or_default();
                if !self.may_take(&spec) {
                    return Ok(false);
                }
                lease["spec"] = next_spec(&spec, &self.config, now);
                self.client.update::<Value>(&LEASES, namespace, name, &lease).await
            }
        };
        match written {
            Ok(lease) => Ok(self.note(lease)),
            // Another candidate was quicker; the next look tells who leads.
            Err(error) if error.is_conflict() || error.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes note of the lease that is ours now.
    fn note(&mut self, lease: Value) -> bool {
        self.seen = Some((lease.get("spec").cloned().unwrap_or_default(), Instant::now()));
        self.held = Some(lease);
        true
    }

    /// Ours, released, or unchanged for a whole lease duration on our own clock.
    fn may_take(&mut self, spec: &Value) -> bool {
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        if holder.is_empty() || holder == self.config.identity {
            return true;
        }
        let now = Instant::now();
        match &self.seen {
            Some((seen, since)) if seen == spec => now.duration_since(*since) >= lease_duration(spec, &self.config),
            _ => {
                self.seen = Some((spec.clone(), now));
                false
            }
        }
    }

    async fn release(&mut self) {
        let (namespace, name) = (Some(self.config.namespace.as_str()), self.config.name.as_str());
        let released = async {
            let mut lease = self.client.get::<Value>(&LEASES, namespace, name).await?;
            if lease["spec"]["holderIdentity"] == self.config.identity.as_str() {
                lease["spec"]["holderIdentity"] = "".into();
                lease["spec"]["leaseDurationSeconds"] = 1.into();
                lease["spec"]["renewTime"] = format_micro_time(jiff::Timestamp::now()).into();
                self.client.update::<Value>(&LEASES, namespace, name, &lease).await?;
            }
            Ok::<_, ClientError>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(3), released).await {
            tracing::warn!(lease = self.lease(), %error, "cannot release the lease");
        }
    }
}

fn lease_duration(spec: &Value, config: &LeaderElectionConfig) -> Duration {
    // The holder's own promise counts, also where it is longer than ours.
    spec["leaseDurationSeconds"].as_u64().map_or(config.lease_duration, Duration::from_secs)
}

/// The record after we took or renewed the lease.
fn next_spec(old: &Value, config: &LeaderElectionConfig, now: jiff::Timestamp) -> Value {
    let ours = old["holderIdentity"] == config.identity.as_str();
    let transitions = old["leaseTransitions"].as_i64().unwrap_or(0);
    let had_holder = old["holderIdentity"].is_string();
    let acquired = old["acquireTime"].as_str().filter(|text| ours && parse_micro_time(text).is_some());
    json!({
        "holderIdentity": config.identity,
        "leaseDurationSeconds": config.lease_duration.as_secs(),
        "acquireTime": acquired.map_or_else(|| format_micro_time(now), str::to_owned),
        "renewTime": format_micro_time(now),
        "leaseTransitions": if ours || !had_holder { transitions } else { transitions + 1 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_server::FakeServer;

    fn config() -> LeaderElectionConfig {
        LeaderElectionConfig {
            enabled: true,
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            namespace: "kube-system".into(),
            name: "demo".into(),
            identity: "me".into(),
        }
    }

    #[test]
    fn records() {
        let now = jiff::Timestamp::now();
        let first = next_spec(&Value::Null, &config(), now);
        assert_eq!((&first["leaseTransitions"], &first["holderIdentity"]), (&json!(0), &json!("me")));
        let later = now + Duration::from_secs(5);
        let renewed = next_spec(&first, &config(), later);
        assert_eq!(renewed["acquireTime"], first["acquireTime"]);
        assert_ne!(renewed["renewTime"], first["renewTime"]);
        let taken = next_spec(&json!({"holderIdentity": "you", "leaseTransitions": 4}), &config(), now);
        assert_eq!(taken["leaseTransitions"], 5);
    }

    #[tokio::test(start_paused = true)]
    async fn takes_over_only_what_stands_still() {
        let server = FakeServer::start();
        let mut elector = LeaderElector::new(&server.client, config());
        let theirs = json!({"holderIdentity": "you", "leaseDurationSeconds": 15, "renewTime": "a"});
        assert!(!elector.may_take(&theirs));
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(!elector.may_take(&theirs));
        let renewed = json!({"holderIdentity": "you", "leaseDurationSeconds": 15, "renewTime": "b"});
        assert!(!elector.may_take(&renewed));
        tokio::time::advance(Duration::from_secs(15)).await;
        assert!(elector.may_take(&renewed));
        assert!(elector.may_take(&json!({"holderIdentity": ""})));
    }

    #[test]
    fn relations_of_the_times() {
        assert!(config().check().is_ok());
        assert!(LeaderElectionConfig { renew_deadline: Duration::from_secs(15), ..config() }.check().is_err());
        assert!(LeaderElectionConfig { retry_period: Duration::from_secs(9), ..config() }.check().is_err());
    }

    #[tokio::test]
    async fn renews_without_reading_until_somebody_else_wrote() {
        let server = FakeServer::start();
        let mut elector = LeaderElector::new(&server.client, LeaderElectionConfig { name: "slow".into(), ..config() });
        let ours = r#"{"metadata":{"resourceVersion":"5"},"spec":{"holderIdentity":"me"}}"#;
        server.will_answer(404, r#"{"kind":"Status","reason":"NotFound","code":404}"#);
        server.will_answer(201, ours);
        assert!(elector.attempt().await.unwrap());
        server.will_answer(200, ours);
        assert!(elector.attempt().await.unwrap());
        server.will_answer(409, r#"{"kind":"Status","reason":"Conflict","code":409}"#);
        server.will_answer(200, r#"{"spec":{"holderIdentity":"you"}}"#);
        assert!(!elector.attempt().await.unwrap(), "another one leads by now");
        assert_eq!(server.seen().len(), 5);
        assert_eq!(SLOWPATH.with(&["slow"]).get(), 1);
    }

    #[tokio::test]
    async fn leads_and_releases() {
        let server = FakeServer::start();
        let not_found = r#"{"kind":"Status","reason":"NotFound","code":404,"message":"no lease"}"#;
        server.will_answer(404, not_found);
        server.will_answer(201, r#"{"spec":{"holderIdentity":"me"}}"#);
        server.will_answer(200, r#"{"metadata":{"resourceVersion":"5"},"spec":{"holderIdentity":"me"}}"#);
        server.will_answer(200, "{}");
        let elector = LeaderElector::new(&server.client, config());
        elector.run(&CancellationToken::new(), |_| async { Ok(()) }).await.unwrap();
        let body: Value = serde_json::from_slice(&server.request(3).1).unwrap();
        assert_eq!(body["spec"]["holderIdentity"], "");
        assert_eq!(body["metadata"]["resourceVersion"], "5");
    }
}

//! The loop: whenever something changed, look at everything and make the kernel's rules equal to it.
//!
//! Changes are coalesced: at most one write per minimum period. With nothing to do it sleeps; each sync period it looks
//! whether the rules are still there and puts them back when somebody flushed them.

use std::sync::Arc;
use std::time::Duration;

use client::informer::Reader;
use component_base::metrics;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::conntrack;
use crate::core::{Desired, EndpointSlice, Family, Service, desired};
use crate::health::{Freshness, ServiceHealth};
use crate::iptables::{Executor, IptablesError, Settings, render};
use crate::node::{self, Node};

/// After a failed write the next try waits at least this long.
const RETRY: Duration = Duration::from_secs(1);

/// The copies of the cluster's state that rules are made of.
pub struct World {
    /// Services.
    pub services: Reader<Service>,
    /// EndpointSlices.
    pub slices: Reader<EndpointSlice>,
    /// Our own Node.
    pub nodes: Reader<Node>,
}

impl World {
    /// Waits for the first complete copies.
    pub async fn synced(&self) {
        tokio::join!(self.services.synced(), self.slices.synced(), self.nodes.synced());
    }
}

/// Owner of the kernel's rules.
pub struct Syncer {
    config: Config,
    world: World,
    families: Vec<FamilyState>,
    service_health: ServiceHealth,
    freshness: Freshness,
    random_fully: bool,
}

struct FamilyState {
    family: Family,
    executor: Executor,
    written: Desired,
}

impl Syncer {
    /// For the families that the machine supports.
    pub fn new(config: Config, world: World, families: Vec<Family>, freshness: Freshness, random_fully: bool) -> Self {
        let state = |family| FamilyState { family, executor: Executor::new(family), written: Desired::default() };
        let families = families.into_iter().map(state).collect();
        Self { config, world, families, service_health: ServiceHealth::default(), freshness, random_fully }
    }

    /// Runs until shutdown; rules stay.
    pub async fn run(mut self, changed: Arc<Notify>, shutdown: CancellationToken) {
        let mut look = tokio::time::interval(self.config.sync_period.max(Duration::from_secs(1)));
        loop {
            let begun = Instant::now();
            let outcome = self.sync().await;
            let mut pause = self.config.min_sync_period;
            if let Err(error) = outcome {
                tracing::error!("cannot write rules, trying again: {error}");
                metrics::counter("kubeproxy_sync_proxy_rules_iptables_restore_failures_total", "Failed writes", &[])
                    .one()
                    .inc();
                changed.notify_one();
                pause = pause.max(RETRY);
            }
            tokio::select! {
                () = tokio::time::sleep_until(begun + pause) => {}
                () = shutdown.cancelled() => return,
            }
            loop {
                tokio::select! {
                    () = changed.notified() => break,
                    _ = look.tick() => if !self.check().await { break },
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }

    async fn check(&mut self) -> bool {
        for state in &mut self.families {
            if !state.executor.check().await {
                tracing::warn!(family = ?state.family, "the rules were flushed by somebody else, writing them again");
                return false;
            }
        }
        true
    }

    async fn sync(&mut self) -> Result<(), IptablesError> {
        let begun = Instant::now();
        let (services, slices) = (self.world.services.list(), self.world.slices.list());
        let node = self.world.nodes.list().into_iter().next();
        let node = node.as_deref();
        self.freshness.node_deleted(node.is_some_and(|n| n.metadata.deletion_timestamp.is_some()));
        let view = node::view(&self.config.node_name, node);
        for state in &mut self.families {
            let next = desired(state.family, &view, services.iter().map(|s| &**s), slices.iter().map(|s| &**s));
            let settings = settings(&self.config, state.family, node, self.random_fully);
            let rules = render(&settings, &next);
            state.executor.apply(&rules).await?;
            conntrack::delete(&conntrack::stale(&state.written, &next)).await;
            if state.family == Family::V4 {
                self.service_health.update(&next, &self.freshness);
            }
            state.written = next;
            for (table, content) in rules.tables() {
                let count: usize = content.chains.values().map(Vec::len).sum();
                metrics::gauge(
                    "kubeproxy_sync_proxy_rules_iptables_total",
                    "Rules in the kernel",
                    &["table", "ip_family"],
                )
                .with(&[table, if state.family == Family::V4 { "IPv4" } else { "IPv6" }])
                .set(u32::try_from(count).unwrap_or(u32::MAX).into());
            }
        }
        self.freshness.updated();
        report(begun.elapsed());
        Ok(())
    }
}

fn report(took: Duration) {
    const BUCKETS: &[f64] =
        &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
    let help = "SyncProxyRules latency in seconds";
    metrics::histogram("kubeproxy_sync_proxy_rules_duration_seconds", help, &[], BUCKETS).one().observe_duration(took);
    let help = "The last time proxy rules were successfully synced";
    metrics::gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", help, &[]).one().set_to_current_time();
}

fn settings(config: &Config, family: Family, node: Option<&Node>, random_fully: bool) -> Settings {
    Settings {
        family,
        masquerade_mark: 1 << config.masquerade_bit,
        masquerade_all: config.masquerade_all,
        random_fully,
        localhost_node_ports: config.localhost_node_ports && family == Family::V4,
        local_traffic: node::local_traffic(config, family, node),
        node_port_addresses: node::node_port_addresses(config, family, node),
        drop_invalid: !config.conntrack.tcp_be_liberal,
    }
}

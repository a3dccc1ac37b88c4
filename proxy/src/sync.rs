//! The loop: whenever something changed, look at everything and make the kernel's rules equal to it.
//!
//! Changes are coalesced: at most one write per minimum period. With nothing to do it sleeps; each sync period it looks
//! whether the rules are still there and puts them back when somebody flushed them, and once an hour it writes all of them,
//! whatever it remembers. The families are independent: one that fails does not stop the other.

use std::sync::Arc;
use std::time::Duration;

use client::informer::Reader;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::changes::Changes;
use crate::config::Config;
use crate::conntrack;
use crate::core::{Desired, EndpointSlice, Family, Service, desired};
use crate::health::{Freshness, ServiceHealth};
use crate::iptables::{Executor, IptablesError, Ruleset, Settings, render};
use crate::metrics;
use crate::node::{self, Node};

/// After a failed write the next try waits at least this long.
const RETRY: Duration = Duration::from_secs(1);
/// Between two writes of everything.
const FULL_SYNC: Duration = Duration::from_secs(3600);
/// How long the first write waits for the Node, which the kubelet makes.
const NODE_PATIENCE: Duration = Duration::from_secs(30);

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

    fn node(&self) -> Option<Arc<Node>> {
        self.nodes.list().into_iter().next()
    }
}

/// Owner of the kernel's rules.
pub struct Syncer {
    config: Config,
    world: World,
    families: Vec<FamilyState>,
    service_health: ServiceHealth,
    freshness: Freshness,
    changes: Changes,
    random_fully: bool,
}

struct FamilyState {
    family: Family,
    executor: Executor,
    written: Desired,
    last_full: Instant,
}

impl Syncer {
    /// For the families that the machine supports.
    pub fn new(
        config: Config,
        world: World,
        families: &[Family],
        freshness: Freshness,
        changes: Changes,
        random_fully: bool,
    ) -> Self {
        let state = |family: &Family| FamilyState {
            family: *family,
            executor: Executor::new(*family),
            written: Desired::default(),
            last_full: Instant::now(),
        };
        let families = families.iter().map(state).collect();
        Self { config, world, families, service_health: ServiceHealth::default(), freshness, changes, random_fully }
    }

    /// Runs until shutdown; rules stay.
    pub async fn run(mut self, changed: Arc<Notify>, shutdown: CancellationToken) {
        tokio::select! {
            () = self.wait_for_node(&changed) => {}
            () = shutdown.cancelled() => return,
        }
        let mut look = tokio::time::interval(self.config.sync_period.max(Duration::from_secs(1)));
        loop {
            let begun = Instant::now();
            let mut pause = self.config.min_sync_period;
            if !self.sync().await {
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

    /// Rules made before the node is known would treat its own pods as strangers.
    async fn wait_for_node(&self, changed: &Notify) {
        while let Some(what) = node::missing(&self.config, self.world.node().as_deref()) {
            if tokio::time::timeout(NODE_PATIENCE, changed.notified()).await.is_err() {
                tracing::warn!(node = self.config.node_name, "waited for {what}");
                // Without addresses all but nodePortAddresses=primary works; without its range nothing right can be written.
                if !what.starts_with("podCIDR") {
                    break;
                }
            }
        }
        // What came meanwhile is seen by the first sync.
        changed.notify_one();
    }

    async fn check(&mut self) -> bool {
        let mut whole = true;
        for state in &mut self.families {
            if !state.executor.check().await {
                tracing::warn!(family = ?state.family, "the rules were flushed by somebody else, writing them again");
                whole = false;
            } else if state.last_full.elapsed() >= FULL_SYNC {
                state.executor.forget();
                whole = false;
            }
        }
        whole
    }

    /// True when all families are in order.
    async fn sync(&mut self) -> bool {
        let counted = self.changes.begin();
        let (services, slices) = (self.world.services.list(), self.world.slices.list());
        let node = self.world.node();
        self.freshness.node_leaving(node::is_leaving(node.as_deref()));
        let view = node::view(&self.config.node_name, node.as_deref());
        let mut good = true;
        for (index, state) in self.families.iter_mut().enumerate() {
            let next = desired(state.family, &view, services.iter().map(|s| &**s), slices.iter().map(|s| &**s));
            let settings = settings(&self.config, state.family, node.as_deref(), self.random_fully);
            if index == 0 {
                self.service_health.update(&next, &self.freshness);
            }
            if let Err(error) = state.sync(&settings, next).await {
                tracing::error!(family = ?state.family, "cannot write rules, trying again: {error}");
                good = false;
            }
        }
        if good {
            self.freshness.updated();
            let families: Vec<Family> = self.families.iter().map(|state| state.family).collect();
            self.changes.done(&counted, &families);
        }
        good
    }
}

impl FamilyState {
    async fn sync(&mut self, settings: &Settings, next: Desired) -> Result<(), IptablesError> {
        let (begun, partial) = (Instant::now(), self.executor.is_partial());
        let label = metrics::label(self.family);
        let rules = render(settings, &next);
        let script = match self.executor.apply(&rules).await {
            Ok(script) => script,
            Err(error) => {
                metrics::FAILURES.with(&[label]).inc();
                if partial {
                    metrics::PARTIAL_FAILURES.with(&[label]).inc();
                }
                return Err(error);
            }
        };
        let deleted = conntrack::delete(&conntrack::stale(&self.written, &next)).await;
        metrics::CONNTRACK_DELETED.with(&[label]).add(deleted);
        let took = begun.elapsed();
        metrics::SYNC.with(&[label]).observe_duration(took);
        if partial { &metrics::SYNC_PARTIAL } else { &metrics::SYNC_FULL }.with(&[label]).observe_duration(took);
        if !partial {
            self.last_full = begun;
        }
        metrics::LAST_SYNC.with(&[label]).set_to_current_time();
        if partial {
            tracing::debug!(family = label, bytes = script.len(), ?took, "rules changed");
        } else {
            tracing::info!(family = label, service_ports = next.ports.len(), ?took, "all rules written");
        }
        count_rules(&rules, &script, label);
        count_without_local_endpoints(&next, label);
        self.written = next;
        Ok(())
    }
}

fn count_rules(rules: &Ruleset, script: &str, label: &str) {
    let as_f64 = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    for (table, content) in rules.tables() {
        metrics::RULES.with(&[table, label]).set(as_f64(content.chains.values().map(Vec::len).sum()));
        let header = format!("*{table}");
        let lines = script.lines().skip_while(|line| *line != header).take_while(|line| *line != "COMMIT");
        let written = lines.filter(|line| line.starts_with("-A ")).count();
        metrics::RULES_WRITTEN.with(&[table, label]).set(as_f64(written));
    }
}

fn count_without_local_endpoints(desired: &Desired, label: &str) {
    let count = |policy: &str, local: fn(&crate::core::ServicePort) -> bool| {
        let ports = desired.ports.iter().filter(|p| local(p) && p.local_endpoints.is_empty() && p.has_endpoints);
        metrics::NO_LOCAL_ENDPOINTS
            .with(&[label, policy])
            .set(f64::from(u32::try_from(ports.count()).unwrap_or(u32::MAX)));
    };
    count("internal", |p| p.internal_local);
    count("external", |p| p.external_local && p.is_external());
}

fn settings(config: &Config, family: Family, node: Option<&Node>, random_fully: bool) -> Settings {
    // Asking the machine costs two small files; only needed where ranges are given.
    let machine = if config.node_port_cidrs.is_empty() { Vec::new() } else { node::machine_addresses() };
    Settings {
        family,
        masquerade_mark: 1 << config.masquerade_bit,
        masquerade_all: config.masquerade_all,
        random_fully,
        localhost_node_ports: config.localhost_node_ports && family == Family::V4,
        local_traffic: node::local_traffic(config, family, node),
        node_port_addresses: node::node_port_addresses(config, family, node, &machine),
        drop_invalid: !config.conntrack.tcp_be_liberal,
    }
}

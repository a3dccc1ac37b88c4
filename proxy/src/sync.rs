//! The loop: whenever something changed, look at the Services that it touched and make the kernel's rules equal to them.
//!
//! Changes are coalesced: at most one write per minimum period. With nothing to do it sleeps; each sync period it looks
//! whether the rules are still there and puts them back when somebody flushed them, and once an hour it writes all of them,
//! whatever it remembers. The families are independent: one that fails does not stop the other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::informer::Reader;
use component_base::net::Cidr;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, Work};
use crate::changes::Changes;
use crate::config::{Config, Mode};
use crate::conntrack::{self, Targets};
use crate::core::{
    Change, Desired, EndpointSlice, Family, NodeView, Protocol, Service, ServiceKey, ServicePort, service_ports,
};
use crate::health::{Freshness, ServiceHealth, listen_addresses};
use crate::metrics;
use crate::node::{self, Node, ServiceCidr};
use crate::program::WriteError;
use crate::settings::Settings;

/// After a failed write the next try waits at least this long.
const RETRY: Duration = Duration::from_secs(1);
/// Between two writes of everything.
const FULL_SYNC: Duration = Duration::from_secs(3600);
/// How long the first write waits for the Node, which the kubelet makes.
const NODE_PATIENCE: Duration = Duration::from_secs(30);
/// The index of slices by Service.
pub const BY_SERVICE: &str = "service";

/// The copies of the cluster's state that rules are made of.
pub struct World {
    /// Services.
    pub services: Reader<Service>,
    /// EndpointSlices, with the index [`BY_SERVICE`].
    pub slices: Reader<EndpointSlice>,
    /// Our own Node.
    pub nodes: Reader<Node>,
    /// Ranges of Service addresses, where they matter.
    pub service_cidrs: Option<Reader<ServiceCidr>>,
}

/// The key of a Service in the index.
pub fn index_key((namespace, name): &ServiceKey) -> String {
    format!("{namespace}/{name}")
}

impl World {
    /// Waits for the first complete copies. Not for Service ranges: rules work without.
    pub async fn synced(&self) {
        tokio::join!(self.services.synced(), self.slices.synced(), self.nodes.synced());
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.nodes.list().into_iter().next()
    }

    fn service_cidrs(&self, family: Family) -> Vec<Cidr> {
        let all = self.service_cidrs.as_ref().map(Reader::list).unwrap_or_default();
        let texts = all.iter().flat_map(|object| &object.spec.cidrs);
        let ranges: BTreeSet<Cidr> =
            texts.filter_map(|text| text.parse().ok()).filter(|range: &Cidr| family.has(&range.network())).collect();
        ranges.into_iter().collect()
    }

    fn change(&self, family: Family, view: &NodeView, key: &ServiceKey, written: &Desired) -> Option<Change> {
        let service = self.services.get(&key.0, &key.1);
        let new = service.map(|service| {
            let slices = self.slices.by_index(BY_SERVICE, &index_key(key));
            service_ports(family, view, &service, slices.iter().map(|slice| &**slice))
        });
        let change = Change { old: written.get(key), new: new.unwrap_or_default() };
        (change.old != change.new).then_some(change)
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
    backend: Backend,
    written: Desired,
    settings: Option<Settings>,
    view: NodeView,
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
            backend: Backend::new(&config.mode, *family),
            written: Desired::default(),
            settings: None,
            view: NodeView::default(),
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
        let mut cleaned = false;
        loop {
            let begun = Instant::now();
            let mut pause = self.config.min_sync_period;
            if self.sync().await {
                if !std::mem::replace(&mut cleaned, true) {
                    self.cleanup_others().await;
                }
            } else {
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

    /// What another mode left is removed once this one's rules are there, so that traffic is never without any.
    async fn cleanup_others(&self) {
        for state in &self.families {
            if let Err(error) = Backend::cleanup(Some(&self.config.mode), state.family).await {
                tracing::warn!(family = state.family.label(), "cannot remove what another proxy mode left: {error}");
            }
        }
    }

    fn settings(&self) -> Vec<Settings> {
        // one small request; only needed where addresses decide
        let needed = !self.config.node_port_cidrs.is_empty() || matches!(self.config.mode, Mode::Ipvs(_));
        let machine = if needed { node::machine_addresses() } else { Vec::new() };
        let (config, node) = (&self.config, self.world.node());
        let of_family = |state: &FamilyState| {
            let (family, node) = (state.family, node.as_deref());
            Settings {
                family,
                masquerade_mark: 1 << config.masquerade_bit,
                masquerade_all: config.masquerade_all,
                random_fully: self.random_fully,
                localhost_node_ports: config.localhost_node_ports && family == Family::V4,
                local_traffic: node::local_traffic(config, family, node),
                node_port_addresses: node::node_port_addresses(config, family, node, &machine),
                drop_invalid: !config.conntrack.tcp_be_liberal,
                node_ip: node::node_ip(config, family, node),
                service_cidrs: self.world.service_cidrs(family),
                machine: node::servable(family, &machine),
            }
        };
        self.families.iter().map(of_family).collect()
    }

    async fn check(&mut self) -> bool {
        let mut whole = true;
        let settings = self.settings();
        for (state, settings) in self.families.iter_mut().zip(settings) {
            if !state.backend.check().await {
                tracing::warn!(family = ?state.family, "the rules were changed by somebody else, writing them again");
                state.settings = None;
            } else if state.last_full.elapsed() >= FULL_SYNC || state.settings != Some(settings) {
                state.settings = None;
            }
            whole &= state.settings.is_some();
        }
        whole
    }

    /// True when all families are in order.
    async fn sync(&mut self) -> bool {
        let counted = self.changes.begin();
        let node = self.world.node();
        self.freshness.node_leaving(node::is_leaving(node.as_deref()));
        let view = node::view(&self.config.node_name, node.as_deref());
        let settings = self.settings();
        let addresses = listen_addresses(&settings);
        let mut good = true;
        for (state, settings) in self.families.iter_mut().zip(settings) {
            match state.sync(&self.world, settings, &view, &counted.touched).await {
                Ok(changes) => self.service_health.change(state.family, &changes),
                Err(error) => {
                    tracing::error!(family = ?state.family, "cannot write rules, trying again: {error}");
                    good = false;
                }
            }
        }
        self.service_health.serve(&addresses, &self.freshness);
        if good {
            self.freshness.updated();
            let families: Vec<Family> = self.families.iter().map(|state| state.family).collect();
            self.changes.done(&counted, &families);
        }
        good
    }
}

impl FamilyState {
    /// Writes what the touched Services change, or everything; tells the changes.
    async fn sync(
        &mut self,
        world: &World,
        settings: Settings,
        view: &NodeView,
        touched: &BTreeSet<ServiceKey>,
    ) -> Result<Vec<Change>, WriteError> {
        let (begun, label) = (Instant::now(), self.family.label());
        let partial = self.backend.is_partial() && self.settings.as_ref() == Some(&settings) && self.view == *view;
        let changes = self.changes(world, view, (partial).then_some(touched));
        let mut next = None;
        let work = if partial {
            Work::Changes(&changes)
        } else {
            let mut all = self.written.clone();
            changes.iter().for_each(|change| all.take_over(change));
            Work::All(next.insert(all))
        };
        // not known to be written until it is
        self.settings = None;
        if let Err(error) = self.backend.apply(&settings, work).await {
            metrics::FAILURES.with(&[label]).inc();
            if partial {
                metrics::PARTIAL_FAILURES.with(&[label]).inc();
            }
            return Err(error);
        }
        changes.iter().for_each(|change| self.written.take_over(change));
        (self.settings, self.view) = (Some(settings), view.clone());
        let is_udp = |change: &Change| [&change.old, &change.new].iter().any(|p| p.iter().any(is_udp));
        if !partial || changes.iter().any(is_udp) {
            self.end_stale_flows().await;
        }
        let took = begun.elapsed();
        metrics::SYNC.with(&[label]).observe_duration(took);
        if partial { &metrics::SYNC_PARTIAL } else { &metrics::SYNC_FULL }.with(&[label]).observe_duration(took);
        metrics::LAST_SYNC.with(&[label]).set_to_current_time();
        if partial {
            tracing::debug!(family = label, services = changes.len(), ?took, "rules changed");
        } else {
            self.last_full = begun;
            tracing::info!(family = label, service_ports = self.written.ports().count(), ?took, "all rules written");
        }
        count_without_local_endpoints(&self.written, label);
        Ok(changes)
    }

    /// What differs from what was written, of the touched Services or, with none given, of all.
    fn changes(&self, world: &World, view: &NodeView, touched: Option<&BTreeSet<ServiceKey>>) -> Vec<Change> {
        let change = |key: &ServiceKey| world.change(self.family, view, key, &self.written);
        if let Some(touched) = touched {
            return touched.iter().filter_map(change).collect();
        }
        let there = world.services.list();
        let named = there.iter().map(|s| (s.metadata.namespace.clone(), s.metadata.name.clone()));
        let all: BTreeSet<ServiceKey> = named.chain(self.written.services().cloned()).collect();
        all.iter().filter_map(change).collect()
    }

    /// A failure is logged only, because traffic to live endpoints is not affected.
    async fn end_stale_flows(&self) {
        let (begun, family, targets) = (Instant::now(), self.family, Targets::of(&self.written));
        let done = tokio::task::spawn_blocking(move || conntrack::reconcile(family, &targets)).await;
        match done.map_err(std::io::Error::other).and_then(std::convert::identity) {
            Ok(deleted) => metrics::CONNTRACK_DELETED.with(&[family.label()]).add(deleted),
            Err(error) => tracing::warn!("cannot end stale UDP flows: {error}"),
        }
        metrics::CONNTRACK_SYNC.with(&[family.label()]).observe_duration(begun.elapsed());
    }
}

fn is_udp(port: &ServicePort) -> bool {
    port.protocol == Protocol::Udp
}

fn count_without_local_endpoints(desired: &Desired, label: &str) {
    let count = |policy: &str, local: fn(&ServicePort) -> bool| {
        let ports = desired.ports().filter(|p| local(p) && p.local_endpoints.is_empty() && p.has_endpoints);
        metrics::NO_LOCAL_ENDPOINTS.with(&[label, policy]).set(metrics::number(ports.count()));
    };
    count("internal", |p| p.internal_local);
    count("external", |p| p.external_local && p.is_external());
}

//! Start-up order and wiring: privileges first, then ports, then the cluster, then the loop.

use std::path::Path;
use std::sync::Arc;

use client::informer::{Delta, Informer};
use client::{Client, ClientConfig, ClientConfigError, resources};
use component_base::serving::{BindError, Server};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::changes::{self, Changes};
use crate::config::{Config, DetectLocal, Mode};
use crate::core::Family;
use crate::health::{self, Freshness};
use crate::program::WriteError;
use crate::sync::{BY_SERVICE, Syncer, World, index_key};
use crate::{conntrack, ipvs, metrics, node};

/// Why kube-proxy ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Credentials or server.
    #[error("cannot talk to the API server: {0}")]
    Client(#[from] ClientConfigError),
    /// A port.
    #[error("{server}: {source}")]
    Bind {
        /// Which server.
        server: &'static str,
        /// Why.
        source: BindError,
    },
    /// Neither family works.
    #[error("the proxy mode {mode} does not work here: {source}")]
    Unsupported {
        /// Which.
        mode: &'static str,
        /// Why, of the last family tried.
        source: WriteError,
    },
    /// Cleaning up failed.
    #[error("cannot remove the rules: {0}")]
    Cleanup(WriteError),
}

/// Runs until shutdown, or cleans up and returns.
///
/// # Errors
/// The first step that failed.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    metrics::register();
    if config.cleanup {
        return cleanup().await;
    }
    let (families, mode) = (families(&config.mode).await?, config.mode.name());
    tracing::info!(
        version = component_base::version::GIT_VERSION,
        mode,
        node = config.node_name,
        ?families,
        "kube-proxy"
    );
    prepare_machine(&config);
    if config.init_only {
        return Ok(());
    }
    let freshness = Freshness::new(config.sync_period);
    serve(&config, &freshness, &shutdown)?;
    let access = ClientConfig::from_flags(&config.kubeconfig, &config.master, "kube-proxy")?;
    let client = Client::new(access.limits(config.qps, config.burst))?;
    let changed = Arc::new(Notify::new());
    let changes = Changes::default();
    let triggers = Triggers {
        changed: Arc::clone(&changed),
        freshness: freshness.clone(),
        changes: changes.clone(),
        families: families.clone(),
    };
    let world = watch(&client, &config, &triggers, &shutdown);
    tokio::select! {
        () = world.synced() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    let random_fully = supports_random_fully().await;
    Syncer::new(config, world, &families, freshness, changes, random_fully).run(changed, shutdown).await;
    Ok(())
}

async fn families(mode: &Mode) -> Result<Vec<Family>, RunError> {
    let (mut out, mut reason) = (Vec::new(), None);
    for family in [Family::V4, Family::V6] {
        match Backend::is_supported(mode, family).await {
            Ok(()) => out.push(family),
            Err(error) => {
                tracing::info!(?family, "leaving out this address family: {error}");
                reason = Some(error);
            }
        }
    }
    match reason {
        Some(source) if out.is_empty() => Err(RunError::Unsupported { mode: mode.name(), source }),
        _ => Ok(out),
    }
}

/// `--random-fully` came with iptables 1.6.2; all that Debian still supports have it.
async fn supports_random_fully() -> bool {
    let help = tokio::process::Command::new("iptables").args(["-j", "MASQUERADE", "--help"]).output().await;
    help.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("--random-fully"))
}

async fn cleanup() -> Result<(), RunError> {
    let mut result = Ok(());
    for family in [Family::V4, Family::V6] {
        result = result.and(Backend::cleanup(None, family).await);
    }
    result.map_err(RunError::Cleanup)
}

fn prepare_machine(config: &Config) {
    set("/proc/self/oom_score_adj", &config.oom_score_adj.to_string());
    conntrack::configure(&config.conntrack);
    if config.localhost_node_ports {
        // packets from 127.0.0.0/8 may then leave after their destination was changed
        set("/proc/sys/net/ipv4/conf/all/route_localnet", "1");
    }
    if let Mode::Ipvs(options) = &config.mode {
        prepare_ipvs(options);
    }
    if matches!(&config.detect_local, DetectLocal::ClusterCidr(ranges) if ranges.is_empty()) {
        tracing::warn!(
            "no --cluster-cidr (clusterCIDR): traffic from outside the cluster to Services is not masqueraded"
        );
    }
}

/// What IPVS needs to let iptables see its packets, to end flows to endpoints that are gone, and to route at all.
fn prepare_ipvs(options: &ipvs::Options) {
    for (name, value) in [
        ("vs/conntrack", "1"),
        ("vs/expire_nodest_conn", "1"),
        ("vs/expire_quiescent_template", "1"),
        ("ip_forward", "1"),
    ] {
        set(&format!("/proc/sys/net/ipv4/{name}"), value);
    }
    if options.strict_arp {
        set("/proc/sys/net/ipv4/conf/all/arp_ignore", "1");
        set("/proc/sys/net/ipv4/conf/all/arp_announce", "2");
    }
    let (tcp, tcp_fin, udp) = (options.tcp_timeout, options.tcp_fin_timeout, options.udp_timeout);
    if [tcp, tcp_fin, udp].iter().any(|timeout| !timeout.is_zero())
        && let Err(error) = ipvs::kernel::Ipvs::open().and_then(|mut ipvs| ipvs.set_timeouts(tcp, tcp_fin, udp))
    {
        tracing::warn!("cannot set the timeouts of IPVS: {error}");
    }
}

fn set(path: &str, value: &str) {
    let now = std::fs::read_to_string(path).unwrap_or_default();
    if now.trim() != value
        && let Err(error) = std::fs::write(Path::new(path), value)
    {
        tracing::warn!("cannot set {path} to {value}: {error}");
    }
}

fn serve(config: &Config, freshness: &Freshness, shutdown: &CancellationToken) -> Result<(), RunError> {
    for (what, address) in [
        ("health server (--healthz-bind-address)", config.healthz),
        ("metrics server (--metrics-bind-address)", config.metrics),
    ] {
        let Some(address) = address else { continue };
        match Server::bind(address.ip(), address.port()) {
            Ok(server) if what.starts_with("health") => {
                tokio::spawn(health::serve_health(server, freshness.clone(), shutdown.clone()));
            }
            Ok(server) => {
                tokio::spawn(health::serve_metrics(server, config.mode.name(), shutdown.clone()));
            }
            Err(source) if config.bind_hard_fail => return Err(RunError::Bind { server: what, source }),
            Err(source) => tracing::error!("{what}: {source}"),
        }
    }
    Ok(())
}

/// What a change sets in motion.
#[derive(Clone)]
struct Triggers {
    changed: Arc<Notify>,
    freshness: Freshness,
    changes: Changes,
    families: Vec<Family>,
}

impl Triggers {
    fn fire(&self) {
        self.freshness.queued();
        changes::stamp(&metrics::LAST_QUEUED, &self.families);
        self.changed.notify_one();
    }
}

fn watch(client: &Client, config: &Config, triggers: &Triggers, shutdown: &CancellationToken) -> World {
    // headless Services and their slices, and what other proxies serve, make no rules: they are not even fetched
    const OURS: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";
    let own = format!("metadata.name={}", config.node_name);
    let (for_services, for_slices, for_nodes) = (triggers.clone(), triggers.clone(), triggers.clone());
    let for_cidrs = triggers.clone();
    World {
        services: Informer::builder(client, resources::SERVICES)
            .label_selector(OURS)
            .on_event(move |delta| {
                for_services.changes.service(delta);
                for_services.fire();
            })
            .start(shutdown.clone()),
        slices: Informer::builder(client, resources::ENDPOINT_SLICES)
            .label_selector(OURS)
            .index(BY_SERVICE, |slice| changes::owner(slice).iter().map(index_key).collect())
            .on_event(move |delta| {
                for_slices.changes.slice(delta);
                for_slices.fire();
            })
            .start(shutdown.clone()),
        nodes: Informer::builder(client, resources::NODES)
            .field_selector(&own)
            .on_event(move |delta| {
                // The kubelet's heartbeats change nothing for us.
                if !matches!(delta, Delta::Updated { old, new } if node::same(old, new)) {
                    for_nodes.fire();
                }
            })
            .start(shutdown.clone()),
        service_cidrs: (config.mode == Mode::Nftables).then(|| {
            Informer::builder(client, resources::SERVICE_CIDRS)
                .on_event(move |_| for_cidrs.fire())
                .start(shutdown.clone())
        }),
    }
}

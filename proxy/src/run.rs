//! Start-up order and wiring: privileges first, then ports, then the cluster, then the loop.

use std::path::Path;
use std::sync::Arc;

use client::informer::{Delta, Informer};
use client::{Client, ClientConfig, ClientConfigError, resources};
use component_base::serving::{BindError, Server};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::changes::{self, Changes};
use crate::config::{Config, DetectLocal};
use crate::conntrack;
use crate::core::{Desired, Family};
use crate::health::{self, Freshness};
use crate::iptables::{Executor, IptablesError, LocalTraffic, NodePortAddresses, Settings, render};
use crate::sync::{Syncer, World};
use crate::{metrics, node};

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
    #[error("iptables does not work here: {0}")]
    Unsupported(IptablesError),
    /// Cleaning up failed.
    #[error("cannot remove the rules: {0}")]
    Cleanup(IptablesError),
}

/// Runs until shutdown, or cleans up and returns.
///
/// # Errors
/// The first step that failed.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    metrics::register();
    let families = families().await?;
    tracing::info!(version = component_base::version::GIT_VERSION, node = config.node_name, ?families, "kube-proxy");
    if config.cleanup {
        return cleanup(&families).await;
    }
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

async fn families() -> Result<Vec<Family>, RunError> {
    let mut out = Vec::new();
    for family in [Family::V4, Family::V6] {
        if Executor::new(family).is_supported().await {
            out.push(family);
        } else {
            tracing::info!(?family, "the machine's packet filter does not do this address family, leaving it out");
        }
    }
    if out.is_empty() {
        let program = "iptables -t nat -S".to_owned();
        let words = "neither IPv4 nor IPv6 works; is it installed, and is this root?".to_owned();
        return Err(RunError::Unsupported(IptablesError::Refused { program, words, hint: String::new() }));
    }
    Ok(out)
}

/// `--random-fully` came with iptables 1.6.2; all that Debian still supports have it.
async fn supports_random_fully() -> bool {
    let help = tokio::process::Command::new("iptables").args(["-j", "MASQUERADE", "--help"]).output().await;
    help.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("--random-fully"))
}

async fn cleanup(families: &[Family]) -> Result<(), RunError> {
    for family in families {
        let settings = Settings {
            family: *family,
            masquerade_mark: 0,
            masquerade_all: false,
            random_fully: false,
            localhost_node_ports: false,
            local_traffic: LocalTraffic::Unknown,
            node_port_addresses: NodePortAddresses::All,
            drop_invalid: false,
        };
        let frame = render(&settings, &Desired::default());
        Executor::new(*family).cleanup(&frame).await.map_err(RunError::Cleanup)?;
    }
    Ok(())
}

fn prepare_machine(config: &Config) {
    set("/proc/self/oom_score_adj", &config.oom_score_adj.to_string());
    conntrack::configure(&config.conntrack);
    if config.localhost_node_ports {
        // packets from 127.0.0.0/8 may then leave after their destination was changed
        set("/proc/sys/net/ipv4/conf/all/route_localnet", "1");
    }
    if matches!(&config.detect_local, DetectLocal::ClusterCidr(ranges) if ranges.is_empty()) {
        tracing::warn!(
            "no --cluster-cidr (clusterCIDR): traffic from outside the cluster to Services is not masqueraded"
        );
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
                tokio::spawn(health::serve_metrics(server, shutdown.clone()));
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
    }
}

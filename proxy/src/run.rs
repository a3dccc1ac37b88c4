//! Start-up order and wiring: privileges first, then ports, then the cluster, then the loop.

use std::path::Path;
use std::sync::Arc;

use client::informer::{Cached, Informer};
use client::{Client, ClientConfig, ClientConfigError, ResourceRef, resources};
use component_base::serving::{BindError, Server};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, DetectLocal};
use crate::conntrack;
use crate::core::{Desired, Family};
use crate::health::{self, Freshness};
use crate::iptables::{Executor, IptablesError, LocalTraffic, NodePortAddresses, Settings, render};
use crate::sync::{Syncer, World};

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
    let families = families().await?;
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
    let world = watch(&client, &config, &changed, &freshness, &shutdown);
    tokio::select! {
        () = world.synced() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    let random_fully = supports_random_fully().await;
    Syncer::new(config, world, families, freshness, random_fully).run(changed, shutdown).await;
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

fn watch(
    client: &Client,
    config: &Config,
    changed: &Arc<Notify>,
    freshness: &Freshness,
    shutdown: &CancellationToken,
) -> World {
    // headless Services and their slices, and what other proxies serve, make no rules: they are not even fetched
    const OURS: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";
    fn informer<T: Cached>(
        client: &Client,
        resource: ResourceRef,
        changed: &Arc<Notify>,
        freshness: &Freshness,
    ) -> Informer<T> {
        let (changed, freshness) = (Arc::clone(changed), freshness.clone());
        Informer::builder(client, resource).on_event(move |_| {
            freshness.queued();
            changed.notify_one();
        })
    }
    let own = format!("metadata.name={}", config.node_name);
    World {
        services: informer(client, resources::SERVICES, changed, freshness)
            .label_selector(OURS)
            .start(shutdown.clone()),
        slices: informer(client, resources::ENDPOINT_SLICES, changed, freshness)
            .label_selector(OURS)
            .start(shutdown.clone()),
        nodes: informer(client, resources::NODES, changed, freshness).field_selector(&own).start(shutdown.clone()),
    }
}

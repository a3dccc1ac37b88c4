//! Start-up order and wiring, top to bottom; returns when shutdown is complete.
//!
//! Order: bind the port (so that a port in use is said before anything is written), etcd, caches, registry, who may come in
//! and what they may do, admission, then the background tasks, and last serving. On shutdown: what [`http::closing`] says,
//! then the background tasks end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use component_base::metrics;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::aggregation::{Aggregator, Merged};
use crate::audit;
use crate::authn;
use crate::authz;
use crate::bootstrap::desired::{Facts, UnreadableFile};
use crate::bootstrap::progress::{Hook, Progress};
use crate::bootstrap::{self, RegistryStore};
use crate::config::{Config, EtcdConfig};
use crate::endpoints::discovery::Discovery;
use crate::endpoints::openapi::{OpenApi, WithProtobuf};
use crate::endpoints::reviews::Reviews;
use crate::endpoints::route::{Documents, Endpoints};
use crate::extension::controller::Controller;
use crate::flowcontrol::Fairness;
use crate::http::chain::{Chain, Room, Route};
use crate::http::health::Health;
use crate::http::limits::InFlight;
use crate::http::metrics::RequestMetrics;
use crate::http::server::SecurePort;
use crate::objects::Objects;
use crate::registry::{Registry, allocators, caches};
use crate::resources::{self, SharedTable};
use crate::storage::StorageError;
use crate::storage::clock::Clock;
use crate::storage::compaction;
use crate::storage::etcd::Etcd;
use crate::storage::transform::{Names, Transform};
use crate::tokens;
use crate::tunnels::{self, Tunnels};
use crate::{admission, http, webhook};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port.
    #[error("--secure-port, --bind-address: {0}")]
    Bind(#[from] component_base::serving::BindError),
    /// etcd.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Auditing.
    #[error(transparent)]
    Audit(#[from] audit::ConfigError),
    /// Authentication.
    #[error(transparent)]
    Authn(#[from] authn::ConfigError),
    /// Authorization.
    #[error(transparent)]
    Authz(#[from] authz::ConfigError),
    /// Admission.
    #[error(transparent)]
    Admission(#[from] admission::ConfigError),
    /// Keys of service accounts.
    #[error(transparent)]
    Keys(#[from] tokens::KeyError),
    /// Credentials towards kubelets.
    #[error(transparent)]
    Kubelets(#[from] tunnels::kubelet::ConfigError),
    /// A file that others must get to know.
    #[error(transparent)]
    File(#[from] UnreadableFile),
}

/// Runs the server until `shutdown`.
///
/// # Errors
/// What could not be started, with flag and file.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), StartError> {
    let port = SecurePort::bind(&config)?;
    let table = SharedTable::new(resources::table());
    let transform = Arc::new(storage_form(&config.etcd, &table)?);
    let etcd = Etcd::connect(&config.etcd, transform).await?;
    let clock = Clock::start(etcd.clone(), caches(&etcd, &table.load())).await?;
    let options = config.options.clone();
    let registry = Registry::new(etcd.clone(), Arc::clone(&clock), table.clone(), options, config.event_ttl);
    let registry = Arc::new(registry);
    let objects: Arc<dyn Objects> = registry.clone();
    registry.convert_through(Arc::new(webhook::Client::new(Arc::clone(&objects))));

    let authz = Arc::new(authz::build(&config.authz)?);
    authz.follow(&registry);
    let (uses, noted) = tokens::tracking::Uses::channel();
    let authn = Arc::new(authn::build(&config.authn, &objects, uses)?);
    let feeds = Arc::new(admission::dynamic::Feeds::default());
    feeds.follow(&registry);
    let dynamic = Arc::new(admission::dynamic::Shared {
        feeds,
        objects: Arc::clone(&objects),
        table: table.clone(),
        authz: Arc::clone(&authz),
        client: Arc::new(webhook::Client::new(Arc::clone(&objects))),
        options: config.options.clone(),
    });
    let (objects_too, authz_too) = (Arc::clone(&objects), Arc::clone(&authz));
    let parts = admission::Parts { objects: objects_too, authz: authz_too, quota: registry.clone(), dynamic };
    let chain = Arc::new(admission::build(&config.admission, &parts)?);
    registry.admit_through(Arc::clone(&chain));

    let address = port.local_addr();
    let external = external_address(&config, address.port());
    let issued = tokens::build(&config.tokens, &format!("https://{external}"))?;
    let kubelets = tunnels::kubelet::Kubelets::new(config.kubelet.clone())?;
    let stop_watches = CancellationToken::new();
    let aggregator = Arc::new(Aggregator::new(Arc::clone(&objects), config.proxy_client.clone()));
    aggregator.follow(&registry);
    let mut documents: Vec<Box<dyn Documents>> = vec![
        Box::new(Merged::new(Discovery::new(table.clone(), external), Arc::clone(&aggregator))),
        Box::new(WithProtobuf(Merged::new(OpenApi::new(table), Arc::clone(&aggregator)))),
    ];
    if let Some(discovery) = issued.discovery {
        documents.push(Box::new(discovery));
    }
    let endpoints = Endpoints {
        registry: Arc::clone(&registry),
        reviews: Reviews { authn: Arc::clone(&authn), authz: Arc::clone(&authz) },
        issuer: issued.issuer,
        aggregator: Arc::clone(&aggregator),
        tunnels: Tunnels { kubelets, objects: Arc::clone(&objects), authz: Arc::clone(&authz), admission: chain },
        documents,
        min_watch: config.limits.min_watch,
        stop_watches: stop_watches.clone(),
    };
    let route: Arc<dyn Route> = Arc::new(endpoints);
    let extensions = Controller::new(Arc::clone(&registry));
    let seats = config.limits.max_reading.saturating_add(config.limits.max_mutating);
    let fairness = (config.limits.fair && seats != usize::MAX)
        .then(|| Fairness::new(Arc::clone(&objects), seats, config.limits.timeout / 4));
    let room = match &fairness {
        Some(fairness) => {
            fairness.follow(&registry);
            Room::Levels(Arc::clone(fairness))
        }
        None => Room::Bounds(InFlight::new(&config.limits)),
    };
    let progress: Arc<Progress> = Arc::default();
    let filters = http::chain::Chain {
        authn,
        authz,
        room,
        audit: audit::build(&config.audit)?,
        health: health(&clock, &progress, extensions.synced(), fairness.is_some()),
        metrics: RequestMetrics::default(),
        timeout: config.limits.timeout,
        route,
        closing: Arc::default(),
        impersonation: authn::impersonation::Impersonation::default(),
    };
    count_objects(&clock, etcd.clone(), registry.table().clone());
    let facts = Facts::of(&config, address.port())?;
    tracing::info!(%address, revision = clock.revision(), "Serving securely");
    serve(
        &config,
        port,
        filters,
        Background { extensions, etcd, clock, registry, aggregator, fairness, facts, progress, noted },
        stop_watches,
        shutdown,
    )
    .await;
    Ok(())
}

/// How objects lie in etcd, with the names of the resources by the first segment of their keys.
fn storage_form(config: &EtcdConfig, table: &SharedTable) -> Result<Transform, StorageError> {
    let mut names = Names::new();
    for resource in table.load().iter() {
        if let Some(storage) = &resource.storage {
            let key = storage.key_prefix.trim_start_matches("/registry/").trim_end_matches('/').to_owned();
            names.entry(key).or_default().push((resource.group.clone(), resource.plural.clone()));
        }
    }
    Transform::load(config.form.clone(), format!("{}/", config.prefix), names)
}

/// What runs beside the requests.
struct Background {
    extensions: Controller,
    etcd: Etcd,
    clock: Arc<Clock>,
    registry: Arc<Registry>,
    aggregator: Arc<Aggregator>,
    fairness: Option<Arc<Fairness>>,
    facts: Facts,
    progress: Arc<Progress>,
    /// Uses of legacy tokens, to be written down.
    noted: tokio::sync::mpsc::Receiver<tokens::tracking::Used>,
}

async fn serve(
    config: &Config,
    port: SecurePort,
    filters: Chain,
    background: Background,
    stop_watches: CancellationToken,
    shutdown: CancellationToken,
) {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let Background { extensions, etcd, clock, registry, aggregator, fairness, facts, progress, noted } = background;
    tasks.spawn(Arc::clone(&clock).run(stop.clone()));
    if let Some(interval) = config.etcd.compaction_interval {
        tasks.spawn(compaction::run(etcd.clone(), clock, interval, stop.clone()));
    }
    tasks.spawn(extensions.run(stop.clone()));
    tasks.spawn(bootstrap::dangling::run(Arc::clone(&registry), stop.clone()));
    let (allocators, repaired, repair_stop) = (registry.allocators().clone(), Arc::clone(&progress), stop.clone());
    tasks.spawn(async move { allocators::repair::run(allocators, &repaired, repair_stop).await });
    let store = Arc::new(RegistryStore::new(registry, etcd));
    let (tracking, tracking_stop) = (Arc::clone(&store), stop.clone());
    tasks.spawn(async move { tokens::tracking::record(&*tracking, noted, tracking_stop).await });
    let (aggregating, aggregator_stop) = (Arc::clone(&store), stop.clone());
    tasks.spawn(async move { aggregator.run(&*aggregating, aggregator_stop).await });
    if let Some(fairness) = fairness {
        tasks.spawn(fairness.run(stop.clone()));
    }
    let bootstrap_stop = stop.clone();
    tasks.spawn(async move { bootstrap::run(&*store, &facts, &progress, bootstrap_stop).await });
    port.serve(config, Arc::new(filters), stop_watches, shutdown).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

/// `host:port` under which clients of any network reach this server.
fn external_address(config: &Config, port: u16) -> String {
    if config.external_host.is_empty() {
        return std::net::SocketAddr::new(config.advertise_address, port).to_string();
    }
    if config.external_host.contains(':') {
        return config.external_host.clone();
    }
    format!("{}:{port}", config.external_host)
}

/// Shows how many objects there are whenever metrics are asked for.
fn count_objects(clock: &Arc<Clock>, etcd: Etcd, table: SharedTable) {
    let (stored, held) = (
        metrics::gauge("apiserver_storage_objects", "Objects by resource", &["resource"]),
        metrics::gauge("apiserver_resource_objects", "Objects by group and resource", &["group", "resource"]),
    );
    let clock = Arc::downgrade(clock);
    metrics::on_render(move || {
        let Some(clock) = clock.upgrade() else { return false };
        for resource in table.load().iter() {
            let Some(storage) = &resource.storage else { continue };
            let Some(cache) = clock.cache(&etcd.key_prefix(&storage.key_prefix)) else { continue };
            let count = cache.snapshot(0).map.len() as f64;
            let (group, plural) = (resource.group.as_str(), resource.plural.as_str());
            let name = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
            stored.with(&[name.as_str()]).set(count);
            held.with(&[group, plural]).set(count);
        }
        true
    });
}

/// Upstream's post-start hooks for what is done here before the port is served: indexes and caches are filled by then.
const DONE_BEFORE_SERVING: [&str; 13] = [
    "start-apiserver-admission-initializer",
    "generic-apiserver-start-informers",
    "storage-object-count-tracker-hook",
    "start-apiextensions-informers",
    "start-apiextensions-controllers",
    "aggregator-reload-proxy-client-cert",
    "start-kube-aggregator-informers",
    "apiservice-status-local-available-controller",
    "apiservice-status-remote-available-controller",
    "apiservice-registration-controller",
    "apiservice-discovery-controller",
    "apiservice-openapi-controller",
    "apiservice-openapiv3-controller",
];

/// The checks, under upstream's names.
fn health(clock: &Arc<Clock>, progress: &Arc<Progress>, definitions: Arc<AtomicBool>, fair: bool) -> Health {
    let health = Health::default();
    health.add_done("log");
    let followed = Arc::clone(clock);
    let following = move || {
        if followed.is_following() { Ok(()) } else { Err("no events arrive from etcd".to_owned()) }
    };
    health.add("etcd", following.clone());
    health.add_ready("etcd-readiness", following);
    health.add_ready("informer-sync", || Ok(()));
    let fairness = ["priority-and-fairness-config-consumer", "priority-and-fairness-filter"];
    for name in DONE_BEFORE_SERVING.iter().chain(fairness.iter().filter(|_| fair)) {
        health.add_done(&format!("poststarthook/{name}"));
    }
    health.add("poststarthook/crd-informer-synced", move || {
        if definitions.load(Ordering::Relaxed) { Ok(()) } else { Err("not finished".to_owned()) }
    });
    for (hook, names) in Hook::CHECKS {
        for name in names {
            let progress = Arc::clone(progress);
            health.add(name, move || progress.check(hook));
        }
    }
    health
}

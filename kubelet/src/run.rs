//! Start-up order and wiring, top to bottom; returns when shutdown does. Running containers are left as they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use apimachinery::meta::ObjectMeta;
use client::events::Recorder;
use client::informer::{Cached, Informer, Reader};
use client::{Client, ClientConfig, resources};
use component_base::health::Checks;
use component_base::secure_port::SecurePort;
use component_base::serving::Server;
use component_base::tls::ClientCa;
use jiff::SignedDuration;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::cgroups::{Cgroups, Driver, Limits};
use crate::config::Config;
use crate::context::{Context, Dirs, ServiceLister};
use crate::cri::{self, Runtime, api};
use crate::events::Events;
use crate::images::{self, Puller};
use crate::node::manager::Pressure;
use crate::node::status::Facts;
use crate::node::{self, machine};
use crate::objects::Objects;
use crate::pods::admission::NodeView;
use crate::pods::env::ServiceInfo;
use crate::pods::hosts::ClusterDns;
use crate::pods::manager::{self, Message};
use crate::pods::resources::{Amounts, LimitOptions, cpu_shares, huge_page_name};
use crate::pods::security::Defaults;
use crate::pods::sources;
use crate::pods::types::Source;
use crate::server::{self, KubeletServer, Mode, State};
use crate::volumes::csi;
use crate::{bootstrap, eviction, logs, probes, status};

/// How long the runtime may take to tell its cgroup driver.
const DRIVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Most messages waiting for the pod manager; senders wait when it is full.
const MAX_MESSAGES: usize = 1024;

/// The kubelet cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No way to the API server.
    #[error("cannot use the kubeconfig {}: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: client::ClientConfigError,
    },
    /// A directory cannot be made.
    #[error("cannot make the directory {}: {source}; the kubelet runs as root", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The machine is not as the configuration demands.
    #[error("{0}")]
    Machine(String),
    /// There is no certificate to work with.
    #[error(transparent)]
    Bootstrap(#[from] bootstrap::BootstrapError),
    /// A port cannot be listened on.
    #[error(transparent)]
    Bind(#[from] component_base::serving::BindError),
}

/// Runs the kubelet until shutdown.
///
/// # Errors
/// What keeps it from starting.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), StartError> {
    let config = Arc::new(config);
    make_directories(&config)?;
    let _lock = lock(&config)?;
    bootstrap::ensure(&config, &shutdown).await?;
    let client = client(&config)?;
    let (capacity, allocatable) = node::manager::amounts(&config);
    let runtime = Runtime::connect(&config.runtime_socket, &config.image_socket, *config.file.runtime_request_timeout);
    let driver = cgroup_driver(&config, &runtime).await;
    let cgroups = cgroups(&config, driver, &allocatable)?;
    check_swap(&config)?;
    let host_ips = host_ips(&config);
    tracing::info!(
        node = config.node_name,
        addresses = host_ips.join(","),
        runtime = config.runtime_socket,
        standalone = client.is_none(),
        "Starting kubelet {}",
        component_base::version::GIT_VERSION
    );
    component_base::metrics::gauge("kubelet_node_name", "The node's name. The count is always 1.", &["node"])
        .with(&[&config.node_name])
        .set(1.0);
    if let Some(client) = &client {
        certificates(&config, client, &host_ips, &shutdown);
    }
    let facts = Facts {
        node_name: config.node_name.clone(),
        host_ips,
        capacity,
        allocatable,
        identity: machine::identity(),
        port: config.file.port,
        ..Facts::default()
    };
    let context = Arc::new(context(&config, client.as_ref(), runtime, cgroups, &facts, &shutdown));
    let started = start(&config, &context, client.as_ref(), facts, &shutdown);
    let checks = checks(&started);
    health_port(&config, checks.clone(), &shutdown)?;
    if config.file.enable_server {
        serve(&config, &context, client.as_ref(), &started, checks, &shutdown)?;
    }
    shutdown.cancelled().await;
    tracing::info!("Ending; containers keep running");
    Ok(())
}

/// What the pods' workers share.
fn context(
    config: &Config,
    client: Option<&Client>,
    runtime: Runtime,
    cgroups: Cgroups,
    facts: &Facts,
    shutdown: &CancellationToken,
) -> Context {
    let file = &config.file;
    let recorder = match client {
        Some(client) => {
            // A rate of their own: what is told of pods does not wait for events.
            let qps = f32::from(i16::try_from(file.event_record_qps).unwrap_or(i16::MAX));
            let client = client.with_limits(qps, u32::try_from(file.event_burst).unwrap_or(0));
            Recorder::start(&client, "kubelet", &config.node_name, shutdown.clone())
        }
        None => Recorder::silent(),
    };
    Context {
        runtime,
        runtime_name: OnceLock::new(),
        objects: Objects::new(client.cloned()),
        events: Events::new(recorder, &config.node_name),
        puller: Puller::new(parallel_pulls(config)),
        services: services(client, shutdown),
        node_name: config.node_name.clone(),
        host_ips: facts.host_ips.clone(),
        dirs: Dirs {
            root: config.root_dir.clone(),
            pod_logs: file.pod_logs_dir.clone(),
            container_logs: container_logs(&file.pod_logs_dir),
        },
        dns: ClusterDns { servers: file.cluster_dns.clone(), domain: file.cluster_domain.clone() },
        resolv_conf: Some(PathBuf::from(&file.resolv_conf)).filter(|p| !p.as_os_str().is_empty()),
        limits: LimitOptions {
            cfs_quota: file.cpu_cfs_quota,
            cfs_period_microseconds: i64::try_from(file.cpu_cfs_quota_period.as_micros()).unwrap_or(100_000),
            memory_capacity_bytes: facts.capacity.get("memory").copied().unwrap_or(0),
            huge_pages: machine::huge_pages().into_iter().map(|(bytes, _)| huge_page_name(bytes)).collect(),
            group_oom_kill: cgroups.is_v2() && file.single_process_oom_kill != Some(true),
        },
        security: Defaults {
            seccomp_default: file.seccomp_default,
            seccomp_dir: config.root_dir.join("seccomp").to_string_lossy().into_owned(),
        },
        cgroups,
        csi: csi::Drivers::default(),
        allocatable: facts.allocatable.clone(),
        max_crash_backoff: config.max_crash_backoff,
        sync_period: SignedDuration::try_from(*file.sync_frequency).unwrap_or(SignedDuration::from_mins(1)),
    }
}

/// What the ports need of the running parts.
struct Started {
    messages: mpsc::Sender<Message>,
}

/// Starts the loops.
fn start(
    config: &Arc<Config>,
    context: &Arc<Context>,
    client: Option<&Client>,
    facts: Facts,
    shutdown: &CancellationToken,
) -> Started {
    let (messages, inbox) = mpsc::channel(MAX_MESSAGES);
    let (prober, targets) = mpsc::channel(MAX_MESSAGES);
    let (health_sender, runtime_health) = watch::channel(None);
    let view = NodeView {
        name: config.node_name.clone(),
        labels: BTreeMap::new(),
        allocatable: facts.allocatable.clone(),
        unsafe_sysctls: config.file.allowed_unsafe_sysctls.clone(),
    };
    let (view_sender, view) = watch::channel(view);
    let (pressure_sender, pressure) = watch::channel(Pressure::default());
    let statuses = client.map(|client| {
        let (sender, updates) = mpsc::channel(MAX_MESSAGES);
        tokio::spawn(status::manager::run(client.clone(), updates, shutdown.clone()));
        sender
    });
    let mut awaited = Vec::new();
    if let Some(path) = &config.static_pod_path {
        awaited.push(Source::File);
        let period = *config.file.file_check_frequency;
        let out = messages.clone();
        tokio::spawn(sources::files::run(path.clone(), config.node_name.clone(), period, out, shutdown.clone()));
    }
    if let Some(client) = client {
        awaited.push(Source::Api);
        let out = messages.clone();
        tokio::spawn(sources::api::run(client.clone(), config.node_name.clone(), out, shutdown.clone()));
        node::manager::follow(client, view_sender, shutdown.clone());
    }
    let parts = node::manager::Parts {
        config: Arc::clone(config),
        context: Arc::clone(context),
        client: client.cloned(),
        facts,
        runtime_health,
        pressure,
    };
    tokio::spawn(node::manager::run(parts, shutdown.clone()));
    tokio::spawn(probes::prober::run(Arc::clone(context), targets, messages.clone(), shutdown.clone()));
    let parts = manager::Parts {
        context: Arc::clone(context),
        inbox,
        outbox: messages.clone(),
        prober,
        statuses,
        node: view,
        pressure: pressure_sender.subscribe(),
        awaited,
        runtime_health: health_sender,
    };
    tokio::spawn(manager::run(parts, shutdown.clone()));
    tokio::spawn(relay_runtime(context.runtime.clone(), messages.clone(), shutdown.clone()));
    tokio::spawn(csi::run(Arc::clone(context), shutdown.clone()));
    housekeeping(config, context, &messages, pressure_sender, shutdown);
    Started { messages }
}

/// Starts what keeps the node tidy: images, logs, eviction.
fn housekeeping(
    config: &Config,
    context: &Arc<Context>,
    messages: &mpsc::Sender<Message>,
    pressure: watch::Sender<Pressure>,
    shutdown: &CancellationToken,
) {
    let policy = images::gc::Policy {
        high_percent: u64::try_from(config.file.image_gc_high_threshold_percent).unwrap_or(85),
        low_percent: u64::try_from(config.file.image_gc_low_threshold_percent).unwrap_or(80),
        min_age: SignedDuration::try_from(*config.file.image_minimum_gc_age).unwrap_or(SignedDuration::from_mins(2)),
        max_age: SignedDuration::try_from(*config.file.image_maximum_gc_age).ok().filter(|a| !a.is_zero()),
    };
    tokio::spawn(images::gc::run(Arc::clone(context), policy, shutdown.clone()));
    let policy = logs::Policy {
        max_bytes: config.log_max_bytes,
        max_files: usize::try_from(config.file.container_log_max_files).unwrap_or(5),
        period: *config.file.container_log_monitor_interval,
    };
    tokio::spawn(logs::run(Arc::clone(context), policy, shutdown.clone()));
    let parts = eviction::Parts {
        context: Arc::clone(context),
        settings: eviction::Settings {
            thresholds: config.eviction.clone(),
            transition: *config.file.eviction_pressure_transition_period,
            max_grace_seconds: config.file.eviction_max_pod_grace_period.into(),
            local_storage: config.file.local_storage_capacity_isolation,
        },
        messages: messages.clone(),
        pressure,
    };
    tokio::spawn(eviction::run(parts, shutdown.clone()));
}

/// Passes the runtime's reports to the pod manager.
async fn relay_runtime(runtime: Runtime, messages: mpsc::Sender<Message>, shutdown: CancellationToken) {
    let (sender, mut reports) = mpsc::channel(16);
    tokio::spawn(cri::events::run(runtime, sender, shutdown));
    while let Some(report) = reports.recv().await {
        if messages.send(Message::Runtime(report)).await.is_err() {
            return;
        }
    }
}

fn make_directories(config: &Config) -> Result<(), StartError> {
    let root = &config.root_dir;
    for path in [root.clone(), root.join("pods"), root.join("plugins"), PathBuf::from(&config.file.pod_logs_dir)] {
        std::fs::create_dir_all(&path).map_err(|source| StartError::Directory { path: path.clone(), source })?;
    }
    Ok(())
}

/// `/var/log/containers` beside `/var/log/pods`.
fn container_logs(pod_logs: &str) -> PathBuf {
    Path::new(pod_logs).parent().unwrap_or(Path::new("/var/log")).join("containers")
}

fn lock(config: &Config) -> Result<Option<std::fs::File>, StartError> {
    let Some(path) = &config.lock_file else { return Ok(None) };
    let fail = |e: &dyn std::fmt::Display| {
        StartError::Machine(format!("cannot lock {}: {e}; another kubelet may be running", path.display()))
    };
    let file = std::fs::File::create(path).map_err(|e| fail(&e))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|e| fail(&e))?;
    Ok(Some(file))
}

fn client(config: &Config) -> Result<Option<Client>, StartError> {
    let Some(path) = &config.kubeconfig else { return Ok(None) };
    let fail = |source| StartError::Kubeconfig { path: path.clone(), source };
    #[allow(clippy::cast_precision_loss, reason = "requests per second are small numbers")]
    let qps = config.file.kube_api_qps as f32;
    let burst = u32::try_from(config.file.kube_api_burst).unwrap_or(100);
    let settings = ClientConfig::from_kubeconfig(path, "kubelet").map_err(fail)?.limits(qps, burst);
    Client::new(settings).map(Some).map_err(fail)
}

/// The runtime's cgroup driver when it tells (containerd 2 and CRI-O by a call, containerd 1 in its configuration), since
/// two drivers on one node make pods vanish; else the configured one.
async fn cgroup_driver(config: &Config, runtime: &Runtime) -> Driver {
    let asked = tokio::time::timeout(DRIVER_TIMEOUT, runtime.runtime_config(api::RuntimeConfigRequest {})).await;
    let told = asked.ok().and_then(Result::ok).and_then(|r| r.linux).map(|l| l.cgroup_driver);
    let told = match told.and_then(|d| api::CgroupDriver::try_from(d).ok()) {
        Some(api::CgroupDriver::Systemd) => Some(Driver::Systemd),
        Some(api::CgroupDriver::Cgroupfs) => Some(Driver::Cgroupfs),
        None => {
            let asked = runtime.status(api::StatusRequest { verbose: true });
            let info = tokio::time::timeout(DRIVER_TIMEOUT, asked).await.ok().and_then(Result::ok).map(|s| s.info);
            info.and_then(|info| configured_driver(info.get("config")?))
        }
    };
    let told = told.unwrap_or(config.cgroup_driver);
    if told != config.cgroup_driver {
        tracing::warn!(
            configured = ?config.cgroup_driver,
            runtime = ?told,
            "cgroupDriver is not the runtime's; using the runtime's: set both alike"
        );
    }
    told
}

/// The driver in containerd's configuration as its verbose status shows it.
fn configured_driver(text: &str) -> Option<Driver> {
    let config: serde_json::Value = serde_json::from_str(text).ok()?;
    let containerd = &config["containerd"];
    let runtime = &containerd["runtimes"][containerd["defaultRuntimeName"].as_str().unwrap_or("runc")];
    let systemd = runtime["options"]["SystemdCgroup"].as_bool().unwrap_or(false);
    let known = runtime["runtimeType"].as_str() == Some("io.containerd.runc.v2");
    known.then_some(if systemd { Driver::Systemd } else { Driver::Cgroupfs })
}

fn cgroups(config: &Config, driver: Driver, allocatable: &Amounts) -> Result<Cgroups, StartError> {
    let file = &config.file;
    let cgroups = Cgroups::new(driver, file.cgroups_per_qos, &file.cgroup_root, file.pod_pids_limit);
    if !cgroups.is_v2() {
        if config.refuse_cgroup_v1 {
            return Err(StartError::Machine(
                "kubelet is configured to not run on a host using cgroup v1 (failCgroupV1: true): boot with cgroup v2, or set failCgroupV1: false".into(),
            ));
        }
        tracing::warn!(
            "This machine uses cgroup v1, which is in maintenance mode: boot with systemd.unified_cgroup_hierarchy=1"
        );
    }
    let enforce = file.enforce_node_allocatable.iter().any(|e| e == "pods");
    let limits = enforce.then(|| Limits {
        cpu_shares: cpu_shares(allocatable.get("cpu").copied().unwrap_or(0)),
        memory_bytes: allocatable.get("memory").copied().unwrap_or(0),
        ..Limits::default()
    });
    cgroups.set_up_node(limits).map_err(|e| {
        StartError::Machine(format!("failed to initialize top level QOS containers: {e}; with --cgroups-per-qos=false and --enforce-node-allocatable=\"\" the kubelet does without"))
    })?;
    Ok(cgroups)
}

fn check_swap(config: &Config) -> Result<(), StartError> {
    refuse_swap(config.file.fail_swap_on, &std::fs::read_to_string("/proc/swaps").unwrap_or_default())
}

/// Swap, as /proc/swaps shows it below its headline; memory-backed devices are none.
fn refuse_swap(refuse: bool, swaps: &str) -> Result<(), StartError> {
    let on = swaps.lines().skip(1).find(|l| !l.starts_with("/dev/ram"));
    let Some(device) = on.filter(|_| refuse).and_then(|l| l.split_whitespace().next()) else { return Ok(()) };
    Err(StartError::Machine(format!(
        "running with swap on is not supported, and {device} is: run swapoff -a and take swap out of /etc/fstab, or set failSwapOn: false"
    )))
}

fn host_ips(config: &Config) -> Vec<String> {
    let given = config.node_ips.iter().filter(|ip| !ip.is_unspecified());
    let given: Vec<String> = given.map(ToString::to_string).collect();
    if given.is_empty() { vec![machine::detect_address().to_string()] } else { given }
}

fn parallel_pulls(config: &Config) -> usize {
    if config.file.serialize_image_pulls {
        return 1;
    }
    config.file.max_parallel_image_pulls.and_then(|n| usize::try_from(n).ok()).unwrap_or(64)
}

/// A Service with only what environment variables need.
#[derive(Debug, Deserialize)]
struct Service {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    ports: Vec<ServicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServicePort {
    name: String,
    port: i32,
    protocol: String,
}

impl Cached for Service {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

fn services(client: Option<&Client>, shutdown: &CancellationToken) -> ServiceLister {
    let Some(client) = client else { return Box::new(|_| Vec::new()) };
    let reader: Reader<Service> = Informer::builder(client, resources::SERVICES)
        .index("namespace", |s: &Service| vec![s.metadata.namespace.clone()])
        .start(shutdown.clone());
    Box::new(move |namespace| {
        let mut found = reader.by_index("namespace", namespace);
        if namespace != "default" {
            found.extend(reader.get("default", "kubernetes"));
        }
        found.iter().map(|s| service_info(s)).collect()
    })
}

fn service_info(service: &Service) -> ServiceInfo {
    let port = |p: &ServicePort| {
        let protocol = if p.protocol.is_empty() { "TCP" } else { &p.protocol };
        (p.name.clone(), p.port, protocol.to_owned())
    };
    ServiceInfo {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        cluster_ip: service.spec.cluster_ip.clone(),
        ports: service.spec.ports.iter().map(port).collect(),
    }
}

/// Renewal of the kubelet's own certificates.
fn certificates(config: &Arc<Config>, client: &Client, host_ips: &[String], shutdown: &CancellationToken) {
    if config.file.rotate_certificates || config.bootstrap_kubeconfig.is_some() {
        let (config, client, shutdown) = (Arc::clone(config), client.clone(), shutdown.clone());
        tokio::spawn(async move { bootstrap::rotate(&config, &client, &shutdown).await });
    }
    if config.file.server_tls_bootstrap && config.file.tls_cert_file.is_empty() {
        let (config, client, shutdown) = (Arc::clone(config), client.clone(), shutdown.clone());
        let host_ips = host_ips.to_vec();
        tokio::spawn(async move { bootstrap::obtain(&config, &client, &host_ips, &shutdown).await });
    }
}

fn checks(started: &Started) -> Checks {
    let checks = Checks::new();
    let messages = started.messages.clone();
    checks.add("ping", || Ok(()));
    checks.add("syncloop", move || if messages.is_closed() { Err("the pod manager ended".into()) } else { Ok(()) });
    checks
}

/// `/healthz` on its own port.
fn health_port(config: &Config, checks: Checks, shutdown: &CancellationToken) -> Result<(), StartError> {
    let Some(port) = u16::try_from(config.file.healthz_port).ok().filter(|p| *p > 0) else { return Ok(()) };
    let server = Server::bind(config.healthz_address, port)?;
    tokio::spawn(SecurePort::new(checks).without_metrics().serve(server, None, shutdown.clone()));
    Ok(())
}

/// The main port and, when configured, the read-only one.
fn serve(
    config: &Config,
    context: &Arc<Context>,
    client: Option<&Client>,
    started: &Started,
    checks: Checks,
    shutdown: &CancellationToken,
) -> Result<(), StartError> {
    let file = &config.file;
    let ca_file = &file.authentication.x509.client_ca_file;
    let client_ca = if ca_file.is_empty() {
        None
    } else {
        Some(ClientCa::from_file(Path::new(ca_file)).map_err(bootstrap::BootstrapError::from)?)
    };
    let tls = bootstrap::server_tls(config, &context.host_ips, client_ca.clone())?;
    let mode = if file.authorization.mode == "Webhook" { Mode::Webhook } else { Mode::AlwaysAllow };
    let auth = Arc::new(server::delegated(file, client, client_ca));
    let state = Arc::new(State {
        context: Arc::clone(context),
        messages: started.messages.clone(),
        configuration: file.clone(),
        checks,
    });
    let listener = Server::bind(config.address, u16::try_from(file.port).unwrap_or(10250))?;
    tracing::info!(address = %listener.local_addr(), "Serving");
    tokio::spawn(KubeletServer::new(Arc::clone(&state), auth, mode).serve(listener, Some(tls), shutdown.clone()));
    if let Some(port) = u16::try_from(file.read_only_port).ok().filter(|p| *p > 0) {
        let listener = Server::bind(config.address, port)?;
        tokio::spawn(KubeletServer::read_only(state).serve(listener, None, shutdown.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_named() {
        let swaps = "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n";
        assert!(refuse_swap(true, swaps).unwrap_err().to_string().contains("/dev/sda2 is: run swapoff -a"));
        assert!(refuse_swap(false, swaps).is_ok());
        assert!(refuse_swap(true, "Filename Type\n/dev/ram0 x\n").is_ok());
    }

    #[test]
    fn the_runtimes_own_driver() {
        let config = |options: &str| {
            let text = r#"{"containerd":{"defaultRuntimeName":"runc","runtimes":{"runc":{"runtimeType":"io.containerd.runc.v2","options":OPTIONS}}}}"#;
            configured_driver(&text.replace("OPTIONS", options))
        };
        assert_eq!(config(r#"{"SystemdCgroup":true}"#), Some(Driver::Systemd));
        assert_eq!(config("null"), Some(Driver::Cgroupfs));
        assert_eq!(configured_driver("{}"), None);
    }
}

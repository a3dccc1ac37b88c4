//! The validated configuration: what the flags mean, with files read and values checked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::leader::LeaderElectionConfig;
use client::{ClientConfig, ClientConfigError};
use pki::authority::Authority;
use pki::token_keys::{KeyError, Signer};

use crate::controllers::certificates::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY};
use crate::controllers::horizontalpodautoscaler_controller::Settings;
use crate::controllers::horizontalpodautoscaler_controller::replicas::Patience;
use crate::controllers::node_ipam_controller::{Cidr, Pool};
use crate::controllers::node_lifecycle_controller::zones::Rates;
use crate::controllers::table::{self, Selection};
use crate::flags::{CertificatesFlags, ConcurrencyFlags, Flags, NodesFlags};

/// Name of the daemon, its default lease and its User-Agent.
pub const NAME: &str = "kube-controller-manager";
const DEFAULT_QPS: f32 = 20.0;
const DEFAULT_BURST: u32 = 30;

/// What the daemon runs with.
pub struct Config {
    /// The API server, with limits that count per controller.
    pub client: ClientConfig,
    /// Each controller acts as its own service account.
    pub use_service_account_credentials: bool,
    /// Leader election.
    pub leader: LeaderElectionConfig,
    /// Which controllers run.
    pub controllers: Selection,
    /// How long controllers may finish their work at the end.
    pub shutdown_timeout: Duration,
    /// Workers.
    pub concurrent: Concurrent,
    /// PEM that every namespace gets.
    pub root_ca: Option<String>,
    /// Signs token secrets of service accounts; without it there are none.
    pub token_signer: Option<Arc<Signer>>,
    /// Token secrets that were not used for so long are taken back.
    pub legacy_token_period: Duration,
    /// Authorities by signer name.
    pub signers: HashMap<&'static str, Arc<Authority>>,
    /// Longest life time of a signed certificate.
    pub signing_duration: Duration,
    /// Ranges for nodes, one pool per family; empty when ranges are not allocated.
    pub cidr_pools: Vec<Pool>,
    /// See the flag.
    pub node_monitor_grace_period: Duration,
    /// See the flag.
    pub node_startup_grace_period: Duration,
    /// How fast nodes are marked for eviction.
    pub eviction_rates: Rates,
    /// How many ended pods may stay; 0 for all.
    pub terminated_pod_gc_threshold: usize,
    /// See the flag.
    pub max_endpoints_per_slice: usize,
    /// Changes of pods are collected for so long.
    pub endpointslice_batch_period: Duration,
    /// Changes of pods are collected for so long.
    pub endpoints_batch_period: Duration,
    /// Changes of mirrored Endpoints are collected for so long.
    pub mirroring_batch_period: Duration,
    /// At most so many addresses of one subset are mirrored.
    pub mirroring_max_endpoints: usize,
    /// Quotas are counted anew after so long in any case.
    pub quota_sync_period: Duration,
    /// Of autoscalers.
    pub autoscaling: Settings,
    /// Whether claims are handed to provisioners.
    pub enable_dynamic_provisioning: bool,
    /// Whether volumes that a dead node does not let go are detached by force.
    pub force_detach: bool,
}

/// Workers of each controller.
#[derive(Clone, Debug)]
pub struct Concurrent {
    /// Of deployments.
    pub deployment: usize,
    /// Of daemon sets.
    pub daemon_set: usize,
    /// Of stateful sets.
    pub stateful_set: usize,
    /// Of jobs.
    pub job: usize,
    /// Of cron jobs.
    pub cron_job: usize,
    /// Of replica sets.
    pub replica_set: usize,
    /// Of replication controllers.
    pub replication_controller: usize,
    /// Of namespaces.
    pub namespace: usize,
    /// Of endpoints.
    pub endpoint: usize,
    /// Of endpoint slices.
    pub service_endpoint: usize,
    /// Of mirrored Endpoints.
    pub mirroring: usize,
    /// Of the garbage collector.
    pub garbage_collector: usize,
    /// Of finished jobs with a time to live.
    pub ttl_after_finished: usize,
    /// Of token secrets.
    pub token_secret: usize,
    /// Of quotas.
    pub resource_quota: usize,
    /// Of pods whose devices are tainted.
    pub device_taint_eviction: usize,
    /// Of autoscalers.
    pub autoscaler: usize,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The connection to the API server.
    #[error(transparent)]
    Client(#[from] ClientConfigError),
    /// A file that a flag names.
    #[error("--{flag}: cannot read {}: {source}", path.display())]
    File {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key of service account tokens.
    #[error(transparent)]
    TokenKey(#[from] KeyError),
    /// An authority.
    #[error("--{flag}: {source}")]
    Authority {
        /// The flag of the certificate.
        flag: &'static str,
        /// Why.
        source: pki::Error,
    },
    /// A value that makes no sense, in words.
    #[error("{0}")]
    Value(String),
}

impl Config {
    /// Reads the files that the flags name and checks all values.
    pub fn from_flags(flags: &Flags) -> Result<Self, ConfigError> {
        let Flags {
            logging: _,
            serving: _,
            client,
            leader,
            delegated: _,
            generic,
            certificates,
            nodes,
            concurrency,
            workloads,
            volumes,
            accepted,
        } = flags;
        if !matches!(accepted.cloud_provider.as_str(), "" | "external") {
            let provider = &accepted.cloud_provider;
            return Err(ConfigError::Value(format!(
                "--cloud-provider={provider}: cloud loops run in a cloud controller manager, use --cloud-provider=external"
            )));
        }
        let access = ClientConfig::from_flags(&client.kubeconfig, &client.master, NAME)?
            .limits(client.kube_api_qps.unwrap_or(DEFAULT_QPS), client.kube_api_burst.unwrap_or(DEFAULT_BURST));
        let mut controllers = table::select(&generic.controllers).map_err(ConfigError::Value)?;
        if !workloads.enable_garbage_collector {
            controllers.disable("garbage-collector-controller");
        }
        let root_ca = read_optional("root-ca-file", &certificates.root_ca_file)?;
        if let Some(pem) = &root_ca
            && !pem.contains("-----BEGIN CERTIFICATE-----")
        {
            return Err(ConfigError::Value(format!(
                "--root-ca-file: {} holds no certificate",
                certificates.root_ca_file
            )));
        }
        Ok(Self {
            client: access,
            use_service_account_credentials: generic.use_service_account_credentials,
            leader: leader.to_config(NAME).map_err(ConfigError::Value)?,
            controllers,
            shutdown_timeout: generic.controller_shutdown_timeout.0,
            concurrent: Concurrent::from_flags(concurrency),
            root_ca,
            token_signer: token_signer(&certificates.service_account_private_key_file)?,
            legacy_token_period: certificates.legacy_service_account_token_clean_up_period.0,
            signers: signers(certificates)?,
            signing_duration: certificates.cluster_signing_duration.0,
            cidr_pools: cidr_pools(nodes).map_err(ConfigError::Value)?,
            node_monitor_grace_period: nodes.node_monitor_grace_period.0,
            node_startup_grace_period: nodes.node_startup_grace_period.0,
            eviction_rates: Rates {
                normal: nodes.node_eviction_rate,
                secondary: nodes.secondary_node_eviction_rate,
                unhealthy_share: nodes.unhealthy_zone_threshold,
                large_cluster: count(nodes.large_cluster_size_threshold),
            },
            terminated_pod_gc_threshold: count(nodes.terminated_pod_gc_threshold),
            max_endpoints_per_slice: count(workloads.max_endpoints_per_slice).clamp(1, 1000),
            endpointslice_batch_period: workloads.endpointslice_updates_batch_period.0,
            endpoints_batch_period: workloads.endpoint_updates_batch_period.0,
            mirroring_batch_period: workloads.mirroring_endpointslice_updates_batch_period.0,
            mirroring_max_endpoints: count(workloads.mirroring_max_endpoints_per_subset),
            quota_sync_period: workloads.resource_quota_sync_period.0,
            autoscaling: Settings {
                period: workloads.horizontal_pod_autoscaler_sync_period.0.max(Duration::from_millis(100)),
                stabilization: workloads.horizontal_pod_autoscaler_downscale_stabilization.0,
                tolerance: workloads.horizontal_pod_autoscaler_tolerance,
                patience: Patience {
                    cpu_initialization: workloads.horizontal_pod_autoscaler_cpu_initialization_period.0,
                    initial_readiness: workloads.horizontal_pod_autoscaler_initial_readiness_delay.0,
                },
            },
            enable_dynamic_provisioning: volumes.enable_dynamic_provisioning,
            force_detach: !volumes.disable_force_detach_on_timeout,
        })
    }
}

impl Concurrent {
    fn from_flags(flags: &ConcurrencyFlags) -> Self {
        Self {
            deployment: count(flags.concurrent_deployment_syncs),
            daemon_set: count(flags.concurrent_daemonset_syncs),
            stateful_set: count(flags.concurrent_statefulset_syncs),
            job: count(flags.concurrent_job_syncs),
            cron_job: count(flags.concurrent_cron_job_syncs),
            replica_set: count(flags.concurrent_replicaset_syncs),
            replication_controller: count(flags.concurrent_rc_syncs),
            namespace: count(flags.concurrent_namespace_syncs),
            endpoint: count(flags.concurrent_endpoint_syncs),
            service_endpoint: count(flags.concurrent_service_endpoint_syncs),
            mirroring: count(flags.mirroring_concurrent_service_endpoint_syncs),
            garbage_collector: count(flags.concurrent_gc_syncs),
            ttl_after_finished: count(flags.concurrent_ttl_after_finished_syncs),
            token_secret: count(flags.concurrent_serviceaccount_token_syncs),
            resource_quota: count(flags.concurrent_resource_quota_syncs),
            device_taint_eviction: count(flags.concurrent_device_taint_eviction_syncs),
            autoscaler: count(flags.concurrent_horizontal_pod_autoscaler_syncs),
        }
    }
}

fn count(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn read(flag: &'static str, path: &str) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::File { flag, path: path.into(), source })
}

fn read_optional(flag: &'static str, path: &str) -> Result<Option<String>, ConfigError> {
    if path.is_empty() { Ok(None) } else { read(flag, path).map(Some) }
}

fn token_signer(path: &str) -> Result<Option<Arc<Signer>>, KeyError> {
    const FLAG: &str = "--service-account-private-key-file";
    if path.is_empty() { Ok(None) } else { Signer::read(FLAG, Path::new(path)).map(|signer| Some(Arc::new(signer))) }
}

/// Each signer's own authority, or the common one.
fn signers(flags: &CertificatesFlags) -> Result<HashMap<&'static str, Arc<Authority>>, ConfigError> {
    let common = authority(
        "cluster-signing-cert-file", "cluster-signing-key-file", &flags.cluster_signing_cert_file,
        &flags.cluster_signing_key_file,
    )?;
    let rows: [(&str, &str, &str, &str, &str); 4] = [
        (
            CLIENT,
            "cluster-signing-kube-apiserver-client-cert-file",
            "cluster-signing-kube-apiserver-client-key-file",
            &flags.cluster_signing_kube_apiserver_client_cert_file,
            &flags.cluster_signing_kube_apiserver_client_key_file,
        ),
        (
            KUBELET_CLIENT,
            "cluster-signing-kubelet-client-cert-file",
            "cluster-signing-kubelet-client-key-file",
            &flags.cluster_signing_kubelet_client_cert_file,
            &flags.cluster_signing_kubelet_client_key_file,
        ),
        (
            KUBELET_SERVING,
            "cluster-signing-kubelet-serving-cert-file",
            "cluster-signing-kubelet-serving-key-file",
            &flags.cluster_signing_kubelet_serving_cert_file,
            &flags.cluster_signing_kubelet_serving_key_file,
        ),
        (
            LEGACY,
            "cluster-signing-legacy-unknown-cert-file",
            "cluster-signing-legacy-unknown-key-file",
            &flags.cluster_signing_legacy_unknown_cert_file,
            &flags.cluster_signing_legacy_unknown_key_file,
        ),
    ];
    let own_given = rows.iter().any(|(_, _, _, cert, key)| !cert.is_empty() || !key.is_empty());
    if own_given && common.is_some() {
        return Err(ConfigError::Value(
            "--cluster-signing-cert-file and --cluster-signing-key-file exclude the flags of single signers".to_owned(),
        ));
    }
    let mut signers = HashMap::new();
    for (signer, cert_flag, key_flag, cert, key) in rows {
        let own = authority(cert_flag, key_flag, cert, key)?;
        if let Some(authority) = own.or_else(|| common.clone()) {
            signers.insert(signer, authority);
        }
    }
    Ok(signers)
}

fn authority(
    cert_flag: &'static str,
    key_flag: &'static str,
    cert: &str,
    key: &str,
) -> Result<Option<Arc<Authority>>, ConfigError> {
    match (cert.is_empty(), key.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => {
            let (cert_pem, key_pem) = (read(cert_flag, cert)?, read(key_flag, key)?);
            Authority::from_pem(&cert_pem, &key_pem, cert)
                .map(|authority| Some(Arc::new(authority)))
                .map_err(|source| ConfigError::Authority { flag: cert_flag, source })
        }
        _ => Err(ConfigError::Value(format!("--{cert_flag} and --{key_flag} must be given together"))),
    }
}

fn cidrs(flag: &str, text: &str) -> Result<Vec<Cidr>, String> {
    text.split(',')
        .filter(|part| !part.trim().is_empty())
        .map(|part| Cidr::parse(part).ok_or_else(|| format!("--{flag}: {part:?} is no range like 10.244.0.0/16")))
        .collect()
}

fn cidr_pools(flags: &NodesFlags) -> Result<Vec<Pool>, String> {
    if !flags.allocate_node_cidrs {
        return Ok(Vec::new());
    }
    if flags.cidr_allocator_type != "RangeAllocator" {
        return Err(format!("--cidr-allocator-type={}: only RangeAllocator is possible", flags.cidr_allocator_type));
    }
    let clusters = cidrs("cluster-cidr", &flags.cluster_cidr)?;
    let services = cidrs("service-cluster-ip-range", &flags.service_cluster_ip_range)?;
    if clusters.is_empty() {
        return Err("--allocate-node-cidrs needs --cluster-cidr".to_owned());
    }
    if clusters.len() > 2 || clusters.len() == 2 && clusters[0].is_v6() == clusters[1].is_v6() {
        return Err("--cluster-cidr: at most one range per family is possible".to_owned());
    }
    let mut pools = Vec::new();
    for cluster in clusters {
        let own = if cluster.is_v6() { flags.node_cidr_mask_size_ipv6 } else { flags.node_cidr_mask_size_ipv4 };
        let default = if cluster.is_v6() { 64 } else { 24 };
        let size = [own, flags.node_cidr_mask_size].into_iter().find(|size| *size != 0).unwrap_or(default);
        let size = u8::try_from(size).map_err(|_| format!("--node-cidr-mask-size: {size} is no prefix length"))?;
        let mut pool = Pool::new(cluster, size)?;
        services.iter().for_each(|range| pool.mark(range, true));
        pools.push(pool);
    }
    Ok(pools)
}

//! The command line: every flag of upstream's kube-controller-manager, once.
//!
//! Shared groups (logging, serving, client, leader election, delegated authentication) come from `component-base` and
//! `client`. [`crate::config`] turns the struct into a validated configuration.

use clap::Parser;
use client::ClientFlags;
use client::delegated::DelegatedFlags;
use client::leader::LeaderElectionFlags;
use component_base::flags::{Fate, GoDuration, LegacyFlag};
use component_base::logging::LoggingFlags;
use component_base::secure_serving::SecureServingFlags;

/// Flags that upstream has removed since v1.16.
pub const LEGACY: &[LegacyFlag] = &[
    LegacyFlag {
        name: "address",
        takes_value: true,
        fate: Fate::Ignored("removed in v1.24: the insecure port is gone, use --bind-address"),
    },
    LegacyFlag {
        name: "port",
        takes_value: true,
        fate: Fate::Ignored("removed in v1.24: the insecure port is gone, use --secure-port"),
    },
    LegacyFlag {
        name: "experimental-cluster-signing-duration",
        takes_value: true,
        fate: Fate::Renamed("cluster-signing-duration"),
    },
    LegacyFlag {
        name: "horizontal-pod-autoscaler-use-rest-clients",
        takes_value: false,
        fate: Fate::Ignored("removed in v1.19: REST clients are always used"),
    },
    LegacyFlag {
        name: "horizontal-pod-autoscaler-upscale-delay",
        takes_value: true,
        fate: Fate::Ignored("removed in v1.31: scaling up has no delay, use the autoscaler's behavior field"),
    },
    LegacyFlag {
        name: "horizontal-pod-autoscaler-downscale-delay",
        takes_value: true,
        fate: Fate::Ignored("removed in v1.31: use --horizontal-pod-autoscaler-downscale-stabilization"),
    },
    LegacyFlag { name: "deleting-pods-qps", takes_value: true, fate: Fate::Ignored("removed in v1.25: had no effect") },
    LegacyFlag {
        name: "deleting-pods-burst",
        takes_value: true,
        fate: Fate::Ignored("removed in v1.25: had no effect"),
    },
    LegacyFlag {
        name: "register-retry-count",
        takes_value: true,
        fate: Fate::Ignored("removed in v1.25: had no effect"),
    },
];

/// All flags.
#[derive(Clone, Debug, Parser)]
#[command(about = "Runs the control loops of a cluster")]
pub struct Flags {
    /// Logging.
    #[command(flatten)]
    pub logging: LoggingFlags,
    /// The secure port.
    #[command(flatten)]
    pub serving: SecureServingFlags,
    /// The API server.
    #[command(flatten)]
    pub client: ClientFlags,
    /// Leader election.
    #[command(flatten)]
    pub leader: LeaderElectionFlags,
    /// Who may ask the secure port.
    #[command(flatten)]
    pub delegated: DelegatedFlags,
    /// Which controllers run, and as whom.
    #[command(flatten)]
    pub generic: GenericFlags,
    /// Signing, and what service accounts get.
    #[command(flatten)]
    pub certificates: CertificatesFlags,
    /// Nodes: address ranges and health.
    #[command(flatten)]
    pub nodes: NodesFlags,
    /// How many keys of each controller are worked on at once.
    #[command(flatten)]
    pub concurrency: ConcurrencyFlags,
    /// Workloads, endpoints and autoscaling.
    #[command(flatten)]
    pub workloads: WorkloadsFlags,
    /// Volumes.
    #[command(flatten)]
    pub volumes: VolumesFlags,
    /// Accepted and without effect: metrics are not filtered, and cloud loops run in a cloud controller manager.
    #[command(flatten)]
    pub accepted: AcceptedFlags,
}

/// Which controllers run, and as whom.
#[derive(Clone, Debug, clap::Args)]
pub struct GenericFlags {
    /// Controllers to run: `*` for those on by default, `NAME` to add, `-NAME` to leave out.
    #[arg(long, value_delimiter = ',', default_value = "*")]
    pub controllers: Vec<String>,
    /// Pause between starting controllers.
    #[arg(long, default_value = "0s")]
    pub controller_start_interval: GoDuration,
    /// How long controllers may finish their work at the end.
    #[arg(long, default_value = "10s")]
    pub controller_shutdown_timeout: GoDuration,
    /// Min resync period.
    #[arg(long, default_value = "12h0m0s")]
    pub min_resync_period: GoDuration,
    /// Each controller acts as a service account of its own.
    #[arg(long)]
    pub use_service_account_credentials: bool,
    /// Feature gates.
    #[arg(long, value_delimiter = ',')]
    pub feature_gates: Vec<String>,
    /// Profiling.
    #[arg(long, default_value = "true")]
    pub profiling: bool,
    /// Contention profiling.
    #[arg(long)]
    pub contention_profiling: bool,
    /// Emulated version.
    #[arg(long, value_delimiter = ',')]
    pub emulated_version: Vec<String>,
    /// Min compatibility version.
    #[arg(long, value_delimiter = ',')]
    pub min_compatibility_version: Vec<String>,
    /// Enable leader migration.
    #[arg(long)]
    pub enable_leader_migration: bool,
    /// Leader migration config.
    #[arg(long, default_value = "")]
    pub leader_migration_config: String,
    /// The instance prefix for the cluster.
    #[arg(long, default_value = "kubernetes")]
    pub cluster_name: String,
}

/// Signing, and what service accounts get.
#[derive(Clone, Debug, clap::Args)]
pub struct CertificatesFlags {
    /// Authority that signs for all signers that have no own one.
    #[arg(long, default_value = "")]
    pub cluster_signing_cert_file: String,
    /// Its key.
    #[arg(long, default_value = "")]
    pub cluster_signing_key_file: String,
    /// Longest life time of a signed certificate.
    #[arg(long, default_value = "8760h0m0s")]
    pub cluster_signing_duration: GoDuration,
    /// Authority of this signer alone.
    #[arg(long, default_value = "")]
    pub cluster_signing_kube_apiserver_client_cert_file: String,
    /// Its key.
    #[arg(long, default_value = "")]
    pub cluster_signing_kube_apiserver_client_key_file: String,
    /// Authority of this signer alone.
    #[arg(long, default_value = "")]
    pub cluster_signing_kubelet_client_cert_file: String,
    /// Its key.
    #[arg(long, default_value = "")]
    pub cluster_signing_kubelet_client_key_file: String,
    /// Authority of this signer alone.
    #[arg(long, default_value = "")]
    pub cluster_signing_kubelet_serving_cert_file: String,
    /// Its key.
    #[arg(long, default_value = "")]
    pub cluster_signing_kubelet_serving_key_file: String,
    /// Authority of this signer alone.
    #[arg(long, default_value = "")]
    pub cluster_signing_legacy_unknown_cert_file: String,
    /// Its key.
    #[arg(long, default_value = "")]
    pub cluster_signing_legacy_unknown_key_file: String,
    /// Root certificates that service accounts get.
    #[arg(long, default_value = "")]
    pub root_ca_file: String,
    /// Key that signs token secrets of service accounts.
    #[arg(long, default_value = "")]
    pub service_account_private_key_file: String,
    /// Legacy service account token clean up period.
    #[arg(long, default_value = "8760h0m0s")]
    pub legacy_service_account_token_clean_up_period: GoDuration,
}

/// Nodes: address ranges and health.
#[derive(Clone, Debug, clap::Args)]
pub struct NodesFlags {
    /// Give every node a range of pod addresses.
    #[arg(long)]
    pub allocate_node_cidrs: bool,
    /// How ranges are allocated; only RangeAllocator is possible.
    #[arg(long, default_value = "RangeAllocator")]
    pub cidr_allocator_type: String,
    /// Ranges of pod addresses, one per family.
    #[arg(long, default_value = "")]
    pub cluster_cidr: String,
    /// Size of a node's range; 24 for IPv4 and 64 for IPv6 unless given.
    #[arg(long, default_value_t = 0)]
    pub node_cidr_mask_size: i32,
    /// Size of a node's IPv4 range in a dual-stack cluster.
    #[arg(long, default_value_t = 0)]
    pub node_cidr_mask_size_ipv4: i32,
    /// Size of a node's IPv6 range in a dual-stack cluster.
    #[arg(long, default_value_t = 0)]
    pub node_cidr_mask_size_ipv6: i32,
    /// Ranges of service addresses, which nodes must not get.
    #[arg(long, default_value = "")]
    pub service_cluster_ip_range: String,
    /// Accepted and without effect: nodes' health is judged when something about them changes.
    #[arg(long, default_value = "5s")]
    pub node_monitor_period: GoDuration,
    /// A node that is silent for so long is unhealthy.
    #[arg(long, default_value = "50s")]
    pub node_monitor_grace_period: GoDuration,
    /// The same for a node that never spoke.
    #[arg(long, default_value = "1m0s")]
    pub node_startup_grace_period: GoDuration,
    /// Node sync period.
    #[arg(long, default_value = "0s")]
    pub node_sync_period: GoDuration,
    /// Nodes per second that are marked for eviction in a healthy zone.
    #[arg(long, default_value_t = 0.1)]
    pub node_eviction_rate: f64,
    /// The same in a large zone that is partly down.
    #[arg(long, default_value_t = 0.01)]
    pub secondary_node_eviction_rate: f64,
    /// Share of unready nodes that makes a zone partly down.
    #[arg(long, default_value_t = 0.55)]
    pub unhealthy_zone_threshold: f64,
    /// More nodes than this make a zone large.
    #[arg(long, default_value_t = 50)]
    pub large_cluster_size_threshold: i32,
    /// Ended pods beyond this number are removed; 0 or less removes none.
    #[arg(long, default_value_t = 12500)]
    pub terminated_pod_gc_threshold: i32,
}

/// How many keys of each controller are worked on at once.
#[derive(Clone, Debug, clap::Args)]
pub struct ConcurrencyFlags {
    /// Workers: cron job.
    #[arg(long, default_value_t = 5)]
    pub concurrent_cron_job_syncs: i32,
    /// Workers: daemonset.
    #[arg(long, default_value_t = 2)]
    pub concurrent_daemonset_syncs: i32,
    /// Workers: deployment.
    #[arg(long, default_value_t = 5)]
    pub concurrent_deployment_syncs: i32,
    /// Workers: device taint eviction.
    #[arg(long, default_value_t = 8)]
    pub concurrent_device_taint_eviction_syncs: i32,
    /// Workers: endpoint.
    #[arg(long, default_value_t = 5)]
    pub concurrent_endpoint_syncs: i32,
    /// Workers: ephemeralvolume.
    #[arg(long, default_value_t = 5)]
    pub concurrent_ephemeralvolume_syncs: i32,
    /// Workers: gc.
    #[arg(long, default_value_t = 20)]
    pub concurrent_gc_syncs: i32,
    /// Workers: horizontal pod autoscaler.
    #[arg(long, default_value_t = 5)]
    pub concurrent_horizontal_pod_autoscaler_syncs: i32,
    /// Workers: job.
    #[arg(long, default_value_t = 5)]
    pub concurrent_job_syncs: i32,
    /// Workers: namespace.
    #[arg(long, default_value_t = 10)]
    pub concurrent_namespace_syncs: i32,
    /// Workers: rc.
    #[arg(long, default_value_t = 5)]
    pub concurrent_rc_syncs: i32,
    /// Workers: replicaset.
    #[arg(long, default_value_t = 5)]
    pub concurrent_replicaset_syncs: i32,
    /// Workers: resource quota.
    #[arg(long, default_value_t = 5)]
    pub concurrent_resource_quota_syncs: i32,
    /// Workers: resourceclaim.
    #[arg(long, default_value_t = 50)]
    pub concurrent_resourceclaim_syncs: i32,
    /// Workers: service endpoint.
    #[arg(long, default_value_t = 5)]
    pub concurrent_service_endpoint_syncs: i32,
    /// Workers: service.
    #[arg(long, default_value_t = 1)]
    pub concurrent_service_syncs: i32,
    /// Workers: serviceaccount token.
    #[arg(long, default_value_t = 5)]
    pub concurrent_serviceaccount_token_syncs: i32,
    /// Workers: statefulset.
    #[arg(long, default_value_t = 5)]
    pub concurrent_statefulset_syncs: i32,
    /// Workers: ttl after finished.
    #[arg(long, default_value_t = 5)]
    pub concurrent_ttl_after_finished_syncs: i32,
    /// Workers: validating admission policy status.
    #[arg(long, default_value_t = 5)]
    pub concurrent_validating_admission_policy_status_syncs: i32,
    /// Workers: mirroring service endpoint.
    #[arg(long, default_value_t = 5)]
    pub mirroring_concurrent_service_endpoint_syncs: i32,
}

/// Workloads, endpoints and autoscaling.
#[derive(Clone, Debug, clap::Args)]
pub struct WorkloadsFlags {
    /// Run the garbage collector.
    #[arg(long, default_value = "true")]
    pub enable_garbage_collector: bool,
    /// Namespace sync period.
    #[arg(long, default_value = "5m0s")]
    pub namespace_sync_period: GoDuration,
    /// Resource quota sync period.
    #[arg(long, default_value = "5m0s")]
    pub resource_quota_sync_period: GoDuration,
    /// Endpoint updates batch period.
    #[arg(long, default_value = "0s")]
    pub endpoint_updates_batch_period: GoDuration,
    /// Endpointslice updates batch period.
    #[arg(long, default_value = "0s")]
    pub endpointslice_updates_batch_period: GoDuration,
    /// At most so many endpoints in one EndpointSlice.
    #[arg(long, default_value_t = 100)]
    pub max_endpoints_per_slice: i32,
    /// Mirroring endpointslice updates batch period.
    #[arg(long, default_value = "0s")]
    pub mirroring_endpointslice_updates_batch_period: GoDuration,
    /// Mirroring max endpoints per subset.
    #[arg(long, default_value_t = 1000)]
    pub mirroring_max_endpoints_per_subset: i32,
    /// Horizontal pod autoscaler cpu initialization period.
    #[arg(long, default_value = "5m0s")]
    pub horizontal_pod_autoscaler_cpu_initialization_period: GoDuration,
    /// Horizontal pod autoscaler downscale stabilization.
    #[arg(long, default_value = "5m0s")]
    pub horizontal_pod_autoscaler_downscale_stabilization: GoDuration,
    /// Horizontal pod autoscaler initial readiness delay.
    #[arg(long, default_value = "30s")]
    pub horizontal_pod_autoscaler_initial_readiness_delay: GoDuration,
    /// Horizontal pod autoscaler sync period.
    #[arg(long, default_value = "15s")]
    pub horizontal_pod_autoscaler_sync_period: GoDuration,
    /// Horizontal pod autoscaler tolerance.
    #[arg(long, default_value_t = 0.1)]
    pub horizontal_pod_autoscaler_tolerance: f64,
}

/// Volumes.
#[derive(Clone, Debug, clap::Args)]
pub struct VolumesFlags {
    /// Attach detach reconcile sync period.
    #[arg(long, default_value = "1m0s")]
    pub attach_detach_reconcile_sync_period: GoDuration,
    /// Disable attach detach reconcile sync.
    #[arg(long)]
    pub disable_attach_detach_reconcile_sync: bool,
    /// Disable force detach on timeout.
    #[arg(long)]
    pub disable_force_detach_on_timeout: bool,
    /// Enable dynamic provisioning.
    #[arg(long, default_value = "true")]
    pub enable_dynamic_provisioning: bool,
    /// Enable hostpath provisioner.
    #[arg(long)]
    pub enable_hostpath_provisioner: bool,
    /// Flex volume plugin dir.
    #[arg(long, default_value = "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/")]
    pub flex_volume_plugin_dir: String,
    /// Pv recycler increment timeout nfs.
    #[arg(long, default_value_t = 30)]
    pub pv_recycler_increment_timeout_nfs: i32,
    /// Pv recycler minimum timeout hostpath.
    #[arg(long, default_value_t = 60)]
    pub pv_recycler_minimum_timeout_hostpath: i32,
    /// Pv recycler minimum timeout nfs.
    #[arg(long, default_value_t = 300)]
    pub pv_recycler_minimum_timeout_nfs: i32,
    /// Pv recycler pod template filepath hostpath.
    #[arg(long, default_value = "")]
    pub pv_recycler_pod_template_filepath_hostpath: String,
    /// Pv recycler pod template filepath nfs.
    #[arg(long, default_value = "")]
    pub pv_recycler_pod_template_filepath_nfs: String,
    /// Pv recycler timeout increment hostpath.
    #[arg(long, default_value_t = 30)]
    pub pv_recycler_timeout_increment_hostpath: i32,
    /// Pvclaimbinder sync period.
    #[arg(long, default_value = "15s")]
    pub pvclaimbinder_sync_period: GoDuration,
}

/// Accepted and without effect: metrics are not filtered, and cloud loops run in a cloud controller manager.
#[derive(Clone, Debug, clap::Args)]
pub struct AcceptedFlags {
    /// Allow metric labels.
    #[arg(long, value_delimiter = ',')]
    pub allow_metric_labels: Vec<String>,
    /// Allow metric labels manifest.
    #[arg(long, default_value = "")]
    pub allow_metric_labels_manifest: String,
    /// Disabled metrics.
    #[arg(long, value_delimiter = ',')]
    pub disabled_metrics: Vec<String>,
    /// Show hidden metrics for version.
    #[arg(long, default_value = "")]
    pub show_hidden_metrics_for_version: String,
    /// Allow untagged cloud.
    #[arg(long)]
    pub allow_untagged_cloud: bool,
    /// Cloud config.
    #[arg(long, default_value = "")]
    pub cloud_config: String,
    /// Cloud provider.
    #[arg(long, default_value = "")]
    pub cloud_provider: String,
    /// Configure cloud routes.
    #[arg(long, default_value = "true")]
    pub configure_cloud_routes: bool,
    /// External cloud volume plugin.
    #[arg(long, default_value = "")]
    pub external_cloud_volume_plugin: String,
    /// Route reconciliation period.
    #[arg(long, default_value = "10s")]
    pub route_reconciliation_period: GoDuration,
}

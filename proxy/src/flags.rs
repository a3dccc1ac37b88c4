//! Every flag of kube-proxy, defined and documented in one place. With `--config`, the file decides and flags other than
//! those on logging, `--hostname-override`, `--cleanup` and `--master` are ignored, as upstream does.

use component_base::duration::GoDuration;
use component_base::flags::{Fate, HostPort, KeyValueMap, LegacyFlag};
use component_base::logging::LoggingFlags;

/// Flags that upstream removed.
pub const LEGACY: &[LegacyFlag] = &[
    LegacyFlag { name: "cleanup-iptables", takes_value: false, fate: Fate::Renamed("cleanup") },
    LegacyFlag {
        name: "resource-container",
        takes_value: true,
        fate: Fate::Ignored("removed in v1.16: the init system places daemons into cgroups"),
    },
    LegacyFlag { name: "cleanup-ipvs", takes_value: false, fate: Fate::Ignored("removed in v1.20: use --cleanup") },
    LegacyFlag {
        name: "proxy-port-range",
        takes_value: true,
        fate: Fate::Ignored("removed in v1.29: it belonged to the userspace mode"),
    },
];

/// The command line.
#[derive(clap::Parser, Debug)]
#[command(about = "Makes Services reachable on this node")]
pub struct Flags {
    /// Overrides primaryIP detection; also the IP family that nodes without addresses are assumed to have
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: std::net::IpAddr,
    /// If true, kube-proxy treats failure to bind to a port as fatal and exits
    #[arg(long)]
    pub bind_address_hard_fail: bool,
    /// Accepted for compatibility
    #[arg(long, default_value = "/proc/sys/kernel/random/boot_id")]
    pub boot_id_file: String,
    /// If true, remove the rules of all modes and exit
    #[arg(long)]
    pub cleanup: bool,
    /// The range of pods in the cluster; traffic from outside of it to Services is masqueraded
    #[arg(long, default_value = "")]
    pub cluster_cidr: String,
    /// The path to the configuration file
    #[arg(long, default_value = "")]
    pub config: String,
    /// How often configuration from the API server is refreshed; watches make it unnecessary
    #[arg(long, default_value = "15m0s")]
    pub config_sync_period: GoDuration,
    /// Maximum number of NAT connections to track per CPU core (0 to leave the limit as is)
    #[arg(long, default_value_t = 32768)]
    pub conntrack_max_per_core: u32,
    /// Minimum number of conntrack entries to allocate
    #[arg(long, default_value_t = 131_072)]
    pub conntrack_min: u32,
    /// Enable liberal mode for tracking TCP packets
    #[arg(long)]
    pub conntrack_tcp_be_liberal: bool,
    /// NAT timeout for TCP connections in CLOSE_WAIT
    #[arg(long, default_value = "1h0m0s")]
    pub conntrack_tcp_timeout_close_wait: GoDuration,
    /// Idle timeout for established TCP connections (0 to leave as is)
    #[arg(long, default_value = "24h0m0s")]
    pub conntrack_tcp_timeout_established: GoDuration,
    /// Idle timeout for UNREPLIED UDP connections (0 to leave as is)
    #[arg(long, default_value = "0s")]
    pub conntrack_udp_timeout: GoDuration,
    /// Idle timeout for ASSURED UDP connections (0 to leave as is)
    #[arg(long, default_value = "0s")]
    pub conntrack_udp_timeout_stream: GoDuration,
    /// Mode to use to detect local traffic: ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix
    #[arg(long, default_value = "")]
    pub detect_local_mode: String,
    /// A set of key=value pairs that describe feature gates
    #[arg(long, default_value = "")]
    pub feature_gates: KeyValueMap,
    /// The IP address and port for the health check server to serve on
    #[arg(long, default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: HostPort,
    /// Deprecated: use --healthz-bind-address
    #[arg(long, default_value_t = 10256)]
    pub healthz_port: u16,
    /// If non-empty, will be used as the name of the Node that kube-proxy is running on
    #[arg(long, default_value = "")]
    pub hostname_override: String,
    /// If true, perform only the steps that need full privileges and exit
    #[arg(long)]
    pub init_only: bool,
    /// If false, node ports do not answer at localhost (iptables mode)
    #[arg(long, default_value_t = true)]
    pub iptables_localhost_nodeports: bool,
    /// The bit of the mark for packets requiring SNAT, in the range [0, 31]
    #[arg(long, default_value_t = 14)]
    pub iptables_masquerade_bit: u8,
    /// The minimum period between rule syncs
    #[arg(long, default_value = "1s")]
    pub iptables_min_sync_period: GoDuration,
    /// How often the rules' presence is checked
    #[arg(long, default_value = "30s")]
    pub iptables_sync_period: GoDuration,
    /// Ranges that the IPVS mode leaves alone
    #[arg(long, value_delimiter = ',')]
    pub ipvs_exclude_cidrs: Vec<String>,
    /// The minimum period between rule syncs (IPVS)
    #[arg(long, default_value = "1s")]
    pub ipvs_min_sync_period: GoDuration,
    /// The IPVS scheduler
    #[arg(long, default_value = "")]
    pub ipvs_scheduler: String,
    /// Enable strict ARP (IPVS)
    #[arg(long)]
    pub ipvs_strict_arp: bool,
    /// How often rules are refreshed (IPVS)
    #[arg(long, default_value = "30s")]
    pub ipvs_sync_period: GoDuration,
    /// Timeout for idle IPVS TCP connections
    #[arg(long, default_value = "0s")]
    pub ipvs_tcp_timeout: GoDuration,
    /// Timeout for IPVS TCP connections after a FIN
    #[arg(long, default_value = "0s")]
    pub ipvs_tcpfin_timeout: GoDuration,
    /// Timeout for IPVS UDP packets
    #[arg(long, default_value = "0s")]
    pub ipvs_udp_timeout: GoDuration,
    /// Burst to use while talking with the API server
    #[arg(long, default_value_t = 10)]
    pub kube_api_burst: u32,
    /// Content type of requests; JSON is used whatever is given
    #[arg(long, default_value = "application/vnd.kubernetes.protobuf")]
    pub kube_api_content_type: String,
    /// QPS to use while talking with the API server
    #[arg(long, default_value_t = 5.0)]
    pub kube_api_qps: f32,
    /// Path to kubeconfig file with authorization information
    #[arg(long, default_value = "")]
    pub kubeconfig: String,
    /// Logging
    #[command(flatten)]
    pub logging: LoggingFlags,
    /// Accepted for compatibility
    #[arg(long, default_value = "/etc/machine-id,/var/lib/dbus/machine-id")]
    pub machine_id_file: String,
    /// SNAT all traffic sent via Service cluster IPs
    #[arg(long)]
    pub masquerade_all: bool,
    /// The address of the API server (overrides any value in kubeconfig)
    #[arg(long, default_value = "")]
    pub master: String,
    /// The IP address and port for the metrics server to serve on
    #[arg(long, default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: HostPort,
    /// Deprecated: use --metrics-bind-address
    #[arg(long, default_value_t = 10249)]
    pub metrics_port: u16,
    /// Ranges of the node's addresses at which node ports answer, or `primary`; empty: all local ones
    #[arg(long, value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,
    /// The oom-score-adj value for this process, in the range [-1000, 1000]
    #[arg(long, default_value_t = -999)]
    pub oom_score_adj: i32,
    /// The bridge of pods (BridgeInterface)
    #[arg(long, default_value = "")]
    pub pod_bridge_interface: String,
    /// Start of the names of pods' interfaces (InterfaceNamePrefix)
    #[arg(long, default_value = "")]
    pub pod_interface_name_prefix: String,
    /// Accepted for compatibility: there is no profiler
    #[arg(long)]
    pub profiling: bool,
    /// Which mode to use: iptables (default), ipvs, nftables
    #[arg(long, default_value = "")]
    pub proxy_mode: String,
    /// Accepted for compatibility
    #[arg(long, default_value = "")]
    pub show_hidden_metrics_for_version: String,
    /// Write the configuration to this file and exit
    #[arg(long, default_value = "")]
    pub write_config_to: String,
}

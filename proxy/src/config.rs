//! The validated configuration: from flags, or from a `kubeproxy.config.k8s.io/v1alpha1` file.
//!
//! Unknown fields of the file are warnings (upstream reads this alpha version leniently), with the nearest known name.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use component_base::config_file::{self, ConfigError};
use component_base::duration::GoDuration;
use component_base::net::{Cidr, parse_ip_port};
use serde::{Deserialize, Serialize};

use crate::flags::Flags;
use crate::ipvs;

/// Group and version of the file.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// Kind of the file.
pub const KIND: &str = "KubeProxyConfiguration";

/// Why kube-proxy cannot start with what it was told.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// The file.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// A value.
    #[error("{what} is {value:?}: {remedy}")]
    Value {
        /// Flag and field.
        what: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        remedy: String,
    },
    /// The defaults cannot be written.
    #[error("--write-config-to: {0}")]
    Write(component_base::fs::WriteError),
}

/// How rules are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Chains of iptables.
    Iptables,
    /// Verdict maps of nftables.
    Nftables,
    /// The kernel's virtual servers.
    Ipvs(ipvs::Options),
}

impl Mode {
    /// As the configuration names it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Ipvs(_) => "ipvs",
        }
    }
}

/// How local traffic is told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DetectLocal {
    /// By the cluster's pod ranges; empty means that it is not told apart.
    ClusterCidr(Vec<Cidr>),
    /// By the node's pod ranges.
    NodeCidr,
    /// By bridge.
    Bridge(String),
    /// By interface name.
    InterfacePrefix(String),
}

/// Connection tracking limits of the machine; zero leaves a value alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Entries per core.
    pub max_per_core: u32,
    /// At least this many entries.
    pub min: u32,
    /// Whether invalid TCP packets pass.
    pub tcp_be_liberal: bool,
    /// Sysctl name and value.
    pub timeouts: Vec<(&'static str, Duration)>,
}

/// The configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Kubeconfig path, empty for in-cluster.
    pub kubeconfig: String,
    /// Overrides the kubeconfig's server.
    pub master: String,
    /// Client limits.
    pub qps: f32,
    /// Client limits.
    pub burst: u32,
    /// How rules are made.
    pub mode: Mode,
    /// The node's name.
    pub node_name: String,
    /// The node's address, instead of what its Node says.
    pub node_ip: Option<IpAddr>,
    /// Health server.
    pub healthz: Option<SocketAddr>,
    /// Metrics server.
    pub metrics: Option<SocketAddr>,
    /// Whether a port that cannot be bound is fatal.
    pub bind_hard_fail: bool,
    /// How local traffic is told apart.
    pub detect_local: DetectLocal,
    /// Where node ports answer; empty: everywhere.
    pub node_port_cidrs: Vec<Cidr>,
    /// Node ports answer only at the node's own address.
    pub node_port_primary: bool,
    /// Connection tracking.
    pub conntrack: Conntrack,
    /// Mark bit.
    pub masquerade_bit: u8,
    /// SNAT everything.
    pub masquerade_all: bool,
    /// Node ports at 127.0.0.1.
    pub localhost_node_ports: bool,
    /// Between two writes of rules.
    pub min_sync_period: Duration,
    /// Between two looks whether the rules are still there.
    pub sync_period: Duration,
    /// For the kernel's choice when memory is short.
    pub oom_score_adj: i32,
    /// Remove all rules and end.
    pub cleanup: bool,
    /// Only do what needs privileges and end.
    pub init_only: bool,
}

/// The file's form, with upstream's defaults.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    feature_gates: std::collections::BTreeMap<String, bool>,
    client_connection: ClientConnection,
    logging: serde_json::Value,
    hostname_override: String,
    bind_address: String,
    healthz_bind_address: String,
    metrics_bind_address: String,
    bind_address_hard_fail: bool,
    enable_profiling: bool,
    show_hidden_metrics_for_version: String,
    mode: String,
    iptables: Iptables,
    ipvs: Ipvs,
    nftables: Nftables,
    winkernel: serde_json::Value,
    detect_local_mode: String,
    detect_local: DetectLocalFile,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: String,
    node_port_addresses: Option<Vec<String>>,
    oom_score_adj: Option<i32>,
    conntrack: ConntrackFile,
    config_sync_period: GoDuration,
    port_range: String,
    windows_run_as_service: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientConnection {
    kubeconfig: String,
    accept_content_types: String,
    content_type: String,
    qps: f32,
    burst: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Iptables {
    masquerade_bit: Option<u8>,
    masquerade_all: bool,
    localhost_node_ports: Option<bool>,
    sync_period: GoDuration,
    min_sync_period: GoDuration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Nftables {
    masquerade_bit: Option<u8>,
    masquerade_all: bool,
    sync_period: GoDuration,
    min_sync_period: GoDuration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ipvs {
    sync_period: GoDuration,
    min_sync_period: GoDuration,
    scheduler: String,
    #[serde(rename = "excludeCIDRs")]
    exclude_cidrs: Option<Vec<String>>,
    #[serde(rename = "strictARP")]
    strict_arp: bool,
    tcp_timeout: GoDuration,
    tcp_fin_timeout: GoDuration,
    udp_timeout: GoDuration,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DetectLocalFile {
    bridge_interface: String,
    interface_name_prefix: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConntrackFile {
    max_per_core: Option<u32>,
    min: Option<u32>,
    tcp_established_timeout: Option<GoDuration>,
    tcp_close_wait_timeout: Option<GoDuration>,
    tcp_be_liberal: bool,
    udp_timeout: GoDuration,
    udp_stream_timeout: GoDuration,
}

impl Default for ClientConnection {
    fn default() -> Self {
        let content_type = "application/vnd.kubernetes.protobuf".to_owned();
        Self { kubeconfig: String::new(), accept_content_types: String::new(), content_type, qps: 5.0, burst: 10 }
    }
}

impl Default for Iptables {
    fn default() -> Self {
        Self {
            masquerade_bit: Some(14),
            masquerade_all: false,
            localhost_node_ports: Some(true),
            sync_period: GoDuration(Duration::from_secs(30)),
            min_sync_period: GoDuration(Duration::from_secs(1)),
        }
    }
}

impl Default for Nftables {
    fn default() -> Self {
        let Iptables { masquerade_bit, masquerade_all, sync_period, min_sync_period, .. } = Iptables::default();
        Self { masquerade_bit, masquerade_all, sync_period, min_sync_period }
    }
}

impl Default for Ipvs {
    fn default() -> Self {
        let none = GoDuration(Duration::ZERO);
        Self {
            sync_period: GoDuration(Duration::from_secs(30)),
            min_sync_period: none,
            scheduler: String::new(),
            exclude_cidrs: None,
            strict_arp: false,
            tcp_timeout: none,
            tcp_fin_timeout: none,
            udp_timeout: none,
        }
    }
}

impl Default for ConntrackFile {
    fn default() -> Self {
        Self {
            max_per_core: Some(32768),
            min: Some(131_072),
            tcp_established_timeout: Some(GoDuration(Duration::from_secs(86_400))),
            tcp_close_wait_timeout: Some(GoDuration(Duration::from_secs(3600))),
            tcp_be_liberal: false,
            udp_timeout: GoDuration(Duration::ZERO),
            udp_stream_timeout: GoDuration(Duration::ZERO),
        }
    }
}

impl Default for File {
    fn default() -> Self {
        Self {
            feature_gates: std::collections::BTreeMap::default(),
            client_connection: ClientConnection::default(),
            logging: serde_json::Value::Null,
            hostname_override: String::new(),
            bind_address: "0.0.0.0".to_owned(),
            healthz_bind_address: "0.0.0.0:10256".to_owned(),
            metrics_bind_address: "127.0.0.1:10249".to_owned(),
            bind_address_hard_fail: false,
            enable_profiling: false,
            show_hidden_metrics_for_version: String::new(),
            mode: String::new(),
            iptables: Iptables::default(),
            ipvs: Ipvs::default(),
            nftables: Nftables::default(),
            winkernel: serde_json::Value::Null,
            detect_local_mode: String::new(),
            detect_local: DetectLocalFile::default(),
            cluster_cidr: String::new(),
            node_port_addresses: None,
            oom_score_adj: Some(-999),
            conntrack: ConntrackFile::default(),
            config_sync_period: GoDuration(Duration::from_secs(900)),
            port_range: String::new(),
            windows_run_as_service: false,
        }
    }
}

impl Config {
    /// Reads the file that the flags name, or takes the flags themselves.
    ///
    /// # Errors
    /// Names the flag or field and what would be right.
    pub fn from_flags(flags: Flags) -> Result<Self, InvalidConfig> {
        let (cleanup, init_only, master) = (flags.cleanup, flags.init_only, flags.master.clone());
        let (hostname, write_to) = (flags.hostname_override.clone(), flags.write_config_to.clone());
        let mut file = if flags.config.is_empty() {
            if flags.kubeconfig.is_empty() && master.is_empty() && !cleanup {
                tracing::info!("neither --kubeconfig nor --master was given, using the pod's own credentials");
            }
            of_flags(flags)
        } else {
            let (file, unknown) = config_file::load_lenient::<File>(Path::new(&flags.config), API_VERSION, KIND)?;
            for sentence in unknown {
                tracing::warn!("configuration file {}: {sentence}", flags.config);
            }
            file
        };
        if !hostname.is_empty() {
            file.hostname_override = hostname;
        }
        if !write_to.is_empty() {
            file.write(Path::new(&write_to)).map_err(InvalidConfig::Write)?;
        }
        Self::of_file(file, master, cleanup, init_only)
    }

    fn of_file(file: File, master: String, cleanup: bool, init_only: bool) -> Result<Self, InvalidConfig> {
        let mode = mode(&file)?;
        let listen = |what: &'static str, text: &str, port: u16| {
            parse_ip_port(text, port).map_err(|remedy| InvalidConfig::Value { what, value: text.to_owned(), remedy })
        };
        let bit = match mode {
            Mode::Nftables => file.nftables.masquerade_bit,
            Mode::Iptables | Mode::Ipvs(_) => file.iptables.masquerade_bit,
        };
        let bit = bit.unwrap_or(14);
        if bit > 31 {
            let what = "--iptables-masquerade-bit (iptables.masqueradeBit, nftables.masqueradeBit)";
            return Err(InvalidConfig::Value { what, value: bit.to_string(), remedy: "use 0 to 31".to_owned() });
        }
        let (sync_period, min_sync_period) = periods(&file, &mode)?;
        let addresses = file.node_port_addresses.clone().unwrap_or_default();
        let primary = addresses == ["primary"] || (addresses.is_empty() && mode == Mode::Nftables);
        let node_port_cidrs =
            if primary { Vec::new() } else { cidrs("--nodeport-addresses (nodePortAddresses)", &addresses)? };
        Ok(Self {
            healthz: listen("--healthz-bind-address (healthzBindAddress)", &file.healthz_bind_address, 10256)?,
            metrics: listen("--metrics-bind-address (metricsBindAddress)", &file.metrics_bind_address, 10249)?,
            detect_local: detect_local(&file)?,
            conntrack: conntrack(&file.conntrack),
            node_name: node_name(&file.hostname_override)?,
            kubeconfig: file.client_connection.kubeconfig,
            qps: file.client_connection.qps,
            burst: file.client_connection.burst,
            bind_hard_fail: file.bind_address_hard_fail,
            node_port_cidrs,
            node_port_primary: primary,
            masquerade_bit: bit,
            masquerade_all: if mode == Mode::Nftables {
                file.nftables.masquerade_all
            } else {
                file.iptables.masquerade_all
            },
            localhost_node_ports: mode == Mode::Iptables && file.iptables.localhost_node_ports.unwrap_or(true),
            min_sync_period,
            sync_period,
            node_ip: bind_address(&file.bind_address)?,
            mode,
            oom_score_adj: file.oom_score_adj.unwrap_or(-999),
            master,
            cleanup,
            init_only,
        })
    }
}

impl File {
    /// Writes the whole configuration with its defaults (JSON, which is YAML too).
    fn write(&self, path: &Path) -> Result<(), component_base::fs::WriteError> {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["apiVersion"] = API_VERSION.into();
        value["kind"] = KIND.into();
        if let Some(object) = value.as_object_mut() {
            object.retain(|_, field| !field.is_null());
        }
        component_base::fs::write_atomic(path, format!("{value:#}\n").as_bytes(), 0o644)
    }
}

fn of_flags(flags: Flags) -> File {
    let address = |given: component_base::flags::HostPort| given.0.map_or_else(String::new, |a| a.to_string());
    File {
        client_connection: ClientConnection {
            kubeconfig: flags.kubeconfig,
            qps: flags.kube_api_qps,
            burst: flags.kube_api_burst,
            ..ClientConnection::default()
        },
        bind_address: flags.bind_address.to_string(),
        healthz_bind_address: address(flags.healthz_bind_address),
        metrics_bind_address: address(flags.metrics_bind_address),
        bind_address_hard_fail: flags.bind_address_hard_fail,
        mode: flags.proxy_mode,
        // flags named after iptables are nftables' too
        nftables: Nftables {
            masquerade_bit: Some(flags.iptables_masquerade_bit),
            masquerade_all: flags.masquerade_all,
            sync_period: flags.iptables_sync_period,
            min_sync_period: flags.iptables_min_sync_period,
        },
        ipvs: Ipvs {
            sync_period: flags.ipvs_sync_period,
            min_sync_period: flags.ipvs_min_sync_period,
            scheduler: flags.ipvs_scheduler,
            exclude_cidrs: Some(flags.ipvs_exclude_cidrs),
            strict_arp: flags.ipvs_strict_arp,
            tcp_timeout: flags.ipvs_tcp_timeout,
            tcp_fin_timeout: flags.ipvs_tcpfin_timeout,
            udp_timeout: flags.ipvs_udp_timeout,
        },
        iptables: Iptables {
            masquerade_bit: Some(flags.iptables_masquerade_bit),
            masquerade_all: flags.masquerade_all,
            localhost_node_ports: Some(flags.iptables_localhost_nodeports),
            sync_period: flags.iptables_sync_period,
            min_sync_period: flags.iptables_min_sync_period,
        },
        detect_local_mode: flags.detect_local_mode,
        detect_local: DetectLocalFile {
            bridge_interface: flags.pod_bridge_interface,
            interface_name_prefix: flags.pod_interface_name_prefix,
        },
        cluster_cidr: flags.cluster_cidr,
        node_port_addresses: Some(flags.nodeport_addresses),
        oom_score_adj: Some(flags.oom_score_adj),
        conntrack: ConntrackFile {
            max_per_core: Some(flags.conntrack_max_per_core),
            min: Some(flags.conntrack_min),
            tcp_established_timeout: Some(flags.conntrack_tcp_timeout_established),
            tcp_close_wait_timeout: Some(flags.conntrack_tcp_timeout_close_wait),
            tcp_be_liberal: flags.conntrack_tcp_be_liberal,
            udp_timeout: flags.conntrack_udp_timeout,
            udp_stream_timeout: flags.conntrack_udp_timeout_stream,
        },
        ..File::default()
    }
}

fn mode(file: &File) -> Result<Mode, InvalidConfig> {
    Ok(match file.mode.as_str() {
        "" | "iptables" => Mode::Iptables,
        "nftables" => Mode::Nftables,
        "ipvs" => {
            let scheduler = if file.ipvs.scheduler.is_empty() { "rr" } else { file.ipvs.scheduler.as_str() };
            let excluded = file.ipvs.exclude_cidrs.clone().unwrap_or_default();
            Mode::Ipvs(ipvs::Options {
                scheduler: scheduler.to_owned(),
                exclude_cidrs: cidrs("--ipvs-exclude-cidrs (ipvs.excludeCIDRs)", &excluded)?,
                strict_arp: file.ipvs.strict_arp,
                tcp_timeout: file.ipvs.tcp_timeout.0,
                tcp_fin_timeout: file.ipvs.tcp_fin_timeout.0,
                udp_timeout: file.ipvs.udp_timeout.0,
            })
        }
        other => {
            let remedy = "use iptables, ipvs or nftables".to_owned();
            return Err(InvalidConfig::Value { what: "--proxy-mode (mode)", value: other.to_owned(), remedy });
        }
    })
}

/// How often rules are looked at, and the least pause between two writes.
fn periods(file: &File, mode: &Mode) -> Result<(Duration, Duration), InvalidConfig> {
    let (sync, least) = match mode {
        Mode::Iptables => (file.iptables.sync_period, file.iptables.min_sync_period),
        Mode::Nftables => (file.nftables.sync_period, file.nftables.min_sync_period),
        Mode::Ipvs(_) => (file.ipvs.sync_period, file.ipvs.min_sync_period),
    };
    if sync.0.is_zero() || least.0 > sync.0 {
        let (what, remedy) = ("syncPeriod", "it must be more than 0 and no less than minSyncPeriod".to_owned());
        return Err(InvalidConfig::Value { what, value: format!("{:?}", sync.0), remedy });
    }
    Ok((sync.0, least.0))
}

fn bind_address(text: &str) -> Result<Option<IpAddr>, InvalidConfig> {
    let remedy = || "use the node's address, or 0.0.0.0 for that of its Node".to_owned();
    let what = "--bind-address (bindAddress)";
    let ip: IpAddr =
        text.parse().map_err(|_| InvalidConfig::Value { what, value: text.to_owned(), remedy: remedy() })?;
    Ok(Some(ip).filter(|ip| !ip.is_unspecified()))
}

fn cidrs(what: &'static str, texts: &[String]) -> Result<Vec<Cidr>, InvalidConfig> {
    let parse = |text: &String| {
        let remedy = "use a range like 10.244.0.0/16".to_owned();
        text.trim().parse().map_err(|_| InvalidConfig::Value { what, value: text.clone(), remedy })
    };
    texts.iter().filter(|text| !text.trim().is_empty()).map(parse).collect()
}

fn detect_local(file: &File) -> Result<DetectLocal, InvalidConfig> {
    let needs = |what: &'static str, value: &str| {
        let remedy = "it must be set for this --detect-local-mode".to_owned();
        if value.is_empty() {
            Err(InvalidConfig::Value { what, value: String::new(), remedy })
        } else {
            Ok(value.to_owned())
        }
    };
    Ok(match file.detect_local_mode.as_str() {
        "" | "ClusterCIDR" => {
            let texts: Vec<String> = file.cluster_cidr.split(',').map(str::to_owned).collect();
            DetectLocal::ClusterCidr(cidrs("--cluster-cidr (clusterCIDR)", &texts)?)
        }
        "NodeCIDR" => DetectLocal::NodeCidr,
        "BridgeInterface" => DetectLocal::Bridge(needs(
            "--pod-bridge-interface (detectLocal.bridgeInterface)",
            &file.detect_local.bridge_interface,
        )?),
        "InterfaceNamePrefix" => DetectLocal::InterfacePrefix(needs(
            "--pod-interface-name-prefix (detectLocal.interfaceNamePrefix)",
            &file.detect_local.interface_name_prefix,
        )?),
        other => {
            let remedy = "use ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix".to_owned();
            return Err(InvalidConfig::Value {
                what: "--detect-local-mode (detectLocalMode)",
                value: other.to_owned(),
                remedy,
            });
        }
    })
}

fn conntrack(file: &ConntrackFile) -> Conntrack {
    let timeouts = [
        ("nf_conntrack_tcp_timeout_established", file.tcp_established_timeout),
        ("nf_conntrack_tcp_timeout_close_wait", file.tcp_close_wait_timeout),
        ("nf_conntrack_udp_timeout", Some(file.udp_timeout)),
        ("nf_conntrack_udp_timeout_stream", Some(file.udp_stream_timeout)),
    ];
    let given = timeouts.into_iter().filter_map(|(name, value)| Some((name, value?.0)));
    Conntrack {
        max_per_core: file.max_per_core.unwrap_or(32768),
        min: file.min.unwrap_or(131_072),
        tcp_be_liberal: file.tcp_be_liberal,
        timeouts: given.filter(|(_, value)| !value.is_zero()).collect(),
    }
}

/// Upstream's rule: the override, else this machine's host name in lower case.
fn node_name(given: &str) -> Result<String, InvalidConfig> {
    let name = if given.is_empty() {
        std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default()
    } else {
        given.to_owned()
    };
    let name = name.trim().to_lowercase();
    if name.is_empty() {
        let remedy = "this machine has no host name: say which node this is".to_owned();
        return Err(InvalidConfig::Value { what: "--hostname-override (hostnameOverride)", value: name, remedy });
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Config, Vec<String>), InvalidConfig> {
        let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{text}");
        let (file, unknown) = config_file::parse::<File>(&text, Path::new("proxy.yaml"), API_VERSION, KIND)?;
        Ok((Config::of_file(file, String::new(), false, false)?, unknown))
    }

    #[test]
    fn an_old_tutorials_misspelt_fields_are_warnings_that_say_what_was_meant() {
        let (config, unknown) = parse(
            "address: 0.0.0.0\nmetrisBindAddress: 0.0.0.0:10249\nhostnameOverride: N1\nclusterCIDR: 10.0.0.0/24\n",
        )
        .unwrap();
        assert_eq!(config.node_name, "n1");
        assert_eq!(unknown.len(), 2);
        assert!(
            unknown.iter().any(|s| s.contains("metrisBindAddress") && s.contains("metricsBindAddress")),
            "{unknown:?}"
        );
    }

    #[test]
    fn each_mode_has_its_own_section() {
        let (config, _) = parse("mode: ipvs\nipvs: {scheduler: lc, strictARP: true, tcpTimeout: 5s}").unwrap();
        assert!(matches!(&config.mode, Mode::Ipvs(o) if o.scheduler == "lc" && o.strict_arp), "{:?}", config.mode);
        assert!(config.min_sync_period.is_zero() && !config.node_port_primary && !config.localhost_node_ports);
        let (config, _) = parse("mode: nftables\nnftables: {masqueradeAll: true, masqueradeBit: 3}").unwrap();
        assert!(config.masquerade_all && config.masquerade_bit == 3 && config.node_port_primary);
    }

    #[test]
    fn wrong_values_are_named() {
        for (text, part) in [
            ("mode: userspace", "use iptables, ipvs or nftables"),
            ("mode: ipvs\nipvs: {excludeCIDRs: [10.0.0.1]}", "excludeCIDRs"),
            ("mode: nftables\nnftables: {syncPeriod: 1s, minSyncPeriod: 2s}", "minSyncPeriod"),
            ("bindAddress: here", "bindAddress"),
            ("mode: iptables\nclusterCIDR: 10.0.0.0", "clusterCIDR"),
            ("detectLocalMode: BridgeInterface", "bridgeInterface"),
            ("iptables: {masqueradeBit: 40}", "0 to 31"),
            ("healthzBindAddress: here", "healthzBindAddress"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

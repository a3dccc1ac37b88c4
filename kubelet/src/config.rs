//! The validated configuration: file, drop-ins and flags brought together, every text parsed.
//!
//! Order as upstream's: defaults, the file, drop-ins in the order of their names, flags. Without `--config` the four
//! looser defaults of the flags hold (anonymous requests, no webhooks, read-only port). Unknown fields of a file are one
//! warning each, since upstream reads old files leniently; unusable values name the field and the remedy.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use component_base::config_file;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Taint;
use serde_json::{Value, json};

use crate::cgroups::Driver;
use crate::config_file::{API_VERSION, KIND, KubeletConfiguration};
use crate::cri::client::socket_path;
use crate::eviction::{self, Threshold};
use crate::flags::Flags;
use crate::pods::resources::{Amounts, amount};

/// Everything the kubelet needs to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The configuration in effect, for `/configz` and the fields that are used as they are.
    pub file: KubeletConfiguration,
    /// This node's name.
    pub node_name: String,
    /// Given addresses; detected when empty.
    pub node_ips: Vec<IpAddr>,
    /// Labels for registration.
    pub node_labels: BTreeMap<String, String>,
    /// Taints for registration.
    pub taints: Vec<Taint>,
    /// `--root-dir`.
    pub root_dir: PathBuf,
    /// `--cert-dir`.
    pub cert_dir: PathBuf,
    /// `--kubeconfig`; none for a standalone kubelet.
    pub kubeconfig: Option<PathBuf>,
    /// `--bootstrap-kubeconfig`.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Path of the runtime's socket.
    pub runtime_socket: String,
    /// Path of the image service's socket.
    pub image_socket: String,
    /// How cgroups are named.
    pub cgroup_driver: Driver,
    /// Whether cgroup v1 was refused in so many words.
    pub refuse_cgroup_v1: bool,
    /// Resources not for pods.
    pub reserved: Amounts,
    /// Static pods.
    pub static_pod_path: Option<PathBuf>,
    /// Address of the server.
    pub address: IpAddr,
    /// Address of the health port.
    pub healthz_address: IpAddr,
    /// File whose lock only one kubelet holds.
    pub lock_file: Option<PathBuf>,
    /// The cloud has its own controller, which initializes the node.
    pub external_cloud: bool,
    /// Longest crash back-off.
    pub max_crash_backoff: SignedDuration,
    /// Size at which a container log is rotated.
    pub log_max_bytes: u64,
    /// Signals that evict pods.
    pub eviction: Vec<Threshold>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// A file cannot be read or holds something else.
    #[error(transparent)]
    File(#[from] config_file::ConfigError),
    /// The drop-in directory cannot be read.
    #[error("cannot read the configuration directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A flag's value.
    #[error("{0}")]
    Flag(String),
    /// A field's value, and what to do.
    #[error("configuration field {field}: {message}")]
    Field {
        /// Its path in the file.
        field: &'static str,
        /// What is wrong.
        message: String,
    },
}

fn field(field: &'static str, message: impl Into<String>) -> Invalid {
    Invalid::Field { field, message: message.into() }
}

impl Config {
    /// Brings flags and files together.
    ///
    /// # Errors
    /// The first thing that cannot be used.
    pub fn new(flags: &Flags) -> Result<Self, Invalid> {
        let mut merged = load(flags)?;
        flags.apply(&mut merged).map_err(Invalid::Flag)?;
        let refuse_cgroup_v1 = merged["failCgroupV1"] == true;
        let file: KubeletConfiguration =
            serde_json::from_value(merged).map_err(|e| Invalid::Flag(format!("invalid configuration: {e}")))?;
        Self::validate(flags, file, refuse_cgroup_v1)
    }

    fn validate(flags: &Flags, file: KubeletConfiguration, refuse_cgroup_v1: bool) -> Result<Self, Invalid> {
        let path = |name: &str| Some(flags.text(name)).filter(|t| !t.is_empty()).map(PathBuf::from);
        let address =
            |name, text: &str| text.parse::<IpAddr>().map_err(|_| field(name, format!("{text:?} is no address")));
        check(flags, &file)?;
        let socket = |name, text: &str| socket_path(text).map(str::to_owned).map_err(|e| field(name, e));
        let runtime_socket = socket("containerRuntimeEndpoint", &file.container_runtime_endpoint)?;
        let image_socket = if file.image_service_endpoint.is_empty() {
            runtime_socket.clone()
        } else {
            socket("imageServiceEndpoint", &file.image_service_endpoint)?
        };
        let max_crash = file.crash_loop_back_off.max_container_restart_period.map_or(300, |d| d.as_secs());
        Ok(Self {
            node_name: node_name(flags.text("hostname-override"))?,
            node_ips: node_ips(flags.text("node-ip"))?,
            node_labels: labels(flags.text("node-labels"))?,
            taints: taints(&file),
            root_dir: path("root-dir").unwrap_or_else(|| "/var/lib/kubelet".into()),
            cert_dir: path("cert-dir").unwrap_or_else(|| "/var/lib/kubelet/pki".into()),
            kubeconfig: path("kubeconfig"),
            bootstrap_kubeconfig: path("bootstrap-kubeconfig"),
            runtime_socket,
            image_socket,
            cgroup_driver: driver(&file.cgroup_driver)?,
            refuse_cgroup_v1,
            reserved: reserved(&file)?,
            static_pod_path: Some(PathBuf::from(&file.static_pod_path)).filter(|p| !p.as_os_str().is_empty()),
            address: address("address", &file.address)?,
            healthz_address: address("healthzBindAddress", &file.healthz_bind_address)?,
            lock_file: path("lock-file"),
            external_cloud: flags.text("cloud-provider") == "external",
            log_max_bytes: log_size(&file)?,
            eviction: eviction::parse(&file).map_err(|(name, e)| field(name, e))?,
            max_crash_backoff: SignedDuration::from_secs(i64::try_from(max_crash).unwrap_or(300)),
            file,
        })
    }
}

/// What cannot be used, and what is refused because ignoring it would change what runs.
fn check(flags: &Flags, file: &KubeletConfiguration) -> Result<(), Invalid> {
    if !matches!(flags.text("cloud-provider"), "" | "external") {
        return Err(Invalid::Flag(
            "--cloud-provider: in-tree providers are gone since v1.31; use external or leave it out".into(),
        ));
    }
    for name in ["image-credential-provider-config", "image-credential-provider-bin-dir"] {
        if !flags.text(name).is_empty() {
            return Err(Invalid::Flag(format!("--{name}: credential plugins are not supported; use imagePullSecrets")));
        }
    }
    warn_without_effect(file);
    if !file.static_pod_url.is_empty() {
        return Err(field("staticPodURL", "static pods by HTTP are not supported by this kubelet; use staticPodPath"));
    }
    if file.run_once {
        return Err(field("runOnce", "run-once mode is not supported"));
    }
    if !matches!(file.authorization.mode.as_str(), "Webhook" | "AlwaysAllow") {
        return Err(field(
            "authorization.mode",
            format!("{:?} is neither Webhook nor AlwaysAllow", file.authorization.mode),
        ));
    }
    for (name, value) in
        [("port", file.port), ("readOnlyPort", file.read_only_port), ("healthzPort", file.healthz_port)]
    {
        if u16::try_from(value).is_err() {
            return Err(field(name, format!("{value} is no port")));
        }
    }
    let cgroups: Vec<_> = file.enforce_node_allocatable.iter().filter(|e| !e.is_empty() && *e != "none").collect();
    if !cgroups.is_empty() && !file.cgroups_per_qos {
        return Err(field(
            "enforceNodeAllocatable",
            "must be empty (--enforce-node-allocatable=\"\") when cgroupsPerQOS is false",
        ));
    }
    for (name, value, default) in [
        ("cpuManagerPolicy", &file.cpu_manager_policy, "none"),
        ("memoryManagerPolicy", &file.memory_manager_policy, "None"),
        ("topologyManagerPolicy", &file.topology_manager_policy, "none"),
    ] {
        if value != default {
            return Err(field(name, format!("{value:?} is not supported by this kubelet; use {default:?}")));
        }
    }
    if file.image_gc_high_threshold_percent < file.image_gc_low_threshold_percent {
        return Err(field("imageGCHighThresholdPercent", "is below imageGCLowThresholdPercent"));
    }
    Ok(())
}

/// Fields that upstream's kubelet acts on and this one does not.
const WITHOUT_EFFECT: [&str; 18] = [
    "shutdownGracePeriod", "shutdownGracePeriodCriticalPods", "shutdownGracePeriodByPodPriority", "kubeReservedCgroup",
    "systemReservedCgroup", "kubeletCgroups", "systemCgroups", "memorySwap", "podCIDR",
    "preloadedImagesVerificationAllowlist", "protectKernelDefaults", "qosReserved", "registryPullQPS",
    "reservedMemory", "reservedSystemCPUs", "singleProcessOOMKill", "tracing", "userNamespaces",
];

/// One line about everything that was asked for and will not happen.
fn warn_without_effect(file: &KubeletConfiguration) {
    let value = |f: &KubeletConfiguration| serde_json::to_value(f).unwrap_or_default();
    let (own, default) = (value(file), value(&KubeletConfiguration::default()));
    let fields: Vec<_> = WITHOUT_EFFECT.into_iter().filter(|f| own[*f] != default[*f]).collect();
    if !fields.is_empty() {
        tracing::warn!(fields = fields.join(","), "These configuration fields have no effect in this kubelet");
    }
}

/// Defaults, file and drop-ins as one value.
fn load(flags: &Flags) -> Result<Value, Invalid> {
    let config = flags.text("config");
    let mut merged = json!({});
    if config.is_empty() {
        merged = json!({"readOnlyPort": 10255, "authorization": {"mode": "AlwaysAllow"},
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}}});
    } else {
        merge(&mut merged, read(Path::new(config))?);
    }
    let directory = flags.text("config-dir");
    if !directory.is_empty() {
        let path = PathBuf::from(directory);
        let entries = std::fs::read_dir(&path).map_err(|source| Invalid::Directory { path: path.clone(), source })?;
        let mut files: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
        files.retain(|p| p.extension().is_some_and(|e| e == "conf"));
        files.sort();
        for file in files {
            merge(&mut merged, read(&file)?);
        }
    }
    Ok(merged)
}

fn read(path: &Path) -> Result<Value, Invalid> {
    let (_, unknown) = config_file::load_lenient::<KubeletConfiguration>(path, API_VERSION, KIND)?;
    for sentence in unknown {
        tracing::warn!(file = %path.display(), "Ignoring an unknown field of the configuration: {sentence}");
    }
    Ok(config_file::load_lenient::<Value>(path, API_VERSION, KIND)?.0)
}

/// Objects merge, everything else replaces.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (into, from) => *into = from,
    }
}

fn node_name(given: &str) -> Result<String, Invalid> {
    let name = if given.is_empty() {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        given.to_owned()
    };
    let name = name.trim().to_lowercase();
    if name.is_empty() || name == "(none)" {
        return Err(Invalid::Flag("this machine has no host name: set one, or use --hostname-override".into()));
    }
    Ok(name)
}

fn node_ips(given: &str) -> Result<Vec<IpAddr>, Invalid> {
    let items = given.split(',').map(str::trim).filter(|i| !i.is_empty());
    items.map(|i| i.parse().map_err(|_| Invalid::Flag(format!("--node-ip: {i:?} is no address")))).collect()
}

fn labels(given: &str) -> Result<BTreeMap<String, String>, Invalid> {
    let items = given.split(',').map(str::trim).filter(|i| !i.is_empty());
    let pair = |i: &str| match i.split_once('=') {
        Some((k, v)) => Ok((k.to_owned(), v.to_owned())),
        None => Err(Invalid::Flag(format!("--node-labels: {i:?} is not key=value"))),
    };
    items.map(pair).collect()
}

fn taints(file: &KubeletConfiguration) -> Vec<Taint> {
    let taint = |t: &crate::config_file::Taint| Taint {
        key: t.key.clone(),
        value: Some(t.value.clone()).filter(|v| !v.is_empty()),
        effect: t.effect.clone(),
        time_added: None,
    };
    file.register_with_taints.iter().map(taint).collect()
}

fn log_size(file: &KubeletConfiguration) -> Result<u64, Invalid> {
    let text = &file.container_log_max_size;
    let size = text.parse::<apimachinery::quantity::Quantity>().ok().and_then(|q| u64::try_from(q.value()).ok());
    size.filter(|s| *s > 0).ok_or_else(|| field("containerLogMaxSize", format!("{text:?} is no size")))
}

fn driver(name: &str) -> Result<Driver, Invalid> {
    match name {
        "cgroupfs" => Ok(Driver::Cgroupfs),
        "systemd" => Ok(Driver::Systemd),
        other => Err(field("cgroupDriver", format!("{other:?} is neither cgroupfs nor systemd"))),
    }
}

/// kubeReserved and systemReserved together, and the hard memory eviction threshold, which upstream reserves too.
fn reserved(file: &KubeletConfiguration) -> Result<Amounts, Invalid> {
    let mut sum = Amounts::new();
    for (name, map) in [("kubeReserved", &file.kube_reserved), ("systemReserved", &file.system_reserved)] {
        for (resource, text) in map {
            if text.parse::<apimachinery::quantity::Quantity>().is_err() {
                return Err(field(name, format!("{resource}: {text:?} is no quantity")));
            }
            let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.clone());
            *sum.entry(resource.clone()).or_default() += amount(resource, &quantity);
        }
    }
    let threshold = file.eviction_hard.get("memory.available").map_or("100Mi", String::as_str);
    if !threshold.ends_with('%') {
        let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(threshold.to_owned());
        *sum.entry("memory".into()).or_default() += amount("memory", &quantity);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, Invalid> {
        let args = args.iter().map(|a| (*a).into());
        Config::new(&component_base::flags::parse_from::<Flags>("kubelet", crate::flags::LEGACY, args).unwrap().0)
    }

    #[test]
    fn flags_alone_keep_the_loose_defaults() {
        let config = config(&["--hostname-override=N1"]).unwrap();
        assert_eq!(config.node_name, "n1");
        assert_eq!(config.file.authorization.mode, "AlwaysAllow");
        assert_eq!(config.file.read_only_port, 10255);
        assert!(!config.refuse_cgroup_v1);
    }

    #[test]
    fn file_drop_ins_and_flags() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("k.yaml");
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        std::fs::write(&file, format!("{head}maxPods: 10\nport: 1\nclusterDNS: [10.0.0.2]\n")).unwrap();
        std::fs::write(
            dir.path().join("10-a.conf"),
            format!("{head}maxPods: 20\nevictionHard: {{memory.available: 1Mi}}\n"),
        )
        .unwrap();
        std::fs::write(
            dir.path().join("20-b.conf"),
            format!("{head}maxPods: 30\nevictionHard: {{nodefs.available: 1%}}\n"),
        )
        .unwrap();
        let file = format!("--config={}", file.display());
        let dir = format!("--config-dir={}", dir.path().display());
        let config = config(&[&file, &dir, "--port=2", "--hostname-override=n"]).unwrap();
        assert_eq!((config.file.max_pods, config.file.port), (30, 2));
        assert_eq!(config.file.eviction_hard.len(), 2);
        assert_eq!(config.file.authorization.mode, "Webhook");
        assert!(!config.file.authentication.anonymous.enabled);
    }

    #[test]
    fn refusals() {
        for (args, word) in [
            (&["--cgroups-per-qos=false"][..], "enforceNodeAllocatable"),
            (&["--cgroup-driver=x"], "cgroupDriver"),
            (&["--container-runtime-endpoint=tcp://a"], "unix"),
            (&["--cloud-provider=aws"], "external"),
            (&["--kube-reserved=cpu=x"], "kubeReserved"),
        ] {
            let error = config(args).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}

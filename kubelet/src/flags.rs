//! The kubelet's flags: one table with every flag of upstream's kubelet, its kind, what it sets and what it means.
//!
//! Most flags are fields of the configuration file under an older name; a given flag wins over the file. Flags that
//! upstream removed are in [`LEGACY`].

use std::collections::BTreeMap;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args as _};
use component_base::flags::{Fate, LegacyFlag};
use component_base::logging::LoggingFlags;
use serde_json::{Value, json};

/// How a flag's text becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Int,
    Text,
    List,
    Map,
    Bools,
    /// `signal<value`, the older form of the eviction maps.
    Thresholds,
    /// `key=value:effect`
    Taints,
}

/// What a flag sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sets {
    /// A field of the configuration file, as a dotted path.
    Config(&'static str),
    /// Something that only flags have.
    Own,
    /// Nothing any more, upstream or here.
    Inert,
}

use Kind::{Bool, Bools, Int, List, Map, Taints, Text, Thresholds};
use Sets::{Config, Inert, Own};

#[rustfmt::skip]
const TABLE: &[(&str, Kind, Sets, &str)] = &[
    ("address", Text, Config("address"), "Address that the server listens on"),
    ("allowed-unsafe-sysctls", List, Config("allowedUnsafeSysctls"), "Unsafe sysctls, or patterns ending in *, that pods may set"),
    ("anonymous-auth", Bool, Config("authentication.anonymous.enabled"), "Take requests without credentials for system:anonymous"),
    ("application-metrics-count-limit", Int, Inert, "Accepted for compatibility; has no effect"),
    ("authentication-token-webhook", Bool, Config("authentication.webhook.enabled"), "Ask the API server who a bearer token belongs to"),
    ("authentication-token-webhook-cache-ttl", Text, Config("authentication.webhook.cacheTTL"), "How long the answer about a token is kept"),
    ("authorization-mode", Text, Config("authorization.mode"), "AlwaysAllow, or Webhook to ask the API server"),
    ("authorization-webhook-cache-authorized-ttl", Text, Config("authorization.webhook.cacheAuthorizedTTL"), "How long a yes of the API server is kept"),
    ("authorization-webhook-cache-unauthorized-ttl", Text, Config("authorization.webhook.cacheUnauthorizedTTL"), "How long a no of the API server is kept"),
    ("boot-id-file", Text, Inert, "Accepted for compatibility; has no effect"),
    ("bootstrap-kubeconfig", Text, Own, "Kubeconfig to ask for a client certificate with, when --kubeconfig does not exist"),
    ("cert-dir", Text, Own, "Directory of certificates that the kubelet obtains"),
    ("cgroup-driver", Text, Config("cgroupDriver"), "cgroupfs or systemd; must be that of the runtime"),
    ("cgroup-root", Text, Config("cgroupRoot"), "Cgroup that everything of pods is below"),
    ("cgroups-per-qos", Bool, Config("cgroupsPerQOS"), "Make cgroups per QoS class and pod"),
    ("client-ca-file", Text, Config("authentication.x509.clientCAFile"), "Authorities whose client certificates are accepted"),
    ("cloud-provider", Text, Own, "Only the empty value and external are possible"),
    ("cluster-dns", List, Config("clusterDNS"), "Addresses of the cluster DNS"),
    ("cluster-domain", Text, Config("clusterDomain"), "Domain of the cluster"),
    ("config", Text, Own, "Configuration file"),
    ("config-dir", Text, Own, "Directory of *.conf files merged over the configuration file"),
    ("container-hints", Text, Inert, "Accepted for compatibility; has no effect"),
    ("container-log-max-files", Int, Config("containerLogMaxFiles"), "Most log files of a container"),
    ("container-log-max-size", Text, Config("containerLogMaxSize"), "Size at which a container log is rotated"),
    ("container-runtime-endpoint", Text, Config("containerRuntimeEndpoint"), "Socket of the container runtime"),
    ("containerd", Text, Inert, "Accepted for compatibility; has no effect"),
    ("containerd-namespace", Text, Inert, "Accepted for compatibility; has no effect"),
    ("contention-profiling", Bool, Config("enableContentionProfiling"), "As in the configuration file"),
    ("cpu-cfs-quota", Bool, Config("cpuCFSQuota"), "Enforce CPU limits"),
    ("cpu-cfs-quota-period", Text, Config("cpuCFSQuotaPeriod"), "Period of the CPU quota"),
    ("cpu-manager-policy", Text, Config("cpuManagerPolicy"), "As in the configuration file"),
    ("cpu-manager-policy-options", Map, Config("cpuManagerPolicyOptions"), "As in the configuration file"),
    ("cpu-manager-reconcile-period", Text, Config("cpuManagerReconcilePeriod"), "As in the configuration file"),
    ("enable-controller-attach-detach", Bool, Config("enableControllerAttachDetach"), "As in the configuration file"),
    ("enable-debugging-handlers", Bool, Config("enableDebuggingHandlers"), "Serve logs, exec, attach and port-forward"),
    ("enable-load-reader", Bool, Inert, "Accepted for compatibility; has no effect"),
    ("enable-server", Bool, Config("enableServer"), "Serve at all"),
    ("enforce-node-allocatable", List, Config("enforceNodeAllocatable"), "What is kept within allocatable: pods, none"),
    ("event-burst", Int, Config("eventBurst"), "Most events at once"),
    ("event-qps", Int, Config("eventRecordQPS"), "Events per second"),
    ("event-storage-age-limit", Text, Inert, "Accepted for compatibility; has no effect"),
    ("event-storage-event-limit", Text, Inert, "Accepted for compatibility; has no effect"),
    ("eviction-hard", Thresholds, Config("evictionHard"), "Signals at which pods are evicted at once, such as memory.available<100Mi"),
    ("eviction-max-pod-grace-period", Int, Config("evictionMaxPodGracePeriod"), "Most seconds a pod gets when a soft signal evicts it"),
    ("eviction-minimum-reclaim", Map, Config("evictionMinimumReclaim"), "What an eviction must bring"),
    ("eviction-pressure-transition-period", Text, Config("evictionPressureTransitionPeriod"), "How long a pressure condition stays after its end"),
    ("eviction-soft", Thresholds, Config("evictionSoft"), "Signals at which pods are evicted after a grace period"),
    ("eviction-soft-grace-period", Map, Config("evictionSoftGracePeriod"), "Grace periods of soft signals"),
    ("exit-on-lock-contention", Bool, Own, "As in the configuration file"),
    ("experimental-allocatable-ignore-eviction", Bool, Inert, "Accepted for compatibility; has no effect"),
    ("experimental-mounter-path", Text, Inert, "Accepted for compatibility; has no effect"),
    ("fail-cgroupv1", Bool, Config("failCgroupV1"), "Refuse to run on cgroup v1"),
    ("fail-swap-on", Bool, Config("failSwapOn"), "Refuse to run while swap is on"),
    ("feature-gates", Bools, Config("featureGates"), "Feature gates; known ones have no effect"),
    ("file-check-frequency", Text, Config("fileCheckFrequency"), "How often the static pod directory is read when it cannot be watched"),
    ("global-housekeeping-interval", Text, Inert, "Accepted for compatibility; has no effect"),
    ("hairpin-mode", Text, Config("hairpinMode"), "As in the configuration file"),
    ("healthz-bind-address", Text, Config("healthzBindAddress"), "Address of the health port"),
    ("healthz-port", Int, Config("healthzPort"), "Health port; 0 for none"),
    ("hostname-override", Text, Own, "Name of this node"),
    ("housekeeping-interval", Text, Inert, "Accepted for compatibility; has no effect"),
    ("http-check-frequency", Text, Config("httpCheckFrequency"), "As in the configuration file"),
    ("image-credential-provider-bin-dir", Text, Own, "As in the configuration file"),
    ("image-credential-provider-config", Text, Own, "As in the configuration file"),
    ("image-gc-high-threshold", Int, Config("imageGCHighThresholdPercent"), "Disk use in percent that starts image removal"),
    ("image-gc-low-threshold", Int, Config("imageGCLowThresholdPercent"), "Disk use in percent that image removal aims at"),
    ("image-service-endpoint", Text, Config("imageServiceEndpoint"), "Socket of the image service, when it is another one"),
    ("kernel-memcg-notification", Bool, Config("kernelMemcgNotification"), "As in the configuration file"),
    ("kube-api-burst", Int, Config("kubeAPIBurst"), "Most requests to the API server at once"),
    ("kube-api-content-type", Text, Config("contentType"), "As in the configuration file"),
    ("kube-api-qps", Int, Config("kubeAPIQPS"), "Requests per second to the API server"),
    ("kube-reserved", Map, Config("kubeReserved"), "Resources kept for the kubelet and runtime"),
    ("kube-reserved-cgroup", Text, Config("kubeReservedCgroup"), "As in the configuration file"),
    ("kubeconfig", Text, Own, "Kubeconfig for the API server; without it and without --bootstrap-kubeconfig the kubelet runs static pods only"),
    ("kubelet-cgroups", Text, Config("kubeletCgroups"), "As in the configuration file"),
    ("local-storage-capacity-isolation", Bool, Config("localStorageCapacityIsolation"), "As in the configuration file"),
    ("lock-file", Text, Own, "File whose lock only one kubelet holds"),
    ("log-cadvisor-usage", Bool, Inert, "Accepted for compatibility; has no effect"),
    ("machine-id-file", Text, Inert, "Accepted for compatibility; has no effect"),
    ("make-iptables-util-chains", Bool, Config("makeIPTablesUtilChains"), "As in the configuration file"),
    ("manifest-url", Text, Config("staticPodURL"), "Static pods by HTTP: not supported"),
    ("manifest-url-header", Text, Inert, "Accepted for compatibility; has no effect"),
    ("max-open-files", Int, Config("maxOpenFiles"), "As in the configuration file"),
    ("max-pods", Int, Config("maxPods"), "Most pods on this node"),
    ("maximum-dead-containers", Int, Inert, "Accepted for compatibility; has no effect"),
    ("maximum-dead-containers-per-container", Int, Inert, "Accepted for compatibility; has no effect"),
    ("memory-manager-policy", Text, Config("memoryManagerPolicy"), "As in the configuration file"),
    ("minimum-container-ttl-duration", Text, Inert, "Accepted for compatibility; has no effect"),
    ("minimum-image-ttl-duration", Text, Config("imageMinimumGCAge"), "Age before an unused image may be removed"),
    ("node-ip", Text, Own, "Addresses of this node"),
    ("node-labels", Map, Own, "Labels given to the node when it registers"),
    ("node-status-max-images", Int, Config("nodeStatusMaxImages"), "Most images in the node status; -1 for all"),
    ("node-status-update-frequency", Text, Config("nodeStatusUpdateFrequency"), "How often the node status is computed"),
    ("oom-score-adj", Int, Config("oomScoreAdj"), "OOM score adjustment of the kubelet"),
    ("pod-cidr", Text, Config("podCIDR"), "As in the configuration file"),
    ("pod-manifest-path", Text, Config("staticPodPath"), "Directory (or file) of static pods"),
    ("pod-max-pids", Int, Config("podPidsLimit"), "Most processes of a pod; -1 for no bound"),
    ("pods-per-core", Int, Config("podsPerCore"), "Most pods per core; 0 for no bound"),
    ("port", Int, Config("port"), "Port of the server"),
    ("protect-kernel-defaults", Bool, Config("protectKernelDefaults"), "As in the configuration file"),
    ("provider-id", Text, Config("providerID"), "Identity of the machine at its provider"),
    ("qos-reserved", Map, Config("qosReserved"), "As in the configuration file"),
    ("read-only-port", Int, Config("readOnlyPort"), "Port without authentication; 0 for none"),
    ("register-node", Bool, Config("registerNode"), "Register this node with the API server"),
    ("register-with-taints", Taints, Config("registerWithTaints"), "Taints given to the node when it registers, key=value:effect"),
    ("registry-burst", Int, Config("registryBurst"), "As in the configuration file"),
    ("registry-qps", Int, Config("registryPullQPS"), "As in the configuration file"),
    ("reserved-cpus", Text, Config("reservedSystemCPUs"), "As in the configuration file"),
    ("reserved-memory", Text, Config("reservedMemory"), "As in the configuration file"),
    ("resolv-conf", Text, Config("resolvConf"), "Resolver configuration that pods inherit"),
    ("root-dir", Text, Own, "Directory of the kubelet"),
    ("rotate-certificates", Bool, Config("rotateCertificates"), "Renew the client certificate through the API"),
    ("rotate-server-certificates", Bool, Config("serverTLSBootstrap"), "Obtain and renew the serving certificate through the API"),
    ("runonce", Bool, Config("runOnce"), "As in the configuration file"),
    ("runtime-cgroups", Text, Inert, "Accepted for compatibility; has no effect"),
    ("runtime-request-timeout", Text, Config("runtimeRequestTimeout"), "Deadline of calls to the runtime"),
    ("seccomp-default", Bool, Config("seccompDefault"), "RuntimeDefault seccomp for pods that say nothing"),
    ("serialize-image-pulls", Bool, Config("serializeImagePulls"), "Pull one image at a time"),
    ("storage-driver-buffer-duration", Text, Inert, "Accepted for compatibility; has no effect"),
    ("storage-driver-db", Text, Inert, "Accepted for compatibility; has no effect"),
    ("storage-driver-host", Text, Inert, "Accepted for compatibility; has no effect"),
    ("storage-driver-password", Text, Inert, "Accepted for compatibility; has no effect"),
    ("storage-driver-secure", Bool, Inert, "Accepted for compatibility; has no effect"),
    ("storage-driver-table", Text, Inert, "Accepted for compatibility; has no effect"),
    ("storage-driver-user", Text, Inert, "Accepted for compatibility; has no effect"),
    ("streaming-connection-idle-timeout", Text, Config("streamingConnectionIdleTimeout"), "How long an idle exec or port-forward stays"),
    ("sync-frequency", Text, Config("syncFrequency"), "How old configuration in running pods may get"),
    ("system-cgroups", Text, Config("systemCgroups"), "As in the configuration file"),
    ("system-reserved", Map, Config("systemReserved"), "Resources kept for the system"),
    ("system-reserved-cgroup", Text, Config("systemReservedCgroup"), "As in the configuration file"),
    ("tls-cert-file", Text, Config("tlsCertFile"), "Serving certificate"),
    ("tls-cipher-suites", List, Config("tlsCipherSuites"), "Cipher suites"),
    ("tls-min-version", Text, Config("tlsMinVersion"), "Least TLS version"),
    ("tls-private-key-file", Text, Config("tlsPrivateKeyFile"), "Key of the serving certificate"),
    ("topology-manager-policy", Text, Config("topologyManagerPolicy"), "As in the configuration file"),
    ("topology-manager-policy-options", Map, Config("topologyManagerPolicyOptions"), "As in the configuration file"),
    ("topology-manager-scope", Text, Config("topologyManagerScope"), "As in the configuration file"),
    ("volume-plugin-dir", Text, Config("volumePluginDir"), "As in the configuration file"),
    ("volume-stats-agg-period", Text, Config("volumeStatsAggPeriod"), "As in the configuration file"),
];

const fn ignored(name: &'static str, text: &'static str) -> LegacyFlag {
    LegacyFlag { name, takes_value: true, fate: Fate::Ignored(text) }
}

const CNI: &str =
    "removed in v1.24: the container runtime finds its network itself; set it in the runtime's configuration";
const DOCKER: &str =
    "removed in v1.24: dockershim is gone; use --container-runtime-endpoint with containerd, CRI-O or cri-dockerd";

/// Flags of older kubelets.
pub const LEGACY: &[LegacyFlag] = &[
    ignored("network-plugin", CNI),
    ignored("network-plugin-mtu", CNI),
    ignored("cni-conf-dir", CNI),
    ignored("cni-bin-dir", CNI),
    ignored("cni-cache-dir", CNI),
    ignored("image-pull-progress-deadline", DOCKER),
    ignored("pod-infra-container-image", "removed in v1.35: the sandbox image is set in the runtime's configuration"),
    ignored("container-runtime", "removed in v1.27: the only runtime is a CRI one; see --container-runtime-endpoint"),
    ignored("master-service-namespace", "removed in v1.27: the API server's service is always in default"),
    LegacyFlag {
        name: "docker-endpoint",
        takes_value: true,
        fate: Fate::Refused(
            "removed in v1.24: dockershim is gone and this kubelet cannot talk to Docker; install containerd or cri-dockerd and set --container-runtime-endpoint",
        ),
    },
    LegacyFlag {
        name: "allow-privileged",
        takes_value: false,
        fate: Fate::Ignored("removed in v1.15: kube-apiserver's --allow-privileged decides"),
    },
];

/// The command line.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// Given flags by name.
    given: BTreeMap<&'static str, String>,
    /// The logging flags.
    pub logging: LoggingFlags,
}

impl Flags {
    /// A flag that only the command line has; empty when it is not given.
    pub fn text(&self, name: &str) -> &str {
        self.given.get(name).map_or("", String::as_str)
    }

    /// Puts the given flags over a configuration.
    ///
    /// # Errors
    /// The flag whose value cannot be read.
    pub fn apply(&self, config: &mut Value) -> Result<(), String> {
        for (name, kind, sets, _) in TABLE {
            let (Some(text), Config(path)) = (self.given.get(name), sets) else { continue };
            let value = convert(*kind, text).map_err(|e| format!("invalid value {text:?} of --{name}: {e}"))?;
            let pointer = path.split('.').fold(&mut *config, |at, part| &mut at[part]);
            *pointer = value;
        }
        Ok(())
    }
}

fn pairs(text: &str, separator: char) -> Result<Vec<(&str, &str)>, String> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|i| i.split_once(separator).ok_or_else(|| format!("{i:?} has no {separator:?}"))).collect()
}

fn convert(kind: Kind, text: &str) -> Result<Value, String> {
    Ok(match kind {
        Bool => json!(text.parse::<bool>().map_err(|e| e.to_string())?),
        Int => json!(text.parse::<i64>().map_err(|e| e.to_string())?),
        Text => json!(text),
        List => text.split(',').map(str::trim).filter(|t| !t.is_empty()).collect(),
        Map => pairs(text, '=')?.into_iter().map(|(k, v)| (k.to_owned(), json!(v))).collect(),
        Thresholds => pairs(text, '<')?.into_iter().map(|(k, v)| (k.to_owned(), json!(v))).collect(),
        Bools => {
            let pairs = pairs(text, '=')?.into_iter();
            let entries =
                pairs.map(|(k, v)| v.parse().map(|v: bool| (k.to_owned(), json!(v))).map_err(|e| e.to_string()));
            Value::Object(entries.collect::<Result<_, _>>()?)
        }
        Taints => {
            let items = text.split(',').map(str::trim).filter(|t| !t.is_empty());
            Value::Array(items.map(taint).collect::<Result<_, _>>()?)
        }
    })
}

fn taint(text: &str) -> Result<Value, String> {
    let (left, effect) = text.rsplit_once(':').ok_or_else(|| format!("taint {text:?} has no :effect"))?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(format!("taint effect {effect:?} is none of NoSchedule, PreferNoSchedule, NoExecute"));
    }
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    Ok(json!({"key": key, "value": value, "effect": effect}))
}

impl clap::CommandFactory for Flags {
    fn command() -> clap::Command {
        let command = TABLE.iter().fold(clap::Command::new("kubelet"), |command, (name, kind, _, help)| {
            let arg = Arg::new(*name).long(*name).help(*help).action(ArgAction::Set);
            command.arg(if *kind == Bool { arg.value_parser(ValueParser::bool()) } else { arg })
        });
        LoggingFlags::augment_args(command)
    }

    fn command_for_update() -> clap::Command {
        Self::command()
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self { given: BTreeMap::new(), logging: LoggingFlags::from_arg_matches(matches)? };
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (name, ..) in TABLE {
            if let Some(values) = matches.get_raw(name) {
                let text: Vec<_> = values.map(|v| v.to_string_lossy().into_owned()).collect();
                self.given.insert(name, text.join(","));
            }
        }
        Ok(())
    }
}

impl clap::Parser for Flags {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Flags {
        component_base::flags::parse_from::<Flags>("kubelet", LEGACY, args.iter().map(|a| (*a).into())).unwrap().0
    }

    #[test]
    fn flags_set_fields() {
        let flags = parse(&[
            "--cgroups-per-qos=false",
            "--enforce-node-allocatable=",
            "--anonymous-auth",
            "--max_pods=5",
            "--eviction-hard=memory.available<100Mi,nodefs.available<10%",
            "--register-with-taints=a=b:NoSchedule,c:NoExecute",
            "--hostname-override=n1",
            "--network-plugin=cni",
        ]);
        let mut config = json!({});
        flags.apply(&mut config).unwrap();
        assert_eq!(config["cgroupsPerQOS"], false);
        assert_eq!(config["enforceNodeAllocatable"], json!([]));
        assert_eq!(config["authentication"]["anonymous"]["enabled"], true);
        assert_eq!(config["maxPods"], 5);
        assert_eq!(config["evictionHard"]["nodefs.available"], "10%");
        assert_eq!(config["registerWithTaints"][1], json!({"key": "c", "value": "", "effect": "NoExecute"}));
        assert_eq!(flags.text("hostname-override"), "n1");
    }

    #[test]
    fn bad_values_name_the_flag() {
        let error = parse(&["--max-pods=x"]).apply(&mut json!({})).unwrap_err();
        assert!(error.contains("--max-pods"), "{error}");
    }
}

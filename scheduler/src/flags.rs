//! Every flag of kube-scheduler, and how flags and file become the configuration.
//!
//! A flag of leader election that differs from its default wins over the file, as does `--master`; the deprecated flags
//! about the connection count only without a file.

use std::path::{Path, PathBuf};

use clap::Parser;
use client::ClientConfig;
use client::ClientFlags;
use client::delegated::DelegatedFlags;
use client::leader::LeaderElectionFlags;
use component_base::flags::{Fate, GoDuration, LegacyFlag};
use component_base::logging::LoggingFlags;
use component_base::secure_serving::SecureServingFlags;

use crate::config::file::{File, LeaderElection, profiles};
use crate::config::{Config, InvalidConfig, load, times};

const COMPONENT: &str = "kube-scheduler";
const DEFAULT_QPS: f32 = 50.0;
const DEFAULT_BURST: u32 = 100;

/// Flags that upstream removed.
pub const LEGACY: &[LegacyFlag] = &[
    ignored("address", "use --bind-address"),
    ignored("port", "nothing is served without TLS any more; use --secure-port"),
    refused("algorithm-provider", "write a profile in a --config file"),
    refused("policy-config-file", "write a profile in a --config file"),
    refused("policy-configmap", "write a profile in a --config file"),
    ignored("policy-configmap-namespace", "policies no longer exist"),
    LegacyFlag {
        name: "use-legacy-policy-config",
        takes_value: false,
        fate: Fate::Ignored("policies no longer exist"),
    },
    refused("scheduler-name", "set schedulerName of a profile in a --config file"),
    refused("hard-pod-affinity-symmetric-weight", "set hardPodAffinityWeight of InterPodAffinity in a --config file"),
    LegacyFlag { name: "lock-object-name", takes_value: true, fate: Fate::Renamed("leader-elect-resource-name") },
    LegacyFlag {
        name: "lock-object-namespace",
        takes_value: true,
        fate: Fate::Renamed("leader-elect-resource-namespace"),
    },
];

const fn ignored(name: &'static str, why: &'static str) -> LegacyFlag {
    LegacyFlag { name, takes_value: true, fate: Fate::Ignored(why) }
}

const fn refused(name: &'static str, why: &'static str) -> LegacyFlag {
    LegacyFlag { name, takes_value: true, fate: Fate::Refused(why) }
}

/// The Kubernetes scheduler assigns pods to nodes.
#[derive(Debug, Clone, Parser)]
#[command(name = "kube-scheduler")]
pub struct Flags {
    /// The path to the configuration file.
    #[arg(long, default_value = "")]
    pub config: String,
    /// Where the API server is, without a configuration file.
    #[command(flatten)]
    pub client: ClientFlags,
    /// Leader election.
    #[command(flatten)]
    pub leader: LeaderElectionFlags,
    /// Who may use the secure port.
    #[command(flatten)]
    pub delegated: DelegatedFlags,
    /// Logs.
    #[command(flatten)]
    pub logging: LoggingFlags,
    /// The secure port.
    #[command(flatten)]
    pub serving: SecureServingFlags,
    /// Accepted for compatibility.
    #[command(flatten)]
    pub compatibility: CompatibilityFlags,
    /// How long a pod waits for an event before it is tried again anyway.
    #[arg(long, default_value = "5m0s")]
    pub pod_max_in_unschedulable_pods_duration: GoDuration,
}

/// Flags that change nothing here.
#[derive(Debug, Clone, clap::Args)]
pub struct CompatibilityFlags {
    /// The map from metric-label to value allow-list of this label.
    #[arg(long)]
    pub allow_metric_labels: Vec<String>,
    /// The path to the manifest file that contains the allow-list mapping.
    #[arg(long, default_value = "")]
    pub allow_metric_labels_manifest: String,
    /// Metrics to leave out.
    #[arg(long, value_delimiter = ',')]
    pub disabled_metrics: Vec<String>,
    /// The previous version for which you want to show hidden metrics.
    #[arg(long, default_value = "")]
    pub show_hidden_metrics_for_version: String,
    /// Versions whose capabilities to emulate.
    #[arg(long, value_delimiter = ',')]
    pub emulated_version: Vec<String>,
    /// Versions to stay compatible with.
    #[arg(long, value_delimiter = ',')]
    pub min_compatibility_version: Vec<String>,
    /// A set of key=value pairs that describe feature gates for alpha/experimental features.
    #[arg(long)]
    pub feature_gates: Vec<String>,
    /// Enable profiling via web interface host:port/debug/pprof/.
    #[arg(long, default_value_t = true)]
    pub profiling: bool,
    /// Enable block profiling, if profiling is enabled.
    #[arg(long, default_value_t = true)]
    pub contention_profiling: bool,
    /// If set, write the configuration values to this file and exit.
    #[arg(long, default_value = "")]
    pub write_config_to: String,
}

impl Flags {
    /// The configuration, with warnings.
    ///
    /// # Errors
    /// What flag or field is wrong, and what to do.
    pub fn into_config(self) -> Result<(Config, Vec<String>), InvalidConfig> {
        let Self {
            config,
            client,
            leader,
            delegated,
            logging: _,
            serving,
            compatibility,
            pod_max_in_unschedulable_pods_duration: flush,
        } = self;
        if !compatibility.write_config_to.is_empty() {
            return Err(InvalidConfig::Flag("--write-config-to is not supported".into()));
        }
        let (file, mut warnings) = if config.is_empty() { Default::default() } else { load(Path::new(&config))? };
        let value = |reason| InvalidConfig::Value { path: PathBuf::from(&config), reason };
        if file.percentage_of_nodes_to_score.is_some_and(|n| n != 0) {
            warnings.push("percentageOfNodesToScore has no effect: every node is always looked at".into());
        }
        let flush_ms = u64::try_from(flush.as_millis()).unwrap_or(u64::MAX);
        let leader = election(&leader, &file.leader_election).to_config(COMPONENT).map_err(InvalidConfig::Flag)?;
        let config = Config {
            client: connection(&client, &file, !config.is_empty())?,
            leader,
            profiles: profiles(&file.profiles).map_err(value)?,
            extenders: file.extenders.clone(),
            times: times(&file, flush_ms).map_err(value)?,
            serving,
            always_allow_paths: delegated.authorization_always_allow_paths.clone(),
            auth: delegated.to_options(COMPONENT)?,
        };
        Ok((config, warnings))
    }
}

/// The file's values, but for flags that were given.
fn election(flags: &LeaderElectionFlags, file: &LeaderElection) -> LeaderElectionFlags {
    let mut out = flags.clone();
    let default = |given: GoDuration, seconds: u64, file: Option<GoDuration>| {
        if given == GoDuration::from_secs(seconds) { file.unwrap_or(given) } else { given }
    };
    out.leader_elect = flags.leader_elect && file.leader_elect.unwrap_or(true);
    out.leader_elect_lease_duration = default(flags.leader_elect_lease_duration, 15, file.lease_duration);
    out.leader_elect_renew_deadline = default(flags.leader_elect_renew_deadline, 10, file.renew_deadline);
    out.leader_elect_retry_period = default(flags.leader_elect_retry_period, 2, file.retry_period);
    let name = file.resource_name.clone().or_else(|| file.lock_object_name.clone()).filter(|n| !n.is_empty());
    out.leader_elect_resource_name = flags.leader_elect_resource_name.clone().or(name);
    let namespace = file.resource_namespace.clone().or_else(|| file.lock_object_namespace.clone());
    if let Some(namespace) =
        namespace.filter(|n| !n.is_empty() && flags.leader_elect_resource_namespace == "kube-system")
    {
        out.leader_elect_resource_namespace = namespace;
    }
    out
}

fn connection(flags: &ClientFlags, file: &File, has_file: bool) -> Result<ClientConfig, InvalidConfig> {
    let ClientFlags { kubeconfig, master, kube_api_qps, kube_api_burst, kube_api_content_type: _ } = flags;
    let connection = &file.client_connection;
    let (path, qps, burst) = if has_file {
        let path = if connection.kubeconfig.is_empty() { kubeconfig } else { &connection.kubeconfig };
        (path, connection.qps, connection.burst)
    } else {
        (kubeconfig, *kube_api_qps, *kube_api_burst)
    };
    let config = ClientConfig::from_flags(path, master, COMPONENT)?;
    let given = |qps: f32| if qps == 0.0 { DEFAULT_QPS } else { qps };
    Ok(config.limits(given(qps.unwrap_or_default()), burst.filter(|b| *b > 0).unwrap_or(DEFAULT_BURST)))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use component_base::flags::parse_from;

    use super::*;

    fn config(args: &[&str]) -> Result<(Config, Vec<String>), String> {
        let (flags, _) =
            parse_from::<Flags>(COMPONENT, LEGACY, args.iter().map(OsString::from)).map_err(|e| e.message)?;
        flags.into_config().map_err(|e| e.to_string())
    }

    #[test]
    fn flags_and_file_together() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("scheduler.yaml");
        let path = file.to_str().unwrap();
        let text = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
                    leaderElection: {leaderElect: true, leaseDuration: 30s, resourceName: mine}\nclientConnection: {qps: 7}\n";
        std::fs::write(&file, text).unwrap();
        let master = "--master=https://192.0.2.1:6443";
        let (c, _) = config(&["--config", path, master, "--kube-api-qps=9"]).unwrap();
        assert_eq!((c.client.qps, c.client.burst, c.leader.name.as_str()), (7.0, 100, "mine"));
        assert_eq!(c.leader.lease_duration.as_secs(), 30);
        let (c, _) = config(&["--config", path, master, "--leader_elect=false"]).unwrap();
        assert!(!c.leader.enabled);
        let (c, _) = config(&[master, "--kube-api-qps=9", "--port=0"]).unwrap();
        assert_eq!((c.client.qps, c.profiles.len()), (9.0, 1));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("scheduler.yaml");
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        std::fs::write(&file, format!("{head}extender: [{{urlPrefix: http://x}}]\n")).unwrap();
        let path = file.to_str().unwrap();
        for (args, words) in [
            (vec!["--policy-config-file=/p"], "profile"),
            (vec!["--config", path, "--master=https://192.0.2.1:1"], "extenders"),
            (vec!["--master=https://192.0.2.1:1", "--leader-elect-renew-deadline=20s"], "lease-duration"),
        ] {
            let error = config(&args).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}

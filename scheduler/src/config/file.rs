//! KubeSchedulerConfiguration as files have it, and how it becomes profiles.
//!
//! Follows upstream: defaults are merged with what a profile enables and disables, first for `multiPoint`, then for each
//! extension point; a plugin enabled again takes the new weight. Versions that upstream removed are read with a warning
//! where they mean the same, and refused where they ask for what no longer exists.

use std::collections::BTreeMap;

use component_base::duration::GoDuration;
use serde::Deserialize;
use serde_json::Value;

use super::profile::{DEFAULT_FILTERS, DEFAULT_WEIGHTS, PreemptionArgs, Profile, ResourceWeight, SpreadArgs, Strategy};
use crate::objects::pod::{NodeAffinity, TopologySpreadConstraint};
use crate::plugins::{MAX_NODE_SCORE, Plugin};

/// The file of today.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct File {
    pub parallelism: Option<i32>,
    pub leader_election: LeaderElection,
    pub client_connection: ClientConnection,
    pub enable_profiling: Option<bool>,
    pub enable_contention_profiling: Option<bool>,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub pod_initial_backoff_seconds: Option<i64>,
    pub pod_max_backoff_seconds: Option<i64>,
    pub profiles: Vec<FileProfile>,
    pub extenders: Vec<ExtenderFile>,
    pub delay_cache_until_active: bool,
}

/// A program that is asked about pods.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ExtenderFile {
    pub url_prefix: String,
    pub filter_verb: String,
    pub preempt_verb: String,
    pub prioritize_verb: String,
    pub weight: i64,
    pub bind_verb: String,
    #[serde(rename = "enableHTTPS")]
    pub enable_https: bool,
    pub tls_config: ExtenderTls,
    pub http_timeout: Option<String>,
    pub node_cache_capable: bool,
    pub managed_resources: Vec<ManagedResource>,
    pub ignorable: bool,
}

/// How an extender is trusted, and trusts us.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ExtenderTls {
    pub insecure: bool,
    pub server_name: String,
    pub cert_file: String,
    pub key_file: String,
    pub ca_file: String,
    pub cert_data: String,
    pub key_data: String,
    pub ca_data: String,
}

/// A resource that an extender looks after.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ManagedResource {
    pub name: String,
    pub ignored_by_scheduler: bool,
}

/// The file of before v1.19, as far as it says what can still be done.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct OldFile {
    pub scheduler_name: Option<String>,
    pub leader_election: LeaderElection,
    pub client_connection: ClientConnection,
    pub enable_profiling: Option<bool>,
    pub enable_contention_profiling: Option<bool>,
    pub healthz_bind_address: Option<String>,
    pub metrics_bind_address: Option<String>,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub hard_pod_affinity_symmetric_weight: Option<i64>,
    pub disable_preemption: bool,
    pub bind_timeout_seconds: Option<i64>,
    pub algorithm_source: AlgorithmSource,
}

/// Where the algorithm came from: the built-in provider, or a policy that no longer exists.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct AlgorithmSource {
    pub provider: Option<String>,
    pub policy: Option<Value>,
}

/// `leaderElection`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct LeaderElection {
    pub leader_elect: Option<bool>,
    pub lease_duration: Option<GoDuration>,
    pub renew_deadline: Option<GoDuration>,
    pub retry_period: Option<GoDuration>,
    pub resource_lock: Option<String>,
    pub resource_name: Option<String>,
    pub resource_namespace: Option<String>,
    pub lock_object_name: Option<String>,
    pub lock_object_namespace: Option<String>,
}

/// `clientConnection`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: Option<f32>,
    pub burst: Option<u32>,
}

/// A profile.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct FileProfile {
    pub scheduler_name: Option<String>,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub plugins: BTreeMap<String, PluginLists>,
    pub plugin_config: Vec<PluginConfig>,
}

/// What an extension point enables and disables.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct PluginLists {
    pub enabled: Vec<FilePlugin>,
    pub disabled: Vec<FilePlugin>,
}

/// A plugin in such a list.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct FilePlugin {
    pub name: String,
    pub weight: Option<i64>,
}

/// Arguments of a plugin.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct PluginConfig {
    pub name: String,
    pub args: Value,
}

const POINTS: [&str; 15] = [
    "preEnqueue", "queueSort", "preFilter", "filter", "postFilter", "preScore", "score", "reserve", "permit",
    "preBind", "bind", "postBind", "multiPoint", "placementGenerate", "placementScore",
];

/// The profiles of a file; the default one when it has none.
///
/// # Errors
/// What is wrong, with the field.
pub fn profiles(list: &[FileProfile]) -> Result<Vec<Profile>, String> {
    if list.is_empty() {
        return Ok(vec![Profile::default_for(super::DEFAULT_SCHEDULER_NAME)]);
    }
    let mut out: Vec<Profile> = Vec::new();
    for (i, file) in list.iter().enumerate() {
        let name = match (&file.scheduler_name, list.len()) {
            (Some(name), _) if !name.is_empty() => name.as_str(),
            (_, 1) => super::DEFAULT_SCHEDULER_NAME,
            _ => return Err(format!("profiles[{i}].schedulerName is needed when there are several profiles")),
        };
        if out.iter().any(|p| p.scheduler_name == name) {
            return Err(format!("profiles[{i}].schedulerName {name:?} is used twice"));
        }
        out.push(profile(name, file).map_err(|e| format!("profiles[{i}]: {e}"))?);
    }
    Ok(out)
}

fn profile(name: &str, file: &FileProfile) -> Result<Profile, String> {
    let mut out = Profile::default_for(name);
    for (point, lists) in &file.plugins {
        if !POINTS.contains(&point.as_str()) {
            return Err(format!("plugins.{point} is no extension point"));
        }
        for p in lists.enabled.iter().chain(&lists.disabled).filter(|p| p.name != "*") {
            if Plugin::by_name(&p.name).is_none() {
                return Err(format!(
                    "plugins.{point}: there is no plugin {:?}; plugins of one's own cannot be added",
                    p.name
                ));
            }
        }
    }
    let multi = enabled(&file.plugins, "multiPoint", Plugin::ALL.iter().map(|(p, _)| (*p, None)).collect());
    let at = |point: &str, able: &dyn Fn(Plugin) -> bool| {
        enabled(&file.plugins, point, multi.iter().filter(|(p, _)| able(*p)).copied().collect())
    };
    let is_filter = |p: Plugin| DEFAULT_FILTERS.contains(&p);
    out.filters = at("filter", &is_filter).into_iter().map(|(p, _)| p).collect();
    let default = |p: Plugin| DEFAULT_WEIGHTS.iter().find(|(q, _)| *q == p).map(|(_, w)| *w);
    out.weights = [0; Plugin::ALL.len()];
    for (p, weight) in at("score", &|p| default(p).is_some()) {
        let unset = if is_default(&file.plugins, p) { default(p).unwrap_or(1) } else { 1 };
        out.weights[p as usize] = weight.filter(|w| *w != 0).unwrap_or(unset);
    }
    let has = |point: &str, plugin: Plugin| at(point, &|p| p == plugin).iter().any(|(p, _)| *p == plugin);
    out.gates = has("preEnqueue", Plugin::SchedulingGates);
    out.preemption = has("postFilter", Plugin::DefaultPreemption);
    out.returns_claims = has("postFilter", Plugin::DynamicResources);
    for (point, plugin) in [("queueSort", Plugin::PrioritySort), ("bind", Plugin::DefaultBinder)] {
        if !has(point, plugin) {
            return Err(format!("plugins.{point}: {} cannot be disabled, there is no other", plugin.name()));
        }
    }
    for config in &file.plugin_config {
        arguments(&mut out, config).map_err(|e| format!("pluginConfig of {}: {e}", config.name))?;
    }
    Ok(out)
}

/// True when no list of the file enables the plugin itself, so that its default weight stays.
fn is_default(plugins: &BTreeMap<String, PluginLists>, p: Plugin) -> bool {
    !["multiPoint", "score"]
        .iter()
        .filter_map(|point| plugins.get(*point))
        .flat_map(|l| &l.enabled)
        .any(|e| e.name == p.name())
}

/// Plugins of an extension point: the given ones without the disabled, and the enabled with their weights.
fn enabled(
    plugins: &BTreeMap<String, PluginLists>,
    point: &str,
    mut list: Vec<(Plugin, Option<i64>)>,
) -> Vec<(Plugin, Option<i64>)> {
    let Some(lists) = plugins.get(point) else { return list };
    list.retain(|(p, _)| !lists.disabled.iter().any(|d| d.name == "*" || d.name == p.name()));
    for e in &lists.enabled {
        let Some(plugin) = Plugin::by_name(&e.name) else { continue };
        match list.iter_mut().find(|(p, _)| *p == plugin) {
            Some(at) => at.1 = e.weight.or(at.1),
            None => list.push((plugin, e.weight)),
        }
    }
    list
}

fn read<T: serde::de::DeserializeOwned>(args: &Value) -> Result<T, String> {
    let mut args = args.clone();
    if let Some(object) = args.as_object_mut() {
        object.remove("apiVersion");
        object.remove("kind");
    }
    serde_json::from_value(args).map_err(|e| e.to_string())
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct FileWeight {
    name: String,
    weight: i64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct FitFile {
    ignored_resources: Vec<String>,
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<StrategyFile>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct StrategyFile {
    #[serde(rename = "type")]
    type_: String,
    resources: Vec<FileWeight>,
    requested_to_capacity_ratio: Option<RatioFile>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RatioFile {
    shape: Vec<PointFile>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PointFile {
    utilization: i64,
    score: i64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct OtherArgs {
    resources: Vec<FileWeight>,
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: Option<String>,
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: bool,
    added_affinity: Option<NodeAffinity>,
    min_candidate_nodes_percentage: Option<i64>,
    min_candidate_nodes_absolute: Option<i64>,
    bind_timeout_seconds: Option<i64>,
    shape: Vec<Value>,
    filter_timeout: Option<GoDuration>,
    binding_timeout: Option<GoDuration>,
}

fn arguments(out: &mut Profile, config: &PluginConfig) -> Result<(), String> {
    let plugin = Plugin::by_name(&config.name).ok_or("there is no such plugin")?;
    if plugin == Plugin::NodeResourcesFit {
        return fit(out, read(&config.args)?);
    }
    let args: OtherArgs = read(&config.args)?;
    match plugin {
        Plugin::NodeResourcesBalancedAllocation if !args.resources.is_empty() => {
            out.balanced = weights(args.resources)?;
        }
        Plugin::PodTopologySpread => out.spread = spread_args(args)?,
        Plugin::InterPodAffinity => {
            out.hard_pod_affinity_weight = args.hard_pod_affinity_weight.unwrap_or(1);
            if !(0..=100).contains(&out.hard_pod_affinity_weight) {
                return Err("hardPodAffinityWeight must be from 0 to 100".into());
            }
            out.ignore_preferred_of_existing = args.ignore_preferred_terms_of_existing_pods;
        }
        Plugin::NodeAffinity => out.added_affinity = args.added_affinity.unwrap_or_default(),
        Plugin::DefaultPreemption => {
            let old = out.preemption_args;
            let new = PreemptionArgs {
                min_candidate_nodes_percentage: args
                    .min_candidate_nodes_percentage
                    .unwrap_or(old.min_candidate_nodes_percentage),
                min_candidate_nodes_absolute: args
                    .min_candidate_nodes_absolute
                    .unwrap_or(old.min_candidate_nodes_absolute),
            };
            if !(0..=100).contains(&new.min_candidate_nodes_percentage) || new.min_candidate_nodes_absolute < 0 {
                return Err(
                    "minCandidateNodesPercentage must be from 0 to 100, minCandidateNodesAbsolute not negative".into(),
                );
            }
            out.preemption_args = new;
        }
        Plugin::VolumeBinding => {
            if !args.shape.is_empty() {
                return Err("shape: scoring by storage capacity is not supported".into());
            }
            out.bind_timeout_seconds = u64::try_from(args.bind_timeout_seconds.unwrap_or(600))
                .map_err(|_| "bindTimeoutSeconds must not be negative")?;
        }
        _ => {}
    }
    Ok(())
}

fn weights(list: Vec<FileWeight>) -> Result<Vec<ResourceWeight>, String> {
    let one = |r: FileWeight| {
        let weight = if r.weight == 0 { 1 } else { r.weight };
        if r.name.is_empty() || !(1..=100).contains(&weight) {
            return Err(format!("resources: {:?} needs a name and a weight from 1 to 100", r.name));
        }
        Ok(ResourceWeight { name: r.name, weight })
    };
    list.into_iter().map(one).collect()
}

fn spread_args(args: OtherArgs) -> Result<SpreadArgs, String> {
    match args.defaulting_type.as_deref().unwrap_or("System") {
        "System" if args.default_constraints.is_empty() => {
            Ok(SpreadArgs { constraints: super::profile::system_constraints(), system_defaults: true })
        }
        "System" => Err("defaultConstraints must be empty unless defaultingType is List".into()),
        "List" => {
            if args.default_constraints.iter().any(|c| c.label_selector.is_some() || c.topology_key.is_empty()) {
                return Err("defaultConstraints need a topologyKey and must not have a labelSelector".into());
            }
            Ok(SpreadArgs { constraints: args.default_constraints, system_defaults: false })
        }
        other => Err(format!("defaultingType {other:?} is neither System nor List")),
    }
}

fn fit(out: &mut Profile, args: FitFile) -> Result<(), String> {
    out.fit.ignored_resources = args.ignored_resources;
    out.fit.ignored_groups = args.ignored_resource_groups;
    let Some(s) = args.scoring_strategy else { return Ok(()) };
    if !s.resources.is_empty() {
        out.fit.resources = weights(s.resources)?;
    }
    out.fit.strategy = match s.type_.as_str() {
        "" | "LeastAllocated" => Strategy::LeastAllocated,
        "MostAllocated" => Strategy::MostAllocated,
        "RequestedToCapacityRatio" => Strategy::RequestedToCapacityRatio(shape(s.requested_to_capacity_ratio)?),
        other => return Err(format!("scoringStrategy.type {other:?} is unknown")),
    };
    Ok(())
}

/// Scores in files go to 10, here to 100.
fn shape(ratio: Option<RatioFile>) -> Result<Vec<(i64, i64)>, String> {
    let points = ratio.map(|r| r.shape).unwrap_or_default();
    let ascending = points.windows(2).all(|w| w[0].utilization < w[1].utilization);
    let in_range = points.iter().all(|p| (0..=100).contains(&p.utilization) && (0..=10).contains(&p.score));
    if points.is_empty() || !ascending || !in_range {
        return Err("shape needs points of ascending utilization (0 to 100) with scores from 0 to 10".into());
    }
    Ok(points.iter().map(|p| (p.utilization, p.score * MAX_NODE_SCORE / 10)).collect())
}

impl OldFile {
    /// The same in today's form, with what is no longer so in words.
    ///
    /// # Errors
    /// When it names a policy: ignoring that would place pods by other rules than its author believes.
    pub fn modernise(self) -> Result<(File, Vec<String>), String> {
        if self.algorithm_source.policy.is_some() {
            return Err("algorithmSource.policy was removed in v1.23: write profiles with plugins instead".into());
        }
        let mut warnings = Vec::new();
        for (set, field) in [
            (self.healthz_bind_address.is_some(), "healthzBindAddress"),
            (self.metrics_bind_address.is_some(), "metricsBindAddress"),
        ] {
            if set {
                warnings.push(format!("{field} is ignored: use --bind-address and --secure-port"));
            }
        }
        let provider = self.algorithm_source.provider.as_deref().unwrap_or("DefaultProvider");
        if provider != "DefaultProvider" {
            return Err(format!("algorithmSource.provider {provider:?} was removed in v1.22: write a profile instead"));
        }
        let mut profile = FileProfile { scheduler_name: self.scheduler_name, ..FileProfile::default() };
        if let Some(weight) = self.hard_pod_affinity_symmetric_weight {
            let args = serde_json::json!({"hardPodAffinityWeight": weight});
            profile.plugin_config.push(PluginConfig { name: Plugin::InterPodAffinity.name().into(), args });
        }
        if let Some(seconds) = self.bind_timeout_seconds {
            let args = serde_json::json!({"bindTimeoutSeconds": seconds});
            profile.plugin_config.push(PluginConfig { name: Plugin::VolumeBinding.name().into(), args });
        }
        if self.disable_preemption {
            let off = FilePlugin { name: Plugin::DefaultPreemption.name().into(), weight: None };
            let lists = PluginLists { enabled: Vec::new(), disabled: vec![off] };
            profile.plugins.insert("postFilter".into(), lists);
        }
        let file = File {
            leader_election: self.leader_election,
            client_connection: self.client_connection,
            enable_profiling: self.enable_profiling,
            enable_contention_profiling: self.enable_contention_profiling,
            percentage_of_nodes_to_score: self.percentage_of_nodes_to_score,
            profiles: vec![profile],
            ..File::default()
        };
        Ok((file, warnings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(v: Value) -> Result<Profile, String> {
        profiles(&[serde_json::from_value(v).unwrap()]).map(|mut p| p.remove(0))
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(profiles(&[]).unwrap(), [Profile::default_for("default-scheduler")]);
        assert_eq!(one(json!({"schedulerName": "x"})).unwrap(), Profile::default_for("x"));
    }

    #[test]
    fn enabling_and_disabling() {
        let p = one(json!({"plugins": {"multiPoint": {"disabled": [{"name": "TaintToleration"}]}}})).unwrap();
        assert!(!p.filters.contains(Plugin::TaintToleration));
        assert_eq!(p.weight(Plugin::TaintToleration), 0);
        let p = one(json!({"plugins": {"multiPoint": {"enabled": [{"name": "NodeAffinity", "weight": 50}]}}})).unwrap();
        assert_eq!((p.weight(Plugin::NodeAffinity), p.weight(Plugin::PodTopologySpread)), (50, 2));
        let only = json!({"plugins": {"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "ImageLocality"}]}}});
        let p = one(only).unwrap();
        assert_eq!(p.weights.iter().sum::<i64>(), 1);
        assert!(p.filters.contains(Plugin::TaintToleration));
        let p = one(json!({"plugins": {"postFilter": {"disabled": [{"name": "*"}]}}})).unwrap();
        assert!(!p.preemption && p.gates);
    }

    #[test]
    fn arguments_of_plugins() {
        let shape = json!([{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]);
        let p = one(json!({"pluginConfig": [{"name": "NodeResourcesFit", "args": {"ignoredResources": ["a.b/c"],
            "scoringStrategy": {"type": "RequestedToCapacityRatio", "resources": [{"name": "cpu", "weight": 3}],
            "requestedToCapacityRatio": {"shape": shape}}}}]}))
        .unwrap();
        assert_eq!(p.fit.strategy, Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]));
        assert_eq!(p.fit.resources, [ResourceWeight { name: "cpu".into(), weight: 3 }]);
        assert!(p.fit.ignores("a.b/c"));
    }

    #[test]
    fn words_for_what_is_wrong() {
        for (given, words) in [
            (json!({"plugins": {"filter": {"enabled": [{"name": "Mine"}]}}}), "no plugin \"Mine\""),
            (json!({"plugins": {"filters": {}}}), "no extension point"),
            (json!({"plugins": {"bind": {"disabled": [{"name": "*"}]}}}), "cannot be disabled"),
            (json!({"pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoring": 1}}]}), "unknown field"),
            (json!({"pluginConfig": [{"name": "PodTopologySpread", "args": {"defaultingType": "Some"}}]}), "neither"),
        ] {
            let error = one(given).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let two = [FileProfile::default(), FileProfile::default()];
        assert!(profiles(&two).unwrap_err().contains("schedulerName"));
    }
}

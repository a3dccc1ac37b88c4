//! A scheduling profile, ready to use: which plugins filter and score, with which weights and arguments.

use crate::objects::pod::{NodeAffinity, TopologySpreadConstraint};
use crate::plugins::{Plugin, PluginSet, fit, spread};

/// A resource and its weight in a score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceWeight {
    /// Resource name.
    pub name: String,
    /// At least 1.
    pub weight: i64,
}

/// How NodeResourcesFit scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// Prefers empty nodes.
    LeastAllocated,
    /// Prefers full nodes.
    MostAllocated,
    /// Scores by a line through (utilisation in percent, score 0 to 100) points.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// Arguments of NodeResourcesFit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FitArgs {
    /// How to score.
    pub strategy: Strategy,
    /// What to score by.
    pub resources: Vec<ResourceWeight>,
    /// Extended resources that the filter leaves out.
    pub ignored_resources: Vec<String>,
    /// Domains of extended resources that the filter leaves out.
    pub ignored_groups: Vec<String>,
}

impl FitArgs {
    /// Whether the filter leaves a resource out.
    pub fn ignores(&self, name: &str) -> bool {
        fit::is_ignored(name, &self.ignored_resources, &self.ignored_groups)
    }
}

/// Arguments of PodTopologySpread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpreadArgs {
    /// Constraints of pods that have none.
    pub constraints: Vec<TopologySpreadConstraint>,
    /// True for the built-in ones, which score nodes without the keys too.
    pub system_defaults: bool,
}

/// Arguments of DefaultPreemption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreemptionArgs {
    /// Candidates to try, in percent of the nodes.
    pub min_candidate_nodes_percentage: i64,
    /// Candidates to try at least.
    pub min_candidate_nodes_absolute: i64,
}

/// A profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// `spec.schedulerName` of the pods that it places.
    pub scheduler_name: String,
    /// Plugins that take part in filtering (and before it).
    pub filters: PluginSet,
    /// Weight of each plugin's score, zero for those that do not score; indexed by `Plugin as usize`.
    pub weights: [i64; Plugin::ALL.len()],
    /// True when scheduling gates hold pods back.
    pub gates: bool,
    /// True when DefaultPreemption is on.
    pub preemption: bool,
    /// True when DynamicResources gives claims back that keep pods from nodes.
    pub returns_claims: bool,
    /// NodeResourcesFit.
    pub fit: FitArgs,
    /// NodeResourcesBalancedAllocation.
    pub balanced: Vec<ResourceWeight>,
    /// PodTopologySpread.
    pub spread: SpreadArgs,
    /// InterPodAffinity: weight of existing pods' required affinity terms, 0 to 100.
    pub hard_pod_affinity_weight: i64,
    /// InterPodAffinity: whether existing pods' preferences count only for pods with preferences of their own.
    pub ignore_preferred_of_existing: bool,
    /// NodeAffinity: affinity of every pod of the profile.
    pub added_affinity: NodeAffinity,
    /// DefaultPreemption.
    pub preemption_args: PreemptionArgs,
    /// VolumeBinding: how long to wait for claims to be bound.
    pub bind_timeout_seconds: u64,
}

impl Profile {
    /// Weight of a plugin's score.
    pub fn weight(&self, p: Plugin) -> i64 {
        self.weights[p as usize]
    }

    /// Upstream's default profile under a scheduler name.
    pub fn default_for(scheduler_name: &str) -> Self {
        let mut weights = [0; Plugin::ALL.len()];
        for (p, w) in DEFAULT_WEIGHTS {
            weights[p as usize] = w;
        }
        Self {
            scheduler_name: scheduler_name.to_string(),
            filters: DEFAULT_FILTERS.into_iter().collect(),
            weights,
            gates: true,
            preemption: true,
            returns_claims: true,
            fit: FitArgs {
                strategy: Strategy::LeastAllocated,
                resources: cpu_and_memory(),
                ignored_resources: Vec::new(),
                ignored_groups: Vec::new(),
            },
            balanced: cpu_and_memory(),
            spread: SpreadArgs { constraints: system_constraints(), system_defaults: true },
            hard_pod_affinity_weight: 1,
            ignore_preferred_of_existing: false,
            added_affinity: NodeAffinity::default(),
            preemption_args: PreemptionArgs { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 },
            bind_timeout_seconds: 600,
        }
    }
}

/// Plugins that filter, in a default profile.
pub const DEFAULT_FILTERS: [Plugin; 14] = [
    Plugin::NodeUnschedulable,
    Plugin::NodeName,
    Plugin::TaintToleration,
    Plugin::NodeAffinity,
    Plugin::NodePorts,
    Plugin::NodeResourcesFit,
    Plugin::VolumeRestrictions,
    Plugin::NodeVolumeLimits,
    Plugin::VolumeBinding,
    Plugin::VolumeZone,
    Plugin::PodTopologySpread,
    Plugin::InterPodAffinity,
    Plugin::DynamicResources,
    Plugin::NodeDeclaredFeatures,
];

/// Weights of the plugins that score, in a default profile.
pub const DEFAULT_WEIGHTS: [(Plugin, i64); 8] = [
    (Plugin::TaintToleration, 3),
    (Plugin::NodeAffinity, 2),
    (Plugin::NodeResourcesFit, 1),
    (Plugin::PodTopologySpread, 2),
    (Plugin::InterPodAffinity, 2),
    (Plugin::NodeResourcesBalancedAllocation, 1),
    (Plugin::ImageLocality, 1),
    (Plugin::DynamicResources, 2),
];

/// CPU and memory with weight 1.
pub fn cpu_and_memory() -> Vec<ResourceWeight> {
    ["cpu", "memory"].map(|n| ResourceWeight { name: n.into(), weight: 1 }).into()
}

/// The built-in default spread constraints.
pub fn system_constraints() -> Vec<TopologySpreadConstraint> {
    [(spread::HOSTNAME, 3), ("topology.kubernetes.io/zone", 5)]
        .map(|(key, max_skew)| TopologySpreadConstraint {
            max_skew,
            topology_key: key.into(),
            when_unsatisfiable: "ScheduleAnyway".into(),
            ..TopologySpreadConstraint::default()
        })
        .into()
}

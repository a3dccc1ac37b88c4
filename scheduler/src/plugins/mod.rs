//! The plugins' rules, each as pure functions of a template and a node.
//!
//! Guarantees upstream v1.36's verdicts, reasons and integer arithmetic. The two evaluators (`evaluate::naive` and
//! `evaluate::incremental`) differ only in how they come by the numbers that these functions take.

use std::borrow::Cow;

pub mod affinity;
pub mod devices;
pub mod features;
pub mod fit;
pub mod images;
pub mod inter_pod;
pub mod score;
pub mod spread;
pub mod taints;
pub mod volumes;

/// Best score of a plugin before its weight.
pub const MAX_NODE_SCORE: i64 = 100;

/// Every plugin of a v1.36 scheduler, in the order in which filters run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the names are upstream's
#[repr(u8)]
pub enum Plugin {
    SchedulingGates,
    PrioritySort,
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    DynamicResources,
    DefaultPreemption,
    NodeResourcesBalancedAllocation,
    ImageLocality,
    DefaultBinder,
    NodeDeclaredFeatures,
}

impl Plugin {
    /// All plugins with their names, in filter order.
    pub const ALL: [(Self, &'static str); 20] = [
        (Self::SchedulingGates, "SchedulingGates"),
        (Self::PrioritySort, "PrioritySort"),
        (Self::NodeUnschedulable, "NodeUnschedulable"),
        (Self::NodeName, "NodeName"),
        (Self::TaintToleration, "TaintToleration"),
        (Self::NodeAffinity, "NodeAffinity"),
        (Self::NodePorts, "NodePorts"),
        (Self::NodeResourcesFit, "NodeResourcesFit"),
        (Self::VolumeRestrictions, "VolumeRestrictions"),
        (Self::NodeVolumeLimits, "NodeVolumeLimits"),
        (Self::VolumeBinding, "VolumeBinding"),
        (Self::VolumeZone, "VolumeZone"),
        (Self::PodTopologySpread, "PodTopologySpread"),
        (Self::InterPodAffinity, "InterPodAffinity"),
        (Self::DynamicResources, "DynamicResources"),
        (Self::DefaultPreemption, "DefaultPreemption"),
        (Self::NodeResourcesBalancedAllocation, "NodeResourcesBalancedAllocation"),
        (Self::ImageLocality, "ImageLocality"),
        (Self::DefaultBinder, "DefaultBinder"),
        (Self::NodeDeclaredFeatures, "NodeDeclaredFeatures"),
    ];

    /// The plugin's name.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The plugin of a name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(p, _)| *p)
    }
}

/// A set of plugins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct PluginSet(u32);

impl PluginSet {
    /// Adds a plugin.
    pub fn insert(&mut self, p: Plugin) {
        self.0 |= 1 << p as u8;
    }

    /// Removes a plugin.
    pub fn remove(&mut self, p: Plugin) {
        self.0 &= !(1 << p as u8);
    }

    /// Whether it is in the set.
    pub fn contains(self, p: Plugin) -> bool {
        self.0 & (1 << p as u8) != 0
    }

    /// The plugins of the set, in filter order.
    pub fn iter(self) -> impl Iterator<Item = Plugin> {
        Plugin::ALL.into_iter().map(|(p, _)| p).filter(move |p| self.contains(*p))
    }
}

impl FromIterator<Plugin> for PluginSet {
    fn from_iter<T: IntoIterator<Item = Plugin>>(iter: T) -> Self {
        let mut set = Self::default();
        iter.into_iter().for_each(|p| set.insert(p));
        set
    }
}

/// One reason, in the words of the pod's condition.
pub type Reason = Cow<'static, str>;

/// Why a node cannot take a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The plugin that says so.
    pub plugin: Plugin,
    /// True when removing pods from the node would not help.
    pub unresolvable: bool,
    /// The first reason.
    pub reason: Reason,
    /// Further reasons; each counts for the node.
    pub more: Vec<Reason>,
}

impl Rejection {
    /// A rejection that preemption may resolve.
    pub fn resolvable(plugin: Plugin, reason: &'static str) -> Self {
        Self { plugin, unresolvable: false, reason: Cow::Borrowed(reason), more: Vec::new() }
    }

    /// A rejection that preemption cannot resolve.
    pub fn unresolvable(plugin: Plugin, reason: &'static str) -> Self {
        Self { plugin, unresolvable: true, reason: Cow::Borrowed(reason), more: Vec::new() }
    }

    /// All reasons.
    pub fn reasons(&self) -> impl Iterator<Item = &Reason> {
        std::iter::once(&self.reason).chain(&self.more)
    }
}

//! Queueing hints: which events may change the mind of a plugin that rejected a pod. Saying yes too often costs attempts,
//! saying no wrongly leaves a pod waiting for the five-minute flush; in doubt it is yes.

use crate::cluster::world::World;
use crate::model::node::NodeInfo;
use crate::model::pod::PodInfo;
use crate::model::template::{PodMatch, Template};
use crate::plugins::{Plugin, PluginSet, affinity, taints};

/// What happened, as a difference between two states of the cluster.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A node came.
    NodeAdded(&'a NodeInfo),
    /// A node's object changed: before and now.
    NodeChanged(&'a NodeInfo, &'a NodeInfo),
    /// A node went.
    NodeRemoved,
    /// A pod is on a node now.
    PodPlaced(&'a PodInfo),
    /// A pod is no longer on a node.
    PodRemoved(&'a PodInfo),
    /// A pod on a node changed: before and now.
    PodChanged(&'a PodInfo, &'a PodInfo),
    /// A claim, volume, class, driver or capacity came or changed.
    Volumes,
    /// A claim of devices, a class of them or a slice came, changed or went.
    Devices,
    /// A namespace's labels changed.
    Namespace,
    /// A pod is no longer nominated to a node.
    NominationEnded,
}

const NODE: &[Plugin] = &[
    Plugin::NodeUnschedulable,
    Plugin::NodeName,
    Plugin::TaintToleration,
    Plugin::NodeAffinity,
    Plugin::NodePorts,
    Plugin::NodeResourcesFit,
    Plugin::NodeVolumeLimits,
    Plugin::VolumeBinding,
    Plugin::VolumeZone,
    Plugin::PodTopologySpread,
    Plugin::InterPodAffinity,
    Plugin::DynamicResources,
    Plugin::NodeDeclaredFeatures,
];
const ROOM: &[Plugin] = &[
    Plugin::NodePorts,
    Plugin::NodeResourcesFit,
    Plugin::VolumeRestrictions,
    Plugin::NodeVolumeLimits,
    Plugin::PodTopologySpread,
    Plugin::InterPodAffinity,
];
const NEIGHBOURS: &[Plugin] = &[Plugin::PodTopologySpread, Plugin::InterPodAffinity];
const VOLUMES: &[Plugin] =
    &[Plugin::VolumeBinding, Plugin::VolumeZone, Plugin::VolumeRestrictions, Plugin::NodeVolumeLimits];

impl Event<'_> {
    /// Upstream's name of the event, for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NodeAdded(_) => "NodeAdd",
            Self::NodeChanged(..) => "NodeUpdate",
            Self::NodeRemoved => "NodeDelete",
            Self::PodPlaced(_) => "AssignedPodAdd",
            Self::PodRemoved(_) => "AssignedPodDelete",
            Self::PodChanged(..) => "AssignedPodUpdate",
            Self::Volumes => "PersistentVolumeClaimUpdate",
            Self::Devices => "ResourceClaimUpdate",
            Self::Namespace => "NamespaceUpdate",
            Self::NominationEnded => "UnscheduledPodDelete",
        }
    }

    /// The plugins that may care.
    pub fn listeners(&self) -> PluginSet {
        let list = match self {
            Self::NodeAdded(_) | Self::NodeChanged(..) => NODE,
            Self::NodeRemoved | Self::PodPlaced(_) => NEIGHBOURS,
            Self::PodRemoved(_) | Self::PodChanged(..) | Self::NominationEnded => ROOM,
            Self::Volumes => VOLUMES,
            Self::Devices => &[Plugin::DynamicResources],
            Self::Namespace => &[Plugin::InterPodAffinity],
        };
        list.iter().copied().collect()
    }
}

/// Whether an event may let a plugin accept a pod that it rejected.
pub fn promising(plugin: Plugin, event: &Event<'_>, pod: &PodInfo, world: &World) -> bool {
    match *event {
        Event::NodeAdded(node) => by_node(plugin, None, node, pod),
        Event::NodeChanged(old, new) => by_node(plugin, Some(old), new, pod),
        Event::PodPlaced(other) => by_neighbour(plugin, other, pod, world),
        Event::PodRemoved(other) => by_room(plugin, other, pod) || by_neighbour(plugin, other, pod, world),
        Event::PodChanged(old, new) => {
            // as upstream, a neighbour's other changes do not count: one whose deletion began is waited for until it is gone
            let relabelled = old.template.labels != new.template.labels;
            (relabelled && (by_neighbour(plugin, old, pod, world) || by_neighbour(plugin, new, pod, world)))
                || (plugin == Plugin::NodeResourcesFit && shrank(old, new))
        }
        Event::NodeRemoved | Event::Volumes | Event::Devices | Event::Namespace | Event::NominationEnded => true,
    }
}

fn by_node(plugin: Plugin, old: Option<&NodeInfo>, new: &NodeInfo, pod: &PodInfo) -> bool {
    let t = &*pod.template;
    let relabelled = old.is_none_or(|o| o.labels != new.labels);
    match plugin {
        Plugin::NodeUnschedulable => taints::unschedulable(t, new).is_none(),
        Plugin::TaintToleration => !taints::has_untolerated(t, new),
        Plugin::NodeAffinity => relabelled && affinity::matches(t, new),
        Plugin::NodeResourcesFit => {
            let (wants, have) = (&t.requests, &new.allocatable);
            let grew = old.is_none_or(|o| o.allocatable != *have || o.max_pods != new.max_pods);
            let enough = wants.cpu_milli <= have.cpu_milli
                && wants.memory_bytes <= have.memory_bytes
                && wants.ephemeral_bytes <= have.ephemeral_bytes;
            grew && enough && new.max_pods > 0
        }
        Plugin::NodePorts => old.is_none(),
        Plugin::PodTopologySpread => relabelled || old.is_some_and(|o| o.taints != new.taints),
        Plugin::InterPodAffinity | Plugin::VolumeBinding | Plugin::VolumeZone => relabelled,
        _ => true,
    }
}

fn by_room(plugin: Plugin, other: &PodInfo, pod: &PodInfo) -> bool {
    match plugin {
        Plugin::NodePorts => pod.template.ports.iter().any(|p| other.template.ports.iter().any(|o| p.conflicts(o))),
        Plugin::NodeResourcesFit => true,
        Plugin::VolumeRestrictions | Plugin::NodeVolumeLimits => !other.template.volumes.is_empty(),
        _ => false,
    }
}

fn by_neighbour(plugin: Plugin, other: &PodInfo, pod: &PodInfo, world: &World) -> bool {
    let (t, o) = (&*pod.template, &*other.template);
    let means = |m: &PodMatch, x: &Template| m.matches(&x.namespace, &x.labels, &world.namespaces);
    match plugin {
        Plugin::PodTopologySpread => t.namespace == o.namespace,
        Plugin::InterPodAffinity => {
            t.affinity.iter().chain(&t.anti_affinity).any(|term| means(&term.pods, o))
                || o.anti_affinity.iter().any(|term| means(&term.pods, t))
        }
        _ => false,
    }
}

fn shrank(old: &PodInfo, new: &PodInfo) -> bool {
    let (a, b) = (&old.template.requests, &new.template.requests);
    b.cpu_milli < a.cpu_milli || b.memory_bytes < a.memory_bytes || a.scalars != b.scalars
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(app: &str, spec: &Value) -> PodInfo {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"app": app}}, "spec": spec});
        let cpu = spec["cpu"].as_str().unwrap_or("1");
        pod["spec"]["containers"] = json!([{"resources": {"requests": {"cpu": cpu}}}]);
        PodInfo::of(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_changed_neighbour_wakes_those_that_look_at_its_labels_only_when_these_changed() {
        let selector = json!({"matchLabels": {"app": "web"}});
        let spreads = pod(
            "web",
            &json!({"topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]}),
        );
        let term = json!([{"topologyKey": "zone", "labelSelector": selector}]);
        let keeps_away = pod(
            "web",
            &json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}}),
        );
        let world = World::default();
        let (web, other) = (pod("web", &json!({"cpu": "2"})), pod("other", &json!({"cpu": "2"})));
        let smaller = pod("web", &json!({"cpu": "1"}));
        let wakes = |plugin, waiting, old, new| promising(plugin, &Event::PodChanged(old, new), waiting, &world);
        for (plugin, waiting) in [(Plugin::PodTopologySpread, &spreads), (Plugin::InterPodAffinity, &keeps_away)] {
            assert!(wakes(plugin, waiting, &web, &other), "{plugin:?}: it does not match any more");
            assert!(wakes(plugin, waiting, &other, &web), "{plugin:?}: it matches now");
            assert!(!wakes(plugin, waiting, &web, &web), "{plugin:?}: its deletion began, say");
            assert!(!wakes(plugin, waiting, &web, &smaller), "{plugin:?}: its size is not looked at");
        }
        assert!(wakes(Plugin::NodeResourcesFit, &web, &web, &smaller));
        assert!(!wakes(Plugin::NodeResourcesFit, &web, &smaller, &web));
    }
}

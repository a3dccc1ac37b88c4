//! The cluster as the scheduler sees it: one column per fact about nodes, pods on them (assumed ones too), counts of
//! matching pods, and topology domains.
//!
//! Guarantees: after every change the columns equal what the objects say; `changes_since` names every node that a change
//! touched, so that a reader recomputes only those. Pure data: no clock, no I/O, one owner.

use std::collections::HashMap;
use std::sync::Arc;

pub mod changes;
pub mod counters;
pub mod nodes;
pub mod topology;
pub mod world;

use changes::ChangeLog;
use counters::{Counters, TemplateId};
use nodes::{NodeId, Nodes};
use topology::Topologies;
use world::World;

use crate::model::node::NodeInfo;
use crate::model::pod::{PodInfo, PodKey};

/// A pod on a node.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The pod.
    pub info: Arc<PodInfo>,
    /// Its template's entry.
    pub template: TemplateId,
    /// The node.
    pub node: NodeId,
    /// True until the API server confirms the placement.
    pub assumed: bool,
}

/// The cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    /// Nodes and what is used of them.
    pub nodes: Nodes,
    /// Domains of each topology key that somebody asked for.
    pub topologies: Topologies,
    /// Templates, and counts of pods per node.
    pub counters: Counters,
    /// Other objects.
    pub world: World,
    /// Pods that wait for room on a node, by node name.
    pub nominated: HashMap<Box<str>, Vec<Arc<PodInfo>>>,
    placed: HashMap<PodKey, Placed>,
    changes: ChangeLog,
}

impl Cluster {
    /// Adds a node or replaces what its object says. Returns false when nothing that matters changed.
    pub fn set_node(&mut self, info: NodeInfo) -> bool {
        let name = info.name.clone();
        let Some(id) = self.nodes.set(info) else { return false };
        self.topologies.set_node(id, self.nodes.info(id));
        self.counters.resize(self.nodes.slots());
        self.changes.touch(id, self.nodes.slots());
        tracing::trace!(node = %name, "node changed");
        true
    }

    /// Removes a node's object; pods on it stay until they are removed. Returns false when it was not there.
    pub fn remove_node(&mut self, name: &str) -> bool {
        let Some(id) = self.nodes.remove_info(name) else { return false };
        self.topologies.set_node(id, None);
        self.changes.touch(id, self.nodes.slots());
        self.nodes.release_if_unused(id);
        true
    }

    /// Puts a pod on the node that it names, in place of what was known of it before.
    pub fn place(&mut self, info: &Arc<PodInfo>, assumed: bool) {
        self.take(&info.key);
        let node = self.nodes.slot(&info.node_name);
        self.counters.resize(self.nodes.slots());
        let template = self.counters.intern(&info.template, &self.world.namespaces);
        let mut info = info.clone();
        Arc::make_mut(&mut info).template = self.counters.template(template).clone();
        self.nodes.add_pod(node, &info, template);
        self.counters.count(template, node, info.terminating, 1);
        self.changes.touch(node, self.nodes.slots());
        self.placed.insert(info.key.clone(), Placed { info, template, node, assumed });
    }

    /// Takes a pod off its node. Returns what was there.
    pub fn take(&mut self, key: &PodKey) -> Option<Placed> {
        let p = self.placed.remove(key)?;
        self.nodes.remove_pod(p.node, &p.info, p.template);
        self.counters.count(p.template, p.node, p.info.terminating, -1);
        self.changes.touch(p.node, self.nodes.slots());
        self.nodes.release_if_unused(p.node);
        Some(p)
    }

    /// A pod on a node.
    pub fn placed(&self, key: &PodKey) -> Option<&Placed> {
        self.placed.get(key)
    }

    /// Number of pods on nodes.
    pub fn placed_len(&self) -> usize {
        self.placed.len()
    }

    /// All pods on nodes, in no order.
    pub fn all_placed(&self) -> impl Iterator<Item = &Placed> {
        self.placed.values()
    }

    /// Marks a placement as confirmed.
    pub fn confirm(&mut self, key: &PodKey) {
        if let Some(p) = self.placed.get_mut(key) {
            p.assumed = false;
        }
    }

    /// Position in the log of changes.
    pub fn position(&self) -> u64 {
        self.changes.position()
    }

    /// Nodes touched since a position (with repetitions); `None` when that is too long ago and all must be looked at.
    pub fn changes_since(&self, position: u64) -> Option<&[NodeId]> {
        self.changes.since(position)
    }

    /// Replaces a namespace's labels. Selectors of namespaces may now mean other pods, so counts start anew.
    pub fn set_namespace(&mut self, name: &str, labels: Option<crate::objects::selector::Labels>) {
        let changed = match labels {
            Some(labels) => self.world.namespaces.insert(name.to_string(), labels.clone()) != Some(labels),
            None => self.world.namespaces.remove(name).is_some(),
        };
        if changed && self.counters.rematch(&self.world.namespaces) {
            for p in self.placed.values() {
                self.counters.count(p.template, p.node, p.info.terminating, 1);
            }
        }
        if changed {
            self.world.epoch += 1;
        }
    }

    /// Starts counting the pods that a rule means; release it when done.
    pub fn count_pods(&mut self, rule: counters::Rule) -> counters::CounterId {
        let placed = self.placed.values().map(|p| (p.template, p.node, p.info.terminating));
        self.counters.register(rule, &self.world.namespaces, placed)
    }

    /// Notes where room is being made for a pod, or (with an empty node name) that it is no longer.
    pub fn nominate(&mut self, info: &Arc<PodInfo>, node: &str) {
        let same = |p: &Arc<PodInfo>| p.key == info.key;
        let stale: Vec<Box<str>> =
            self.nominated.iter().filter(|(_, pods)| pods.iter().any(same)).map(|(n, _)| n.clone()).collect();
        for name in stale {
            if let Some(pods) = self.nominated.get_mut(&name) {
                pods.retain(|p| p.key != info.key);
                if pods.is_empty() {
                    self.nominated.remove(&name);
                }
            }
        }
        if !node.is_empty() {
            self.nominated.entry(node.into()).or_default().push(info.clone());
        }
    }

    /// The node at which room is being made for a pod.
    pub fn nomination(&self, key: &PodKey) -> Option<&str> {
        let has = |pods: &Vec<Arc<PodInfo>>| pods.iter().any(|p| p.key == *key);
        self.nominated.iter().find(|(_, pods)| has(pods)).map(|(node, _)| &**node)
    }

    /// Pods nominated to a node that a pod must leave room for: of at least its priority, itself excepted.
    pub fn nominated_before(&self, node: &str, pod: &PodInfo) -> Vec<Arc<PodInfo>> {
        let pods = self.nominated.get(node).map(Vec::as_slice).unwrap_or_default();
        pods.iter().filter(|p| p.priority() >= pod.priority() && p.key != pod.key).cloned().collect()
    }
}

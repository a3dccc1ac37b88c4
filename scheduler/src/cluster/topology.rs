//! Domains: for each topology key that somebody asked for, the dense number of the key's value on every node.
//!
//! Numbers are reused once no node has the value; sums by number stay right because readers take out a node's part under
//! the number that they put it in with.

use std::collections::HashMap;

use super::nodes::NodeId;
use crate::model::node::NodeInfo;

/// Index of a topology key.
pub type TopologyId = usize;
/// Number of a domain within its key.
pub type Domain = u32;

#[derive(Debug, Default)]
struct Topology {
    key: Box<str>,
    of_node: Vec<Option<Domain>>,
    by_value: HashMap<Box<str>, Domain>,
    values: Vec<(Box<str>, u32)>,
    free: Vec<Domain>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Topologies {
    by_key: HashMap<Box<str>, TopologyId>,
    all: Vec<Topology>,
}

impl Topologies {
    /// The index of a key; its domains are numbered on first use.
    pub fn register<'a>(&mut self, key: &str, nodes: impl Iterator<Item = (NodeId, &'a NodeInfo)>) -> TopologyId {
        if let Some(id) = self.by_key.get(key) {
            return *id;
        }
        let mut topology = Topology { key: key.into(), ..Topology::default() };
        for (id, info) in nodes {
            topology.set(id, Some(info));
        }
        self.all.push(topology);
        self.by_key.insert(key.into(), self.all.len() - 1);
        self.all.len() - 1
    }

    /// Domain of a node; `None` when it lacks the key.
    pub fn domain(&self, topology: TopologyId, node: NodeId) -> Option<Domain> {
        self.all[topology].of_node.get(node).copied().flatten()
    }

    /// Upper bound (exclusive) of domain numbers.
    pub fn domains(&self, topology: TopologyId) -> usize {
        self.all[topology].values.len()
    }

    /// Takes a node's labels as they are now.
    pub(super) fn set_node(&mut self, id: NodeId, info: Option<&NodeInfo>) {
        for t in &mut self.all {
            t.set(id, info);
        }
    }
}

impl Topology {
    fn set(&mut self, id: NodeId, info: Option<&NodeInfo>) {
        if self.of_node.len() <= id {
            self.of_node.resize(id + 1, None);
        }
        if let Some(old) = self.of_node[id].take() {
            let slot = &mut self.values[old as usize];
            slot.1 -= 1;
            if slot.1 == 0 {
                self.by_value.remove(&slot.0);
                self.free.push(old);
            }
        }
        let Some(value) = info.and_then(|i| i.labels.get(&*self.key)) else { return };
        let domain = if let Some(d) = self.by_value.get(value.as_str()) {
            *d
        } else {
            let d = self.free.pop().unwrap_or_else(|| {
                self.values.push((Box::default(), 0));
                Domain::try_from(self.values.len() - 1).unwrap_or(Domain::MAX)
            });
            self.values[d as usize] = (value.as_str().into(), 0);
            self.by_value.insert(value.as_str().into(), d);
            d
        };
        self.values[domain as usize].1 += 1;
        self.of_node[id] = Some(domain);
    }
}

//! Where can a pod go, and how good is each place.
//!
//! `naive` computes every answer from scratch, the way upstream does; `incremental` keeps answers per template and
//! recomputes what changes touched. Both give equal feasible nodes and equal scores: a property test holds them together.

use std::collections::BTreeMap;

use crate::cluster::nodes::NodeId;
use crate::plugins::volumes::Unready;
use crate::plugins::{Plugin, PluginSet, Rejection};

pub mod class;
pub mod incremental;
pub mod naive;
pub mod sums;
#[cfg(test)]
mod tests;

/// Where a pod fits, with the score of each node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranking {
    /// Feasible nodes.
    pub nodes: Vec<NodeId>,
    /// Total score of each; empty when there is one node or none.
    pub totals: Vec<i64>,
}

impl Ranking {
    /// Slot numbers of the best nodes.
    pub fn best(&self) -> Vec<NodeId> {
        if self.nodes.len() == 1 {
            return self.nodes.clone();
        }
        let max = self.totals.iter().copied().max();
        let best = self.nodes.iter().zip(&self.totals).filter(|(_, t)| Some(**t) == max);
        best.map(|(n, _)| *n).collect()
    }
}

/// Why a pod fits nowhere.
#[derive(Debug, Clone, Default)]
pub struct Diagnosis {
    /// Number of nodes looked at.
    pub nodes: usize,
    /// What keeps it from all nodes at once, if anything does.
    pub unready: Option<Unready>,
    /// Each node's rejection.
    pub rejections: Vec<(NodeId, Rejection)>,
    /// Extenders refused nodes, and nobody knows what would change their minds.
    pub extended: bool,
}

impl Diagnosis {
    /// The plugins that rejected it: what must change before it is worth another attempt.
    pub fn plugins(&self) -> PluginSet {
        if self.extended {
            return Plugin::ALL.iter().map(|(p, _)| *p).collect();
        }
        let unready = self.unready.iter().map(|u| u.plugin);
        unready.chain(self.rejections.iter().map(|(_, r)| r.plugin)).collect()
    }

    /// The text of the pod's condition, before what preemption has to say.
    pub fn message(&self) -> String {
        let nodes = self.nodes;
        if nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        if let Some(u) = &self.unready {
            return format!("0/{nodes} nodes are available: {}.", u.reason);
        }
        histogram(nodes, self.rejections.iter().flat_map(|(_, r)| r.reasons().map(AsRef::as_ref)))
    }
}

/// `0/N nodes are available: count reason, ….`, sorted as text.
pub fn histogram<'a>(nodes: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    // Neighbours mostly say the same.
    for same in reasons.collect::<Vec<_>>().chunk_by(|a, b| a == b) {
        *counts.entry(same[0]).or_default() += same.len();
    }
    let mut parts: Vec<String> = counts.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    parts.sort();
    if parts.is_empty() {
        return format!("0/{nodes} nodes are available");
    }
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

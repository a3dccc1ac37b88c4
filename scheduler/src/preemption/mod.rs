//! DefaultPreemption: which pods of lower priority to remove, and from which node, so that a pod fits.
//!
//! Guarantees upstream's choice: as few broken disruption budgets as possible, then the lowest highest priority among
//! victims, the least sum of priorities, the fewest victims, the latest start. Pure: returns a plan.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::cluster::nodes::NodeId;
use crate::config::profile::Profile;
use crate::evaluate::naive::{CycleState, NodeView};
use crate::evaluate::{Diagnosis, histogram};
use crate::model::pod::PodInfo;
use crate::plugins::{Plugin, Rejection};

/// What to do for a pod that fits nowhere.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Nothing, for this reason (the words after `preemption: `).
    Nothing(String),
    /// Remove these pods from this node, and let the pod wait for it.
    Preempt {
        /// The node.
        node: Arc<str>,
        /// Pods to remove.
        victims: Vec<Arc<PodInfo>>,
        /// Pods of lower priority that wait for the same node and will have to look elsewhere.
        displaced: Vec<Arc<PodInfo>>,
    },
}

/// A node on which the removal of pods makes room.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Pods to remove; the most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them break a disruption budget.
    pub violations: usize,
}

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// Where removing pods would help. `start` (any number) rotates the nodes, so that not always the first ones are tried.
///
/// # Errors
/// Why it helps nowhere.
pub fn candidates(
    cluster: &Cluster,
    profile: &Profile,
    pod: &PodInfo,
    diagnosis: &Diagnosis,
    start: usize,
) -> Result<Vec<Candidate>, String> {
    if let Some(why) = not_eligible(cluster, pod, diagnosis) {
        return Err(why.into());
    }
    let Ok(state) = CycleState::new(cluster, profile, &pod.template) else {
        return Err(histogram(diagnosis.nodes, std::iter::repeat_n(NOT_HELPFUL, diagnosis.nodes)));
    };
    let resolvable = diagnosis.rejections.iter().filter(|(_, r)| !r.unresolvable);
    let potential: Vec<NodeId> = resolvable.map(|(id, _)| *id).collect();
    let args = &profile.preemption_args;
    let share = i64::try_from(diagnosis.nodes).unwrap_or(i64::MAX) * args.min_candidate_nodes_percentage / 100;
    let wanted = usize::try_from(share.max(args.min_candidate_nodes_absolute)).unwrap_or(usize::MAX);
    let (mut refused, mut candidates, mut harmless) = (Vec::new(), Vec::new(), false);
    let offset = start % potential.len().max(1);
    for id in potential[offset..].iter().chain(&potential[..offset]) {
        match victims_on(cluster, &state, pod, *id) {
            Ok(c) => {
                harmless |= c.violations == 0;
                candidates.push(c);
            }
            Err(why) => refused.push(why),
        }
        // Upstream goes on while every candidate breaks a budget.
        if harmless && candidates.len() >= wanted {
            break;
        }
    }
    if candidates.is_empty() {
        let reasons = refused.iter().flat_map(|r| r.reasons().map(AsRef::as_ref));
        let hopeless = std::iter::repeat_n(NOT_HELPFUL, diagnosis.nodes - potential.len());
        return Err(histogram(diagnosis.nodes, reasons.chain(hopeless)));
    }
    Ok(candidates)
}

/// Decides among the nodes where it would help.
pub fn decide(cluster: &Cluster, pod: &PodInfo, candidates: Vec<Candidate>) -> Plan {
    let Some(c) = choose(candidates) else { return Plan::Nothing("no candidate node for preemption".into()) };
    let node = cluster.nodes.name(c.node).clone();
    Plan::Preempt { displaced: displaced(cluster, pod, &node), node, victims: c.victims }
}

fn not_eligible(cluster: &Cluster, pod: &PodInfo, diagnosis: &Diagnosis) -> Option<&'static str> {
    if pod.template.never_preempts {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let node = cluster.nodes.id(cluster.nomination(&pod.key)?)?;
    let hopeless = diagnosis.rejections.iter().any(|(id, r)| *id == node && r.unresolvable);
    (!hopeless && is_waiting(cluster, pod)).then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Whether pods that were preempted for a pod are still leaving the node that it is nominated to.
pub fn is_waiting(cluster: &Cluster, pod: &PodInfo) -> bool {
    let Some(node) = cluster.nomination(&pod.key).and_then(|n| cluster.nodes.id(n)) else { return false };
    cluster.nodes.pods(node).iter().any(|p| p.priority() < pod.priority() && p.preempted)
}

fn displaced(cluster: &Cluster, pod: &PodInfo, node: &str) -> Vec<Arc<PodInfo>> {
    let waiting = cluster.nominated.get(node).map(Vec::as_slice).unwrap_or_default();
    waiting.iter().filter(|p| p.priority() < pod.priority() && p.key != pod.key).cloned().collect()
}

/// The pods to remove from a node, or why that does not help.
fn victims_on(cluster: &Cluster, state: &CycleState<'_>, pod: &PodInfo, id: NodeId) -> Result<Candidate, Rejection> {
    let none = || Rejection::resolvable(Plugin::DefaultPreemption, NO_VICTIMS);
    let mut view = NodeView::of(cluster, id).ok_or_else(none)?;
    let mut state = state.clone();
    let lower: Vec<Arc<PodInfo>> = view.pods.iter().filter(|p| p.priority() < pod.priority()).cloned().collect();
    if lower.is_empty() {
        return Err(none());
    }
    for p in &lower {
        state.remove(&mut view, p);
    }
    for p in cluster.nominated_before(&view.info.name, pod) {
        state.add(&mut view, &p);
    }
    state.filter(&view)?;
    // Of those that have not started, upstream takes the last that came for the most important.
    let (started, mut waiting): (Vec<_>, Vec<_>) = lower.into_iter().partition(|p| !p.started.is_empty());
    waiting.reverse();
    let mut lower = [started, waiting].concat();
    lower.sort_by(|a, b| importance(b).cmp(&importance(a)));
    let (breaking, harmless) = by_budget(cluster, &lower);
    let mut out = Candidate { node: id, victims: Vec::new(), violations: 0 };
    for (list, violates) in [(breaking, true), (harmless, false)] {
        for p in list {
            state.add(&mut view, &p);
            if state.filter(&view).is_err() {
                state.remove(&mut view, &p);
                out.victims.push(p);
                out.violations += usize::from(violates);
            }
        }
    }
    out.victims.sort_by(|a, b| importance(b).cmp(&importance(a)));
    if out.victims.is_empty() { Err(none()) } else { Ok(out) }
}

/// Greater is more important: higher priority, then the earlier start.
pub fn importance(p: &PodInfo) -> (i32, Reverse<&str>) {
    (p.priority(), Reverse(started(p)))
}

fn started(p: &PodInfo) -> &str {
    // What has not started yet counts as starting now: after everything that has.
    if p.started.is_empty() { "~" } else { &p.started }
}

/// Splits pods into those whose removal would break a budget and the others, keeping their order.
fn by_budget(cluster: &Cluster, pods: &[Arc<PodInfo>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: HashMap<(&str, &str), i32> = HashMap::new();
    let mut breaks = |p: &Arc<PodInfo>| {
        let mut broken = false;
        for (name, b) in cluster.world.budgets.get(&*p.key.namespace).into_iter().flatten() {
            let selects = b.spec.selector.as_ref().is_some_and(|s| !s.is_empty() && s.matches(&p.template.labels));
            if !selects || p.template.labels.is_empty() || b.status.disrupted_pods.contains_key(&*p.key.name) {
                continue;
            }
            let n = left.entry((&b.metadata.namespace, name)).or_insert(b.status.disruptions_allowed);
            *n -= 1;
            broken |= *n < 0;
        }
        broken
    };
    pods.iter().cloned().partition(|p| breaks(p))
}

/// The best candidate by upstream's criteria, each deciding among those that the ones before left equal.
fn choose(candidates: Vec<Candidate>) -> Option<Candidate> {
    let highest = |c: &Candidate| c.victims.first().map_or(i32::MIN, |p| p.priority());
    let shifted = |p: &Arc<PodInfo>| i64::from(p.priority()) + i64::from(i32::MAX) + 1;
    let earliest = |c: &Candidate| {
        let top = c.victims.iter().filter(|p| p.priority() == highest(c));
        top.map(|p| started(p)).min().unwrap_or_default().to_owned()
    };
    let key = |c: &Candidate| {
        let sum: i64 = c.victims.iter().map(shifted).sum();
        (c.violations, highest(c), sum, c.victims.len(), Reverse(earliest(c)))
    };
    candidates.into_iter().min_by_key(key)
}

#[cfg(test)]
mod tests;

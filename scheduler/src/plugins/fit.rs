//! NodeResourcesFit and NodeResourcesBalancedAllocation, and NodePorts: what pods of a node share.

use std::borrow::Cow;

use super::{MAX_NODE_SCORE, Plugin, Reason, Rejection};
use crate::config::profile::{Profile, ResourceWeight, Strategy};
use crate::model::node::NodeInfo;
use crate::model::resources::{Resources, is_extended, is_scalar};
use crate::model::template::{HostPort, Template};

/// What the pods of a node use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of pods.
    pub pods: i64,
    /// Requests of all of them.
    pub requested: Resources,
    /// CPU (milli) and memory (bytes) with assumed minimums.
    pub nonzero: (i64, i64),
    /// Host ports, once per holder.
    pub ports: Vec<HostPort>,
}

impl Usage {
    /// Counts a pod in.
    pub fn add(&mut self, t: &Template) {
        self.pods += 1;
        self.requested.add(&t.requests, 1);
        self.nonzero.0 += t.nonzero.0;
        self.nonzero.1 += t.nonzero.1;
        self.ports.extend(t.ports.iter().cloned());
    }

    /// Counts a pod out.
    pub fn remove(&mut self, t: &Template) {
        self.pods -= 1;
        self.requested.add(&t.requests, -1);
        self.nonzero.0 -= t.nonzero.0;
        self.nonzero.1 -= t.nonzero.1;
        for p in &t.ports {
            if let Some(i) = self.ports.iter().position(|x| x == p) {
                self.ports.swap_remove(i);
            }
        }
    }
}

/// Rejects a node on which a wanted host port is taken.
pub fn ports(template: &Template, usage: &Usage) -> Option<Rejection> {
    let taken = template.ports.iter().any(|p| usage.ports.iter().any(|u| p.conflicts(u)));
    let reason = "node(s) didn't have free ports for the requested pod ports";
    taken.then(|| Rejection::resolvable(Plugin::NodePorts, reason))
}

/// Rejects a node without room; one reason per resource that is short.
pub fn filter(template: &Template, profile: &Profile, node: &NodeInfo, usage: &Usage) -> Option<Rejection> {
    let mut reasons: Vec<Reason> = Vec::new();
    let mut unresolvable = false;
    if usage.pods + 1 > node.max_pods {
        reasons.push(Cow::Borrowed("Too many pods"));
    }
    let wants = &template.requests;
    let mut check = |name: &str, reason: &mut dyn FnMut() -> Reason| {
        let (want, have, used) = (wants.get(name), node.allocatable.get(name), usage.requested.get(name));
        if want > 0 && want > have - used {
            reasons.push(reason());
            unresolvable |= want > have;
        }
    };
    check("cpu", &mut || Cow::Borrowed("Insufficient cpu"));
    check("memory", &mut || Cow::Borrowed("Insufficient memory"));
    check("ephemeral-storage", &mut || Cow::Borrowed("Insufficient ephemeral-storage"));
    for name in wants.scalars.keys().filter(|n| !profile.fit.ignores(n)) {
        check(name, &mut || Cow::Owned(format!("Insufficient {name}")));
    }
    let mut reasons = reasons.into_iter();
    let reason = reasons.next()?;
    Some(Rejection { plugin: Plugin::NodeResourcesFit, unresolvable, reason, more: reasons.collect() })
}

/// Rejects a node for what its pods use: by NodePorts, then NodeResourcesFit, where the profile has them.
pub fn room(template: &Template, profile: &Profile, node: &NodeInfo, usage: &Usage) -> Option<Rejection> {
    let on = |p: Plugin| profile.filters.contains(p);
    let ports = on(Plugin::NodePorts).then(|| ports(template, usage)).flatten();
    ports.or_else(|| on(Plugin::NodeResourcesFit).then(|| filter(template, profile, node, usage)).flatten())
}

/// Raw and final score of NodeResourcesFit by the profile's strategy.
pub fn score(template: &Template, profile: &Profile, node: &NodeInfo, usage: &Usage) -> i64 {
    let fit = &profile.fit;
    let amounts = fit.resources.iter().filter_map(|r| {
        let (have, used, want) = amounts(template, node, usage, r, false);
        (have != 0).then_some((r.weight, used + want, have))
    });
    match &fit.strategy {
        Strategy::LeastAllocated => {
            weighted(amounts, |used, have| if used > have { 0 } else { (have - used) * MAX_NODE_SCORE / have })
        }
        Strategy::MostAllocated => weighted(amounts, |used, have| used.min(have) * MAX_NODE_SCORE / have),
        Strategy::RequestedToCapacityRatio(shape) => ratio(amounts, shape),
    }
}

fn weighted(amounts: impl Iterator<Item = (i64, i64, i64)>, one: fn(i64, i64) -> i64) -> i64 {
    let (mut sum, mut weights) = (0, 0);
    for (weight, used, have) in amounts {
        sum += one(used, have) * weight;
        weights += weight;
    }
    if weights == 0 { 0 } else { sum / weights }
}

fn ratio(amounts: impl Iterator<Item = (i64, i64, i64)>, shape: &[(i64, i64)]) -> i64 {
    let (mut sum, mut weights) = (0, 0);
    for (weight, used, have) in amounts {
        let utilisation = if used > have { 100 } else { used * 100 / have };
        let score = broken_line(shape, utilisation);
        if score > 0 {
            sum += score * weight;
            weights += weight;
        }
    }
    if weights == 0 { 0 } else { (sum as f64 / weights as f64).round() as i64 }
}

/// The value at `x` of a line through points of ascending x, flat outside of them.
fn broken_line(shape: &[(i64, i64)], x: i64) -> i64 {
    let Some(at) = shape.iter().position(|p| x <= p.0) else {
        return shape.last().map_or(0, |p| p.1);
    };
    let (x1, y1) = shape[at];
    match at.checked_sub(1).map(|i| shape[i]) {
        Some((x0, y0)) if x1 != x0 => y0 + (y1 - y0) * (x - x0) / (x1 - x0),
        _ => y1,
    }
}

/// Allocatable, used and wanted amount of a resource; zero allocatable takes it out of the score.
fn amounts(t: &Template, node: &NodeInfo, usage: &Usage, r: &ResourceWeight, exact: bool) -> (i64, i64, i64) {
    let name = r.name.as_str();
    match name {
        "cpu" if !exact => (node.allocatable.cpu_milli, usage.nonzero.0, t.scored.0),
        "memory" if !exact => (node.allocatable.memory_bytes, usage.nonzero.1, t.scored.1),
        _ => {
            let want = t.requests.get(name);
            if want == 0 && is_scalar(name) {
                return (0, 0, 0);
            }
            (node.allocatable.get(name), usage.requested.get(name), want)
        }
    }
}

/// Whether NodeResourcesBalancedAllocation has anything to say of a pod: not if it requests none of the resources.
pub fn is_balanced_scored(template: &Template, resources: &[ResourceWeight]) -> bool {
    resources.iter().any(|r| template.requests.get(&r.name) != 0)
}

/// Score of NodeResourcesBalancedAllocation: how much more even (or less uneven) the pod makes the use of the node's
/// resources, from 50 up when it makes it more even.
pub fn balanced(template: &Template, resources: &[ResourceWeight], node: &NodeInfo, usage: &Usage) -> i64 {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for r in resources {
        let (have, used, want) = amounts(template, node, usage, r, true);
        if have != 0 {
            with.push(fraction(used + want, have));
            without.push(fraction(used, have));
        }
    }
    let half = MAX_NODE_SCORE / 2;
    half + (half + evenness(&with) - evenness(&without)) / 2
}

fn fraction(used: i64, have: i64) -> f64 {
    (used as f64 / have as f64).min(1.0)
}

fn evenness(fractions: &[f64]) -> i64 {
    let deviation = match fractions {
        [] | [_] => 0.0,
        [a, b] => ((a - b) / 2.0).abs(),
        all => {
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            (all.iter().map(|f| (f - mean) * (f - mean)).sum::<f64>() / all.len() as f64).sqrt()
        }
    };
    ((1.0 - deviation) * MAX_NODE_SCORE as f64) as i64
}

/// Whether a profile leaves a resource out of the filter.
pub fn is_ignored(name: &str, resources: &[String], groups: &[String]) -> bool {
    let group = name.split('/').next().unwrap_or(name);
    is_extended(name) && (resources.iter().any(|r| r == name) || groups.iter().any(|g| g == group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_lines() {
        let shape = [(0, 0), (50, 100), (100, 0)];
        for (x, want) in [(0, 0), (25, 50), (50, 100), (75, 50), (100, 0), (130, 0)] {
            assert_eq!(broken_line(&shape, x), want, "{x}");
        }
    }

    #[test]
    fn evenness_of_two_and_three() {
        assert_eq!(evenness(&[0.5, 0.5]), 100);
        assert_eq!(evenness(&[0.2, 0.0]), 90);
        assert_eq!(evenness(&[1.0, 0.0, 0.0]), 52);
        assert_eq!(evenness(&[0.9]), 100);
    }
}

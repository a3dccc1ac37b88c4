//! PodTopologySpread: constraints of a pod or of the profile, what counts for them, and how nodes are judged.
//!
//! A count is of live pods of the pod's namespace that match the selector; a domain is a value of the topology key among
//! nodes that have all keys of the pod's constraints and that the constraint's inclusion policies admit.

use super::{MAX_NODE_SCORE, Plugin, Rejection, affinity, taints};
use crate::config::profile::Profile;
use crate::model::node::NodeInfo;
use crate::model::template::{PodMatch, Template, spread_of};
use crate::objects::pod::TopologySpreadConstraint;
use crate::objects::selector::LabelSelector;

/// The label by which each node is a domain of its own.
pub const HOSTNAME: &str = "kubernetes.io/hostname";

/// One constraint, ready to be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// Topology key.
    pub key: String,
    /// Largest difference allowed.
    pub max_skew: i64,
    /// Below this many domains the minimum counts as zero.
    pub min_domains: i64,
    /// Whom it counts; `None` when the selector is empty, which counts nobody.
    pub counted: Option<PodMatch>,
    /// 1 when the pod itself matches the selector.
    pub self_match: i64,
    honor_affinity: bool,
    honor_taints: bool,
}

impl Constraint {
    fn new(c: &TopologySpreadConstraint, selector: Option<LabelSelector>, template: &Template) -> Self {
        let self_match = i64::from(selector.as_ref().is_some_and(|s| s.matches(&template.labels)));
        let counts_nobody = selector.as_ref().is_none_or(LabelSelector::is_empty);
        let counted = PodMatch { namespaces: [template.namespace.clone()].into(), namespace_selector: None, selector };
        Self {
            key: c.topology_key.clone(),
            max_skew: i64::from(c.max_skew),
            min_domains: i64::from(c.min_domains.unwrap_or(1)),
            counted: (!counts_nobody).then_some(counted),
            self_match,
            honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// Whether the constraint's inclusion policies admit a node.
    pub fn includes(&self, template: &Template, node: &NodeInfo) -> bool {
        (!self.honor_affinity || affinity::matches(template, node))
            && (!self.honor_taints || !taints::has_untolerated(template, node))
    }
}

/// The constraints of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Constraints {
    /// `DoNotSchedule`.
    pub hard: Vec<Constraint>,
    /// `ScheduleAnyway`.
    pub soft: Vec<Constraint>,
    /// Whether a node needs all soft keys to be scored; not with the built-in defaults.
    pub soft_needs_all_keys: bool,
}

impl Constraints {
    /// The pod's own constraints, or the profile's with `default_selector` (what services and owners select; absent or
    /// empty means that no default applies).
    pub fn of(template: &Template, profile: &Profile, default_selector: Option<&LabelSelector>) -> Self {
        let mut out = Self { soft_needs_all_keys: true, ..Self::default() };
        let own = !template.spread.is_empty();
        let defaults;
        let list = if own {
            &template.spread
        } else {
            if default_selector.is_none_or(LabelSelector::is_empty) {
                return out;
            }
            out.soft_needs_all_keys = !profile.spread.system_defaults;
            defaults = spread_of(&profile.spread.constraints, &template.labels);
            &defaults
        };
        for c in list {
            let selector = if own { c.label_selector.clone() } else { default_selector.cloned() };
            let ready = Constraint::new(c, selector, template);
            if c.when_unsatisfiable == "DoNotSchedule" { out.hard.push(ready) } else { out.soft.push(ready) }
        }
        out
    }
}

/// Whether a node has all keys of a list of constraints.
pub fn has_keys(constraints: &[Constraint], node: &NodeInfo) -> bool {
    constraints.iter().all(|c| node.labels.contains_key(&c.key))
}

/// The least count over domains, or zero when there are fewer than wanted. Without any domain nothing is skewed.
pub fn minimum(c: &Constraint, counts: impl Iterator<Item = i64>) -> i64 {
    let (mut min, mut domains) = (i64::from(i32::MAX), 0);
    for n in counts {
        min = min.min(n);
        domains += 1;
    }
    if domains < c.min_domains { 0 } else { min }
}

/// Rejects a node: `count` is that of its domain, absent when it lacks the key.
pub fn check(c: &Constraint, count: Option<i64>, minimum: i64) -> Option<Rejection> {
    let Some(count) = count else {
        let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
        return Some(Rejection::unresolvable(Plugin::PodTopologySpread, reason));
    };
    (count + c.self_match - minimum > c.max_skew).then(|| {
        Rejection::resolvable(Plugin::PodTopologySpread, "node(s) didn't match pod topology spread constraints")
    })
}

/// Weight of a constraint by the number of its domains, so that many small domains count as much as a few big ones.
pub fn domain_weight(domains: usize) -> f64 {
    ((domains + 2) as f64).ln()
}

/// Part of a node's raw score by one constraint.
pub fn part(c: &Constraint, count: i64, weight: f64) -> f64 {
    count as f64 * weight + (c.max_skew - 1) as f64
}

/// Normalises raw scores, of which fewer is better; `None` marks nodes that lack a key.
pub fn normalise(raw: &[Option<i64>], out: &mut Vec<i64>) {
    let min = raw.iter().flatten().copied().min().unwrap_or(0);
    let max = raw.iter().flatten().copied().max().unwrap_or(0);
    out.clear();
    out.extend(raw.iter().map(|s| match s {
        None => 0,
        Some(_) if max == 0 => MAX_NODE_SCORE,
        Some(s) => MAX_NODE_SCORE * (max + min - s) / max,
    }));
}

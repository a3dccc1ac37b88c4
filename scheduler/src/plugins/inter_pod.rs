//! InterPodAffinity: which terms of one pod speak of another, and how domains' sums become verdicts and scores.

use super::{MAX_NODE_SCORE, Plugin, Rejection};
use crate::config::profile::Profile;
use crate::model::template::{NamespaceLabels, Template, Term};

/// What an existing pod's terms say of an incoming pod, in each topology key's domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Say {
    /// Topology key of the term.
    pub key: Box<str>,
    /// 1 for a required anti-affinity term, which forbids the domain.
    pub forbids: i64,
    /// Weight that the domain gains or loses.
    pub weight: i64,
}

/// Everything that an existing pod's terms say of `incoming`.
pub fn says(existing: &Template, incoming: &Template, profile: &Profile, namespaces: &NamespaceLabels) -> Vec<Say> {
    let about = |t: &Term| t.pods.matches(&incoming.namespace, &incoming.labels, namespaces);
    let say = |t: &Term, forbids: i64, weight: i64| Say { key: t.topology_key.clone(), forbids, weight };
    let mut out = Vec::new();
    out.extend(existing.anti_affinity.iter().filter(|t| about(t)).map(|t| say(t, 1, 0)));
    if profile.ignore_preferred_of_existing && incoming.preferred.is_empty() {
        return out;
    }
    let hard = profile.hard_pod_affinity_weight;
    if hard > 0 {
        out.extend(existing.affinity.iter().filter(|t| about(t)).map(|t| say(t, 0, hard)));
    }
    out.extend(existing.preferred.iter().filter(|w| about(&w.term)).map(|w| say(&w.term, 0, w.weight)));
    out
}

/// Whether `other` is meant by every required affinity term of `template`.
pub fn meets_all(template: &Template, other: &Template, namespaces: &NamespaceLabels) -> bool {
    !template.affinity.is_empty()
        && template.affinity.iter().all(|t| t.pods.matches(&other.namespace, &other.labels, namespaces))
}

/// What a node's domains hold for a pod.
pub struct Domains<'a> {
    /// Per required affinity term: pods that meet all terms, in the node's domain; absent when it lacks the key.
    pub affinity: &'a mut dyn Iterator<Item = Option<i64>>,
    /// True when no pod anywhere meets the terms, and the pod itself does: the first of its kind may start a group.
    pub may_be_first: bool,
    /// Whether a required anti-affinity term of the pod is violated.
    pub violates_own: bool,
    /// Whether an existing pod forbids the node.
    pub forbidden: bool,
}

/// Rejects a node by required terms.
pub fn check(d: Domains<'_>) -> Option<Rejection> {
    let mut exist = true;
    let mut keys = true;
    for count in d.affinity {
        keys &= count.is_some();
        exist &= count.is_some_and(|n| n > 0);
    }
    if !(keys && (exist || d.may_be_first)) {
        return Some(Rejection::unresolvable(Plugin::InterPodAffinity, "node(s) didn't match pod affinity rules"));
    }
    if d.violates_own {
        return Some(Rejection::resolvable(Plugin::InterPodAffinity, "node(s) didn't match pod anti-affinity rules"));
    }
    let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
    d.forbidden.then(|| Rejection::resolvable(Plugin::InterPodAffinity, reason))
}

/// Scales raw sums so that the least becomes 0 and the greatest 100; all are 0 when they are equal.
pub fn normalise(scores: &mut [i64]) {
    let min = scores.iter().copied().min().unwrap_or(0);
    let max = scores.iter().copied().max().unwrap_or(0);
    for s in scores {
        *s = if max > min { (MAX_NODE_SCORE as f64 * ((*s - min) as f64 / (max - min) as f64)) as i64 } else { 0 };
    }
}

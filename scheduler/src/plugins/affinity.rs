//! NodeAffinity: node selector, required and preferred node affinity, and the affinity that a profile adds to every pod.

use super::{Plugin, Rejection};
use crate::config::profile::Profile;
use crate::model::node::NodeInfo;
use crate::model::template::Template;

/// Whether the pod's own node selector and required affinity allow the node.
pub fn matches(template: &Template, node: &NodeInfo) -> bool {
    template.node_selector.iter().all(|(k, v)| node.labels.get(k) == Some(v))
        && template.node_affinity.required.as_ref().is_none_or(|r| r.matches(&node.name, &node.labels))
}

/// Rejects nodes that the profile or the pod does not allow.
pub fn filter(template: &Template, profile: &Profile, node: &NodeInfo) -> Option<Rejection> {
    if profile.added_affinity.required.as_ref().is_some_and(|r| !r.matches(&node.name, &node.labels)) {
        let reason = "node(s) didn't match scheduler-enforced node affinity";
        return Some(Rejection::unresolvable(Plugin::NodeAffinity, reason));
    }
    (!matches(template, node))
        .then(|| Rejection::unresolvable(Plugin::NodeAffinity, "node(s) didn't match Pod's node affinity/selector"))
}

/// The sum of the weights of matching preferred terms: the raw score, more is better.
pub fn score(template: &Template, profile: &Profile, node: &NodeInfo) -> i64 {
    let terms = profile.added_affinity.preferred.iter().chain(&template.node_affinity.preferred);
    let matching = terms.filter(|t| t.weight != 0 && t.preference.matches(&node.name, &node.labels));
    matching.map(|t| i64::from(t.weight)).sum()
}

/// Whether there is anything to score.
pub fn has_preferences(template: &Template, profile: &Profile) -> bool {
    !(profile.added_affinity.preferred.is_empty() && template.node_affinity.preferred.is_empty())
}

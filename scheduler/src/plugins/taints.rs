//! NodeUnschedulable and TaintToleration.

use super::{Plugin, Rejection};
use crate::model::node::{NodeInfo, UNSCHEDULABLE_TAINT};
use crate::model::template::Template;
use crate::objects::node::Taint;
use crate::objects::pod::Toleration;

const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";
const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";

/// Whether a toleration covers a taint.
pub fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    if (!t.effect.is_empty() && t.effect != taint.effect) || (!t.key.is_empty() && t.key != taint.key) {
        return false;
    }
    match t.operator.as_str() {
        "" | "Equal" => t.value == taint.value,
        "Exists" => true,
        _ => false,
    }
}

fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

/// Rejects a cordoned node unless the pod tolerates being put on one.
pub fn unschedulable(template: &Template, node: &NodeInfo) -> Option<Rejection> {
    let taint = || Taint { key: UNSCHEDULABLE_TAINT.into(), value: String::new(), effect: NO_SCHEDULE.into() };
    (node.unschedulable && !tolerated(&template.tolerations, &taint()))
        .then(|| Rejection::unresolvable(Plugin::NodeUnschedulable, "node(s) were unschedulable"))
}

/// Whether the node has a taint with effect NoSchedule or NoExecute that the pod does not tolerate.
pub fn has_untolerated(template: &Template, node: &NodeInfo) -> bool {
    let hard = |t: &&Taint| t.effect == NO_SCHEDULE || t.effect == NO_EXECUTE;
    node.taints.iter().filter(hard).any(|t| !tolerated(&template.tolerations, t))
}

/// Rejects a node with such a taint.
pub fn filter(template: &Template, node: &NodeInfo) -> Option<Rejection> {
    has_untolerated(template, node)
        .then(|| Rejection::unresolvable(Plugin::TaintToleration, "node(s) had untolerated taint(s)"))
}

/// How many PreferNoSchedule taints of the node the pod does not tolerate: the raw score, less is better.
pub fn score(template: &Template, node: &NodeInfo) -> i64 {
    let soft = node.taints.iter().filter(|t| t.effect == PREFER_NO_SCHEDULE);
    let relevant = |t: &&Toleration| t.effect.is_empty() || t.effect == PREFER_NO_SCHEDULE;
    let untolerated = |taint: &&Taint| !template.tolerations.iter().filter(relevant).any(|t| tolerates(t, taint));
    i64::try_from(soft.filter(untolerated).count()).unwrap_or(i64::MAX)
}

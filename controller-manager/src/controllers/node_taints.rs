//! Taints: which follow from a node's conditions, and who bears which.

use crate::views::meta::condition;
use crate::views::node::{NodeView, Taint};
use crate::views::pod::Toleration;

/// On nodes that say they are not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// On nodes that say nothing.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// (condition, status, taint).
const BY_CONDITION: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// Whether two taints are the same, whenever they were added.
pub fn same(a: &Taint, b: &Taint) -> bool {
    a.key == b.key && a.effect == b.effect
}

/// A taint without value.
pub fn taint(key: &str, effect: &str) -> Taint {
    Taint { key: key.to_owned(), effect: effect.to_owned(), ..Taint::default() }
}

/// The `NoSchedule` taints that follow from what the node and its operators say.
pub fn no_schedule(node: &NodeView) -> Vec<Taint> {
    let mut keys: Vec<&str> = BY_CONDITION
        .iter()
        .filter(|(kind, status, _)| {
            condition(&node.status.conditions, kind).is_some_and(|condition| condition.status == *status)
        })
        .map(|(_, _, key)| *key)
        .collect();
    if node.spec.unschedulable {
        keys.push(UNSCHEDULABLE);
    }
    keys.into_iter().map(|key| taint(key, "NoSchedule")).collect()
}

/// Whether a `NoSchedule` taint is one that [`no_schedule`] decides about.
pub fn follows_from_conditions(taint: &Taint) -> bool {
    taint.effect == "NoSchedule"
        && (taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| taint.key == *key))
}

/// Whether `toleration` bears `taint`.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    (toleration.effect.is_empty() || toleration.effect == taint.effect)
        && (toleration.key.is_empty() || toleration.key == taint.key)
        && match toleration.operator.as_str() {
            "" | "Equal" => toleration.value == taint.value,
            "Exists" => true,
            "Lt" | "Gt" => compares(toleration, taint),
            _ => false,
        }
}

/// `Lt` and `Gt` compare numbers; what is no number is not borne.
fn compares(toleration: &Toleration, taint: &Taint) -> bool {
    let (Ok(bound), Ok(value)) = (toleration.value.parse::<i64>(), taint.value.parse::<i64>()) else { return false };
    if toleration.operator == "Lt" { value < bound } else { value > bound }
}

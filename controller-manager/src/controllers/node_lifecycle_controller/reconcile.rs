//! The writes that a node's state asks for, purely: taints, legacy labels, and its pods' readiness.

use jiff::Timestamp;
use serde_json::json;

use super::health::readiness;
use crate::controllers::node_taints::{NOT_READY, UNREACHABLE, follows_from_conditions, no_schedule, same, taint};
use crate::framework::{Action, EventKind, View};
use crate::views::meta::{Condition, condition, to_value};
use crate::views::node::{NodeView, Taint};
use crate::views::pod::PodView;

/// (label, the older name under which it is repeated).
const LEGACY_LABELS: &[(&str, &str)] =
    &[("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];

/// Whether a `NoExecute` taint may be added; removing one is always allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// Now.
    Now,
    /// Not yet.
    Later,
    /// Not at all: those that are there go too.
    Off,
}

/// The taints the node should have. The second value says whether a `NoExecute` taint is still to be added.
pub fn wanted_taints(node: &NodeView, eviction: Eviction, now: Timestamp) -> (Vec<Taint>, bool) {
    let health = [NOT_READY, UNREACHABLE];
    let spoken = condition(&node.status.conditions, "Ready").is_some();
    let wanted_key = match readiness(node) {
        // Of a new node nothing is known yet.
        _ if !spoken || eviction == Eviction::Off => None,
        "True" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    };
    let has_any = node.spec.taints.iter().any(|t| t.effect == "NoExecute" && health.contains(&t.key.as_str()));
    let has_wanted = node.spec.taints.iter().any(|t| t.effect == "NoExecute" && Some(t.key.as_str()) == wanted_key);
    // Turning one into the other is no new eviction.
    let add = wanted_key.filter(|_| !has_wanted && (eviction == Eviction::Now || has_any));
    let missing = wanted_key.is_some() && !has_wanted && add.is_none();
    let from_conditions = no_schedule(node);
    let mut taints: Vec<Taint> = node
        .spec
        .taints
        .iter()
        .filter(|t| {
            if t.effect == "NoExecute" && health.contains(&t.key.as_str()) {
                Some(t.key.as_str()) == wanted_key
            } else {
                !follows_from_conditions(t) || from_conditions.iter().any(|wanted| same(wanted, t))
            }
        })
        .cloned()
        .collect();
    for wanted in from_conditions {
        if !taints.iter().any(|t| same(t, &wanted)) {
            taints.push(Taint { time_added: now.into(), ..wanted });
        }
    }
    if let Some(key) = add {
        taints.push(Taint { time_added: now.into(), ..taint(key, "NoExecute") });
    }
    (taints, missing)
}

/// The change of the node's taints, if any; conditional on the version seen, since people set taints too.
pub fn taints_change(node: &NodeView, wanted: &[Taint]) -> Option<Action> {
    if node.spec.taints == wanted {
        return None;
    }
    Some(node.target().change(json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "spec": {"taints": wanted.iter().map(to_value).collect::<Vec<_>>()},
    })))
}

/// The change of the node's legacy labels, if any.
pub fn labels_change(node: &NodeView) -> Option<Action> {
    let mut labels = json!({});
    for (name, legacy) in LEGACY_LABELS {
        let value = node.metadata.labels.get(*name);
        if value.is_some() && node.metadata.labels.get(*legacy) != value {
            labels[*legacy] = json!(value);
        }
    }
    if labels.as_object().is_none_or(serde_json::Map::is_empty) {
        return None;
    }
    Some(node.target().change(json!({"metadata": {"labels": labels}})))
}

/// Marks a pod of a node that does not answer as not ready, so that no traffic goes to it, and says so.
pub fn pod_not_ready(pod: &PodView, now: Timestamp) -> Option<[Action; 2]> {
    let ready = pod.condition("Ready").filter(|ready| ready.status != "False")?;
    let condition = Condition { status: "False".to_owned(), last_transition_time: now.into(), ..ready.clone() };
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [to_value(&condition)]}});
    let target = pod.target();
    let event = Action::Event {
        about: pod.subject(),
        kind: EventKind::Warning,
        reason: "NodeNotReady",
        note: "Node is not ready".to_owned(),
    };
    Some([target.patch_status(patch), event])
}

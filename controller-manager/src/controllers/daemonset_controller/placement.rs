//! On which nodes a daemon set's pods belong, purely: node name, node selector, required node affinity and taints.

use serde_json::{Value, json};

use crate::controllers::node_taints::tolerates;
use crate::views::node::NodeView;
use crate::views::pod::Toleration;

/// What daemon pods bear besides what their template says: (key, effect).
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Whether a node should have a pod, and whether one that is there may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// A pod belongs there.
    pub run: bool,
    /// A pod that is there may stay.
    pub stay: bool,
}

/// The tolerations of daemon pods: their template's, and those that all have, which take the place of like ones.
pub fn tolerations(spec: &Value) -> Vec<Value> {
    let mut all = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let network = (spec["hostNetwork"] == Value::Bool(true)).then_some(&NETWORK_UNAVAILABLE);
    for (key, effect) in TOLERATED.iter().chain(network) {
        let added = json!({"key": key, "operator": "Exists", "effect": effect});
        let like = |one: &&mut Value| {
            ["key", "operator", "effect"].iter().all(|field| one[field] == added[field]) && one["value"].is_null()
        };
        match all.iter_mut().find(like) {
            Some(one) => *one = added,
            None => all.push(added),
        }
    }
    all
}

/// Judges one node for a pod template.
pub fn place(node: &NodeView, template: &Value) -> Placement {
    let spec = &template["spec"];
    let named = spec["nodeName"].as_str().unwrap_or_default();
    let fits =
        (named.is_empty() || named == node.metadata.name) && fits_selector(node, spec) && fits_affinity(node, spec);
    if !fits {
        return Placement { run: false, stay: false };
    }
    let tolerations: Vec<Toleration> = serde_json::from_value(Value::Array(tolerations(spec))).unwrap_or_default();
    let refused = |effect: &str| {
        node.spec
            .taints
            .iter()
            .any(|taint| taint.effect == effect && !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    };
    let no_execute = refused("NoExecute");
    Placement { run: !no_execute && !refused("NoSchedule"), stay: !no_execute }
}

fn fits_selector(node: &NodeView, spec: &Value) -> bool {
    spec["nodeSelector"].as_object().is_none_or(|wanted| {
        wanted.iter().all(|(name, value)| node.metadata.labels.get(name).map(String::as_str) == value.as_str())
    })
}

fn fits_affinity(node: &NodeView, spec: &Value) -> bool {
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let Some(terms) = required["nodeSelectorTerms"].as_array() else { return true };
    let list = |term: &Value, name: &str| term[name].as_array().cloned().unwrap_or_default();
    terms.iter().any(|term| {
        let (expressions, fields) = (list(term, "matchExpressions"), list(term, "matchFields"));
        // An empty term matches nothing.
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|e| fits(e, node.metadata.labels.get(e["key"].as_str().unwrap_or_default())))
            && fields.iter().all(|e| e["key"] == "metadata.name" && fits(e, Some(&node.metadata.name)))
    })
}

fn fits(requirement: &Value, value: Option<&String>) -> bool {
    let values: Vec<&str> = requirement["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let listed = value.is_some_and(|value| values.contains(&value.as_str()));
    let numbers = || {
        let value: i64 = value?.parse().ok()?;
        Some((value, values.first()?.parse::<i64>().ok()?))
    };
    match requirement["operator"].as_str().unwrap_or_default() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

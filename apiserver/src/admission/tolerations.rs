//! TaintNodesByCondition and DefaultTolerationSeconds: new nodes wait until they are ready; pods outlive short node failures.

use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, done, list_mut};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Taints every new node as not ready; the node lifecycle controller takes the taint away.
pub struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "nodes")
    }

    fn admit<'a>(&'a self, _: &'a Request<'_>, object: Option<&'a mut Value>) -> BoxFuture<'a, Result<(), Status>> {
        let taints = object.and_then(|node| node.get_mut("spec")).filter(|spec| spec.is_object());
        if let Some(taints) = taints.and_then(|spec| list_mut(spec, "taints"))
            && !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule")
        {
            taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        done(Ok(()))
    }
}

/// Gives pods a bounded toleration of unready and unreachable nodes, unless they say something themselves.
pub struct DefaultTolerationSeconds {
    /// Seconds on a node that is not ready.
    pub not_ready_seconds: i64,
    /// Seconds on a node that cannot be reached.
    pub unreachable_seconds: i64,
}

fn tolerates(tolerations: &[Value], key: &str) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    tolerations.iter().any(|toleration| {
        let (own_key, effect) = (text(&toleration["key"]), text(&toleration["effect"]));
        (own_key == key || own_key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
    })
}

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update) && request.is("", "pods", "")
    }

    fn admit<'a>(&'a self, _: &'a Request<'_>, object: Option<&'a mut Value>) -> BoxFuture<'a, Result<(), Status>> {
        let Some(spec) = object.and_then(|pod| pod.get_mut("spec")) else { return done(Ok(())) };
        let present: Vec<Value> = spec["tolerations"].as_array().cloned().unwrap_or_default();
        let wanted = [(NOT_READY, self.not_ready_seconds), (UNREACHABLE, self.unreachable_seconds)];
        for (key, seconds) in wanted.into_iter().filter(|(key, _)| !tolerates(&present, key)) {
            if let Some(list) = list_mut(spec, "tolerations") {
                list.push(
                    json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}),
                );
            }
        }
        done(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_tolerating() {
        let cases = [
            (json!([]), false),
            (json!([{"operator": "Exists"}]), true),
            (json!([{"key": NOT_READY, "operator": "Exists", "effect": "NoExecute"}]), true),
            (json!([{"key": NOT_READY, "operator": "Exists", "effect": "NoSchedule"}]), false),
            (json!([{"key": UNREACHABLE, "operator": "Exists"}]), false),
        ];
        for (list, expected) in cases {
            assert_eq!(tolerates(list.as_array().unwrap(), NOT_READY), expected, "{list}");
        }
    }
}

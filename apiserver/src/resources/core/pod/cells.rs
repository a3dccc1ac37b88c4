//! How a pod is doing, in the words of `kubectl get pods`. Follows upstream's `printPod`.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::resources::HookContext;
use crate::resources::check::At;
use crate::resources::printing::{age, human_duration, name, or_none};

#[derive(Default)]
struct Restarts {
    count: i64,
    latest: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &At) {
        self.count += status.get("restartCount").number();
        let ended = status.get("lastState.terminated.finishedAt").str().parse().ok();
        self.latest = self.latest.max(ended);
    }
}

/// The row of one pod.
pub fn cells(pod: &Value, cx: &HookContext) -> Vec<Value> {
    let pod = At::root(pod);
    let (spec, status) = (pod.get("spec"), pod.get("status"));
    let summary = Summary::of(&pod);
    let mut restarts = summary.restarts.count.to_string();
    if let (1.., Some(latest)) = (summary.restarts.count, summary.restarts.latest) {
        restarts += &format!(" ({} ago)", human_duration(cx.request.now.as_second() - latest.as_second()));
    }
    let gates = spec.get("readinessGates");
    let open = gates.items().filter(|g| condition(&status, g.get("conditionType").str())).count();
    vec![
        name(&pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(&pod, cx.request.now),
        or_none(status.get("podIP").str()),
        or_none(spec.get("nodeName").str()),
        or_none(status.get("nominatedNodeName").str()),
        if gates.is_empty() { "<none>".into() } else { format!("{open}/{}", gates.len()).into() },
    ]
}

/// Finished pods have completed rows.
pub fn row_conditions(pod: &Value) -> Option<Value> {
    let phase = pod["status"]["phase"].as_str()?;
    let message = match phase {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]))
}

fn condition(status: &At, ty: &str) -> bool {
    status.get("conditions").items().any(|c| c.get("type").str() == ty && c.get("status").str() == "True")
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: Restarts,
}

impl Summary {
    fn of(pod: &At) -> Self {
        let (spec, status) = (pod.get("spec"), pod.get("status"));
        let sidecars: Vec<&str> = spec
            .get("initContainers")
            .items()
            .filter(|c| c.get("restartPolicy").str() == "Always")
            .map(|c| c.get("name").str())
            .collect();
        let reason = status.get("reason");
        let gated = status
            .get("conditions")
            .items()
            .any(|c| c.get("type").str() == "PodScheduled" && c.get("reason").str() == "SchedulingGated");
        let reason = match reason.str() {
            _ if gated => "SchedulingGated",
            "" => status.get("phase").str(),
            given => given,
        };
        let mut summary = Self {
            ready: 0,
            total: spec.get("containers").len() + sidecars.len(),
            reason: reason.to_owned(),
            restarts: Restarts::default(),
        };
        let mut sidecar_restarts = Restarts::default();
        let initializing = summary.init_containers(&spec, &status, &sidecars, &mut sidecar_restarts);
        if !initializing || condition(&status, "Initialized") {
            summary.restarts = sidecar_restarts;
            summary.containers(&status);
        }
        let phase = status.get("phase").str();
        if pod.get("metadata.deletionTimestamp").is_set() {
            if status.get("reason").str() == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !["Succeeded", "Failed"].contains(&phase) {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Takes the init containers in; true when one of them is the reason why the pod does not run yet.
    fn init_containers(&mut self, spec: &At, status: &At, sidecars: &[&str], sidecar_restarts: &mut Restarts) -> bool {
        for (i, container) in status.get("initContainerStatuses").items().enumerate() {
            let sidecar = sidecars.contains(&container.get("name").str());
            self.restarts.add(&container);
            if sidecar {
                sidecar_restarts.add(&container);
            }
            let (ended, waiting) = (container.get("state.terminated"), container.get("state.waiting.reason"));
            if ended.is_set() && ended.get("exitCode").number() == 0 {
                continue;
            }
            if sidecar && container.get("started").flag() {
                self.ready += usize::from(container.get("ready").flag());
                continue;
            }
            self.reason = if ended.is_set() {
                format!("Init:{}", end_reason(&ended))
            } else if !waiting.is_empty() && waiting.str() != "PodInitializing" {
                format!("Init:{}", waiting.str())
            } else {
                format!("Init:{i}/{}", spec.get("initContainers").len())
            };
            return true;
        }
        false
    }

    fn containers(&mut self, status: &At) {
        let mut running = false;
        let statuses: Vec<At> = status.get("containerStatuses").items().collect();
        for container in statuses.iter().rev() {
            self.restarts.add(container);
            let (ended, waiting) = (container.get("state.terminated"), container.get("state.waiting.reason"));
            if !waiting.is_empty() {
                waiting.str().clone_into(&mut self.reason);
            } else if ended.is_set() {
                self.reason = end_reason(&ended);
            } else if container.get("ready").flag() && container.get("state.running").is_set() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            self.reason = if condition(status, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }
}

fn end_reason(ended: &At) -> String {
    match (ended.get("reason").str(), ended.get("signal").number()) {
        ("", 0) => format!("ExitCode:{}", ended.get("exitCode").number()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

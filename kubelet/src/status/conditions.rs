//! The pod conditions that the kubelet owns. Pure; reasons and messages are upstream's.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::generate::Input;
use crate::pods::types::is_sidecar;
use crate::pods::{plan, resize};

/// A condition's (status, reason, message).
struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes() -> Self {
        Self { holds: true, reason: "", message: String::new() }
    }

    fn no(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }
}

/// The kubelet's conditions for a status whose phase and container statuses are set.
pub fn generate(input: &Input<'_>, status: &core::PodStatus) -> Vec<core::PodCondition> {
    let containers = containers_ready(input, status);
    let ready = ready(input, &containers);
    let sandbox = input.actual.ready_sandbox().is_some_and(|s| input.pod.host_network() || !s.ips.is_empty());
    let sandbox = if sandbox { Verdict::yes() } else { Verdict::no("", String::new()) };
    let all = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized(input, status)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Verdict::yes()),
    ];
    let mut conditions: Vec<_> = all.into_iter().map(|(type_, verdict)| condition(input, type_, verdict)).collect();
    if plan::may_restart_all(input.pod) {
        let verdict = match status.phase.as_deref() {
            Some("Succeeded") => Verdict::no("PodCompleted", String::new()),
            Some("Failed") => Verdict::no("PodFailed", String::new()),
            _ if plan::restarting_all(input.pod, input.actual) => Verdict {
                holds: true,
                reason: "RestartAllContainersStarted",
                message: "container exited with restart policy rule".to_owned(),
            },
            _ => Verdict::no("", String::new()),
        };
        conditions.push(condition(input, "AllContainersRestarting", verdict));
    }
    let mut add = |type_, reason: &str, message: &str| {
        let mut extra = condition(input, type_, Verdict::yes());
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (extra.reason, extra.message) = (some(reason), some(message));
        conditions.push(extra);
    };
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if let Some(refused) = input.refused.filter(|_| !over) {
        add("PodResizePending", refused.reason, &refused.message);
    }
    if resizing(input, status) && !over {
        add("PodResizeInProgress", input.resize_error.map_or("", |_| "Error"), input.resize_error.unwrap_or_default());
    }
    if let Some((reason, message)) = input.termination.and_then(|t| t.disruption.as_ref()) {
        add("DisruptionTarget", reason, message);
    }
    conditions
}

/// Whether a running container has other resources than it was given.
fn resizing(input: &Input<'_>, status: &core::PodStatus) -> bool {
    let statuses = [&status.init_container_statuses, &status.container_statuses];
    statuses.into_iter().flatten().flatten().any(|s| {
        let running = s.state.as_ref().is_some_and(|s| s.running.is_some());
        let spec = input.pod.container(&s.name).filter(|_| running).map(|(_, spec)| spec);
        spec.zip(s.resources.as_ref()).is_some_and(|(spec, has)| resize::step(spec, has).is_some())
    })
}

/// The condition with the time of its last change: the previous one's while the status stays.
fn condition(input: &Input<'_>, type_: &str, verdict: Verdict) -> core::PodCondition {
    let status = if verdict.holds { "True" } else { "False" };
    let same = |c: &&core::PodCondition| c.type_ == type_ && c.status == status;
    let before = input.previous.conditions.iter().flatten().find(same).and_then(|c| c.last_transition_time.clone());
    core::PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: (!verdict.reason.is_empty()).then(|| verdict.reason.to_owned()),
        message: (!verdict.message.is_empty()).then_some(verdict.message),
        last_transition_time: before.or(Some(Time(input.now))),
        observed_generation: input.pod.metadata.generation,
        last_probe_time: None,
    }
}

fn initialized(input: &Input<'_>, status: &core::PodStatus) -> Verdict {
    let specs = input.pod.init_containers();
    if specs.is_empty() {
        return Verdict::yes();
    }
    if status.phase.as_deref() == Some("Succeeded") {
        return Verdict { holds: true, reason: "PodCompleted", message: String::new() };
    }
    let statuses = status.init_container_statuses.as_deref().unwrap_or_default();
    let mut incomplete = Vec::new();
    for (spec, status) in specs.iter().zip(statuses) {
        let done = if is_sidecar(spec) { status.started == Some(true) } else { status.ready };
        if !done {
            incomplete.push(spec.name.as_str());
        }
    }
    // Once a regular container ran, the pod stays initialized whatever sidecars do.
    let begun = status.container_statuses.iter().flatten().any(|c| c.container_id.is_some());
    if incomplete.is_empty() || begun {
        Verdict::yes()
    } else {
        let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
        Verdict::no("ContainersNotInitialized", message)
    }
}

fn containers_ready(input: &Input<'_>, status: &core::PodStatus) -> Verdict {
    match status.phase.as_deref() {
        Some("Succeeded") => return Verdict::no("PodCompleted", String::new()),
        Some("Failed") => return Verdict::no("PodFailed", String::new()),
        _ => {}
    }
    let init = input.pod.init_containers().iter().zip(status.init_container_statuses.iter().flatten());
    let sidecars = init.filter(|(spec, _)| is_sidecar(spec)).map(|(_, status)| status);
    let unready: Vec<&str> = sidecars
        .chain(status.container_statuses.iter().flatten())
        .filter(|s| !s.ready)
        .map(|s| s.name.as_str())
        .collect();
    if unready.is_empty() {
        Verdict::yes()
    } else {
        Verdict::no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
    }
}

fn ready(input: &Input<'_>, containers: &Verdict) -> Verdict {
    if !containers.holds {
        return Verdict::no(containers.reason, containers.message.clone());
    }
    let mut missing = Vec::new();
    for gate in input.pod.spec.readiness_gates.iter().flatten() {
        let type_ = &gate.condition_type;
        match input.pod.status.conditions.iter().flatten().find(|c| &c.type_ == type_) {
            None => missing.push(format!("corresponding condition of pod readiness gate \"{type_}\" does not exist.")),
            Some(c) if c.status != "True" => {
                missing.push(format!("the status of pod readiness gate \"{type_}\" is not \"True\", but {}", c.status));
            }
            Some(_) => {}
        }
    }
    if missing.is_empty() { Verdict::yes() } else { Verdict::no("ReadinessGatesNotReady", missing.join(", ")) }
}

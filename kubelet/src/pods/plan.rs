//! The next steps of a pod: a pure function of what is wanted, what the runtime has, and what probes say.
//!
//! Follows upstream's computePodActions: a pod gets one sandbox; init containers run one after another, sidecars start
//! in their order and stay; then regular containers; what exits restarts by its policy after its back-off; what fails
//! its startup or liveness probe or changed its image is killed first. `next` never looks at history other than the
//! containers that the runtime still knows, so that a restarted kubelet decides the same.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container as Spec, ContainerRestartRuleOnExitCodes, PodStatus};

use super::backoff::Backoff;
use super::resize::{self, Applied};
use super::types::{Pod, Role, container_hash, is_sidecar};
use crate::cri::snapshot::{Container, PodActual, State};

/// Kind of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// Upstream's name in events and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// Latest verdicts: (container id, kind) → success.
pub type ProbeResults = HashMap<(String, ProbeKind), bool>;

/// What the planner looks at.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub actual: &'a PodActual,
    pub probes: &'a ProbeResults,
    pub backoff: &'a Backoff,
    pub max_backoff: SignedDuration,
    /// The status told last, and resources applied since.
    pub told: &'a PodStatus,
    pub applied: &'a Applied,
    pub now: Timestamp,
}

/// A container to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    pub message: String,
    /// The probe that failed; its own grace period may be shorter.
    pub probe: Option<ProbeKind>,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub name: String,
    pub role: Role,
    pub attempt: u32,
}

/// A container that must wait before it starts again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    pub name: String,
    pub until: Timestamp,
    pub delay: SignedDuration,
}

/// The next steps, in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Stop every container and sandbox that is left (a broken sandbox, or a pod that is done).
    pub stop_all: bool,
    /// Stop and forget every container: the pod begins anew in its sandbox.
    pub reset: bool,
    /// Containers to stop.
    pub kill: Vec<Kill>,
    /// Names of running containers whose limits change in place.
    pub resize: Vec<String>,
    /// Attempt number of a sandbox to make.
    pub create_sandbox: Option<u32>,
    /// Containers to start.
    pub start: Vec<Start>,
    /// Containers in back-off.
    pub wait: Vec<Wait>,
}

impl Plan {
    /// Nothing to do now.
    pub fn is_settled(&self) -> bool {
        !self.stop_all
            && !self.reset
            && self.kill.is_empty()
            && self.resize.is_empty()
            && self.create_sandbox.is_none()
            && self.start.is_empty()
    }
}

/// The action that a container's own rules have for an exit code.
fn rule_action(spec: &Spec, exit_code: i32) -> Option<&str> {
    let rules = spec.restart_policy_rules.iter().flatten();
    let fits = |codes: &ContainerRestartRuleOnExitCodes| {
        codes.values.as_ref().is_some_and(|v| v.contains(&exit_code)) == (codes.operator == "In")
    };
    rules.filter(|r| r.exit_codes.as_ref().is_some_and(fits)).map(|r| r.action.as_str()).next()
}

/// Whether a rule of some container can restart all of them.
pub fn may_restart_all(pod: &Pod) -> bool {
    let mut rules = pod.containers().flat_map(|(_, c)| c.restart_policy_rules.iter().flatten());
    rules.any(|r| r.action == RESTART_ALL)
}

/// Whether a container's end makes the whole pod begin anew.
pub fn triggers_restart(pod: &Pod, container: &Container) -> bool {
    let spec = pod.container(&container.name).filter(|_| container.state == State::Exited);
    spec.is_some_and(|(_, spec)| rule_action(spec, container.exit_code) == Some(RESTART_ALL))
}

/// Whether some container's latest end does that.
pub fn restarting_all(pod: &Pod, actual: &PodActual) -> bool {
    may_restart_all(pod)
        && pod.containers().any(|(_, c)| actual.latest(&c.name).is_some_and(|latest| triggers_restart(pod, latest)))
}

const RESTART_ALL: &str = "RestartAllContainers";

/// Whether an exited container starts again: its own rules, its own policy, then the pod's.
pub fn restarts(pod: &Pod, spec: &Spec, exit_code: i32) -> bool {
    if let Some(action) = rule_action(spec, exit_code) {
        return action.starts_with("Restart");
    }
    match spec.restart_policy.as_deref().unwrap_or_else(|| pod.restart_policy()) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether a container that is not running has to be started.
fn needs_start(pod: &Pod, spec: &Spec, latest: Option<&Container>) -> bool {
    match latest {
        None => true,
        Some(c) => match c.state {
            State::Running => false,
            State::Created | State::Unknown => true,
            State::Exited => restarts(pod, spec, c.exit_code),
        },
    }
}

/// Why a running container must be stopped, if it must.
fn kill_reason(input: &Input<'_>, spec: &Spec, running: &Container) -> Option<(String, Option<ProbeKind>)> {
    let name = &spec.name;
    if !running.hash.is_empty() && running.hash != container_hash(spec) {
        return Some((format!("Container {name} definition changed, will be restarted"), None));
    }
    let failed = |kind| input.probes.get(&(running.id.clone(), kind)) == Some(&false);
    if spec.startup_probe.is_some() && failed(ProbeKind::Startup) {
        return Some((format!("Container {name} failed startup probe"), Some(ProbeKind::Startup)));
    }
    if spec.liveness_probe.is_some() && failed(ProbeKind::Liveness) {
        return Some((format!("Container {name} failed liveness probe"), Some(ProbeKind::Liveness)));
    }
    None
}

/// Plans what a running container needs: an end, or other limits. True when it keeps running.
fn look_after(input: &Input<'_>, spec: &Spec, running: &Container, plan: &mut Plan) -> bool {
    let mut reason = kill_reason(input, spec, running);
    if reason.is_none() {
        let current = resize::current(&running.id, input.told, input.applied);
        match current.and_then(|current| resize::step(spec, current)) {
            Some(resize::Step::Update) => plan.resize.push(spec.name.clone()),
            Some(resize::Step::Restart) => {
                reason = Some((format!("Container {} resize requires restart", spec.name), None));
            }
            None => {}
        }
    }
    let Some((message, probe)) = reason else { return true };
    plan.kill.push(Kill { id: running.id.clone(), name: spec.name.clone(), message, probe });
    false
}

/// Whether a container runs and its startup probe, if any, succeeded.
pub fn has_started(spec: &Spec, running: &Container, probes: &ProbeResults) -> bool {
    running.state == State::Running
        && (spec.startup_probe.is_none() || probes.get(&(running.id.clone(), ProbeKind::Startup)) == Some(&true))
}

/// The next steps of a pod that should run.
pub fn next(input: &Input<'_>) -> Plan {
    let sandbox = input
        .actual
        .ready_sandbox()
        .filter(|s| s.host_network == input.pod.host_network() && (input.pod.host_network() || !s.ips.is_empty()));
    match sandbox {
        None => without_sandbox(input),
        Some(_) if restarting_all(input.pod, input.actual) => Plan { reset: true, ..Plan::default() },
        Some(sandbox) => {
            let mut plan = Plan::default();
            // They help to find out why a pod does not start, so they wait for nothing.
            run_ephemeral(input, &mut plan);
            // Sidecars and ephemeral containers do not keep a pod alive.
            let done = run_init(input, &sandbox.id, &mut plan) && run_regular(input, &mut plan) == 0;
            if done || plan.stop_all {
                plan = Plan { stop_all: input.actual.anything_running(), ..Plan::default() };
            }
            plan
        }
    }
}

fn without_sandbox(input: &Input<'_>) -> Plan {
    let (pod, actual) = (input.pod, input.actual);
    let mut plan = Plan { stop_all: actual.anything_running(), ..Plan::default() };
    let attempt = actual.sandboxes.first().map_or(0, |s| s.attempt + 1);
    let ran = pod.spec.containers.iter().any(|c| actual.latest(&c.name).is_some_and(|c| c.state != State::Created));
    if attempt != 0 && ran && pod.restart_policy() == "Never" {
        // A pod that never restarts has had its one chance.
        return plan;
    }
    let unfinished = pod.spec.containers.iter().any(|c| match actual.latest(&c.name) {
        Some(latest) if latest.state == State::Exited => restarts(pod, c, latest.exit_code),
        _ => true,
    });
    if unfinished {
        plan.create_sandbox = Some(attempt);
    }
    plan
}

/// Plans the init containers; true when the regular ones may run.
fn run_init(input: &Input<'_>, sandbox: &str, plan: &mut Plan) -> bool {
    let specs = input.pod.init_containers();
    let here = |name: &str| input.actual.containers.iter().find(|c| c.name == name && c.sandbox_id == sandbox);
    let initialized = input.pod.spec.containers.iter().any(|c| here(&c.name).is_some());
    for (index, spec) in specs.iter().enumerate() {
        let current = here(&spec.name);
        if is_sidecar(spec) {
            if !run_sidecar(input, spec, current, plan) && !initialized {
                return false;
            }
            continue;
        }
        if initialized {
            continue;
        }
        match current {
            Some(c) if matches!(c.state, State::Running) => return false,
            Some(c) if c.state == State::Exited && c.exit_code == 0 => {}
            Some(c) if c.state == State::Exited && !init_restarts(input.pod, spec, c.exit_code) => {
                plan.stop_all = true;
                return false;
            }
            // A later one ran, so this one had succeeded before its record was removed.
            None if specs[index + 1..].iter().any(|s| !is_sidecar(s) && here(&s.name).is_some()) => {}
            _ => {
                start_or_wait(input, spec, Role::Init, plan);
                return false;
            }
        }
    }
    true
}

/// Init containers restart on failure unless the pod never restarts.
fn init_restarts(pod: &Pod, spec: &Spec, exit_code: i32) -> bool {
    if spec.restart_policy.is_some() || spec.restart_policy_rules.is_some() {
        return restarts(pod, spec, exit_code);
    }
    pod.restart_policy() != "Never"
}

/// Plans one sidecar; true when it has started.
fn run_sidecar(input: &Input<'_>, spec: &Spec, current: Option<&Container>, plan: &mut Plan) -> bool {
    match current {
        Some(c) if c.state == State::Running => {
            if !look_after(input, spec, c, plan) {
                return false;
            }
            has_started(spec, c, input.probes)
        }
        _ => {
            start_or_wait(input, spec, Role::Sidecar, plan);
            false
        }
    }
}

/// Plans the regular containers; how many run, or wait to run again.
fn run_regular(input: &Input<'_>, plan: &mut Plan) -> usize {
    let mut active = 0;
    for spec in &input.pod.spec.containers {
        let latest = input.actual.latest(&spec.name);
        match latest {
            Some(c) if c.state == State::Running => {
                active += 1;
                look_after(input, spec, c, plan);
            }
            _ if needs_start(input.pod, spec, latest) => {
                active += 1;
                start_or_wait(input, spec, Role::Regular, plan);
            }
            _ => {}
        }
    }
    active
}

fn run_ephemeral(input: &Input<'_>, plan: &mut Plan) {
    for (spec, _) in &input.pod.ephemeral {
        if input.actual.latest(&spec.name).is_none_or(|c| c.state == State::Created) {
            plan.start.push(Start { name: spec.name.clone(), role: Role::Ephemeral, attempt: 0 });
        }
    }
}

/// Key of a container's crash back-off.
pub fn backoff_key(spec: &Spec) -> String {
    format!("{}/{}", spec.name, container_hash(spec))
}

fn start_or_wait(input: &Input<'_>, spec: &Spec, role: Role, plan: &mut Plan) {
    let latest = input.actual.latest(&spec.name);
    if let Some(finished) = latest.filter(|c| c.state == State::Exited).and_then(|c| c.finished_at) {
        let blocked = input.backoff.blocked_until(&backoff_key(spec), finished, input.now, input.max_backoff);
        if let Some((until, delay)) = blocked {
            plan.wait.push(Wait { name: spec.name.clone(), until, delay });
            return;
        }
    }
    if let Some(lost) = latest.filter(|c| c.state == State::Unknown) {
        // It may run: two of it must not.
        let message = format!("Container {} is in unknown state, try killing it before restart", spec.name);
        plan.kill.push(Kill { id: lost.id.clone(), name: spec.name.clone(), message, probe: None });
    }
    let attempt = match latest {
        // It never ran, so that this is no restart.
        Some(c) if c.state == State::Created => c.attempt,
        Some(c) => c.attempt + 1,
        // Without a record, what was told of it counts.
        None => told_attempt(input.told, &spec.name).map_or(0, |last| last + 1),
    };
    plan.start.push(Start { name: spec.name.clone(), role, attempt });
}

fn told_attempt(told: &PodStatus, name: &str) -> Option<u32> {
    let lists = [&told.init_container_statuses, &told.container_statuses];
    let status = lists.into_iter().flatten().flatten().find(|s| s.name == name && s.container_id.is_some())?;
    u32::try_from(status.restart_count).ok()
}

/// How a pod ends: stages of containers stopped together, then its sandboxes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    /// Regular containers first; then sidecars one by one, the last started first.
    pub stages: Vec<Vec<Kill>>,
    /// Sandboxes to stop.
    pub sandboxes: Vec<String>,
}

/// The steps that end a pod.
pub fn ending(pod: &Pod, actual: &PodActual) -> Ending {
    let order: HashMap<&str, usize> =
        pod.init_containers().iter().enumerate().filter(|(_, c)| is_sidecar(c)).map(|(i, c)| (&*c.name, i)).collect();
    let live = actual.containers.iter().filter(|c| matches!(c.state, State::Running | State::Unknown));
    let (mut sidecars, regular): (Vec<_>, Vec<_>) = live.partition(|c| order.contains_key(c.name.as_str()));
    let kill = |c: &Container| Kill {
        id: c.id.clone(),
        name: c.name.clone(),
        message: format!("Stopping container {}", c.name),
        probe: None,
    };
    let mut stages = Vec::new();
    if !regular.is_empty() {
        stages.push(regular.into_iter().map(kill).collect());
    }
    sidecars.sort_by_key(|c| std::cmp::Reverse(order.get(c.name.as_str()).copied()));
    stages.extend(sidecars.into_iter().map(|c| vec![kill(c)]));
    let sandboxes = actual.sandboxes.iter().filter(|s| s.ready).map(|s| s.id.clone()).collect();
    Ending { stages, sandboxes }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

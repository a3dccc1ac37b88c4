//! A pod's status from its spec, what the runtime has, probe verdicts and the last errors. Pure.
//!
//! Follows upstream's generateAPIPodStatus: container states come from the runtime, a container that will be started
//! again shows why it waits, and a phase that is final never changes.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions;
use crate::cri::labels;
use crate::cri::snapshot::{Container, PodActual, State};
use crate::pods::plan::{ProbeKind, ProbeResults, has_started, restarts};
use crate::pods::resize::{self, Applied, Refused};
use crate::pods::resources;
use crate::pods::types::{Pod, Role, Termination, is_sidecar};

/// Why a container waits: (reason, message).
pub type Reasons = HashMap<String, (String, String)>;

/// What the generator looks at.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub actual: &'a PodActual,
    pub probes: &'a ProbeResults,
    pub reasons: &'a Reasons,
    pub termination: Option<&'a Termination>,
    /// Resources applied to running containers since the previous status.
    pub applied: &'a Applied,
    /// Why a resize of the pod is not done.
    pub refused: Option<&'a Refused>,
    /// Why a resize that was begun does not get on.
    pub resize_error: Option<&'a str>,
    /// Status generated last, whose times are kept; the API's when there is none.
    pub previous: &'a core::PodStatus,
    /// Prefix of container ids, such as `containerd`.
    pub runtime_name: &'a str,
    pub host_ips: &'a [String],
    pub now: Timestamp,
}

/// The pod's status now.
pub fn generate(input: &Input<'_>) -> core::PodStatus {
    let pod = input.pod;
    let init = statuses(input, |role| matches!(role, Role::Init | Role::Sidecar));
    let regular = statuses(input, |role| role == Role::Regular);
    let ephemeral = statuses(input, |role| role == Role::Ephemeral);
    let mut status = core::PodStatus {
        observed_generation: pod.metadata.generation,
        qos_class: Some(resources::qos_class(&pod.spec).to_owned()),
        start_time: input.previous.start_time.clone().or(Some(Time(input.now))),
        host_ip: input.host_ips.first().cloned(),
        host_ips: some_list(input.host_ips.iter().map(|ip| core::HostIP { ip: ip.clone() }).collect()),
        phase: Some(phase(input, &init, &regular).to_owned()),
        init_container_statuses: some_list(init),
        container_statuses: some_list(regular),
        ephemeral_container_statuses: some_list(ephemeral),
        ..core::PodStatus::default()
    };
    let ips = pod_ips(input);
    status.pod_ip = ips.first().cloned();
    status.pod_ips = some_list(ips.into_iter().map(|ip| core::PodIP { ip }).collect());
    if let Some((reason, message)) = input.termination.and_then(|t| t.failed.as_ref()) {
        status.phase = Some("Failed".into());
        status.reason = Some(reason.clone());
        status.message = Some(message.clone());
    } else if pod.is_terminal() {
        status.reason.clone_from(&pod.status.reason);
        status.message.clone_from(&pod.status.message);
    }
    status.conditions = Some(conditions::generate(input, &status));
    status
}

fn some_list<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn pod_ips(input: &Input<'_>) -> Vec<String> {
    if input.pod.host_network() {
        return input.host_ips.to_vec();
    }
    match input.actual.sandboxes.first() {
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.clone(),
        // A stopped sandbox has no address any more; the pod keeps the one it had.
        _ => input.previous.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect(),
    }
}

fn statuses(input: &Input<'_>, wanted: impl Fn(Role) -> bool) -> Vec<core::ContainerStatus> {
    let containers = input.pod.containers().filter(|(role, _)| wanted(*role));
    containers.map(|(role, spec)| container_status(input, role, spec)).collect()
}

fn previous<'a>(status: &'a core::PodStatus, name: &str) -> Option<&'a core::ContainerStatus> {
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|s| s.name == name)
}

fn container_status(input: &Input<'_>, role: Role, spec: &core::Container) -> core::ContainerStatus {
    let mut attempts = input.actual.containers.iter().filter(|c| c.name == spec.name);
    let mut status = match attempts.next() {
        None => without_container(input, spec),
        Some(latest) => {
            let mut status = from_runtime(input, latest);
            status.last_state = attempts.find_map(|c| terminated(input, c)).or_else(|| {
                // The record of the attempt before may be removed already; the API still has it.
                let before = previous(input.previous, &spec.name)?;
                let ended = before.state.as_ref().filter(|s| s.terminated.is_some());
                ended.filter(|_| before.container_id != status.container_id).cloned().or(before.last_state.clone())
            });
            // A restarted kubelet has no verdicts yet; until its probes speak, what the API was told still holds.
            let told = previous(input.previous, &spec.name).filter(|p| p.container_id == status.container_id);
            let running = latest.state == State::Running;
            let silent = |kind| !input.probes.contains_key(&(latest.id.clone(), kind));
            let was_started = running && silent(ProbeKind::Startup) && told.is_some_and(|t| t.started == Some(true));
            let started = was_started || has_started(spec, latest, input.probes);
            let was_ready = started && silent(ProbeKind::Readiness) && told.is_some_and(|t| t.ready);
            status.started = Some(started);
            status.ready = is_ready(input, role, spec, latest, started) || (role != Role::Init && was_ready);
            status
        }
    };
    status.name.clone_from(&spec.name);
    if status.image.is_empty() {
        status.image = spec.image.clone().unwrap_or_default();
    }
    wait_for_restart(input, spec, &mut status);
    status.last_state.get_or_insert_default();
    if role != Role::Ephemeral {
        describe_resources(input, spec, &mut status);
    }
    describe_mounts(spec, &mut status);
    status
}

/// Shows why a container that will be started again waits, and moves its end to the last state.
fn wait_for_restart(input: &Input<'_>, spec: &core::Container, status: &mut core::ContainerStatus) {
    let Some((reason, message)) = input.reasons.get(&spec.name) else { return };
    let state = status.state.get_or_insert_default();
    if state.running.is_some() {
        return;
    }
    if let Some(end) = &state.terminated {
        let again = restarts(input.pod, spec, end.exit_code);
        if !again || input.termination.is_some() {
            return;
        }
        status.last_state = Some(state.clone());
    }
    status.state = Some(waiting(reason, message));
}

fn waiting(reason: &str, message: &str) -> core::ContainerState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    let waiting = core::ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    core::ContainerState { waiting: Some(waiting), ..Default::default() }
}

/// A container the runtime does not know: not made yet, or lost.
fn without_container(input: &Input<'_>, spec: &core::Container) -> core::ContainerStatus {
    if let Some(old) = previous(input.previous, &spec.name) {
        let state = old.state.clone().unwrap_or_default();
        let conditions = input.previous.conditions.iter().flatten();
        let restarting = |c: &core::PodCondition| c.type_ == "AllContainersRestarting" && c.status == "True";
        if input.termination.is_none() && state.waiting.is_none() && conditions.clone().any(restarting) {
            return reset(old);
        }
        if state.terminated.is_some() {
            return core::ContainerStatus { ready: old.ready && old.state_is_success(), ..old.clone() };
        }
        if state.running.is_some() {
            let end = core::ContainerStateTerminated {
                reason: Some("ContainerStatusUnknown".into()),
                message: Some("The container could not be located when the pod was terminated".into()),
                exit_code: 137,
                ..Default::default()
            };
            let end = core::ContainerState { terminated: Some(end), ..Default::default() };
            let mut status =
                core::ContainerStatus { ready: false, started: Some(false), state: Some(end), ..old.clone() };
            if input.termination.is_none() && restarts(input.pod, spec, 137) {
                status.last_state = status.state.replace(waiting(default_waiting(input), ""));
            }
            return status;
        }
    }
    let reason = if input.termination.is_none() { default_waiting(input) } else { "ContainerCreating" };
    if let Some(old) = previous(input.previous, &spec.name).filter(|old| old.container_id.is_some()) {
        // It ran before, which its number of restarts must not forget.
        let state = old.state.clone().filter(|s| s.waiting.is_some()).or(Some(waiting(reason, "")));
        return core::ContainerStatus { ready: false, started: Some(false), state, ..old.clone() };
    }
    core::ContainerStatus { state: Some(waiting(reason, "")), started: Some(false), ..core::ContainerStatus::default() }
}

/// A container that was removed so that its pod begins anew.
fn reset(old: &core::ContainerStatus) -> core::ContainerStatus {
    const REASON: &str = "RestartingAllContainers";
    const MESSAGE: &str = "The container is removed because RestartAllContainers in place";
    let end = core::ContainerStateTerminated {
        reason: Some(REASON.into()),
        message: Some(MESSAGE.into()),
        exit_code: 137,
        ..Default::default()
    };
    let end = old
        .state
        .clone()
        .filter(|s| s.terminated.is_some())
        .unwrap_or(core::ContainerState { terminated: Some(end), ..Default::default() });
    let (state, last_state) = (Some(waiting(REASON, MESSAGE)), Some(end));
    core::ContainerStatus { ready: false, started: Some(false), state, last_state, ..old.clone() }
}

/// Whether a status shows a successful end.
trait Ended {
    fn state_is_success(&self) -> bool;
}

impl Ended for core::ContainerStatus {
    fn state_is_success(&self) -> bool {
        self.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0)
    }
}

fn default_waiting(input: &Input<'_>) -> &'static str {
    if input.pod.init_containers().is_empty() { "ContainerCreating" } else { "PodInitializing" }
}

fn from_runtime(input: &Input<'_>, container: &Container) -> core::ContainerStatus {
    let state = match container.state {
        State::Running => {
            let started_at = container.started_at.map(Time);
            let running = Some(core::ContainerStateRunning { started_at });
            core::ContainerState { running, ..Default::default() }
        }
        State::Exited => terminated(input, container).unwrap_or_default(),
        State::Created | State::Unknown => waiting(default_waiting(input), ""),
    };
    core::ContainerStatus {
        container_id: Some(format!("{}://{}", input.runtime_name, container.id)),
        image: container.image.clone(),
        image_id: container.image_ref.clone(),
        restart_count: i32::try_from(container.attempt).unwrap_or(i32::MAX),
        state: Some(state),
        user: container.user.as_ref().map(|(uid, gid, groups)| core::ContainerUser {
            linux: Some(core::LinuxContainerUser { uid: *uid, gid: *gid, supplemental_groups: Some(groups.clone()) }),
        }),
        ..core::ContainerStatus::default()
    }
}

fn terminated(input: &Input<'_>, container: &Container) -> Option<core::ContainerState> {
    if container.state != State::Exited {
        return None;
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let fallback = if container.exit_code == 0 { "Completed" } else { "Error" };
    let end = core::ContainerStateTerminated {
        container_id: Some(format!("{}://{}", input.runtime_name, container.id)),
        exit_code: container.exit_code,
        reason: some(&container.reason).or_else(|| some(fallback)),
        message: some(&container.message),
        started_at: Some(Time(container.started_at.unwrap_or_default())),
        finished_at: Some(Time(container.finished_at.unwrap_or_default())),
        signal: None,
    };
    Some(core::ContainerState { terminated: Some(end), ..Default::default() })
}

fn is_ready(input: &Input<'_>, role: Role, spec: &core::Container, latest: &Container, started: bool) -> bool {
    match role {
        Role::Init => latest.state == State::Exited && latest.exit_code == 0,
        Role::Ephemeral => false,
        Role::Sidecar | Role::Regular => {
            let verdict = input.probes.get(&(latest.id.clone(), ProbeKind::Readiness));
            started && (spec.readiness_probe.is_none() || verdict == Some(&true))
        }
    }
}

/// What the container was given, and what it has, which differ while a resize is on its way.
fn describe_resources(input: &Input<'_>, spec: &core::Container, status: &mut core::ContainerStatus) {
    let Some(id) = status.container_id.as_deref().and_then(|c| c.rsplit('/').next()) else { return };
    let wanted = spec.resources.clone().unwrap_or_default();
    let has = resize::current(id, input.previous, input.applied).cloned();
    status.allocated_resources.clone_from(&wanted.requests);
    status.resources = has.or(Some(wanted));
}

fn describe_mounts(spec: &core::Container, status: &mut core::ContainerStatus) {
    if status.container_id.is_none() {
        return;
    }
    let mounts = spec.volume_mounts.iter().flatten().map(|m| core::VolumeMountStatus {
        name: m.name.clone(),
        mount_path: m.mount_path.clone(),
        read_only: m.read_only,
        recursive_read_only: (m.read_only == Some(true)).then(|| "Disabled".to_owned()),
        volume_status: None,
    });
    status.volume_mounts = some_list(mounts.collect());
}

/// Counts of container states that decide the phase.
#[derive(Default)]
struct Count {
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
    restarting: usize,
}

fn phase(input: &Input<'_>, init: &[core::ContainerStatus], regular: &[core::ContainerStatus]) -> &'static str {
    for known in [&input.pod.status.phase, &input.previous.phase] {
        match known.as_deref() {
            Some("Succeeded") => return "Succeeded",
            Some("Failed") => return "Failed",
            _ => {}
        }
    }
    let mut pending_init = 0;
    for (spec, status) in input.pod.init_containers().iter().zip(init) {
        let state = status.state.as_ref();
        let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let ended = state.and_then(|s| s.terminated.as_ref());
        if is_sidecar(spec) {
            let started = status.started == Some(true) || ended.is_some() || last.is_some();
            pending_init += usize::from(!started);
        } else {
            match ended {
                Some(end) if end.exit_code == 0 => {}
                Some(_) if input.pod.restart_policy() == "Never" => return "Failed",
                _ => pending_init += 1,
            }
        }
    }
    let count = count(input, regular);
    let begun = count.running + count.stopped > 0;
    if pending_init > 0 && !begun {
        // A pod that is ended before its containers ever ran did not succeed.
        return if input.termination.is_some() && !input.actual.anything_running() { "Failed" } else { "Pending" };
    }
    decide(input, &count)
}

fn count(input: &Input<'_>, regular: &[core::ContainerStatus]) -> Count {
    let mut count = Count::default();
    for (spec, status) in input.pod.spec.containers.iter().zip(regular) {
        let Some(state) = &status.state else {
            count.unknown += 1;
            continue;
        };
        if state.running.is_some() {
            count.running += 1;
        } else if let Some(end) = &state.terminated {
            count.stopped += 1;
            count.succeeded += usize::from(end.exit_code == 0);
            count.restarting += usize::from(restarts(input.pod, spec, end.exit_code));
        } else if status.last_state.as_ref().is_some_and(|l| l.terminated.is_some()) {
            count.stopped += 1;
            count.restarting += 1;
        } else {
            count.waiting += 1;
        }
    }
    count
}

fn decide(input: &Input<'_>, count: &Count) -> &'static str {
    let ending = input.termination.is_some();
    if ending && count.running == 0 && !input.actual.anything_running() {
        let all_succeeded = count.waiting == 0 && count.stopped == count.succeeded && count.stopped > 0;
        return if all_succeeded { "Succeeded" } else { "Failed" };
    }
    if count.waiting > 0 {
        "Pending"
    } else if count.running > 0 && count.unknown == 0 {
        "Running"
    } else if count.stopped > 0 && count.unknown == 0 {
        if count.restarting > 0 {
            "Running"
        } else if count.stopped == count.succeeded {
            "Succeeded"
        } else {
            "Failed"
        }
    } else {
        "Pending"
    }
}

/// The host path of the container's termination message, when its annotations and mounts tell.
pub fn termination_message_host_path(container: &Container) -> Option<&str> {
    let path = container.annotations.get(labels::TERMINATION_MESSAGE_PATH)?;
    container.mounts.iter().find(|(inside, _)| inside == path).map(|(_, host)| host.as_str())
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;

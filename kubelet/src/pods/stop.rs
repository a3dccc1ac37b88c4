//! Stopping containers and pods: preStop hook, then the runtime's TERM and KILL, within one grace period.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;

use super::hooks;
use super::plan::{self, Kill, ProbeKind};
use super::start::log_link;
use super::types::Pod;
use crate::context::Context;
use crate::cri::snapshot::{Container, PodActual};
use crate::cri::{CriError, api};
use crate::events::Kind;
use crate::logs;

/// What a container gets for TERM even when its hook took all the grace.
const MIN_GRACE_SECONDS: i64 = 2;

/// Stops one container.
///
/// # Errors
/// The runtime's refusal.
pub async fn container(
    context: &Context,
    pod: &Pod,
    actual: &PodActual,
    kill: &Kill,
    grace_seconds: i64,
) -> Result<(), CriError> {
    context.events.container(pod, &kill.name, Kind::Normal, "Killing", &kill.message);
    let started = Instant::now();
    let spec = pod.container(&kill.name).map(|(_, spec)| spec);
    let hook = spec.and_then(|s| s.lifecycle.as_ref()).and_then(|l| l.pre_stop.as_ref());
    let mut grace = grace_seconds;
    if let (Some(hook), Some(spec), true) = (hook, spec, grace_seconds > 0) {
        let limit = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0));
        let ip = actual.sandboxes.first().and_then(|s| s.ips.first()).cloned().unwrap_or_default();
        let run = hooks::run(context, hook, spec, &kill.id, &ip, Some(limit));
        let result = tokio::time::timeout(limit, run).await;
        let result = result.unwrap_or_else(|_| Err("PreStop hook did not finish within the grace period".to_owned()));
        if let Err(message) = result {
            let message = format!("PreStopHook failed: {message}");
            context.events.container(pod, &kill.name, Kind::Warning, "FailedPreStopHook", &message);
        }
        let used = i64::try_from(started.elapsed().as_secs()).unwrap_or(0);
        grace = (grace_seconds - used).max(MIN_GRACE_SECONDS);
    }
    context.runtime.stop_container(&kill.id, grace).await
}

/// Grace of a container that a probe ended: the probe's own when it has one.
pub fn probe_grace(pod: &Pod, kill: &Kill) -> i64 {
    let spec = pod.container(&kill.name).map(|(_, spec)| spec);
    let probe = spec.and_then(|s| match kill.probe {
        Some(ProbeKind::Startup) => s.startup_probe.as_ref(),
        Some(ProbeKind::Liveness) => s.liveness_probe.as_ref(),
        Some(ProbeKind::Readiness) | None => None,
    });
    probe.and_then(|p| p.termination_grace_period_seconds).unwrap_or_else(|| pod.grace_seconds())
}

/// Stops everything of a pod, stage by stage, within the grace period.
///
/// # Errors
/// The first refusal; what could be stopped is.
pub async fn pod(context: &Context, pod: &Pod, actual: &PodActual, grace_seconds: i64) -> Result<(), CriError> {
    let started = Instant::now();
    let ending = plan::ending(pod, actual);
    let mut first_error = None;
    for stage in &ending.stages {
        let used = i64::try_from(started.elapsed().as_secs()).unwrap_or(0);
        let left = if grace_seconds == 0 { 0 } else { (grace_seconds - used).max(1) };
        let stops = stage.iter().map(|kill| container(context, pod, actual, kill, left));
        first_error = join_all(stops).await.into_iter().find_map(Result::err).or(first_error);
    }
    for id in &ending.sandboxes {
        let result = context.runtime.stop_pod_sandbox(api::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await;
        first_error = result.err().filter(|e| !e.is_not_found()).or(first_error);
    }
    first_error.map_or(Ok(()), Err)
}

/// Stops and forgets every container of a pod that begins anew, those that made it begin anew last, so that an
/// interruption leaves the reason behind.
///
/// # Errors
/// The first refusal.
pub async fn reset(context: &Context, pod: &Pod, actual: &PodActual) -> Result<(), CriError> {
    for stage in plan::ending(pod, actual).stages {
        let restarting = |kill: &Kill| Kill {
            message: format!("Container {} will be restarted: RestartAllContainers", kill.name),
            ..kill.clone()
        };
        let kills: Vec<Kill> = stage.iter().map(restarting).collect();
        let stops = kills.iter().map(|kill| container(context, pod, actual, kill, pod.grace_seconds()));
        if let Some(error) = join_all(stops).await.into_iter().find_map(Result::err) {
            return Err(error);
        }
    }
    let (triggers, others): (Vec<_>, Vec<_>) = actual.containers.iter().partition(|c| plan::triggers_restart(pod, c));
    for container in others.into_iter().chain(triggers) {
        remove_container(context, actual, container).await?;
    }
    Ok(())
}

/// Removes the runtime's records of a pod: containers, then sandboxes.
///
/// # Errors
/// The first refusal.
pub async fn remove(context: &Context, actual: &PodActual) -> Result<(), CriError> {
    for container in &actual.containers {
        remove_container(context, actual, container).await?;
    }
    for sandbox in &actual.sandboxes {
        remove_sandbox(context, &sandbox.id).await?;
    }
    Ok(())
}

/// Removes one container's record, its logs and the link to them.
///
/// # Errors
/// The runtime's refusal.
pub async fn remove_container(context: &Context, actual: &PodActual, container: &Container) -> Result<(), CriError> {
    let request = api::RemoveContainerRequest { container_id: container.id.clone() };
    let result = context.runtime.remove_container(request).await;
    result.map(|_| ()).or_else(|e| if e.is_not_found() { Ok(()) } else { Err(e) })?;
    let link = log_link(&actual.name, &actual.namespace, &container.name, &container.id);
    // What is already gone is as it should be.
    let _ = std::fs::remove_file(context.dirs.container_logs.join(link));
    for log in logs::files_of(Path::new(&container.log_path)) {
        let _ = std::fs::remove_file(log);
    }
    Ok(())
}

async fn remove_sandbox(context: &Context, id: &str) -> Result<(), CriError> {
    let result =
        context.runtime.remove_pod_sandbox(api::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }).await;
    result.map(|_| ()).or_else(|e| if e.is_not_found() { Ok(()) } else { Err(e) })
}

/// Removes records that nobody needs any more: all but the newest finished attempt of each container, and empty
/// sandboxes that were replaced.
pub async fn prune(context: &Context, actual: &PodActual) {
    let mut seen: Vec<&str> = Vec::new();
    let mut kept_sandboxes: Vec<&str> = Vec::new();
    for container in &actual.containers {
        let newest_finished = !container.is_live() && !seen.contains(&container.name.as_str());
        if container.is_live() || newest_finished {
            kept_sandboxes.push(&container.sandbox_id);
        } else if let Err(error) = remove_container(context, actual, container).await {
            tracing::warn!(container = %container.id, %error, "Cannot remove an old container");
        }
        if !container.is_live() {
            seen.push(&container.name);
        }
    }
    for sandbox in actual.sandboxes.iter().skip(1) {
        let needless = !sandbox.ready && !kept_sandboxes.contains(&sandbox.id.as_str());
        if needless && let Err(error) = remove_sandbox(context, &sandbox.id).await {
            tracing::warn!(sandbox = %sandbox.id, %error, "Cannot remove an old sandbox");
        }
    }
}

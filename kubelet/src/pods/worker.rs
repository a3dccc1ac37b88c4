//! One pass over one pod: look, plan, act, until there is nothing to do now.
//!
//! A worker runs only while there is work and holds no state of its own: what it learns goes into the pod's memory,
//! which the manager keeps. Its future may be dropped between any two steps; the next pass looks at the world again.

use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::mpsc;

use super::backoff::Backoff;
use super::env::{self, Lookups};
use super::manager::Message;
use super::plan::{self, Plan, ProbeResults, backoff_key};
use super::resize::{self, Applied};
use super::types::{Desired, Pod, Role, Termination};
use super::{mirror, resources, start, stop, termination};
use crate::context::Context;
use crate::cri::api;
use crate::cri::snapshot::{self, PodActual, State};
use crate::events::Kind;
use crate::images::PullMemory;
use crate::logs;
use crate::probes::prober::{Target, Targets};
use crate::status::generate::{self, Reasons};
use crate::volumes::{self, Volumes};

/// Most rounds of one pass; a pod that still changes is looked at again soon.
const MAX_ROUNDS: usize = 32;
/// Longest environment file; upstream's.
const MAX_ENV_FILE_BYTES: u64 = 64 << 10;
/// First and longest delay after a step failed.
const FIRST_RETRY: SignedDuration = SignedDuration::from_secs(1);
const LAST_RETRY: SignedDuration = SignedDuration::from_secs(10);

/// What the pass shall reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Goal {
    /// The pod runs.
    Run,
    /// Nothing of the pod runs; its records and logs stay.
    Stop,
    /// Nothing of the pod is left.
    Remove,
}

/// What is remembered of a pod between passes.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    pub backoff: Backoff,
    pub pulls: PullMemory,
    pub reasons: Reasons,
    /// Resources changed in place since the last status that says so, by container id.
    pub applied: Applied,
    /// The volumes that were set up.
    pub volumes: Volumes,
    /// Why the last resize failed.
    pub resize_error: Option<String>,
    /// Failed passes in a row.
    pub failures: u32,
    /// The status generated last.
    pub status: PodStatus,
}

/// How a pass ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The goal is reached; nothing more until something changes.
    pub reached: bool,
    /// When to look again whatever happens.
    pub again_at: Option<Timestamp>,
    /// The pod must end.
    pub terminate: Option<Termination>,
}

/// One pass.
pub struct Pass<'a> {
    pub context: &'a Context,
    pub desired: &'a Desired,
    pub goal: Goal,
    pub probes: &'a ProbeResults,
    pub memory: &'a mut Memory,
    pub out: &'a mpsc::Sender<Message>,
}

/// A step failed; the text is logged and the pass tried again.
type Failed = String;

impl Pass<'_> {
    fn pod(&self) -> &Pod {
        &self.desired.pod
    }

    /// Runs the pass to its end.
    pub async fn run(mut self) -> Outcome {
        let result = match self.goal {
            Goal::Run => self.keep_running().await,
            Goal::Stop => self.stop().await,
            Goal::Remove => self.remove().await,
        };
        match result {
            Ok(outcome) => {
                self.memory.failures = 0;
                outcome
            }
            Err(message) => {
                self.memory.failures += 1;
                let delay = retry_delay(self.memory.failures);
                tracing::error!(pod = %self.pod().full_name(), retry_in = format!("{delay:#}"), "Error syncing pod: {message}");
                Outcome { again_at: Some(Timestamp::now() + delay), ..Outcome::default() }
            }
        }
    }

    /// The status told last, by this life of the kubelet or an earlier one.
    fn told(&self) -> &PodStatus {
        let blank = self.memory.status == PodStatus::default();
        if blank { &self.pod().status } else { &self.memory.status }
    }

    /// Changes the limits of running containers.
    async fn resize(&mut self, plan: &Plan, actual: &PodActual) -> Result<(), Failed> {
        let pod = Arc::clone(&self.desired.pod);
        let context = self.context;
        // Outer limits grow before the inner ones and shrink after them.
        context.cgroups.set_up_pod(&pod, &context.limits)?;
        for name in &plan.resize {
            let (Some((_, spec)), Some(container)) = (pod.container(name), actual.latest(name)) else { continue };
            let linux = resources::linux_resources(&pod.spec, spec, &context.limits);
            let request = api::UpdateContainerResourcesRequest {
                container_id: container.id.clone(),
                linux: Some(api::LinuxContainerResources { oom_score_adj: 0, ..linux }),
                ..Default::default()
            };
            self.check_memory(&container.id, name, linux.memory_limit_in_bytes).await?;
            let result = context.runtime.update_container_resources(request).await;
            result.map_err(|e| format!("cannot resize container {name}: {e}"))?;
            self.memory.applied.insert(container.id.clone(), spec.resources.clone().unwrap_or_default());
        }
        context.cgroups.set_up_pod(&pod, &context.limits)
    }

    /// A limit below what the container uses would kill it.
    async fn check_memory(&self, id: &str, name: &str, limit_bytes: i64) -> Result<(), Failed> {
        let filter = api::ContainerStatsFilter { id: id.to_owned(), ..Default::default() };
        let request = api::ListContainerStatsRequest { filter: Some(filter) };
        // Without figures the kernel has the last word.
        let Ok(answer) = self.context.runtime.list_container_stats(request).await else { return Ok(()) };
        let used = answer.stats.into_iter().find_map(|s| s.memory?.working_set_bytes).map_or(0, |u| u.value);
        if limit_bytes > 0 && used >= u64::try_from(limit_bytes).unwrap_or(0) {
            return Err(format!(
                "attempting to set container {name} memory limit ({limit_bytes}) below current usage ({used})"
            ));
        }
        Ok(())
    }

    async fn look(&self) -> Result<PodActual, Failed> {
        let mut actual = snapshot::fetch(&self.context.runtime, self.pod().uid()).await.map_err(|e| e.to_string())?;
        termination::enrich(&mut actual, Path::new(&self.context.dirs.pod_logs));
        Ok(actual)
    }

    /// Generates the status and, when it differs from the last, hands it on; always tells what to probe.
    async fn publish(&mut self, actual: &PodActual) -> PodStatus {
        let context = self.context;
        let pod = self.pod();
        let previous = self.told();
        let status = generate::generate(&generate::Input {
            pod,
            actual,
            probes: self.probes,
            reasons: &self.memory.reasons,
            applied: &self.memory.applied,
            refused: self.desired.refused.as_ref(),
            resize_error: self.memory.resize_error.as_deref(),
            termination: self.desired.termination.as_ref(),
            previous,
            runtime_name: context.runtime_name(),
            host_ips: &context.host_ips,
            now: Timestamp::now(),
        });
        let targets = if self.goal == Goal::Run { targets(pod, actual, &context.host_ips) } else { Vec::new() };
        let message = Message::Published {
            status: Arc::new(status.clone()),
            targets: Targets { pod: Arc::clone(&self.desired.pod), targets },
        };
        // A closed channel means that the kubelet ends.
        let _ = self.out.send(message).await;
        self.memory.status = status.clone();
        status
    }

    async fn keep_running(&mut self) -> Result<Outcome, Failed> {
        let mut fresh = false;
        for _ in 0..MAX_ROUNDS {
            let actual = self.look().await?;
            let now = Timestamp::now();
            if let Some(terminate) = deadline_passed(self.pod(), &self.memory.status, now) {
                return Ok(Outcome { terminate: Some(terminate), ..Outcome::default() });
            }
            let plan = plan::next(&plan::Input {
                pod: self.pod(),
                actual: &actual,
                probes: self.probes,
                backoff: &self.memory.backoff,
                max_backoff: self.context.max_crash_backoff,
                told: self.told(),
                applied: &self.memory.applied,
                now,
            });
            self.note_waits(&plan, &actual);
            let status = self.publish(&actual).await;
            if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
                let terminate = Termination { grace_seconds: self.pod().grace_seconds(), ..Termination::default() };
                return Ok(Outcome { terminate: Some(terminate), ..Outcome::default() });
            }
            if plan.is_settled() {
                stop::prune(self.context, &actual).await;
                return self.settle(&plan, fresh, &actual, now).await;
            }
            fresh |= self.act(&plan, &actual).await?;
        }
        Ok(Outcome { again_at: Some(Timestamp::now() + FIRST_RETRY), ..Outcome::default() })
    }

    /// Nothing to start or stop: refresh the volumes and tell when to look again.
    async fn settle(
        &mut self,
        plan: &Plan,
        fresh: bool,
        actual: &PodActual,
        now: Timestamp,
    ) -> Result<Outcome, Failed> {
        let known = &self.memory.volumes;
        let mut volumes = self.pod().spec.volumes.iter().flatten();
        let due = volumes.any(|v| known.get(&v.name).is_none_or(|m| volumes::may_change(v, m)));
        if due && !fresh {
            self.set_up_volumes(actual).await?;
        }
        let refresh_at = self.memory.volumes.values().filter_map(|v| v.refresh_at).min();
        let waits = plan.wait.iter().map(|w| w.until);
        let start = self.memory.status.start_time.as_ref().map(|t| t.0);
        let deadline = self.pod().spec.active_deadline_seconds;
        let deadline = deadline.and_then(|s| start?.checked_add(SignedDuration::from_secs(s)).ok());
        if self.pod().is_static() {
            mirror::ensure(self.context, self.desired).await;
        }
        let again_at = waits.chain(refresh_at).chain(deadline).min().map(|t| t.max(now));
        Ok(Outcome { reached: true, again_at, terminate: None })
    }

    /// Containers in crash back-off show why they wait; those that run have nothing to explain.
    fn note_waits(&mut self, plan: &Plan, actual: &PodActual) {
        let full_name = self.pod().full_name();
        let running = |name: &str| actual.latest(name).is_some_and(|c| c.state == State::Running);
        self.memory.applied.retain(|id, _| actual.containers.iter().any(|c| &c.id == id));
        self.memory.reasons.retain(|name, _| !running(name));
        for wait in &plan.wait {
            let shown = if wait.delay.as_secs() >= 60 {
                format!("{}m{}s", wait.delay.as_secs() / 60, wait.delay.as_secs() % 60)
            } else {
                format!("{}s", wait.delay.as_secs())
            };
            let message = format!("back-off {shown} restarting failed container={} pod={full_name}", wait.name);
            let known =
                self.memory.reasons.get(&wait.name).is_some_and(|(r, m)| r == "CrashLoopBackOff" && *m == message);
            if !known {
                let event = format!("Back-off restarting failed container {} in pod {full_name}", wait.name);
                self.context.events.container(self.pod(), &wait.name, Kind::Warning, "BackOff", &event);
            }
            self.memory.reasons.insert(wait.name.clone(), ("CrashLoopBackOff".into(), message));
        }
    }

    /// Performs the plan's steps; the first failure ends the pass. True when it brought the volumes up to date.
    async fn act(&mut self, plan: &Plan, actual: &PodActual) -> Result<bool, Failed> {
        let context = self.context;
        let pod = Arc::clone(&self.desired.pod);
        if plan.stop_all {
            if plan.create_sandbox.is_some() {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                context.events.pod(&pod, Kind::Normal, "SandboxChanged", message);
            }
            stop::pod(context, &pod, actual, pod.grace_seconds()).await.map_err(|e| e.to_string())?;
        }
        if plan.reset {
            stop::reset(context, &pod, actual).await.map_err(|e| e.to_string())?;
        }
        for kill in &plan.kill {
            let message = format!("{}, will be restarted", kill.message.trim_end_matches(", will be restarted"));
            let kill = plan::Kill { message, ..kill.clone() };
            let grace = stop::probe_grace(&pod, &kill);
            stop::container(context, &pod, actual, &kill, grace).await.map_err(|e| e.to_string())?;
        }
        if !plan.resize.is_empty() {
            let result = self.resize(plan, actual).await;
            let (kind, reason, words) = match &result {
                Ok(()) => (Kind::Normal, "ResizeCompleted", "completed"),
                Err(_) => (Kind::Warning, "ResizeError", "error"),
            };
            let error = result.as_ref().err();
            if error != self.memory.resize_error.as_ref() || error.is_none() {
                let text = resize::summary(&pod, words, error.map_or("", String::as_str));
                context.events.pod(&pod, kind, reason, &text);
            }
            self.memory.resize_error = error.cloned();
            result?;
        }
        if plan.create_sandbox.is_none() && plan.start.is_empty() {
            return Ok(false);
        }
        context.cgroups.set_up_pod(&pod, &context.limits)?;
        let (lookups, handler) = self.set_up_volumes(actual).await?;
        if let Some(attempt) = plan.create_sandbox {
            let result = start::sandbox(context, &pod, attempt, &handler).await;
            return result.map(|()| true).map_err(|(_, message)| message);
        }
        self.start_containers(plan, actual, &lookups, &handler).await.map(|()| true)
    }

    async fn start_containers(
        &mut self,
        plan: &Plan,
        actual: &PodActual,
        lookups: &Lookups,
        handler: &str,
    ) -> Result<(), Failed> {
        let pod = Arc::clone(&self.desired.pod);
        let mut failed = None;
        let volumes = std::mem::take(&mut self.memory.volumes);
        let input = start::Input { pod: &pod, actual, volumes: &volumes, lookups, handler };
        for step in &plan.start {
            let exited = actual.latest(&step.name).filter(|c| c.state == State::Exited).and_then(|c| c.finished_at);
            if let (Some(finished), Some((_, spec))) = (exited, pod.container(&step.name)) {
                let max = self.context.max_crash_backoff;
                self.memory.backoff.next(&backoff_key(spec), finished, Timestamp::now(), max);
            }
            match start::container(self.context, &input, step, &mut self.memory.pulls).await {
                Ok(()) => {
                    self.memory.reasons.remove(&step.name);
                }
                Err((reason, message)) => {
                    let text = format!("failed to start container {}: {reason}: {message}", step.name);
                    self.memory.reasons.insert(step.name.clone(), (reason, message));
                    failed = Some(text);
                    if step.role == Role::Init {
                        break;
                    }
                }
            }
        }
        self.memory.volumes = volumes;
        let Some(message) = failed else { return Ok(()) };
        let actual = self.look().await?;
        self.publish(&actual).await;
        Err(message)
    }

    /// Sets volumes up, and gathers what containers' environments need; also the pod's runtime handler.
    async fn set_up_volumes(&mut self, actual: &PodActual) -> Result<(Lookups, String), Failed> {
        let context = self.context;
        let pod = Arc::clone(&self.desired.pod);
        let dir = volumes::pod_dir(&context.dirs.root, pod.uid());
        for part in ["volumes", "plugins", "containers"] {
            let path = dir.join(part);
            std::fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        }
        let lookups = self.gather(actual).await?;
        let handler = context.objects.runtime_handler(&pod).await?;
        let memory = &mut *self.memory;
        let input = volumes::Input {
            pod: &pod,
            lookups: &lookups,
            known: &memory.volumes,
            handler: &handler,
            now: Timestamp::now(),
        };
        match volumes::set_up(context, &input, &mut memory.pulls).await {
            Ok(volumes) => {
                memory.volumes = volumes;
                Ok((lookups, handler))
            }
            Err(error) => {
                context.events.pod(&pod, Kind::Warning, "FailedMount", &error.to_string());
                Err(error.to_string())
            }
        }
    }

    async fn gather(&self, actual: &PodActual) -> Result<Lookups, Failed> {
        let (context, pod) = (self.context, self.pod());
        let pod_ips = if pod.host_network() {
            context.host_ips.clone()
        } else {
            actual.ready_sandbox().map(|s| s.ips.clone()).unwrap_or_default()
        };
        let mut lookups = Lookups {
            services: (context.services)(pod.namespace()),
            pod_ips,
            host_ips: context.host_ips.clone(),
            allocatable: context.allocatable.clone(),
            since: self.memory.status.start_time.as_ref().map_or(Timestamp::MIN, |t| t.0),
            ..Lookups::default()
        };
        for (_, container) in pod.containers() {
            for file in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()?.file_key_ref.as_ref()) {
                let dir = volumes::volume_dir(&context.dirs.root, pod.uid(), "empty-dir", &file.volume_name);
                if let Some(text) = volumes::subpath::read(&dir, &file.path, MAX_ENV_FILE_BYTES)? {
                    lookups.files.insert((file.volume_name.clone(), file.path.clone()), text);
                }
            }
            let (config_maps, secrets) = env::references(container);
            for name in config_maps {
                if let Some(map) = context.objects.config_map(pod.namespace(), &name, lookups.since).await? {
                    lookups.config_maps.insert(name, map);
                }
            }
            for name in secrets {
                if let Some(secret) = context.objects.secret(pod.namespace(), &name, lookups.since).await? {
                    lookups.secrets.insert(name, secret);
                }
            }
        }
        Ok(lookups)
    }

    async fn stop(&mut self) -> Result<Outcome, Failed> {
        let actual = self.look().await?;
        if actual.anything_running() {
            self.publish(&actual).await;
            let grace = self.desired.termination.as_ref().map_or(0, |t| t.grace_seconds);
            let result = stop::pod(self.context, self.pod(), &actual, grace).await;
            result.map_err(|e| {
                let message = format!("error killing pod: {e}");
                self.context.events.pod(self.pod(), Kind::Warning, "FailedKillPod", &message);
                message
            })?;
        }
        let actual = self.look().await?;
        if actual.anything_running() {
            return Err("containers are still running after they were stopped".to_owned());
        }
        self.publish(&actual).await;
        self.memory.volumes.clear();
        volumes::csi::tear_down(self.context, self.pod().uid()).await?;
        let (root, uid) = (self.context.dirs.root.clone(), self.pod().uid().to_owned());
        let cgroups = self.context.cgroups.clone();
        let cleaned = tokio::task::spawn_blocking(move || {
            volumes::tear_down(&root, &uid)?;
            cgroups.remove_pod(&uid)
        });
        cleaned.await.map_err(|e| e.to_string())??;
        if self.goal == Goal::Remove && self.pod().is_static() {
            mirror::delete(self.context, self.desired).await;
        }
        Ok(Outcome { reached: true, ..Outcome::default() })
    }

    async fn remove(&mut self) -> Result<Outcome, Failed> {
        self.stop().await?;
        self.context.objects.forget(self.pod().uid());
        let actual = self.look().await?;
        stop::remove(self.context, &actual).await.map_err(|e| e.to_string())?;
        let dirs = self.context.dirs.clone();
        let uid = self.pod().uid().to_owned();
        let cleaned = tokio::task::spawn_blocking(move || {
            logs::remove_of(&dirs, &uid);
            volumes::remove_pod_dir(&dirs.root, &uid)
        });
        cleaned.await.map_err(|e| e.to_string())??;
        Ok(Outcome { reached: true, ..Outcome::default() })
    }
}

fn retry_delay(failures: u32) -> SignedDuration {
    let factor = 2i32.saturating_pow(failures.saturating_sub(1).min(10));
    (FIRST_RETRY * factor).min(LAST_RETRY)
}

/// The termination of a pod that was active longer than it may.
fn deadline_passed(pod: &Pod, status: &PodStatus, now: Timestamp) -> Option<Termination> {
    let limit = SignedDuration::from_secs(pod.spec.active_deadline_seconds?);
    let start = status.start_time.as_ref().map(|t| t.0).or(pod.start_time())?;
    (now.duration_since(start) >= limit).then(|| Termination {
        grace_seconds: pod.grace_seconds(),
        failed: Some((
            "DeadlineExceeded".into(),
            "Pod was active on the node longer than the specified deadline".into(),
        )),
        disruption: None,
    })
}

fn targets(pod: &Pod, actual: &PodActual, host_ips: &[String]) -> Vec<Target> {
    let ip = match (pod.host_network(), actual.ready_sandbox()) {
        (true, _) => host_ips.first().cloned().unwrap_or_default(),
        (false, Some(sandbox)) => sandbox.ips.first().cloned().unwrap_or_default(),
        (false, None) => return Vec::new(),
    };
    let probed = pod.containers().filter(|(role, c)| {
        matches!(role, Role::Regular | Role::Sidecar)
            && (c.startup_probe.is_some() || c.liveness_probe.is_some() || c.readiness_probe.is_some())
    });
    let running = probed.filter_map(|(_, c)| actual.latest(&c.name).filter(|a| a.state == State::Running));
    running
        .map(|c| Target {
            container: c.name.clone(),
            container_id: c.id.clone(),
            started_at: c.started_at.unwrap_or(c.created_at),
            pod_ip: ip.clone(),
        })
        .collect()
}

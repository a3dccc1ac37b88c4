//! Starting sandboxes and containers: gathers what their configuration needs and asks the runtime.
//!
//! A failure is a (reason, message) that becomes the container's waiting state; reasons are upstream's.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as core;

use super::container::{self, TERMINATION_PATH, log_directory};
use super::env::{self, Lookups};
use super::plan::{Kill, Start};
use super::types::Pod;
use super::{hooks, hosts, resources, sandbox, security, stop};
use crate::context::Context;
use crate::cri::api;
use crate::cri::snapshot::{Container, PodActual, Sandbox, State};
use crate::events::Kind;
use crate::images::{self, PullMemory, Refusal};
use crate::volumes::{self, Volumes, subpath};

/// The configuration of a pod's sandbox.
pub fn sandbox_config(context: &Context, pod: &Pod, attempt: u32) -> api::PodSandboxConfig {
    let host = context.resolv_conf.as_deref().and_then(|p| std::fs::read_to_string(p).ok()).unwrap_or_default();
    let dns = hosts::dns_config(pod, &context.dns, &hosts::parse_resolv_conf(&host));
    sandbox::config(sandbox::Input {
        pod,
        attempt,
        dns,
        cluster_domain: &context.dns.domain,
        logs_root: &context.dirs.pod_logs,
        cgroup_parent: context.cgroups.parent(pod),
        limits: &context.limits,
    })
}

/// Makes and starts a sandbox.
///
/// # Errors
/// `CreatePodSandboxError` and its message.
pub async fn sandbox(context: &Context, pod: &Pod, attempt: u32, handler: &str) -> Result<(), Refusal> {
    let logs = log_directory(&context.dirs.pod_logs, pod.namespace(), pod.name(), pod.uid());
    let fail = |message: String| ("CreatePodSandboxError".to_owned(), message);
    std::fs::create_dir_all(&logs).map_err(|e| fail(format!("cannot make {logs}: {e}")))?;
    let request = api::RunPodSandboxRequest {
        config: Some(sandbox_config(context, pod, attempt)),
        runtime_handler: handler.to_owned(),
    };
    match context.runtime.run_pod_sandbox(request).await {
        Ok(_) => Ok(()),
        Err(error) => {
            let message = format!("Failed to create pod sandbox: {error}");
            context.events.pod(pod, Kind::Warning, "FailedCreatePodSandBox", &message);
            Err(fail(message))
        }
    }
}

/// What starting a container needs besides the pod.
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub actual: &'a PodActual,
    pub volumes: &'a Volumes,
    pub lookups: &'a Lookups,
    pub handler: &'a str,
}

/// Starts one container.
///
/// # Errors
/// The waiting reason and message.
pub async fn container(
    context: &Context,
    input: &Input<'_>,
    start: &Start,
    pulls: &mut PullMemory,
) -> Result<(), Refusal> {
    let pod = input.pod;
    let Some((_, spec)) = pod.container(&start.name) else { return Ok(()) };
    let Some(sandbox) = input.actual.ready_sandbox() else {
        return Err(("CreateContainerError".into(), "the pod's sandbox ended".into()));
    };
    let made = input.actual.latest(&start.name).filter(|c| c.state == State::Created);
    let id = match made {
        Some(made) if adopt(context, input, made, sandbox).await? => made.id.clone(),
        _ => create(context, input, spec, start, sandbox, pulls).await?,
    };
    context.events.container(pod, &spec.name, Kind::Normal, "Started", "Container started");
    let ip = sandbox.ips.first().map(String::as_str).unwrap_or_default();
    post_start(context, input, spec, &id, ip).await
}

/// Starts what an earlier request, cut off by a death of the kubelet or the runtime, made and may have started. When
/// that cannot be it is removed, and the answer is false.
async fn adopt(context: &Context, input: &Input<'_>, made: &Container, sandbox: &Sandbox) -> Result<bool, Refusal> {
    let container_id = made.id.clone();
    if made.sandbox_id == sandbox.id {
        let start = api::StartContainerRequest { container_id: container_id.clone() };
        if context.runtime.start_container(start).await.is_ok() {
            return Ok(true);
        }
        let ask = api::ContainerStatusRequest { container_id, verbose: false };
        let status = context.runtime.container_status(ask).await.ok().and_then(|answer| answer.status);
        if status.is_some_and(|status| State::from(status.state) == State::Running) {
            return Ok(true);
        }
    }
    let removed = stop::remove_container(context, input.actual, made).await;
    removed.map(|()| false).map_err(|error| ("CreateContainerError".to_owned(), error.to_string()))
}

/// Makes a container anew and starts it; its id.
async fn create(
    context: &Context,
    input: &Input<'_>,
    spec: &core::Container,
    start: &Start,
    sandbox: &Sandbox,
    pulls: &mut PullMemory,
) -> Result<String, Refusal> {
    let pod = input.pod;
    let wanted = images::Wanted {
        image: spec.image.as_deref().unwrap_or_default(),
        policy: spec.image_pull_policy.as_deref(),
        container: &spec.name,
    };
    let image = images::ensure(context, pod, &wanted, input.handler, pulls).await?;
    let used = spec.volume_mounts.iter().flatten().filter_map(|m| input.volumes.get(&m.name)?.image.as_ref());
    if let Some(Err(refusal)) = used.into_iter().find(|image| image.is_err()) {
        return Err(refusal.clone());
    }
    let failed = |reason: &'static str, event: &'static str, message: String| {
        context.events.container(pod, &spec.name, Kind::Warning, event, &format!("Error: {message}"));
        (reason.to_owned(), message)
    };
    let config = configure(context, input, spec, start, &image);
    let config = config.map_err(|m| failed("CreateContainerConfigError", "Failed", m))?;
    let request = api::CreateContainerRequest {
        pod_sandbox_id: sandbox.id.clone(),
        config: Some(config.clone()),
        sandbox_config: Some(sandbox_config(context, pod, sandbox.attempt)),
    };
    let created = context.runtime.create_container(request).await;
    let id = created.map_err(|e| failed("CreateContainerError", "Failed", e.to_string()))?.container_id;
    context.events.container(pod, &spec.name, Kind::Normal, "Created", "Container created");
    link_log(context, pod, &config, &id);
    let started = context.runtime.start_container(api::StartContainerRequest { container_id: id.clone() }).await;
    started.map(|_| id).map_err(|e| failed("RunContainerError", "Failed", e.to_string()))
}

async fn post_start(
    context: &Context,
    input: &Input<'_>,
    spec: &core::Container,
    id: &str,
    ip: &str,
) -> Result<(), Refusal> {
    let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
    let Err(message) = hooks::run(context, hook, spec, id, ip, None).await else { return Ok(()) };
    let message = format!("PostStartHook failed: {message}");
    context.events.container(input.pod, &spec.name, Kind::Warning, "FailedPostStartHook", &message);
    let kill =
        Kill { id: id.to_owned(), name: spec.name.clone(), message: "FailedPostStartHook".to_owned(), probe: None };
    if let Err(error) = stop::container(context, input.pod, input.actual, &kill, input.pod.grace_seconds()).await {
        tracing::error!(pod = %input.pod.full_name(), container = %spec.name, %error, "Cannot stop the container");
    }
    Err(("PostStartHookError".into(), message))
}

fn configure(
    context: &Context,
    input: &Input<'_>,
    spec: &core::Container,
    start: &Start,
    image: &images::Present,
) -> Result<api::ContainerConfig, String> {
    let pod = input.pod;
    security::check_non_root(pod, spec, image.user, &image.user_name)?;
    let env = env::build(pod, spec, input.lookups)?;
    let target = pod.ephemeral.iter().find(|(c, _)| c.name == spec.name).and_then(|(_, t)| t.as_deref());
    let target = target.and_then(|name| input.actual.latest(name)).map(|c| c.id.as_str());
    let mounts = mounts(context, input, spec, &env)?;
    Ok(container::config(container::Input {
        pod,
        spec,
        attempt: start.attempt,
        image_ref: image.reference.clone(),
        env,
        mounts,
        devices: devices(spec, input.volumes)?,
        resources: resources::linux_resources(&pod.spec, spec, &context.limits),
        security: security::container(pod, spec, target, &context.security),
    }))
}

fn mounts(
    context: &Context,
    input: &Input<'_>,
    spec: &core::Container,
    env: &[(String, String)],
) -> Result<Vec<api::Mount>, String> {
    let pod = input.pod;
    let mut mounts = Vec::new();
    for (index, mount) in spec.volume_mounts.iter().flatten().enumerate() {
        let volume = input.volumes.get(&mount.name);
        let volume = volume.ok_or_else(|| {
            format!("cannot find volume \"{}\" to mount into container \"{}\"", mount.name, spec.name)
        })?;
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => path.clone(),
            (_, Some(expr)) if !expr.is_empty() => {
                let known = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
                let path = env::expand(expr, known);
                if path.contains("$(") {
                    return Err(format!("missing value for \"{expr}\""));
                }
                path
            }
            _ => String::new(),
        };
        if let Some(Ok(image)) = &volume.image {
            mounts.push(image_mount(mount, image, &sub_path));
            continue;
        }
        let host = if sub_path.is_empty() {
            volume.path.clone()
        } else {
            subpath::bind(&subpath::Request {
                root: &context.dirs.root,
                uid: pod.uid(),
                volume: &mount.name,
                volume_path: &volume.path,
                container: &spec.name,
                index,
                sub_path: &sub_path,
            })?
        };
        mounts.push(volume_mount(mount, &host, volume.read_only));
    }
    let has = |path: &str| spec.volume_mounts.iter().flatten().any(|m| m.mount_path.trim_end_matches('/') == path);
    if !has("/etc/hosts") && (pod.host_network() || !input.lookups.pod_ips.is_empty()) {
        let file = write_hosts(context, pod, &input.lookups.pod_ips)?;
        mounts.push(file_mount("/etc/hosts", &file));
    }
    let message_path = spec.termination_message_path.as_deref().unwrap_or(TERMINATION_PATH);
    if !message_path.is_empty() {
        let file = termination_file(context, pod, &spec.name)?;
        mounts.push(file_mount(message_path, &file));
    }
    Ok(mounts)
}

fn volume_mount(mount: &core::VolumeMount, host: &Path, read_only: bool) -> api::Mount {
    let propagation = match mount.mount_propagation.as_deref() {
        Some("Bidirectional") => api::MountPropagation::PropagationBidirectional,
        Some("HostToContainer") => api::MountPropagation::PropagationHostToContainer,
        _ => api::MountPropagation::PropagationPrivate,
    };
    let read_only = read_only || mount.read_only == Some(true);
    api::Mount {
        container_path: absolute(&mount.mount_path),
        host_path: host.to_string_lossy().into_owned(),
        readonly: read_only,
        propagation: propagation as i32,
        recursive_read_only: read_only && mount.recursive_read_only.as_deref() == Some("Enabled"),
        ..Default::default()
    }
}

fn image_mount(mount: &core::VolumeMount, image: &str, sub_path: &str) -> api::Mount {
    api::Mount {
        container_path: absolute(&mount.mount_path),
        readonly: true,
        image: Some(api::ImageSpec { image: image.to_owned(), ..Default::default() }),
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    }
}

/// The block volumes of a container as device nodes.
fn devices(spec: &core::Container, volumes: &Volumes) -> Result<Vec<api::Device>, String> {
    let device = |d: &core::VolumeDevice| {
        let volume = volumes.get(&d.name);
        let volume = volume
            .ok_or_else(|| format!("cannot find volume \"{}\" to pass into container \"{}\"", d.name, spec.name))?;
        Ok(api::Device {
            container_path: d.device_path.clone(),
            host_path: volume.path.to_string_lossy().into_owned(),
            permissions: if volume.read_only { "r" } else { "mrw" }.to_owned(),
        })
    };
    spec.volume_devices.iter().flatten().map(device).collect()
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn file_mount(container_path: &str, file: &Path) -> api::Mount {
    api::Mount {
        container_path: absolute(container_path),
        host_path: file.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

fn write_hosts(context: &Context, pod: &Pod, ips: &[String]) -> Result<PathBuf, String> {
    let file = hosts::hosts_path(&context.dirs.root, pod.uid());
    let node =
        if pod.host_network() { std::fs::read_to_string("/etc/hosts").unwrap_or_default() } else { String::new() };
    let text = hosts::hosts_file(pod, &context.dns.domain, ips, &node);
    std::fs::write(&file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    Ok(file)
}

/// A fresh file that the container can write its last words to, whoever it runs as.
fn termination_file(context: &Context, pod: &Pod, container: &str) -> Result<PathBuf, String> {
    let dir = volumes::pod_dir(&context.dirs.root, pod.uid()).join("containers").join(container);
    let file = dir.join(format!("{:08x}", rand::random::<u32>()));
    std::fs::create_dir_all(&dir)
        .and_then(|()| std::fs::write(&file, ""))
        .and_then(|()| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)))
        .map_err(|e| format!("cannot make {}: {e}", file.display()))?;
    Ok(file)
}

/// The link that log collectors know; a failure costs only them.
fn link_log(context: &Context, pod: &Pod, config: &api::ContainerConfig, id: &str) {
    let logs = log_directory(&context.dirs.pod_logs, pod.namespace(), pod.name(), pod.uid());
    let log = Path::new(&logs).join(&config.log_path);
    let name = config.metadata.as_ref().map(|m| m.name.as_str()).unwrap_or_default();
    if let Some(parent) = log.parent() {
        let _ = std::fs::create_dir_all(parent);
    }
    let link = context.dirs.container_logs.join(log_link(pod.name(), pod.namespace(), name, id));
    if let Err(error) = std::fs::create_dir_all(&context.dirs.container_logs).and_then(|()| symlink(&log, &link)) {
        tracing::warn!(link = %link.display(), %error, "Cannot link the container's log");
    }
}

/// Name of the link to a container's log.
pub fn log_link(pod: &str, namespace: &str, container: &str, id: &str) -> String {
    format!("{pod}_{namespace}_{container}-{id}.log")
}

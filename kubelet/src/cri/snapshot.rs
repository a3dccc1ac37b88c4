//! What the runtime has for one pod, in the planner's terms.
//!
//! `fetch` reads it fresh from the runtime (two lists by label and one status per container); the planner and the
//! status generator then work on this value alone. Newest first everywhere, so that "the" container of a name is the
//! first match.

use std::collections::HashMap;

use jiff::Timestamp;

use super::api;
use super::client::{CriError, Runtime};
use super::labels;

/// A container's state in the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Made, and never run.
    Created,
    Running,
    Exited,
    Unknown,
}

impl From<i32> for State {
    fn from(value: i32) -> Self {
        match api::ContainerState::try_from(value) {
            Ok(api::ContainerState::ContainerCreated) => Self::Created,
            Ok(api::ContainerState::ContainerRunning) => Self::Running,
            Ok(api::ContainerState::ContainerExited) => Self::Exited,
            Ok(api::ContainerState::ContainerUnknown) | Err(_) => Self::Unknown,
        }
    }
}

/// One attempt of one container.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    pub attempt: u32,
    pub state: State,
    pub hash: String,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_ref: String,
    pub log_path: String,
    pub annotations: HashMap<String, String>,
    pub mounts: Vec<(String, String)>,
    pub user: Option<(i64, i64, Vec<i64>)>,
}

impl Container {
    /// Neither finished nor lost.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Running | State::Created)
    }
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: Timestamp,
    pub ips: Vec<String>,
    pub host_network: bool,
}

/// Everything the runtime has for one pod, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodActual {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Container>,
}

impl PodActual {
    /// The newest attempt of a container.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest sandbox when it is ready.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// Whether anything of the pod still runs.
    pub fn anything_running(&self) -> bool {
        self.sandboxes.iter().any(|s| s.ready) || self.containers.iter().any(|c| c.state == State::Running)
    }
}

/// CRI's nanoseconds; zero and nonsense mean "not yet".
fn time(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok()).flatten()
}

fn by_uid(uid: &str) -> HashMap<String, String> {
    HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())])
}

/// Reads what the runtime has for the pod `uid`.
pub async fn fetch(runtime: &Runtime, uid: &str) -> Result<PodActual, CriError> {
    let mut actual = PodActual { uid: uid.to_owned(), ..PodActual::default() };
    let filter = api::PodSandboxFilter { label_selector: by_uid(uid), ..Default::default() };
    let mut sandboxes = runtime.list_pod_sandbox(api::ListPodSandboxRequest { filter: Some(filter) }).await?.items;
    sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
    for (index, sandbox) in sandboxes.iter().enumerate() {
        let metadata = sandbox.metadata.clone().unwrap_or_default();
        actual.name = metadata.name;
        actual.namespace = metadata.namespace;
        let mut entry = Sandbox {
            id: sandbox.id.clone(),
            attempt: metadata.attempt,
            ready: sandbox.state == api::PodSandboxState::SandboxReady as i32,
            created_at: time(sandbox.created_at).unwrap_or_default(),
            ips: Vec::new(),
            host_network: false,
        };
        if index == 0 {
            fill_network(runtime, &mut entry).await?;
        }
        actual.sandboxes.push(entry);
    }
    let filter = api::ContainerFilter { label_selector: by_uid(uid), ..Default::default() };
    let listed = runtime.list_containers(api::ListContainersRequest { filter: Some(filter) }).await?.containers;
    for container in listed {
        let request = api::ContainerStatusRequest { container_id: container.id.clone(), verbose: false };
        match runtime.container_status(request).await {
            Ok(response) => {
                if let Some(status) = response.status {
                    actual.containers.push(from_status(status, container.pod_sandbox_id));
                }
            }
            // Removed between the list and the look: it is simply not there.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    actual.containers.sort_by(|a, b| b.attempt.cmp(&a.attempt).then(b.created_at.cmp(&a.created_at)));
    if let (true, Some(first)) = (actual.name.is_empty(), actual.containers.first()) {
        actual.name = first.annotations.get(labels::POD_NAME).cloned().unwrap_or_default();
    }
    Ok(actual)
}

async fn fill_network(runtime: &Runtime, sandbox: &mut Sandbox) -> Result<(), CriError> {
    let request = api::PodSandboxStatusRequest { pod_sandbox_id: sandbox.id.clone(), verbose: false };
    let status = match runtime.pod_sandbox_status(request).await {
        Ok(response) => response.status.unwrap_or_default(),
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
    };
    if let Some(network) = status.network {
        sandbox.ips = std::iter::once(network.ip)
            .chain(network.additional_ips.into_iter().map(|i| i.ip))
            .filter(|ip| !ip.is_empty())
            .collect();
    }
    let options = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options);
    sandbox.host_network = options.is_some_and(|o| o.network == api::NamespaceMode::Node as i32);
    Ok(())
}

/// Whether a container never ran because the one who asked for its start died meanwhile. containerd tells of it as of a
/// program that cannot be started, or, after its own death, kills what was made and not started. Cut off a moment later
/// ("failed to start"), it may have run, and is left as it is.
fn was_cut_off(status: &api::ContainerStatus) -> bool {
    const KILLED: i32 = 137;
    let message = &status.message;
    let refused = message.starts_with("failed to create") && message.contains("context canceled");
    status.started_at == 0 && status.finished_at != 0 && (refused || status.exit_code == KILLED)
}

fn from_status(status: api::ContainerStatus, sandbox_id: String) -> Container {
    let unborn = was_cut_off(&status);
    let metadata = status.metadata.unwrap_or_default();
    let annotation = |name: &str| status.annotations.get(name).cloned().unwrap_or_default();
    Container {
        sandbox_id,
        attempt: annotation(labels::CONTAINER_RESTART_COUNT).parse().unwrap_or(metadata.attempt),
        name: metadata.name,
        state: if unborn { State::Created } else { status.state.into() },
        hash: annotation(labels::CONTAINER_HASH),
        created_at: time(status.created_at).unwrap_or_default(),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at).filter(|_| !unborn),
        exit_code: status.exit_code,
        reason: status.reason,
        message: status.message,
        image: status.image.map(|i| i.image).unwrap_or_default(),
        image_ref: status.image_ref,
        log_path: status.log_path,
        mounts: status.mounts.into_iter().map(|m| (m.container_path, m.host_path)).collect(),
        user: status.user.and_then(|u| u.linux).map(|u| (u.uid, u.gid, u.supplemental_groups)),
        annotations: status.annotations,
        id: status.id,
    }
}

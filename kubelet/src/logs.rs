//! Rotation of container logs: a log that is larger than allowed is moved aside, the runtime opens a new one, and the
//! oldest are deleted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::cri::{CriError, api, labels};
use crate::pods::container::{log_directory, log_path};

/// Bounds of a container's logs.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub max_bytes: u64,
    /// Files per container, with the one being written.
    pub max_files: usize,
    pub period: Duration,
}

/// Runs until shutdown.
pub async fn run(context: Arc<Context>, policy: Policy, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(policy.period) => {}
        }
        if let Err(error) = look(&context, policy).await {
            tracing::debug!(%error, "Cannot look after container logs");
        }
    }
}

async fn look(context: &Context, policy: Policy) -> Result<(), CriError> {
    let running = api::ContainerStateValue { state: api::ContainerState::ContainerRunning as i32 };
    let filter = api::ContainerFilter { state: Some(running), ..Default::default() };
    let list = context.runtime.list_containers(api::ListContainersRequest { filter: Some(filter) }).await?;
    for container in list.containers {
        let label = |name: &str| container.labels.get(name).map_or("", String::as_str);
        let (namespace, pod) = (label(labels::POD_NAMESPACE), label(labels::POD_NAME));
        let directory = log_directory(&context.dirs.pod_logs, namespace, pod, label(labels::POD_UID));
        let attempt = container.metadata.as_ref().map_or(0, |m| m.attempt);
        let log = Path::new(&directory).join(log_path(label(labels::CONTAINER_NAME), attempt));
        let size = std::fs::metadata(&log).map_or(0, |m| m.len());
        if size < policy.max_bytes {
            continue;
        }
        if let Err(error) = rotate(&log, policy.max_files) {
            tracing::warn!(log = %log.display(), %error, "Cannot rotate a container's log");
            continue;
        }
        context.runtime.reopen_container_log(api::ReopenContainerLogRequest { container_id: container.id }).await?;
    }
    Ok(())
}

/// Moves the log aside under a dated name and deletes the oldest.
fn rotate(log: &Path, max_files: usize) -> std::io::Result<()> {
    let mut old = files_of(log);
    old.retain(|path| path != log);
    // The one in use and the one made now count too.
    let keep = max_files.saturating_sub(2);
    for path in &old[..old.len().saturating_sub(keep)] {
        std::fs::remove_file(path)?;
    }
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let mut aside = log.as_os_str().to_owned();
    aside.push(format!(".{stamp}"));
    std::fs::rename(log, aside)
}

/// A container's log and those moved aside, oldest first.
pub fn files_of(log: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else { return Vec::new() };
    let name = name.to_string_lossy().into_owned();
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path());
    let own = |p: &PathBuf| {
        p.file_name().is_some_and(|n| {
            let n = n.to_string_lossy();
            n == name || n.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.'))
        })
    };
    let mut files: Vec<PathBuf> = entries.filter(own).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for name in ["0.log", "0.log.20200101-000000", "0.log.20210101-000000", "1.log.x"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        rotate(&log, 3).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), 3);
        assert_eq!(names[0], "0.log.20210101-000000");
        assert!(names[1].starts_with("0.log.20"));
    }
}

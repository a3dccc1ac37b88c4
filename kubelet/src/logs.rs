//! Rotation of container logs: a log that is larger than allowed is moved aside, the runtime opens a new one, and the
//! oldest are deleted. Also where pods' logs are, and their end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Dirs};
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

/// A directory of a pod's logs.
#[derive(Debug, PartialEq, Eq)]
pub struct Directory {
    pub path: PathBuf,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// All directories of pods' logs, whoever made them.
pub fn directories(root: &str) -> Vec<Directory> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let directory = |entry: std::fs::DirEntry| {
        let file = entry.file_name().into_string().ok()?;
        let mut parts = file.splitn(3, '_').map(str::to_owned);
        let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Directory { path: entry.path(), namespace, name, uid })
    };
    entries.filter_map(directory).collect()
}

/// Deletes a pod's logs and the links that lead nowhere then. They are found by the uid alone, which is all that is known
/// of a pod that nobody wants any more.
pub fn remove_of(dirs: &Dirs, uid: &str) {
    for logs in directories(&dirs.pod_logs).into_iter().filter(|l| l.uid == uid) {
        // What is left is found again by the kubelet's next life.
        let _ = std::fs::remove_dir_all(&logs.path);
        let prefix = format!("{}_{}_", logs.name, logs.namespace);
        let links = std::fs::read_dir(&dirs.container_logs).into_iter().flatten().flatten();
        for link in links.filter(|l| l.file_name().to_string_lossy().starts_with(&prefix)) {
            if !link.path().exists() {
                let _ = std::fs::remove_file(link.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_a_pod_that_nobody_knows_are_found_by_its_uid() {
        let dir = tempfile::tempdir().unwrap();
        let (pods, links) = (dir.path().join("pods"), dir.path().join("containers"));
        for name in ["ns_a_1/c", "ns_b_2/c"] {
            std::fs::create_dir_all(pods.join(name)).unwrap();
            std::fs::write(pods.join(name).join("0.log"), "").unwrap();
        }
        std::fs::create_dir(&links).unwrap();
        for (link, log) in [("a_ns_c-x.log", "ns_a_1/c/0.log"), ("b_ns_c-y.log", "ns_b_2/c/0.log")] {
            std::os::unix::fs::symlink(pods.join(log), links.join(link)).unwrap();
        }
        let dirs = Dirs {
            root: dir.path().to_owned(),
            pod_logs: pods.to_str().unwrap().to_owned(),
            container_logs: links.clone(),
        };
        remove_of(&dirs, "1");
        assert!(!pods.join("ns_a_1").exists() && pods.join("ns_b_2/c/0.log").exists());
        let left: Vec<_> = std::fs::read_dir(&links).unwrap().map(|l| l.unwrap().file_name()).collect();
        assert_eq!(left, ["b_ns_c-y.log"]);
    }

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

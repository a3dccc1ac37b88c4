//! Rotation of container logs: a log that is larger than allowed is moved aside, the runtime opens a new one, and the
//! oldest are deleted. Also where pods' logs are, and their end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Dirs};
use crate::cri::{CriError, api, labels};
use crate::pods::container::{log_directory, log_path};

/// End of the name of a log that is being compressed.
const UNFINISHED: &str = ".tmp";

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
        let path = log.clone();
        let rotated = tokio::task::spawn_blocking(move || rotate(&path, policy.max_files)).await;
        if let Err(error) = rotated.map_err(std::io::Error::other).flatten() {
            tracing::warn!(log = %log.display(), %error, "Cannot rotate a container's log");
            continue;
        }
        context.runtime.reopen_container_log(api::ReopenContainerLogRequest { container_id: container.id }).await?;
    }
    Ok(())
}

/// Moves the log aside under a dated name, compresses those moved earlier and deletes the oldest. The latest stays as it
/// is: the runtime writes to it until it has opened the new one.
fn rotate(log: &Path, max_files: usize) -> std::io::Result<()> {
    let ends = |path: &Path, end: &str| path.to_string_lossy().ends_with(end);
    let (unfinished, mut old): (Vec<_>, Vec<_>) = files_of(log).into_iter().partition(|path| ends(path, UNFINISHED));
    old.retain(|path| path != log);
    // The one in use and the one made now count too.
    let excess = old.len().saturating_sub(max_files.saturating_sub(2));
    for path in unfinished.iter().chain(&old[..excess]) {
        std::fs::remove_file(path)?;
    }
    for path in old[excess..].iter().filter(|path| !ends(path, ".gz")) {
        compress(path)?;
    }
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let mut aside = log.as_os_str().to_owned();
    aside.push(format!(".{stamp}"));
    std::fs::rename(log, aside)
}

fn compress(log: &Path) -> std::io::Result<()> {
    let name = |end: &str| {
        let mut name = log.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let unfinished = name(UNFINISHED);
    let mut out = GzEncoder::new(File::create(&unfinished)?, Compression::default());
    std::io::copy(&mut File::open(log)?, &mut out)?;
    out.finish()?;
    std::fs::set_permissions(&unfinished, log.metadata()?.permissions())?;
    std::fs::rename(&unfinished, name(".gz"))?;
    std::fs::remove_file(log)
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
        for name in ["0.log", "0.log.20200101-000000.gz", "0.log.20210101-000000", "0.log.2.tmp", "1.log.x"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        rotate(&log, 3).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), 3);
        assert_eq!(names[0], "0.log.20210101-000000.gz");
        assert!(names[1].starts_with("0.log.20") && !names[1].ends_with(".gz"));
        assert_eq!(std::fs::read(dir.path().join(&names[0])).unwrap()[..2], [0x1f, 0x8b]);
    }
}

//! `hardway down`: nothing of the cluster stays, no process, mount, cgroup, rule, interface or file.
//!
//! Every step is tried even when an earlier one failed, and may be done again; what could not be removed is reported.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cluster::{BRIDGE, CGROUP_ROOT, Cluster};
use crate::progress::Progress;
use crate::supervisor::{self, terminate};
use crate::units;
use crate::{cri, systemd, up};

mod rules;

const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// Takes the cluster down; returns what could not be removed, in words.
pub async fn down(cluster: &Cluster, keep_data: bool) -> Vec<String> {
    let progress = Progress::start();
    let mut left = Vec::new();
    stop_daemons(cluster, &mut left).await;
    progress.done("daemons", "stopped");
    match remove_pods(cluster).await {
        Ok(count) => progress.done("pods", &format!("{count} removed")),
        Err(why) => left.push(why),
    }
    kill_strays(&cluster.dir);
    cleanup_proxy(cluster, &mut left);
    rules::remove(&mut left);
    remove_bridge(&mut left);
    unmount(&cluster.dir, &mut left);
    remove_cgroups(&mut left).await;
    restore_sysctls(cluster, &mut left);
    progress.done("network, mounts, cgroups", "removed");
    remove_files(cluster, keep_data, &mut left);
    left
}

async fn stop_daemons(cluster: &Cluster, left: &mut Vec<String>) {
    if systemd::is_running() {
        for unit in units::all(cluster).iter().rev() {
            let name = systemd::unit_name(unit);
            let path = Path::new("/etc/systemd/system").join(&name);
            if path.exists() {
                if let Err(error) = up::systemctl(&["disable", "--now", &name]) {
                    left.push(error.to_string());
                }
                remove(&path, left);
            }
        }
    }
    if up::is_running(&cluster.dir)
        && let Some(pid) = read_pid(&supervisor::pid_file(&cluster.dir, "supervisor"))
    {
        stop(pid).await;
    }
    // what a killed supervisor left behind
    for unit in units::all(cluster).iter().rev() {
        let program = unit.command.first().map(|p| p.rsplit('/').next().unwrap_or(p).to_owned()).unwrap_or_default();
        if let Some(pid) = read_pid(&supervisor::pid_file(&cluster.dir, &unit.name))
            && command_line(pid).first().is_some_and(|first| first.ends_with(&program))
        {
            stop(pid).await;
        }
    }
}

fn read_pid(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn command_line(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|b| *b == 0).filter(|a| !a.is_empty()).map(|a| String::from_utf8_lossy(a).into_owned()).collect()
}

fn is_alive(pid: u32) -> bool {
    // a zombie of a parent that does not wait has no command line and holds nothing
    !command_line(pid).is_empty()
}

async fn stop(pid: u32) {
    terminate(pid);
    let deadline = Instant::now() + STOP_TIMEOUT;
    while is_alive(pid) && Instant::now() < deadline {
        tokio::time::sleep(PAUSE).await;
    }
    kill(pid);
}

fn kill(pid: u32) {
    if is_alive(pid)
        && let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)
    {
        // gone between the look and the signal is as good
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// With the daemons gone the runtime is started once more, alone, to take its pods down properly.
async fn remove_pods(cluster: &Cluster) -> Result<usize, String> {
    let config = cluster.path("containerd/config.toml");
    if !config.exists() {
        return Ok(0);
    }
    let log =
        std::fs::OpenOptions::new().append(true).create(true).open(supervisor::log_file(&cluster.dir, "containerd"));
    let mut command = std::process::Command::new("containerd");
    command.arg("--config").arg(&config).stdin(std::process::Stdio::null());
    if let Ok(log) = log {
        command.stderr(log.try_clone().map_err(|e| e.to_string())?).stdout(log);
    }
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("containerd cannot be started to remove its pods: {e}"))?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    let removed = loop {
        match cri::remove_all_pods(&cluster.runtime_socket()).await {
            Err(error) if Instant::now() > deadline => break Err(error.to_string()),
            Err(_) => tokio::time::sleep(PAUSE).await,
            Ok(count) => break Ok(count),
        }
    };
    if let Some(pid) = child.id() {
        terminate(pid);
    }
    // it is killed on drop when it does not end by itself
    let _ = tokio::time::timeout(STOP_TIMEOUT, child.wait()).await;
    removed
}

/// Shims (and anything else) that were started for this directory.
fn kill_strays(dir: &Path) {
    let dir = dir.display().to_string();
    let own = std::process::id();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let arguments = command_line(pid);
        let shim = arguments.first().is_some_and(|a| a.contains("containerd-shim"));
        if pid != own && shim && arguments.iter().any(|a| a.starts_with(&dir)) {
            kill(pid);
        }
    }
}

fn cleanup_proxy(cluster: &Cluster, left: &mut Vec<String>) {
    let program = cluster.bin_dir.join("kube-proxy");
    match std::process::Command::new(&program).arg("--cleanup").output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => left.push(format!("kube-proxy --cleanup: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => left.push(format!("{} --cleanup: {error}", program.display())),
    }
}

fn remove_bridge(left: &mut Vec<String>) {
    let ip = |verb: &str| std::process::Command::new("ip").args(["link", verb, "dev", BRIDGE]).output();
    let exists = ip("show").is_ok_and(|o| o.status.success());
    if exists && !ip("delete").is_ok_and(|o| o.status.success()) {
        left.push(format!("interface {BRIDGE}: ip link delete failed"));
    }
}

fn unmount(dir: &Path, left: &mut Vec<String>) {
    let dir = dir.display().to_string();
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let below = |point: &&str| point.starts_with(&dir) && point.as_bytes().get(dir.len()) == Some(&b'/');
    let mut points: Vec<&str> = table.lines().filter_map(|line| line.split(' ').nth(4)).filter(below).collect();
    points.reverse();
    for point in points {
        if let Err(error) = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH) {
            left.push(format!("mount {point}: {error}"));
        }
    }
}

/// Removes the pods' cgroups with what still runs in them: a container whose start was under way when the runtime
/// stopped, or a process that was killed and is not gone yet.
async fn remove_cgroups(left: &mut Vec<String>) {
    let deadline = Instant::now() + STOP_TIMEOUT;
    let mut hierarchies = vec![PathBuf::from("/sys/fs/cgroup")];
    hierarchies.extend(std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path()));
    for hierarchy in hierarchies {
        let root = hierarchy.join(CGROUP_ROOT.trim_start_matches('/'));
        while root.is_dir() {
            match remove_cgroup(&root) {
                Ok(()) => break,
                Err(_) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    left.push(format!("cgroup {}: {error}", root.display()));
                    break;
                }
            }
        }
    }
}

fn remove_cgroup(path: &Path) -> std::io::Result<()> {
    let processes = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    processes.lines().filter_map(|pid| pid.parse().ok()).for_each(kill);
    for child in std::fs::read_dir(path)?.flatten() {
        if child.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&child.path())?;
        }
    }
    std::fs::remove_dir(path)
}

fn restore_sysctls(cluster: &Cluster, left: &mut Vec<String>) {
    let text = std::fs::read_to_string(cluster.path("run/sysctls.json")).unwrap_or_default();
    let before: BTreeMap<String, String> = serde_json::from_str(&text).unwrap_or_default();
    for (name, value) in before {
        if let Err(error) = std::fs::write(Path::new("/proc/sys").join(&name), value) {
            left.push(format!("sysctl {name}: {error}"));
        }
    }
}

fn remove_files(cluster: &Cluster, keep_data: bool, left: &mut Vec<String>) {
    if !keep_data {
        remove(&cluster.dir, left);
        return;
    }
    for part in ["run", "containerd", "kubelet", "cni", "logs"] {
        remove(&cluster.path(part), left);
    }
}

fn remove(path: &Path, left: &mut Vec<String>) {
    let outcome = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    if let Err(error) = outcome
        && path.exists()
    {
        left.push(format!("{}: {error}", path.display()));
    }
}

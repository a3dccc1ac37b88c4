//! Keeps the units running where systemd does not: starts each, appends its output to a log file, starts it again when it
//! ends, and stops all in reverse order on SIGTERM.
//!
//! Contract: one supervisor per cluster directory (an advisory lock says so); `run/NAME.pid` always holds the unit's
//! current process while it runs. A supervisor that is killed leaves its children running; the next one and `down` find
//! them by those files.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::units::Unit;

const RESTART_FIRST: Duration = Duration::from_millis(500);
const RESTART_MAX: Duration = Duration::from_secs(10);
/// A unit that ran this long starts again without delay growth.
const RESTART_RESET: Duration = Duration::from_secs(60);
/// After SIGTERM a unit has this long before SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What the supervisor needs to know, stored as `run/units.json`.
pub fn spec_file(dir: &Path) -> PathBuf {
    dir.join("run/units.json")
}

/// The file that holds a unit's process id while it runs.
pub fn pid_file(dir: &Path, unit: &str) -> PathBuf {
    dir.join(format!("run/{unit}.pid"))
}

/// A unit's log.
pub fn log_file(dir: &Path, unit: &str) -> PathBuf {
    dir.join(format!("logs/{unit}.log"))
}

/// Why the supervisor ended.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Its files cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The list of units does not parse.
    #[error("{} does not hold a list of units: {source}", path.display())]
    Spec {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Signals cannot be received.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
}

/// Starts a detached supervisor for the cluster in `dir`.
///
/// # Errors
/// When it cannot be started; its own messages go to `logs/supervisor.log`.
pub fn spawn(dir: &Path) -> Result<(), SupervisorError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| SupervisorError::File { path, source }
    };
    let log_path = log_file(dir, "supervisor");
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&log_path).map_err(file(&log_path))?;
    let exe = std::env::current_exe().map_err(file(Path::new("/proc/self/exe")))?;
    let mut command = std::process::Command::new(&exe);
    command.arg("supervise").arg("--dir").arg(dir).stdin(Stdio::null()).process_group(0);
    let errors = log.try_clone().map_err(file(&log_path))?;
    let child = command.stdout(log).stderr(errors).spawn().map_err(file(&exe))?;
    let pid = pid_file(dir, "supervisor");
    std::fs::write(&pid, child.id().to_string()).map_err(file(&pid))
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the list of units cannot be read; a unit that cannot be started is retried and said in its log.
pub async fn run(dir: &Path) -> Result<(), SupervisorError> {
    let path = spec_file(dir);
    let text = std::fs::read(&path).map_err(|source| SupervisorError::File { path: path.clone(), source })?;
    let units: Vec<Unit> = serde_json::from_slice(&text).map_err(|source| SupervisorError::Spec { path, source })?;
    let mut term = signal(SignalKind::terminate()).map_err(SupervisorError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(SupervisorError::Signals)?;
    let mut keepers = Vec::new();
    for unit in units {
        let stop = CancellationToken::new();
        keepers.push((stop.clone(), tokio::spawn(keep(dir.to_owned(), unit, stop))));
    }
    tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
    while let Some((stop, keeper)) = keepers.pop() {
        stop.cancel();
        // a keeper only ends by itself after its child is gone
        let _ = keeper.await;
    }
    Ok(())
}

/// Runs one unit again and again until told to stop, then ends it.
async fn keep(dir: PathBuf, unit: Unit, stop: CancellationToken) {
    let mut pause = RESTART_FIRST;
    while !stop.is_cancelled() {
        let begun = tokio::time::Instant::now();
        match start(&dir, &unit) {
            Ok(mut child) => {
                tokio::select! {
                    outcome = child.wait() => note(&dir, &unit, &outcome.map_or_else(|e| e.to_string(), |s| s.to_string())),
                    () = stop.cancelled() => end(&mut child).await,
                }
            }
            Err(error) => note(&dir, &unit, &format!("it cannot be started: {error}")),
        }
        // the file may be gone already when the directory is being removed
        let _ = std::fs::remove_file(pid_file(&dir, &unit.name));
        if begun.elapsed() > RESTART_RESET {
            pause = RESTART_FIRST;
        }
        // either the pause is over, or the loop ends
        let _ = tokio::time::timeout(pause, stop.cancelled()).await;
        pause = (pause * 2).min(RESTART_MAX);
    }
}

fn start(dir: &Path, unit: &Unit) -> std::io::Result<tokio::process::Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log_file(dir, &unit.name))?;
    let (program, arguments) =
        unit.command.split_first().ok_or_else(|| std::io::Error::other("the command line is empty"))?;
    let mut command = std::process::Command::new(program);
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let child = tokio::process::Command::from(command).spawn()?;
    if let Some(pid) = child.id() {
        std::fs::write(pid_file(dir, &unit.name), pid.to_string())?;
    }
    Ok(child)
}

async fn end(child: &mut tokio::process::Child) {
    if let Some(pid) = child.id() {
        terminate(pid);
    }
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        // it cannot be gone before it was waited for
        let _ = child.kill().await;
    }
}

/// Sends SIGTERM to a process; one that is gone already is fine.
pub fn terminate(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

fn note(dir: &Path, unit: &Unit, what: &str) {
    use std::io::Write as _;
    if let Ok(mut log) = std::fs::OpenOptions::new().create(true).append(true).open(log_file(dir, &unit.name)) {
        // a log that cannot be written must not stop the unit
        let _ = writeln!(log, "hardway: {} ended: {what}", unit.name);
    }
}

//! `hardway up`: from a bare machine to a Ready node, step by step. Each step may be done again: what is there is kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::api::Api;
use crate::cluster::{Cluster, PAUSE_IMAGE, WEB_IMAGE};
use crate::image::{self, Image, ImageError, Source};
use crate::preflight;
use crate::progress::Progress;
use crate::supervisor::{self, SupervisorError};
use crate::units::{self, Ready, Unit};
use crate::{systemd, templates};

/// Kernel switches that a node needs; the previous values are kept for `down`.
const SYSCTLS: [(&str, &str); 2] = [("net/ipv4/ip_forward", "1"), ("net/bridge/bridge-nf-call-iptables", "1")];

/// Applets of busybox that the demonstration image offers.
const APPLETS: [&str; 14] =
    ["sh", "cat", "echo", "env", "hostname", "id", "ip", "kill", "ls", "nslookup", "ps", "sleep", "top", "wget"];

/// Why a cluster did not come up; each says which step, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The machine is not fit; all findings at once.
    #[error("this machine is not ready for a node:\n  - {}", .0.join("\n  - "))]
    Preflight(Vec<String>),
    /// A file or directory.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The description is wrong.
    #[error("{0}")]
    Cluster(String),
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// Images.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The supervisor.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// systemd refused.
    #[error("systemctl {arguments} failed: {why}")]
    Systemd {
        /// What was asked.
        arguments: String,
        /// What it said.
        why: String,
    },
    /// A unit did not get ready.
    #[error("{unit} did not become ready within {seconds} s: {why}\nthe end of its log ({log}):\n{tail}")]
    NotReady {
        /// Which.
        unit: String,
        /// How long was waited.
        seconds: u64,
        /// What was still missing.
        why: String,
        /// Where to read on.
        log: String,
        /// Its last lines.
        tail: String,
    },
}

/// Brings the cluster up and waits until its node is Ready.
///
/// # Errors
/// The first step that failed. What was started keeps running: fix the cause and call again, or `hardway down`.
pub async fn up(cluster: &Cluster, timeout: Duration) -> Result<(), UpError> {
    let progress = Progress::start();
    let running = is_running(&cluster.dir);
    if !running {
        let findings = preflight::findings(cluster);
        if !findings.is_empty() {
            return Err(UpError::Preflight(findings));
        }
    }
    prepare(cluster, &progress)?;
    let units = resolve(units::all(cluster));
    if running {
        progress.done("daemons", "are running already");
    } else {
        start(cluster, &units)?;
    }
    let deadline = Instant::now() + timeout;
    let api = Api::new(cluster).map_err(UpError::Cluster)?;
    for unit in &units {
        wait(cluster, unit, &api, deadline, timeout, &progress).await?;
        if unit.name == "containerd" {
            import_images(cluster, &progress).await?;
        }
    }
    Ok(())
}

/// Files: directories, certificates, configuration, the description itself.
fn prepare(cluster: &Cluster, progress: &Progress) -> Result<(), UpError> {
    for dir in ["", "run", "logs/pods", "containerd", "cni/net.d", "etcd", "manifests", "kubelet"] {
        let path = cluster.path(dir);
        std::fs::create_dir_all(&path).map_err(|source| UpError::File { path, source })?;
    }
    let private = cluster.path("etcd");
    std::fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .map_err(|source| UpError::File { path: private, source })?;
    let text = serde_json::to_string_pretty(cluster).map_err(|e| UpError::Cluster(e.to_string()))?;
    pki::store::write(&Cluster::state_file(&cluster.dir), &text, 0o644)?;
    let service_ip = cluster.service_ip().map_err(UpError::Cluster)?;
    let layout = pki::store::Layout {
        pki_dir: cluster.path("pki"),
        config_dir: cluster.dir.clone(),
        server: cluster.server(),
        cluster_name: "hardway".to_owned(),
        algorithm: pki::key::Algorithm::default(),
    };
    let names = pki::profile::ClusterNames {
        domain: "cluster.local".to_owned(),
        service_ip: service_ip.into(),
        api_names: vec![cluster.node.clone()],
        api_ips: vec![cluster.node_ip],
        etcd_ips: vec![],
        nodes: vec![(cluster.node.clone(), vec![cluster.node_ip])],
    };
    let made = pki::store::ensure(&layout, &names, Timestamp::now())?;
    progress.done("certificates", &format!("{} files made in {}", made.len(), layout.pki_dir.display()));
    for (path, text) in templates::all(cluster) {
        pki::store::write(&path, &text, 0o644)?;
    }
    set_sysctls(cluster)
}

fn set_sysctls(cluster: &Cluster) -> Result<(), UpError> {
    let kept = cluster.path("run/sysctls.json");
    let mut before: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in SYSCTLS {
        let path = Path::new("/proc/sys").join(name);
        let failed = |source| UpError::File { path: path.clone(), source };
        before.insert(name, std::fs::read_to_string(&path).map_err(failed)?.trim().to_owned());
        std::fs::write(&path, value).map_err(failed)?;
    }
    if !kept.exists() {
        let text = serde_json::to_string(&before).map_err(|e| UpError::Cluster(e.to_string()))?;
        pki::store::write(&kept, &text, 0o644)?;
    }
    Ok(())
}

/// Full paths for the programs that are looked up in PATH, so that systemd and a supervisor with another PATH agree.
fn resolve(mut units: Vec<Unit>) -> Vec<Unit> {
    for unit in &mut units {
        if let Some(program) = unit.command.first_mut()
            && let Some(found) = preflight::find_program(program)
        {
            *program = found.display().to_string();
        }
    }
    units
}

/// Whether this cluster's daemons are supervised already.
pub fn is_running(dir: &Path) -> bool {
    let pid = std::fs::read_to_string(supervisor::pid_file(dir, "supervisor")).unwrap_or_default();
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
    !pid.is_empty() && command.split(|b| *b == 0).any(|argument| argument == b"supervise")
}

fn start(cluster: &Cluster, units: &[Unit]) -> Result<(), UpError> {
    if systemd::is_running() {
        return start_with_systemd(units);
    }
    let text = serde_json::to_string_pretty(units).map_err(|e| UpError::Cluster(e.to_string()))?;
    pki::store::write(&supervisor::spec_file(&cluster.dir), &text, 0o644)?;
    Ok(supervisor::spawn(&cluster.dir)?)
}

fn start_with_systemd(units: &[Unit]) -> Result<(), UpError> {
    let mut after = None;
    for unit in units {
        let program = PathBuf::from(unit.command.first().map_or("", String::as_str));
        let path = Path::new("/etc/systemd/system").join(systemd::unit_name(unit));
        pki::store::write(&path, &systemd::render(unit, &program, after), 0o644)?;
        after = Some(unit);
    }
    systemctl(&["daemon-reload"])?;
    let names: Vec<String> = units.iter().map(systemd::unit_name).collect();
    let arguments: Vec<&str> = ["enable", "--now"].into_iter().chain(names.iter().map(String::as_str)).collect();
    systemctl(&arguments)
}

/// Runs systemctl.
///
/// # Errors
/// With what it said.
pub fn systemctl(arguments: &[&str]) -> Result<(), UpError> {
    let failed = |why| UpError::Systemd { arguments: arguments.join(" "), why };
    let output = std::process::Command::new("systemctl").args(arguments).output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())) }
}

async fn wait(
    cluster: &Cluster,
    unit: &Unit,
    api: &Api,
    deadline: Instant,
    timeout: Duration,
    progress: &Progress,
) -> Result<(), UpError> {
    const PAUSE: Duration = Duration::from_millis(50);
    loop {
        let why = match probe(unit, api).await {
            Ok(words) => {
                progress.done(&unit.name, &words);
                return Ok(());
            }
            Err(why) => why,
        };
        if Instant::now() > deadline {
            let log = supervisor::log_file(&cluster.dir, &unit.name);
            let tail = last_lines(&log, 8);
            let log = log.display().to_string();
            return Err(UpError::NotReady { unit: unit.name.clone(), seconds: timeout.as_secs(), why, log, tail });
        }
        progress.waiting(&unit.name, &why);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn probe(unit: &Unit, api: &Api) -> Result<String, String> {
    match &unit.ready {
        Ready::Port(port) => match tokio::net::TcpStream::connect(("127.0.0.1", *port)).await {
            Ok(_) => Ok(format!("answers on port {port}")),
            Err(error) => Err(format!("port {port}: {error}")),
        },
        Ready::Socket(path) => match tokio::net::UnixStream::connect(path).await {
            Ok(_) => Ok(format!("answers on {path}")),
            Err(error) => Err(format!("{path}: {error}")),
        },
        Ready::ApiServer => api.ready().await,
        Ready::Node => api.node_ready().await,
    }
}

fn last_lines(path: &Path, count: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|l| format!("    {l}")).collect::<Vec<_>>().join("\n")
}

async fn import_images(cluster: &Cluster, progress: &Progress) -> Result<(), UpError> {
    let program = |name: &str| Source::File { from: cluster.bin_dir.join(name), to: name.to_owned() };
    let mut web = vec![program("hardway-web")];
    if let Some(busybox) = preflight::find_program("busybox") {
        web.push(Source::File { from: busybox, to: "bin/busybox".to_owned() });
        let link = |name| Source::Link { at: format!("bin/{name}"), target: "busybox".to_owned() };
        web.extend(APPLETS.map(link));
    }
    let images = [
        Image {
            tag: PAUSE_IMAGE.to_owned(),
            sources: vec![program("hardway-pause")],
            entrypoint: vec!["/hardway-pause".to_owned()],
        },
        Image { tag: WEB_IMAGE.to_owned(), sources: web, entrypoint: vec!["/hardway-web".to_owned()] },
    ];
    for image in &images {
        let archive = image::pack(image)?;
        image::import(&cluster.runtime_socket(), &image.tag, &archive).await?;
    }
    progress.done("images", &format!("{PAUSE_IMAGE} and {WEB_IMAGE} imported"));
    Ok(())
}

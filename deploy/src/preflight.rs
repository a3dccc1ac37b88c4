//! What must be true of the machine before anything is started. Each finding names the thing and the remedy; all are
//! reported at once.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;

/// Programs that must be in PATH and the Debian package that has them.
const PROGRAMS: [(&str, &str); 9] = [
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables-restore", "iptables"),
    ("iptables-save", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("busybox", "busybox-static"),
];

/// Our own programs.
const OURS: [&str; 7] = [
    "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "hardway-pause",
    "hardway-web",
];

/// Where distributions put CNI plugins.
const CNI_DIRS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

/// CNI plugins that the node's network needs.
const CNI_PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// The first directory that has all the CNI plugins.
pub fn find_cni() -> Option<PathBuf> {
    let complete = |dir: &&&str| CNI_PLUGINS.iter().all(|p| Path::new(dir).join(p).exists());
    CNI_DIRS.iter().find(complete).map(PathBuf::from)
}

/// A program's full path, looked up in PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Everything that is wrong, in words.
pub fn findings(cluster: &Cluster) -> Vec<String> {
    let mut out = Vec::new();
    if !rustix::process::geteuid().is_root() {
        out.push("this must run as root: it makes interfaces, mounts and cgroups".to_owned());
    }
    for (program, package) in PROGRAMS {
        if find_program(program).is_none() {
            out.push(format!("{program} is not in PATH: apt-get install {package}"));
        }
    }
    for program in OURS {
        let file = cluster.bin_dir.join(program);
        if !file.is_file() {
            out.push(format!("{} is missing: run `make build`", file.display()));
        }
    }
    if find_cni().is_none() {
        let dirs = CNI_DIRS.join(", ");
        out.push(format!(
            "no CNI plugins ({}) in {dirs}: apt-get install containernetworking-plugins",
            CNI_PLUGINS.join(", ")
        ));
    }
    ports(cluster, &mut out);
    kernel(&mut out);
    out
}

fn ports(cluster: &Cluster, out: &mut Vec<String>) {
    let ports = [
        (cluster.ports.api, "kube-apiserver"),
        (cluster.ports.etcd, "etcd"),
        (cluster.ports.etcd_peer, "etcd's peer port"),
        (10250, "kubelet"),
        (10256, "kube-proxy"),
        (10257, "kube-controller-manager"),
        (10259, "kube-scheduler"),
    ];
    for (port, who) in ports {
        if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
            out.push(format!(
                "port {port} for {who} cannot be used: {error} (`ss -ltnp 'sport = :{port}'` shows who has it)"
            ));
        }
    }
}

fn kernel(out: &mut Vec<String>) {
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.split_whitespace().any(|f| f == "overlay") {
        out.push("the kernel has no overlay filesystem: modprobe overlay".to_owned());
    }
    if !Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        out.push("the kernel does not show bridged packets to iptables: modprobe br_netfilter".to_owned());
    }
}

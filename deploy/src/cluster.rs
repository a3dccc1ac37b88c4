//! One description of a one-machine cluster, from which everything else follows: paths, addresses, ports.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the pods' bridge; short enough for an interface name.
pub const BRIDGE: &str = "hardway0";
/// Cgroup below which all pods of this node live, so that `down` can tell them from other people's.
pub const CGROUP_ROOT: &str = "/hardway";
/// The image every pod sandbox runs.
pub const PAUSE_IMAGE: &str = "hardway/pause:v1";
/// The demonstration server.
pub const WEB_IMAGE: &str = "hardway/web:v1";

/// Ports of the daemons; those that other hosts or tools expect are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// kube-apiserver.
    pub api: u16,
    /// etcd for clients.
    pub etcd: u16,
    /// etcd for peers.
    pub etcd_peer: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { api: 6443, etcd: 2379, etcd_peer: 2380 }
    }
}

/// The cluster to be; stored as `cluster.json` in its directory so that `down` knows what `up` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Everything that is not a kernel object lies below.
    pub dir: PathBuf,
    /// Where kube-apiserver and the others are.
    pub bin_dir: PathBuf,
    /// The node's name.
    pub node: String,
    /// The node's address, not a loopback one.
    pub node_ip: IpAddr,
    /// The pods' range (the node's share is the same: there is one node).
    pub pod_cidr: String,
    /// The services' range.
    pub service_cidr: String,
    /// Address of the DNS Service, in the services' range.
    pub dns_ip: Ipv4Addr,
    /// Ports.
    pub ports: Ports,
    /// Where CNI plugins are.
    pub cni_bin_dir: PathBuf,
}

impl Cluster {
    /// Address of the `kubernetes` Service: the first of the services' range.
    ///
    /// # Errors
    /// When the range is not an IPv4 CIDR with room for it.
    pub fn service_ip(&self) -> Result<Ipv4Addr, String> {
        nth_address(&self.service_cidr, 1)
    }

    /// Where the API server is reached from this machine.
    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.api)
    }

    /// A path below the cluster's directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    /// A file of the certificates' directory, as a flag's value.
    pub fn pki(&self, file: &str) -> String {
        self.dir.join("pki").join(file).display().to_string()
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.path("admin.conf")
    }

    /// The container runtime's socket.
    pub fn runtime_socket(&self) -> PathBuf {
        self.path("containerd/containerd.sock")
    }

    /// Where the description is stored.
    pub fn state_file(dir: &Path) -> PathBuf {
        dir.join("cluster.json")
    }
}

/// The `n`-th address of an IPv4 range.
///
/// # Errors
/// When `cidr` is not one, or is too small.
pub fn nth_address(cidr: &str, n: u32) -> Result<Ipv4Addr, String> {
    let wrong = || format!("{cidr:?} is not an IPv4 range like 10.96.0.0/16 with at least {n} addresses");
    let (address, bits) = cidr.split_once('/').ok_or_else(wrong)?;
    let (address, bits): (Ipv4Addr, u32) = (address.parse().map_err(|_| wrong())?, bits.parse().map_err(|_| wrong())?);
    if bits > 32 || (bits > 0 && u64::from(n) >= 1u64 << (32 - bits)) {
        return Err(wrong());
    }
    let mask = if bits == 0 { 0 } else { u32::MAX << (32 - bits) };
    Ok(Ipv4Addr::from((u32::from(address) & mask).checked_add(n).ok_or_else(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_range() {
        assert_eq!(nth_address("10.96.0.0/16", 1).unwrap().to_string(), "10.96.0.1");
        assert_eq!(nth_address("10.96.3.7/16", 10).unwrap().to_string(), "10.96.0.10");
        for wrong in ["10.96.0.0", "10.96.0.0/33", "x/16", "10.0.0.0/32", "fd00::/64"] {
            assert!(nth_address(wrong, 1).is_err(), "{wrong}");
        }
    }
}

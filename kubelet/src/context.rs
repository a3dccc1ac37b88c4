//! What the parts of the kubelet share: handles to the outside and settings that never change while it runs.

use std::path::PathBuf;
use std::sync::OnceLock;

use jiff::SignedDuration;

use crate::cgroups::Cgroups;
use crate::cri::Runtime;
use crate::events::Events;
use crate::images::Puller;
use crate::objects::Objects;
use crate::pods::env::ServiceInfo;
use crate::pods::hosts::ClusterDns;
use crate::pods::resources::{Amounts, LimitOptions};
use crate::pods::security::Defaults;
use crate::volumes::csi;

/// Directories.
#[derive(Debug, Clone)]
pub struct Dirs {
    pub root: PathBuf,
    pub pod_logs: String,
    pub container_logs: PathBuf,
}

/// Reads the services of the cluster, for environment variables.
pub type ServiceLister = Box<dyn Fn(&str) -> Vec<ServiceInfo> + Send + Sync>;

/// Shared by all pods' workers.
pub struct Context {
    pub runtime: Runtime,
    /// The runtime's name, known after its first answer.
    pub runtime_name: OnceLock<String>,
    pub objects: Objects,
    pub events: Events,
    pub puller: Puller,
    pub services: ServiceLister,
    pub node_name: String,
    pub host_ips: Vec<String>,
    pub dirs: Dirs,
    pub dns: ClusterDns,
    pub resolv_conf: Option<PathBuf>,
    pub limits: LimitOptions,
    pub security: Defaults,
    pub cgroups: Cgroups,
    pub csi: csi::Drivers,
    pub allocatable: Amounts,
    pub max_crash_backoff: SignedDuration,
    /// How old a config map or secret in a running pod may get.
    pub sync_period: SignedDuration,
}

impl Context {
    /// The prefix of container ids.
    pub fn runtime_name(&self) -> &str {
        self.runtime_name.get().map_or("containerd", String::as_str)
    }
}

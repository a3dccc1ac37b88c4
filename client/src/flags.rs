//! The flags that say where the API server is; flatten into a daemon's clap struct.

use crate::{Client, ClientConfig, ClientConfigError};

/// Upstream's `--kubeconfig`, `--master`, `--kube-api-qps`, `--kube-api-burst`, `--kube-api-content-type`.
#[derive(Clone, Debug, clap::Args)]
pub struct ClientFlags {
    /// Path to kubeconfig file with authorization and master location information.
    #[arg(long, default_value = "")]
    pub kubeconfig: String,
    /// The address of the Kubernetes API server (overrides any value in kubeconfig).
    #[arg(long, default_value = "")]
    pub master: String,
    /// QPS to use while talking with kubernetes apiserver; 0 for no limit, the daemon's default when not given.
    #[arg(long)]
    pub kube_api_qps: Option<f32>,
    /// Burst to use while talking with kubernetes apiserver; the daemon's default when not given.
    #[arg(long)]
    pub kube_api_burst: Option<u32>,
    /// Content type of requests sent to apiserver; accepted, JSON is what is sent.
    #[arg(long, default_value = "application/vnd.kubernetes.protobuf")]
    pub kube_api_content_type: String,
}

impl ClientFlags {
    /// A client as the flags ask; without limits where none are given.
    pub fn client(&self, component: &str) -> Result<Client, ClientConfigError> {
        let config = ClientConfig::from_flags(&self.kubeconfig, &self.master, component)?;
        Client::new(config.limits(self.kube_api_qps.unwrap_or(0.0), self.kube_api_burst.unwrap_or(0)))
    }
}

//! The validated configuration: no Option that must be Some, no string that must still parse.

use component_base::net::Cidr;

/// What per-kind rules may know of the server's configuration.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// `--allow-privileged`
    pub allow_privileged: bool,
    /// `--service-cluster-ip-range`; the first one is the primary family.
    pub service_cidrs: Vec<Cidr>,
    /// `--service-node-port-range`, both ends included.
    pub node_port_range: (u16, u16),
    /// Cluster domain of a service account's issuer and of DNS names in defaults.
    pub cluster_domain: String,
}

//! The parts of Service and EndpointSlice that decide rules, as the informers decode them.

use std::net::IpAddr;

use apimachinery::meta::ObjectMeta;
use serde::Deserialize;

/// A Service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Name and labels.
    pub metadata: ObjectMeta,
    /// What it wants.
    pub spec: ServiceSpec,
    /// What a load balancer gave it.
    pub status: ServiceStatus,
}

/// A Service's spec.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// ClusterIP, NodePort, LoadBalancer, ExternalName.
    #[serde(rename = "type")]
    pub ty: String,
    /// All cluster addresses; `None` for headless ones.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// Ports.
    pub ports: Vec<Port>,
    /// Further addresses that lead here.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// `ClientIP` or `None`.
    pub session_affinity: String,
    /// How long affinity lasts.
    pub session_affinity_config: AffinityConfig,
    /// `Cluster` or `Local`, for traffic from outside.
    pub external_traffic_policy: String,
    /// `Cluster` or `Local`, for traffic from pods.
    pub internal_traffic_policy: String,
    /// Who may use the load balancer's address.
    pub load_balancer_source_ranges: Vec<String>,
    /// Port where load balancers ask whether this node has endpoints.
    pub health_check_node_port: u16,
}

/// One port of a Service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// Empty when there is only one.
    pub name: String,
    /// TCP, UDP, SCTP.
    pub protocol: String,
    /// At the cluster address.
    pub port: u16,
    /// On every node.
    pub node_port: u16,
}

/// Session affinity's parameters.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct AffinityConfig {
    /// For `ClientIP`.
    #[serde(rename = "clientIP")]
    pub client_ip: ClientIp,
}

/// `ClientIP` affinity.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIp {
    /// Seconds; upstream's default is three hours.
    pub timeout_seconds: Option<u32>,
}

/// A Service's status.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Load balancer.
    pub load_balancer: LoadBalancer,
}

/// What a load balancer gave.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct LoadBalancer {
    /// Its addresses.
    pub ingress: Vec<Ingress>,
}

/// An address of a load balancer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Ingress {
    /// Empty when it is known by name only.
    pub ip: String,
    /// `VIP` (packets come with this destination) or `Proxy`.
    pub ip_mode: Option<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Name and labels; `kubernetes.io/service-name` says whose it is.
    pub metadata: ObjectMeta,
    /// IPv4, IPv6, FQDN.
    pub address_type: String,
    /// Endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// The same ports for all of them.
    pub ports: Vec<SlicePort>,
}

/// One endpoint.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceEndpoint {
    /// The first one counts.
    pub addresses: Vec<IpAddr>,
    /// How it is.
    pub conditions: Conditions,
    /// Where it runs.
    pub node_name: Option<String>,
    /// Where its traffic should come from.
    pub hints: Option<Hints>,
}

/// Conditions of an endpoint; an absent `ready` counts as ready.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Conditions {
    /// Takes new connections.
    pub ready: Option<bool>,
    /// Answers (also while it ends).
    pub serving: Option<bool>,
    /// Is going.
    pub terminating: Option<bool>,
}

/// Topology hints.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Hints {
    /// Zones that should use it.
    pub for_zones: Vec<Named>,
    /// Nodes that should use it.
    pub for_nodes: Vec<Named>,
}

/// A name in a list.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Named {
    /// The name.
    pub name: String,
}

/// A port of a slice.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct SlicePort {
    /// Matches the Service port's name.
    pub name: Option<String>,
    /// TCP, UDP, SCTP.
    pub protocol: Option<String>,
    /// Number; absent means all ports, which proxies cannot express.
    pub port: Option<u16>,
}

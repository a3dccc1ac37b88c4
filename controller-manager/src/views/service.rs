//! Services and (classic) Endpoints.

use apimachinery::int_or_string::IntOrString;
use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::{Deserialize, Serialize};

use super::namespace_index;
use super::selector::Selector;

/// By namespace.
pub const BY_NAMESPACE: &str = "namespace";

/// A service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is served and by whom.
    pub spec: ServiceSpec,
}

crate::view!(ServiceView, resources::SERVICES, [(BY_NAMESPACE, namespace_index)]);

/// What is served and by whom.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `ExternalName` …
    #[serde(rename = "type")]
    pub kind: String,
    /// Which pods; none for services whose endpoints somebody else keeps.
    pub selector: Selector,
    /// What is served.
    pub ports: Vec<ServicePort>,
    /// `None` for headless services.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// `IPv4`, `IPv6`.
    pub ip_families: Vec<String>,
    /// Whether a load balancer's ports get node ports; they do unless this is false.
    pub allocate_load_balancer_node_ports: Option<bool>,
    /// Whether unready pods are endpoints too.
    pub publish_not_ready_addresses: bool,
    /// `PreferClose` …
    pub traffic_distribution: Option<String>,
}

/// One served port.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name; may be empty when it is the only one.
    pub name: String,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// Clients' port.
    pub port: i32,
    /// The same port on all nodes; 0 for none.
    pub node_port: i32,
    /// Pods' port, by number or name.
    pub target_port: Option<IntOrString>,
    /// What is spoken.
    pub app_protocol: Option<String>,
}

/// Endpoints.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointsView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Addresses with ports.
    pub subsets: Vec<Subset>,
}

crate::view!(EndpointsView, resources::ENDPOINTS, [(BY_NAMESPACE, namespace_index)]);

/// Addresses that share ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// Those that serve.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<EndpointAddress>,
    /// Those that do not yet, or no longer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_ready_addresses: Vec<EndpointAddress>,
    /// What they serve.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPort>,
}

/// One address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointAddress {
    /// The address.
    pub ip: String,
    /// DNS name below the service.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
}

/// The object behind an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetRef {
    /// `Pod`.
    pub kind: String,
    /// Its namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its identity.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// One port of endpoints or of a slice. A slice always says its name, endpoints only when there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// The service port's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The pods' port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// `TCP` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// What is spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

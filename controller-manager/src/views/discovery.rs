//! EndpointSlices.

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::{Deserialize, Serialize};

use super::meta::or_empty;
use super::service::{EndpointPort, TargetRef};

/// Names the service a slice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Names the controller that keeps a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Slices by `namespace/service`.
pub const BY_SERVICE: &str = "service";

/// A slice of a service's endpoints.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSliceView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6`, `FQDN`.
    pub address_type: String,
    /// At most 1000, by upstream's rule 100.
    #[serde(deserialize_with = "or_empty")]
    pub endpoints: Vec<Endpoint>,
    /// What all of them serve.
    #[serde(deserialize_with = "or_empty")]
    pub ports: Vec<EndpointPort>,
}

crate::view!(
    EndpointSliceView,
    resources::ENDPOINT_SLICES,
    [(BY_SERVICE, |slice: &EndpointSliceView| {
        let service = slice.metadata.labels.get(SERVICE_NAME);
        service.map(|name| format!("{}/{name}", slice.metadata.namespace)).into_iter().collect()
    })]
);

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its addresses; all of one family.
    pub addresses: Vec<String>,
    /// Its state.
    pub conditions: EndpointConditions,
    /// DNS name below the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The node's zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Who should use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<Hints>,
}

/// An endpoint's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Takes new connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Ready, even if terminating.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// On its way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// Which clients should prefer an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hints {
    /// Those in these zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub for_zones: Vec<Named>,
    /// Those on these nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub for_nodes: Vec<Named>,
}

/// A name in a list of names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Named {
    /// The name.
    pub name: String,
}

//! From a service and its pods to endpoints, purely.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::int_or_string::IntOrString;

use crate::controllers::slices::PortGroup;
use crate::views::discovery::{Endpoint, EndpointConditions, Hints, MANAGED_BY, Named, SERVICE_NAME};
use crate::views::meta::is_deleting;
use crate::views::node::NodeView;
use crate::views::pod::{Container, PodView};
use crate::views::service::{EndpointPort, ServicePort, ServiceView, TargetRef};

/// The name under which this controller keeps slices.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// On slices and endpoints of services without a cluster address.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// The zone of a node.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// Whether the pod is an endpoint at all, ready or not.
pub fn is_endpoint(pod: &PodView, include_terminating: bool) -> bool {
    let has_address = !pod.status.pod_ip.is_empty() || !pod.status.pod_ips.is_empty();
    !pod.is_terminal() && has_address && (include_terminating || !is_deleting(&pod.metadata))
}

/// Whether the pod has a DNS name below the service.
pub fn has_hostname(pod: &PodView, service: &ServiceView) -> bool {
    !pod.spec.hostname.is_empty()
        && pod.spec.subdomain == service.metadata.name
        && pod.metadata.namespace == service.metadata.namespace
}

/// The number behind a service port in this pod.
pub fn target_port(pod: &PodView, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        Some(IntOrString::Int(number)) if *number != 0 => Some(*number),
        Some(IntOrString::Text(name)) if !name.is_empty() => named_port(pod, name, &port.protocol),
        _ => Some(port.port),
    }
}

/// Sidecars serve too; other init containers do not.
fn named_port(pod: &PodView, name: &str, protocol: &str) -> Option<i32> {
    let tcp = |protocol: &str| if protocol.is_empty() { "TCP".to_owned() } else { protocol.to_owned() };
    let find = |container: &Container| {
        container
            .ports
            .iter()
            .find(|port| port.name == name && tcp(&port.protocol) == tcp(protocol))
            .map(|port| port.container_port)
    };
    let sidecars = pod.spec.init_containers.iter().filter(|container| container.restart_policy == "Always");
    pod.spec.containers.iter().chain(sidecars).find_map(find)
}

/// Labels of the service's slices: its own, without those that slices use for themselves.
pub fn slice_labels(service: &ServiceView) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone();
    labels.remove(HEADLESS);
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service.spec.cluster_ip == "None" {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

/// The families in which the service is served.
pub fn address_types(service: &ServiceView) -> Vec<String> {
    if !service.spec.ip_families.is_empty() {
        return service.spec.ip_families.clone();
    }
    vec![if service.spec.cluster_ip.contains(':') { "IPv6" } else { "IPv4" }.to_owned()]
}

/// The endpoints of `service`, grouped by family and ports. `node` finds a pod's node.
pub fn wanted(
    service: &ServiceView,
    pods: &[Arc<PodView>],
    node: impl Fn(&str) -> Option<Arc<NodeView>>,
) -> (Vec<PortGroup>, Vec<String>) {
    let mut groups: Vec<PortGroup> = Vec::new();
    let mut missing_nodes = Vec::new();
    for address_type in address_types(service) {
        let before = groups.len();
        for pod in pods.iter().filter(|pod| is_endpoint(pod, true)) {
            let node = node(&pod.spec.node_name);
            if node.is_none() && !service.spec.publish_not_ready_addresses {
                missing_nodes.push(pod.spec.node_name.clone());
                continue;
            }
            let endpoint = endpoint(service, pod, node.as_deref(), &address_type);
            if endpoint.addresses.is_empty() {
                continue;
            }
            let ports = ports(service, pod);
            match groups[before..].iter_mut().find(|group| group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(PortGroup { address_type: address_type.clone(), ports, endpoints: vec![endpoint] }),
            }
        }
        if groups.len() == before {
            groups.push(PortGroup { address_type, ..PortGroup::default() });
        }
    }
    (groups, missing_nodes)
}

fn ports(service: &ServiceView, pod: &PodView) -> Vec<EndpointPort> {
    service
        .spec
        .ports
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone()),
                port: Some(target_port(pod, port)?),
                protocol: Some(port.protocol.clone()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn endpoint(service: &ServiceView, pod: &PodView, node: Option<&NodeView>, address_type: &str) -> Endpoint {
    let serving = pod.is_ready();
    let terminating = is_deleting(&pod.metadata);
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let zone = node.and_then(|node| node.metadata.labels.get(ZONE)).cloned();
    let node_name = (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone());
    Endpoint {
        addresses: pod
            .status
            .pod_ips
            .iter()
            .map(|address| address.ip.clone())
            .filter(|ip| ip.contains(':') == (address_type == "IPv6"))
            .collect(),
        conditions: EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) },
        hostname: has_hostname(pod, service).then(|| pod.spec.hostname.clone()),
        target_ref: Some(TargetRef {
            kind: "Pod".to_owned(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        }),
        hints: hints(service, ready, zone.as_deref(), node_name.as_deref()),
        node_name,
        zone,
    }
}

/// `PreferClose` and `PreferSameZone` point at the endpoint's own zone, `PreferSameNode` at its node too.
fn hints(service: &ServiceView, ready: bool, zone: Option<&str>, node: Option<&str>) -> Option<Hints> {
    let distribution = service.spec.traffic_distribution.as_deref()?;
    if !ready || !matches!(distribution, "PreferClose" | "PreferSameZone" | "PreferSameNode") {
        return None;
    }
    let named = |name: Option<&str>| name.map(|name| Named { name: name.to_owned() }).into_iter().collect();
    let hints = Hints { for_zones: named(zone), for_nodes: named(node.filter(|_| distribution == "PreferSameNode")) };
    (hints != Hints::default()).then_some(hints)
}

//! From a service and its pods to Endpoints, purely. Ports of the same addresses share a subset, in a fixed order, so
//! that equal endpoints are equal objects. At most 1000 addresses are kept (upstream's limit), ready ones first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::controllers::endpointslice_controller::reconcile::{
    HEADLESS, address_types, has_hostname, is_endpoint, target_port,
};
use crate::framework::{Action, View};
use crate::views::meta::to_value;
use crate::views::pod::PodView;
use crate::views::service::{EndpointAddress, EndpointPort, EndpointsView, ServiceView, Subset, TargetRef};

/// Who keeps the object.
pub const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// This controller.
pub const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MAX_ADDRESSES: usize = 1000;

/// The write that the service's Endpoints need, if any.
pub fn reconcile(service: &ServiceView, pods: &[Arc<PodView>], current: Option<&EndpointsView>) -> Option<Action> {
    let (subsets, truncated) = truncated(subsets(service, pods));
    let mut labels = service.metadata.labels.clone();
    labels.remove(HEADLESS);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service.spec.cluster_ip == "None" {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let values: Vec<Value> = subsets.iter().map(to_value).collect();
    let Some(current) = current else {
        let mut body = json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "name": service.metadata.name,
                "namespace": service.metadata.namespace,
                "labels": labels,
            },
            "subsets": values,
        });
        if truncated {
            body["metadata"]["annotations"] = json!({OVER_CAPACITY: "truncated"});
        }
        let namespace = service.metadata.namespace.clone();
        return Some(Action::Create { resource: EndpointsView::RESOURCE, namespace, body });
    };
    let was_truncated = current.metadata.annotations.contains_key(OVER_CAPACITY);
    if current.subsets == subsets && current.metadata.labels == labels && was_truncated == truncated {
        return None;
    }
    let mut label_changes = json!(labels);
    for stale in current.metadata.labels.keys().filter(|name| !labels.contains_key(*name)) {
        label_changes[stale] = Value::Null;
    }
    let annotation = if truncated { json!("truncated") } else { Value::Null };
    Some(current.target().change(json!({
        "metadata": {
            "resourceVersion": current.metadata.resource_version,
            "labels": label_changes,
            "annotations": {OVER_CAPACITY: annotation},
        },
        "subsets": values,
    })))
}

fn subsets(service: &ServiceView, pods: &[Arc<PodView>]) -> Vec<Subset> {
    let v6 = address_types(service).first().is_some_and(|family| family == "IPv6");
    let unready_too = service.spec.publish_not_ready_addresses;
    // Which addresses offer a port, and whether they are ready; None stands for no port at all.
    let mut by_port: BTreeMap<Option<EndpointPort>, BTreeSet<(EndpointAddress, bool)>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| is_endpoint(pod, unready_too)) {
        let Some(address) = address(service, pod, v6) else { continue };
        let offered = service.spec.ports.iter().filter_map(|port| {
            Some(Some(EndpointPort {
                name: (!port.name.is_empty()).then(|| port.name.clone()),
                port: Some(target_port(pod, port)?),
                protocol: Some(port.protocol.clone()),
                app_protocol: port.app_protocol.clone(),
            }))
        });
        let headless_without_ports = service.spec.ports.is_empty() && service.spec.cluster_ip == "None";
        for port in offered.chain(headless_without_ports.then_some(None)) {
            by_port.entry(port).or_default().insert((address.clone(), unready_too || pod.is_ready()));
        }
    }
    let mut by_addresses: BTreeMap<BTreeSet<(EndpointAddress, bool)>, Vec<EndpointPort>> = BTreeMap::new();
    for (port, addresses) in by_port {
        by_addresses.entry(addresses).or_default().extend(port);
    }
    let subset = |(addresses, ports): (BTreeSet<(EndpointAddress, bool)>, _)| {
        let (ready, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|(_, ready)| *ready);
        let only = |list: Vec<_>| list.into_iter().map(|(address, _)| address).collect();
        Subset { addresses: only(ready), not_ready_addresses: only(others), ports }
    };
    by_addresses.into_iter().map(subset).collect()
}

fn address(service: &ServiceView, pod: &PodView, v6: bool) -> Option<EndpointAddress> {
    let first = (pod.status.pod_ip.contains(':') == v6 && !pod.status.pod_ip.is_empty()).then_some(&pod.status.pod_ip);
    let ip = pod.status.pod_ips.iter().map(|address| &address.ip).find(|ip| ip.contains(':') == v6).or(first)?;
    Some(EndpointAddress {
        ip: ip.clone(),
        hostname: if has_hostname(pod, service) { pod.spec.hostname.clone() } else { String::new() },
        node_name: (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone()),
        target_ref: Some(TargetRef {
            kind: "Pod".to_owned(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        }),
    })
}

/// Keeps at most the allowed number of addresses; unready ones are dropped first.
fn truncated(mut subsets: Vec<Subset>) -> (Vec<Subset>, bool) {
    let total: usize = subsets.iter().map(|subset| subset.addresses.len() + subset.not_ready_addresses.len()).sum();
    if total <= MAX_ADDRESSES {
        return (subsets, false);
    }
    let mut room = MAX_ADDRESSES;
    for subset in &mut subsets {
        subset.addresses.truncate(room);
        room -= subset.addresses.len();
    }
    for subset in &mut subsets {
        subset.not_ready_addresses.truncate(room);
        room -= subset.not_ready_addresses.len();
    }
    subsets.retain(|subset| !subset.addresses.is_empty() || !subset.not_ready_addresses.is_empty());
    (subsets, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_shares_its_subset_with_ports_of_the_same_addresses_only() {
        let pod = |name: &str, ports: Value| {
            let value = json!({"metadata": {"name": name, "uid": name}, "spec": {"containers": [{"ports": ports}]},
                "status": {"podIP": format!("10.0.0.{}", name.len()), "phase": "Running",
                    "conditions": [{"type": "Ready", "status": "True"}]}});
            Arc::new(serde_json::from_value::<PodView>(value).unwrap())
        };
        let service = json!({"spec": {"clusterIP": "10.1.1.1", "ports": [
            {"name": "x", "port": 80, "targetPort": "http", "protocol": "TCP"},
            {"name": "y", "port": 81, "targetPort": 9, "protocol": "TCP"}]}});
        let service: ServiceView = serde_json::from_value(service).unwrap();
        let named = json!([{"name": "http", "containerPort": 8080, "protocol": "TCP"}]);
        let shape = |pods: &[Arc<PodView>]| {
            let all = subsets(&service, pods);
            let mut sizes: Vec<_> = all.iter().map(|s| (s.ports.len(), s.addresses.len())).collect();
            sizes.sort_unstable();
            sizes
        };
        assert_eq!(shape(&[pod("a", named.clone()), pod("bb", json!([]))]), [(1, 1), (1, 2)]);
        assert_eq!(shape(&[pod("a", named.clone()), pod("bb", named)]), [(2, 2)]);
    }
}

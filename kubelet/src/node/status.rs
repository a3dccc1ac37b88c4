//! The node object and its status. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use serde_json::{Value, json};

use super::machine::{Identity, labels};
use crate::config::Config;
use crate::cri::api;
use crate::pods::resources::Amounts;

/// Most names of one image.
const MAX_IMAGE_NAMES: usize = 5;

/// What the status shows.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub node_name: String,
    pub host_ips: Vec<String>,
    pub capacity: Amounts,
    pub allocatable: Amounts,
    pub identity: Identity,
    /// `containerd://1.6.20`
    pub runtime_version: String,
    pub images: Vec<core::ContainerImage>,
    pub runtime_handlers: Vec<core::NodeRuntimeHandler>,
    /// What the runtime says it can do; none from runtimes that say nothing.
    pub features: Option<core::NodeFeatures>,
    pub port: i32,
}

/// What pods and clients may ask of this kubelet that older ones cannot do: upstream's names, in order.
const DECLARED_FEATURES: [&str; 1] = ["RestartAllContainersOnContainerExits"];

/// Amounts as quantities, in the form that people expect: cores, Ki.
pub fn quantities(amounts: &Amounts) -> BTreeMap<String, ApiQuantity> {
    let text = |name: &str, value: i64| match name {
        "cpu" if value % 1000 == 0 => (value / 1000).to_string(),
        "cpu" => format!("{value}m"),
        "memory" | "ephemeral-storage" if value % 1024 == 0 => format!("{}Ki", value / 1024),
        _ => value.to_string(),
    };
    amounts.iter().map(|(name, value)| (name.clone(), ApiQuantity(text(name, *value)))).collect()
}

/// The status without conditions.
pub fn generate(facts: &Facts) -> core::NodeStatus {
    let address = |type_: &str, address: &str| core::NodeAddress { type_: type_.into(), address: address.into() };
    let mut addresses: Vec<_> = facts.host_ips.iter().map(|ip| address("InternalIP", ip)).collect();
    addresses.push(address("Hostname", &facts.node_name));
    let id = &facts.identity;
    core::NodeStatus {
        addresses: Some(addresses),
        capacity: Some(quantities(&facts.capacity)),
        allocatable: Some(quantities(&facts.allocatable)),
        daemon_endpoints: Some(core::NodeDaemonEndpoints {
            kubelet_endpoint: Some(core::DaemonEndpoint { port: facts.port }),
        }),
        node_info: Some(core::NodeSystemInfo {
            architecture: labels("").remove("kubernetes.io/arch").unwrap_or_default(),
            boot_id: id.boot_id.clone(),
            container_runtime_version: facts.runtime_version.clone(),
            kernel_version: id.kernel_version.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: component_base::version::GIT_VERSION.to_owned(),
            machine_id: id.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: id.os_image.clone(),
            swap: Some(core::NodeSwapStatus { capacity: Some(id.swap_bytes) }),
            system_uuid: id.system_uuid.clone(),
        }),
        images: Some(facts.images.clone()),
        runtime_handlers: Some(facts.runtime_handlers.clone()).filter(|h| !h.is_empty()),
        features: facts.features.clone(),
        declared_features: Some(DECLARED_FEATURES.map(str::to_owned).to_vec()),
        ..core::NodeStatus::default()
    }
}

/// The largest images first, at most `max` (all when negative).
pub fn images(list: Vec<api::Image>, max: i32) -> Vec<core::ContainerImage> {
    let mut list = list;
    list.sort_by_key(|i| std::cmp::Reverse(i.size));
    let image = |i: api::Image| core::ContainerImage {
        names: Some(i.repo_digests.into_iter().chain(i.repo_tags).take(MAX_IMAGE_NAMES).collect()),
        size_bytes: i64::try_from(i.size).ok(),
    };
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    list.into_iter().take(max).map(image).collect()
}

/// The object for registration.
pub fn node_object(config: &Config, status: &core::NodeStatus) -> Value {
    let mut all = labels(&config.node_name);
    all.extend(config.node_labels.clone());
    let mut taints = config.taints.clone();
    if config.external_cloud {
        taints.push(core::Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".into(),
            value: Some("true".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        });
    }
    let mut spec = json!({});
    if !taints.is_empty() {
        spec["taints"] = json!(taints);
    }
    if !config.file.provider_id.is_empty() {
        spec["providerID"] = json!(config.file.provider_id);
    }
    if !config.file.register_node {
        spec["unschedulable"] = json!(true);
    }
    let mut annotations = json!({});
    if config.file.enable_controller_attach_detach {
        annotations["volumes.kubernetes.io/controller-managed-attach-detach"] = json!("true");
    }
    json!({"apiVersion": "v1", "kind": "Node", "spec": spec, "status": status,
        "metadata": {"name": config.node_name, "labels": all, "annotations": annotations}})
}

/// Whether two statuses differ in more than heartbeats.
pub fn differs(old: &core::NodeStatus, new: &core::NodeStatus) -> bool {
    let quiet = |status: &core::NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    quiet(old) != quiet(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        let amounts = Amounts::from([("cpu".into(), 2000), ("memory".into(), 2048), ("pods".into(), 110)]);
        let q = quantities(&amounts);
        assert_eq!((q["cpu"].0.as_str(), q["memory"].0.as_str(), q["pods"].0.as_str()), ("2", "2Ki", "110"));
        assert_eq!(quantities(&Amounts::from([("cpu".into(), 1500)]))["cpu"].0, "1500m");
    }

    #[test]
    fn heartbeats_are_no_difference() {
        let with = |time: i64, status: &str| core::NodeStatus {
            conditions: Some(vec![core::NodeCondition {
                last_heartbeat_time: jiff::Timestamp::from_second(time)
                    .ok()
                    .map(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time),
                status: status.into(),
                ..Default::default()
            }]),
            ..Default::default()
        };
        assert!(!differs(&with(1, "True"), &with(2, "True")));
        assert!(differs(&with(1, "True"), &with(1, "False")));
    }
}

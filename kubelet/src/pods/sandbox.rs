//! What the runtime is told about a pod's sandbox. Pure.

use std::collections::HashMap;

use k8s_openapi::api::core::v1 as core;

use super::container::log_directory;
use super::types::Pod;
use super::{hosts, resources, security};
use crate::cri::{api, labels};

/// Node settings that a sandbox depends on.
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub attempt: u32,
    pub dns: api::DnsConfig,
    pub cluster_domain: &'a str,
    pub logs_root: &'a str,
    pub cgroup_parent: String,
    pub limits: &'a resources::LimitOptions,
}

/// The sandbox's configuration, also needed with every container of it.
pub fn config(input: Input<'_>) -> api::PodSandboxConfig {
    let pod = input.pod;
    let hostname = if pod.host_network() { String::new() } else { hosts::host_name(pod, input.cluster_domain).0 };
    let sysctls = pod.spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten());
    api::PodSandboxConfig {
        metadata: Some(api::PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            attempt: input.attempt,
        }),
        hostname,
        log_directory: log_directory(input.logs_root, pod.namespace(), pod.name(), pod.uid()),
        dns_config: Some(input.dns),
        port_mappings: port_mappings(pod),
        labels: sandbox_labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(api::LinuxPodSandboxConfig {
            cgroup_parent: input.cgroup_parent,
            security_context: Some(security::sandbox(pod)),
            sysctls: sysctls.map(|s| (sysctl_name(&s.name), s.value.clone())).collect(),
            overhead: Some(pod_resources(&overhead(pod), input.limits)),
            resources: Some(pod_resources(&resources::pod_requests(&pod.spec), input.limits)),
        }),
    }
}

/// A sysctl's name with dots; with slashes as separators it may have dots inside (`net/ipv4/conf/eth0.1/x`), which then
/// become slashes.
pub fn sysctl_name(name: &str) -> String {
    let swap = |c: char| match c {
        '/' => '.',
        '.' => '/',
        c => c,
    };
    match name.find(['.', '/']) {
        Some(first) if name[first..].starts_with('/') => name.chars().map(swap).collect(),
        _ => name.to_owned(),
    }
}

fn overhead(pod: &Pod) -> resources::Amounts {
    pod.spec.overhead.iter().flatten().map(|(n, q)| (n.clone(), resources::amount(n, q))).collect()
}

fn pod_resources(amounts: &resources::Amounts, limits: &resources::LimitOptions) -> api::LinuxContainerResources {
    let milli = amounts.get("cpu").copied().unwrap_or(0);
    api::LinuxContainerResources {
        cpu_period: limits.cfs_period_microseconds,
        cpu_shares: resources::cpu_shares(milli),
        memory_limit_in_bytes: 0,
        ..Default::default()
    }
}

fn sandbox_labels(pod: &Pod) -> HashMap<String, String> {
    let mut map: HashMap<_, _> = pod.labels().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    map.insert(labels::POD_NAME.to_owned(), pod.name().to_owned());
    map.insert(labels::POD_NAMESPACE.to_owned(), pod.namespace().to_owned());
    map.insert(labels::POD_UID.to_owned(), pod.uid().to_owned());
    map
}

fn port_mappings(pod: &Pod) -> Vec<api::PortMapping> {
    if pod.host_network() {
        return Vec::new();
    }
    let ports = pod.containers().flat_map(|(_, c)| c.ports.iter().flatten());
    ports.filter(|p| p.host_port.is_some_and(|h| h > 0)).map(mapping).collect()
}

fn mapping(port: &core::ContainerPort) -> api::PortMapping {
    let protocol = match port.protocol.as_deref() {
        Some("UDP") => api::Protocol::Udp,
        Some("SCTP") => api::Protocol::Sctp,
        _ => api::Protocol::Tcp,
    };
    api::PortMapping {
        protocol: protocol as i32,
        container_port: port.container_port,
        host_port: port.host_port.unwrap_or(0),
        host_ip: port.host_ip.clone().unwrap_or_default(),
    }
}

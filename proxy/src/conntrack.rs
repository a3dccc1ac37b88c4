//! Connection tracking: the machine's limits, and entries that point to endpoints that are gone.
//!
//! UDP has no connection that ends, so a tracked flow would go to a dead endpoint for ever: when an endpoint goes, or a
//! Service gets its first one (until then flows were tracked as going nowhere), the flows are deleted. The decision is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use crate::config::Conntrack;
use crate::core::{Desired, Endpoint, Protocol, ServicePort};

/// Tracked flows to be deleted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stale {
    /// Flows to a Service address that were sent to an endpoint.
    Endpoint {
        /// Service address.
        service: IpAddr,
        /// Endpoint's address.
        endpoint: IpAddr,
    },
    /// All flows to a Service address and port.
    Service {
        /// Service address.
        service: IpAddr,
        /// Port.
        port: u16,
    },
    /// All flows to a node port.
    NodePort(u16),
}

/// What became stale between two desired states.
pub fn stale(old: &Desired, new: &Desired) -> BTreeSet<Stale> {
    let udp = |d: &Desired| -> BTreeMap<String, ServicePort> {
        d.ports.iter().filter(|p| p.protocol == Protocol::Udp).map(|p| (p.name.clone(), p.clone())).collect()
    };
    let (old, new) = (udp(old), udp(new));
    let mut out = BTreeSet::new();
    for (name, before) in &old {
        let now = new.get(name).map(endpoints).unwrap_or_default();
        for gone in endpoints(before).difference(&now) {
            for service in addresses(before) {
                out.insert(Stale::Endpoint { service, endpoint: gone.ip });
            }
        }
    }
    for (name, now) in &new {
        let had = old.get(name).is_some_and(|before| !endpoints(before).is_empty());
        if !had && !endpoints(now).is_empty() {
            out.extend(addresses(now).into_iter().map(|service| Stale::Service { service, port: now.port }));
            if now.node_port != 0 {
                out.insert(Stale::NodePort(now.node_port));
            }
        }
    }
    out
}

fn endpoints(port: &ServicePort) -> BTreeSet<Endpoint> {
    port.cluster_endpoints.iter().chain(&port.local_endpoints).cloned().collect()
}

fn addresses(port: &ServicePort) -> Vec<IpAddr> {
    [port.cluster_ip]
        .into_iter()
        .chain(port.external_ips.iter().copied())
        .chain(port.load_balancer_ips.iter().copied())
        .collect()
}

/// Deletes the flows with the `conntrack` program; a failure is logged, because traffic to live endpoints is not affected.
/// Returns the number of deleted flows.
pub async fn delete(stale: &BTreeSet<Stale>) -> u64 {
    let mut deleted = 0;
    for entry in stale {
        let arguments: Vec<String> = match entry {
            Stale::Endpoint { service, endpoint } => {
                ["-D", "--orig-dst", &service.to_string(), "--dst-nat", &endpoint.to_string(), "-p", "udp"]
                    .map(str::to_owned)
                    .to_vec()
            }
            Stale::Service { service, port } => {
                ["-D", "--orig-dst", &service.to_string(), "-p", "udp", "--dport", &port.to_string()]
                    .map(str::to_owned)
                    .to_vec()
            }
            Stale::NodePort(port) => ["-D", "-p", "udp", "--dport", &port.to_string()].map(str::to_owned).to_vec(),
        };
        match tokio::process::Command::new("conntrack").args(&arguments).output().await {
            Err(error) => tracing::warn!("cannot run conntrack to end stale UDP flows: {error} (package conntrack)"),
            Ok(output) => {
                let words = String::from_utf8_lossy(&output.stderr);
                deleted += words
                    .split_whitespace()
                    .skip_while(|word| !word.ends_with("):"))
                    .nth(1)
                    .and_then(|count| count.parse::<u64>().ok())
                    .unwrap_or(0);
                // exit status 1 with "0 flow entries" only says that there were none
                if !output.status.success() && !words.contains("0 flow entries") {
                    tracing::warn!("conntrack {} failed: {}", arguments.join(" "), words.trim());
                }
            }
        }
    }
    deleted
}

/// Writes the machine's limits where they differ; a read-only /proc is a warning, as the limits are not vital.
pub fn configure(config: &Conntrack) {
    let mut wanted: Vec<(&str, u64)> = config.timeouts.iter().map(|(name, value)| (*name, value.as_secs())).collect();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    if config.max_per_core > 0 {
        wanted.push(("nf_conntrack_max", (u64::from(config.max_per_core) * cores).max(config.min.into())));
    }
    if config.tcp_be_liberal {
        wanted.push(("nf_conntrack_tcp_be_liberal", 1));
    }
    for (name, value) in wanted {
        let path = Path::new("/proc/sys/net/netfilter").join(name);
        let now = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if now != Some(value)
            && let Err(error) = std::fs::write(&path, value.to_string())
        {
            tracing::warn!("cannot set {} to {value}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(protocol: Protocol, endpoint_ips: &[&str]) -> Desired {
        let endpoint = |ip: &&str| Endpoint { ip: ip.parse().unwrap(), port: 53, local: false };
        let port = ServicePort {
            name: "kube-system/dns:dns".to_owned(),
            service: ("kube-system".to_owned(), "dns".to_owned()),
            protocol,
            cluster_ip: "10.96.0.10".parse().unwrap(),
            port: 53,
            node_port: 0,
            external_ips: vec![],
            load_balancer_ips: vec![],
            source_ranges: vec![],
            affinity_seconds: None,
            external_local: false,
            internal_local: false,
            health_check_node_port: 0,
            cluster_endpoints: endpoint_ips.iter().map(endpoint).collect(),
            local_endpoints: vec![],
            has_endpoints: !endpoint_ips.is_empty(),
        };
        Desired { ports: vec![port] }
    }

    #[test]
    fn udp_flows_to_gone_endpoints_and_to_services_without_any_end() {
        let (two, one, none) = (
            state(Protocol::Udp, &["10.0.0.1", "10.0.0.2"]),
            state(Protocol::Udp, &["10.0.0.1"]),
            state(Protocol::Udp, &[]),
        );
        let service = "10.96.0.10".parse().unwrap();
        let gone = Stale::Endpoint { service, endpoint: "10.0.0.2".parse().unwrap() };
        assert_eq!(stale(&two, &one), BTreeSet::from([gone]));
        assert_eq!(stale(&none, &one), BTreeSet::from([Stale::Service { service, port: 53 }]));
        assert_eq!(stale(&one, &one), BTreeSet::new());
        assert_eq!(stale(&state(Protocol::Tcp, &["10.0.0.1"]), &state(Protocol::Tcp, &[])), BTreeSet::new());
    }
}

//! Connection tracking: the machine's limits, and entries that point to endpoints that are gone.
//!
//! UDP has no connection that ends, so a tracked flow would go to a dead endpoint for ever, or nowhere when it began before
//! the Service had one: flows to a Service with endpoints that are not answered by one of them are deleted. The decision
//! looks at the kernel's table, not at what changed, so a restart forgets none. It is pure.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::config::Conntrack;
use crate::core::{Desired, Family, Protocol};
use crate::netlink::{ACK, DUMP, Message, Socket, attribute, ip_of};

/// Messages of connection tracking's part of netfilter.
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;

/// A tracked UDP flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where the client sends to.
    destination: SocketAddr,
    /// Who answers.
    answered_by: SocketAddr,
    /// The client's side in the kernel's words, to name the flow.
    tuple: Vec<u8>,
}

/// Where UDP may be sent: endpoints by Service address, and by node port. Services without endpoints are not in it.
#[derive(Debug, Default)]
pub struct Targets {
    addresses: HashMap<SocketAddr, HashSet<SocketAddr>>,
    node_ports: HashMap<u16, HashSet<SocketAddr>>,
}

impl Targets {
    /// Of the desired state.
    pub fn of(desired: &Desired) -> Self {
        let mut out = Self::default();
        for port in desired.ports().filter(|p| p.protocol == Protocol::Udp) {
            let endpoints: HashSet<SocketAddr> =
                port.reachable().into_iter().map(|e| SocketAddr::new(e.ip, e.port)).collect();
            if endpoints.is_empty() {
                continue;
            }
            for ip in port.external_ips.iter().chain(&port.load_balancer_ips).chain([&port.cluster_ip]) {
                out.addresses.insert(SocketAddr::new(*ip, port.port), endpoints.clone());
            }
            if port.node_port != 0 {
                out.node_ports.insert(port.node_port, endpoints);
            }
        }
        out
    }

    /// Whether a flow goes where nobody of the Service is.
    fn is_stale(&self, flow: &Flow) -> bool {
        let by_address = self.addresses.get(&flow.destination);
        let endpoints = by_address.or_else(|| self.node_ports.get(&flow.destination.port()));
        endpoints.is_some_and(|endpoints| !endpoints.contains(&flow.answered_by))
    }
}

/// Deletes stale UDP flows of one family; returns their number. Blocks.
///
/// # Errors
/// The kernel's.
pub fn reconcile(family: Family, targets: &Targets) -> io::Result<u64> {
    if targets.addresses.is_empty() {
        return Ok(0);
    }
    let mut socket = Socket::netfilter()?;
    let fixed = [if family == Family::V4 { 2 } else { 10 }, 0, 0, 0];
    let flows = socket.request(GET, DUMP, &Message::new(&fixed))?;
    let mut deleted = 0;
    for flow in flows.iter().filter_map(|entry| parse(entry)).filter(|flow| targets.is_stale(flow)) {
        match socket.request(DELETE, ACK, &Message::new(&fixed).bytes(ORIGINAL | 0x8000, &flow.tuple)) {
            Ok(_) => deleted += 1,
            // it ended by itself
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

/// An entry of the table, if it is UDP.
fn parse(entry: &[u8]) -> Option<Flow> {
    let attributes = entry.get(4..)?;
    let side = |which: u16, ip: [u16; 2], port: u16| {
        let tuple = attribute(attributes, which)?;
        let (addresses, protocol) = (attribute(tuple, 1)?, attribute(tuple, 2)?);
        if attribute(protocol, 1)?.first() != Some(&Protocol::Udp.number()) {
            return None;
        }
        let ip: IpAddr = ip.into_iter().find_map(|kind| attribute(addresses, kind).and_then(ip_of))?;
        let port = u16::from_be_bytes(attribute(protocol, port)?.try_into().ok()?);
        Some((SocketAddr::new(ip, port), tuple.to_vec()))
    };
    let (destination, tuple) = side(ORIGINAL, [2, 4], 3)?;
    let (answered_by, _) = side(REPLY, [1, 3], 2)?;
    Some(Flow { destination, answered_by, tuple })
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
    use crate::core::tests::udp_desired;

    #[test]
    fn flows_that_no_endpoint_answers_are_stale_if_there_is_one() {
        let flow = |destination: &str, answered_by: &str| Flow {
            destination: destination.parse().unwrap(),
            answered_by: answered_by.parse().unwrap(),
            tuple: Vec::new(),
        };
        let targets = Targets::of(&udp_desired(&["10.0.0.1"]));
        for (destination, answered_by, stale) in [
            ("10.96.0.10:80", "10.0.0.1:8080", false),
            ("10.96.0.10:80", "10.0.0.2:8080", true),
            ("10.96.0.10:80", "10.96.0.10:80", true),
            ("192.168.7.7:30080", "10.0.0.2:8080", true),
            ("10.96.0.11:80", "10.0.0.2:8080", false),
        ] {
            assert_eq!(targets.is_stale(&flow(destination, answered_by)), stale, "{destination} {answered_by}");
        }
        let nobody = Targets::of(&udp_desired(&[]));
        assert!(!nobody.is_stale(&flow("10.96.0.10:80", "10.0.0.2:8080")));
    }
}

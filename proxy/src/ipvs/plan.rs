//! From service ports to what the kernel shall have, and from differences of that to actions. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::sets::Set;
use crate::core::{Endpoint, Protocol, ServicePort};
use crate::settings::{NodePortAddresses, Settings};

/// A virtual server's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// Protocol.
    pub protocol: Protocol,
    /// Address and port.
    pub address: SocketAddr,
}

/// What several service ports may claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// An address on the dummy interface.
    Address(IpAddr),
    /// A virtual server.
    Server(Server),
    /// An entry of a set.
    Entry(Set, String),
    /// A load balancer's address that this node may not use.
    NoNodeAccess(Server),
}

/// What there is to say of a virtual server; of other keys nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    /// Client affinity in seconds.
    pub affinity_seconds: Option<u32>,
    /// Endpoints.
    pub endpoints: BTreeSet<SocketAddr>,
}

/// What one service port claims.
pub fn claims(settings: &Settings, port: &ServicePort) -> Vec<(Key, State)> {
    let mut claims = Claims { port, out: Vec::new() };
    for endpoint in port.reachable().into_iter().filter(|e| e.local) {
        claims.entry(Set::LoopBack, format!("{},{}:{},{0}", endpoint.ip, port.protocol.lower(), endpoint.port));
    }
    claims.entry(Set::ClusterIp, claims.at(port.cluster_ip));
    claims.server(port.cluster_ip, port.port, port.internal_local);
    claims.bind(port.cluster_ip);
    for ip in &port.external_ips {
        let set = if port.external_local { Set::ExternalIpLocal } else { Set::ExternalIp };
        claims.entry(set, claims.at(*ip));
        claims.external(settings, *ip);
    }
    for ip in &port.load_balancer_ips {
        claims.entry(Set::LoadBalancer, claims.at(*ip));
        if port.external_local {
            claims.entry(Set::LoadBalancerLocal, claims.at(*ip));
        }
        claims.source_ranges(settings, *ip);
        claims.external(settings, *ip);
    }
    if port.node_port != 0 {
        claims.node_port(settings);
    }
    if port.external_local && port.health_check_node_port != 0 {
        claims.entry(Set::HealthCheckNodePort, port.health_check_node_port.to_string());
    }
    claims.out
}

struct Claims<'a> {
    port: &'a ServicePort,
    out: Vec<(Key, State)>,
}

impl Claims<'_> {
    fn at(&self, ip: IpAddr) -> String {
        format!("{ip},{}:{}", self.port.protocol.lower(), self.port.port)
    }

    fn entry(&mut self, set: Set, entry: String) {
        self.out.push((Key::Entry(set, entry), State::default()));
    }

    fn bind(&mut self, ip: IpAddr) {
        self.out.push((Key::Address(ip), State::default()));
        self.entry(Set::IpvsIps, ip.to_string());
    }

    /// With policy Local and nothing on this node, others' endpoints serve the node itself: IPVS cannot tell who asks.
    fn server(&mut self, ip: IpAddr, number: u16, local: bool) {
        let port = self.port;
        let endpoints =
            if local && !port.local_endpoints.is_empty() { &port.local_endpoints } else { &port.cluster_endpoints };
        let socket = |e: &Endpoint| SocketAddr::new(e.ip, e.port);
        let state =
            State { affinity_seconds: port.affinity_seconds, endpoints: endpoints.iter().map(socket).collect() };
        let server = Server { protocol: port.protocol, address: SocketAddr::new(ip, number) };
        self.out.push((Key::Server(server), state));
    }

    /// An address that may also be the machine's own.
    fn external(&mut self, settings: &Settings, ip: IpAddr) {
        self.server(ip, self.port.port, self.port.external_local);
        if !settings.machine.contains(&ip) {
            self.bind(ip);
        }
    }

    fn source_ranges(&mut self, settings: &Settings, ip: IpAddr) {
        let port = self.port;
        if port.source_ranges.is_empty() {
            return;
        }
        self.entry(Set::LoadBalancerFw, self.at(ip));
        for range in &port.source_ranges {
            // sets cannot hold everything at once
            let everything = if range.is_ipv6() { ["::/1", "8000::/1"] } else { ["0.0.0.0/1", "128.0.0.0/1"] };
            match range.prefix_bits() {
                0 => everything.into_iter().for_each(|half| {
                    self.entry(Set::LoadBalancerSourceCidr, format!("{},{half}", self.at(ip)));
                }),
                bits if bits == range_bits(ip) => {
                    self.entry(Set::LoadBalancerSourceCidr, format!("{},{}", self.at(ip), range.network()));
                }
                _ => self.entry(Set::LoadBalancerSourceCidr, format!("{},{range}", self.at(ip))),
            }
        }
        if port.admits(settings.node_ip) {
            self.entry(Set::LoadBalancerSourceIp, format!("{},{ip}", self.at(ip)));
        } else {
            let server = Server { protocol: port.protocol, address: SocketAddr::new(ip, port.port) };
            self.out.push((Key::NoNodeAccess(server), State::default()));
        }
    }

    fn node_port(&mut self, settings: &Settings) {
        let port = self.port;
        let addresses: Vec<IpAddr> = match &settings.node_port_addresses {
            NodePortAddresses::All => settings.machine.clone(),
            NodePortAddresses::Only(ips) => ips.iter().copied().filter(|ip| !ip.is_loopback()).collect(),
        };
        let (all, local) = match port.protocol {
            Protocol::Tcp => (Set::NodePortTcp, Set::NodePortLocalTcp),
            Protocol::Udp => (Set::NodePortUdp, Set::NodePortLocalUdp),
            Protocol::Sctp => (Set::NodePortSctp, Set::NodePortLocalSctp),
        };
        // there are no sets of SCTP ports alone
        let entries: Vec<String> = match port.protocol {
            Protocol::Sctp => addresses.iter().map(|ip| format!("{ip},sctp:{}", port.node_port)).collect(),
            _ => vec![port.node_port.to_string()],
        };
        for entry in entries.iter().filter(|_| !addresses.is_empty()) {
            self.entry(all, entry.clone());
            if port.external_local {
                self.entry(local, entry.clone());
            }
        }
        for ip in addresses {
            self.server(ip, port.node_port, port.external_local);
        }
    }
}

fn range_bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// One thing for the kernel to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bring an address to the dummy interface.
    Bind(IpAddr),
    /// Make a virtual server, with its affinity.
    Add(Server, Option<u32>),
    /// Change a virtual server's affinity.
    Change(Server, Option<u32>),
    /// Make an endpoint of a server, or let it take new connections again.
    Open(Server, SocketAddr),
    /// Let an endpoint take no new connections, and delete it when it has none.
    Drain(Server, SocketAddr),
    /// Delete a virtual server.
    Delete(Server),
    /// Take an address from the dummy interface.
    Unbind(IpAddr),
}

/// From one state of a virtual server to another.
pub fn actions(server: Server, before: Option<&State>, after: Option<&State>, out: &mut Vec<Action>) {
    let Some(after) = after else {
        out.extend(before.map(|_| Action::Delete(server)));
        return;
    };
    let none = BTreeSet::new();
    match before {
        None => out.push(Action::Add(server, after.affinity_seconds)),
        Some(before) if before.affinity_seconds != after.affinity_seconds => {
            out.push(Action::Change(server, after.affinity_seconds));
        }
        Some(_) => {}
    }
    let had = before.map_or(&none, |state| &state.endpoints);
    out.extend(after.endpoints.difference(had).map(|endpoint| Action::Open(server, *endpoint)));
    out.extend(had.difference(&after.endpoints).map(|endpoint| Action::Drain(server, *endpoint)));
}

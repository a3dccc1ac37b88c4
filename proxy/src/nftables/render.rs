//! From settings to the table's frame, and from service ports to what they add to it. Pure.

use std::fmt::Display;

use crate::core::{Endpoint, Family, ServicePort};
use crate::iptables::names::base32_of_sha256;
use crate::settings::{NodePortAddresses, Settings};

/// A name of a chain or set is at most this long, our prefix not counted.
const MAX_NAME_BYTES: usize = 240;

/// The sets and maps that Services put elements into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Container {
    /// Cluster addresses.
    ClusterIps,
    /// Where packets to an address and port go.
    ServiceIps,
    /// Where packets to a node port go.
    NodePorts,
    /// Packets to an address and port that nobody answers.
    NoEndpointServices,
    /// Packets to a node port that nobody answers.
    NoEndpointNodePorts,
    /// Addresses with source ranges.
    FirewallIps,
    /// Endpoints that may talk to themselves.
    Hairpins,
}

impl Container {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ClusterIps,
        Self::ServiceIps,
        Self::NodePorts,
        Self::NoEndpointServices,
        Self::NoEndpointNodePorts,
        Self::FirewallIps,
        Self::Hairpins,
    ];

    /// The name in the table.
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// `set` or `map`.
    pub fn kind(self) -> &'static str {
        if self.facts().1.ends_with("verdict") { "map" } else { "set" }
    }

    /// Name, type (`@` stands for the family's address type) and comment.
    fn facts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::ClusterIps => ("cluster-ips", "@", "Active ClusterIPs"),
            Self::ServiceIps => (
                "service-ips",
                "@ . inet_proto . inet_service : verdict",
                "ClusterIP, ExternalIP and LoadBalancer IP traffic",
            ),
            Self::NodePorts => ("service-nodeports", "inet_proto . inet_service : verdict", "NodePort traffic"),
            Self::NoEndpointServices => (
                "no-endpoint-services",
                "@ . inet_proto . inet_service : verdict",
                "vmap to drop or reject packets to services with no endpoints",
            ),
            Self::NoEndpointNodePorts => (
                "no-endpoint-nodeports",
                "inet_proto . inet_service : verdict",
                "vmap to drop or reject packets to service nodeports with no endpoints",
            ),
            Self::FirewallIps => (
                "firewall-ips",
                "@ . inet_proto . inet_service : verdict",
                "destinations that are subject to LoadBalancerSourceRanges",
            ),
            Self::Hairpins => {
                ("hairpin-connections", "@ . @ . inet_proto . inet_service", "service hairpin connections")
            }
        }
    }
}

/// Key of an element: its container and its key in nft's words.
pub type ElementKey = (Container, String);

/// Value of an element.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value {
    /// Empty in sets.
    pub verdict: String,
    /// For people, may be empty.
    pub comment: String,
}

/// What one or more service ports add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Chains with their rules.
    pub chains: Vec<(String, Vec<String>)>,
    /// Sets of clients by endpoint, with the seconds that they are remembered.
    pub affinity: Vec<(String, u32)>,
    /// Elements.
    pub elements: Vec<(ElementKey, Value)>,
}

const BASE_CHAINS: [(&str, &str); 8] = [
    ("filter-prerouting-pre-dnat", "filter hook prerouting priority -110"),
    ("filter-output-pre-dnat", "filter hook output priority -110"),
    ("filter-input", "filter hook input priority 0"),
    ("filter-forward", "filter hook forward priority 0"),
    ("filter-output", "filter hook output priority 0"),
    ("nat-prerouting", "nat hook prerouting priority -100"),
    ("nat-output", "nat hook output priority -100"),
    ("nat-postrouting", "nat hook postrouting priority 100"),
];

const JUMPS: [(&str, &str); 11] = [
    ("filter-input", "ct state new jump nodeport-endpoints-check"),
    ("filter-input", "ct state new jump service-endpoints-check"),
    ("filter-forward", "ct state new jump service-endpoints-check"),
    ("filter-output", "ct state new jump service-endpoints-check"),
    ("filter-prerouting-pre-dnat", "ct state new jump firewall-check"),
    ("filter-output-pre-dnat", "ct state new jump firewall-check"),
    ("nat-output", "jump services"),
    ("nat-prerouting", "jump services"),
    ("nat-postrouting", "jump masquerading"),
    ("filter-forward", "ct state new jump cluster-ips-check"),
    ("filter-output", "ct state new jump cluster-ips-check"),
];

const CHAINS: [&str; 6] = [
    "nodeport-endpoints-check", "service-endpoints-check", "firewall-check", "services", "masquerading",
    "cluster-ips-check",
];

/// The commands that make everything but what Services add, from whatever state of the table.
pub fn frame(settings: &Settings) -> Vec<String> {
    let family = settings.family.nft();
    let mut out = vec![format!("add table {family} kube-proxy {{ comment \"rules for kube-proxy\" ; }}")];
    let mut add = |command: &str, what: &str| out.push(format!("{command} {family} kube-proxy {what}"));
    for (chain, hook) in BASE_CHAINS {
        // a chain whose hook is another than before cannot just be added
        add("add chain", chain);
        add("delete chain", chain);
        add("add chain", &format!("{chain} {{ type {hook} ; }}"));
    }
    for chain in CHAINS {
        add("add chain", chain);
        add("flush chain", chain);
    }
    let comment = "comment \"helper for @no-endpoint-services / @no-endpoint-nodeports\"";
    add("add chain", &format!("reject-chain {{ {comment} ; }}"));
    let address = if settings.family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
    for container in Container::ALL {
        let ((name, ty, comment), kind) = (container.facts(), container.kind());
        let ty = ty.replace('@', address);
        add(&format!("add {kind}"), &format!("{name} {{ type {ty} ; comment \"{comment}\" ; }}"));
        add(&format!("flush {kind}"), name);
    }
    add("flush chain", "reject-chain");
    let comment = "comment \"IPs that accept NodePort traffic\"";
    add("add set", &format!("nodeport-ips {{ type {address} ; {comment} ; }}"));
    if let NodePortAddresses::Only(ips) = &settings.node_port_addresses {
        add("flush set", "nodeport-ips");
        for ip in ips.iter().filter(|ip| !ip.is_loopback()) {
            add("add element", &format!("nodeport-ips {{ {ip} }}"));
        }
    } else {
        add("delete set", "nodeport-ips");
    }
    for (chain, rule) in JUMPS {
        add("add rule", &format!("{chain} {rule}"));
    }
    for (chain, rule) in frame_rules(settings) {
        add("add rule", &format!("{chain} {rule}"));
    }
    out
}

fn frame_rules(settings: &Settings) -> Vec<(&'static str, String)> {
    let (ip, mark) = (settings.family.nft(), settings.masquerade_mark);
    let to_service = format!("{ip} daddr . meta l4proto . th dport vmap");
    let (checked, at_node) = match (&settings.node_port_addresses, settings.family) {
        (NodePortAddresses::Only(_), _) => (format!("{ip} daddr @nodeport-ips"), format!("{ip} daddr @nodeport-ips")),
        (NodePortAddresses::All, Family::V4) => {
            ("ip daddr != 127.0.0.0/8".to_owned(), "fib daddr type local ip daddr != 127.0.0.0/8".to_owned())
        }
        (NodePortAddresses::All, Family::V6) => {
            ("ip6 daddr != ::1".to_owned(), "fib daddr type local ip6 daddr != ::1".to_owned())
        }
    };
    let masquerade = masquerade(settings);
    let outside = settings.local_traffic.nftables(settings.family, true);
    let mut out = vec![
        ("masquerading", format!("mark and {mark:#x} != 0 mark set mark xor {mark:#x} masquerade fully-random")),
        (
            "masquerading",
            format!(
                "ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random"
            ),
        ),
        (
            "cluster-ips-check",
            format!("{ip} daddr @cluster-ips reject comment \"Reject traffic to invalid ports of ClusterIPs\""),
        ),
        ("reject-chain", "reject".to_owned()),
        ("service-endpoints-check", format!("{to_service} @no-endpoint-services")),
        ("nodeport-endpoints-check", format!("{checked} meta l4proto . th dport vmap @no-endpoint-nodeports")),
        ("firewall-check", format!("{to_service} @firewall-ips")),
    ];
    if !settings.service_cidrs.is_empty() {
        let ranges = list(settings.service_cidrs.iter());
        let comment = "comment \"Drop traffic to unallocated ClusterIPs\"";
        out.push(("cluster-ips-check", format!("{ip} daddr {{ {ranges} }} drop {comment}")));
    }
    if settings.masquerade_all {
        let comment = "comment \"masquerade all clusterIP traffic\"";
        out.push(("services", format!("{ip} daddr @cluster-ips {masquerade} {comment}")));
    } else if let Some(outside) = outside {
        let comment = "comment \"masquerade clusterIP traffic from outside cluster\"";
        out.push(("services", format!("{ip} daddr @cluster-ips {outside} {masquerade} {comment}")));
    }
    out.push(("services", format!("{to_service} @service-ips")));
    out.push(("services", format!("{at_node} meta l4proto . th dport vmap @service-nodeports")));
    out
}

fn masquerade(settings: &Settings) -> String {
    format!("mark set mark or {:#x}", settings.masquerade_mark)
}

fn list(items: impl Iterator<Item = impl Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// Adds what one service port needs.
pub fn service_port(settings: &Settings, port: &ServicePort, parts: &mut Parts) {
    let names = Names::of(port);
    PortParts { settings, port, names, parts }.add();
}

/// Names of a service port's chains.
struct Names {
    cluster: String,
    local: String,
    external: String,
    firewall: String,
}

impl Names {
    fn of(port: &ServicePort) -> Self {
        let base = hashed(&base_name(port));
        let with = |prefix: &str| format!("{prefix}-{base}");
        Self { cluster: with("service"), local: with("local"), external: with("external"), firewall: with("firewall") }
    }
}

fn base_name(port: &ServicePort) -> String {
    let (namespace, name) = &port.service;
    format!("{namespace}/{name}/{}/{}", port.protocol.lower(), port.port_name())
}

/// Eight characters of its hash and the name, cut to what nft allows.
fn hashed(name: &str) -> String {
    let mut out = format!("{}-{name}", base32_of_sha256(name, 8));
    if out.len() > MAX_NAME_BYTES {
        out.truncate(MAX_NAME_BYTES - 3);
        out.push_str("...");
    }
    out
}

/// The base of an endpoint's chain and set; colons are not allowed in names.
fn endpoint_name(port: &ServicePort, endpoint: &Endpoint) -> String {
    let ip = endpoint.ip.to_string().replace(':', ".");
    hashed(&format!("{}__{ip}/{}", base_name(port), endpoint.port))
}

struct PortParts<'a> {
    settings: &'a Settings,
    port: &'a ServicePort,
    names: Names,
    parts: &'a mut Parts,
}

impl PortParts<'_> {
    fn add(&mut self) {
        let (port, protocol) = (self.port, self.port.protocol.lower());
        for endpoint in port.reachable().into_iter().filter(|e| e.local) {
            let key = format!("{0} . {0} . {protocol} . {1}", endpoint.ip, endpoint.port);
            self.element(Container::Hairpins, key, "", false);
        }
        self.element(Container::ClusterIps, port.cluster_ip.to_string(), "", false);
        let cluster_ip = self.key(port.cluster_ip);
        if port.internal_endpoints().is_empty() {
            self.refuse(Container::NoEndpointServices, cluster_ip);
        } else {
            let chain = if port.internal_local { &self.names.local } else { &self.names.cluster };
            self.element(Container::ServiceIps, cluster_ip, &format!("goto {chain}"), false);
        }
        if port.is_external() {
            self.external();
        }
        self.balance();
    }

    fn key(&self, ip: impl Display) -> String {
        format!("{ip} . {} . {}", self.port.protocol.lower(), self.port.port)
    }

    fn element(&mut self, container: Container, key: String, verdict: &str, commented: bool) {
        let comment = if commented { self.port.name.clone() } else { String::new() };
        self.parts.elements.push(((container, key), Value { verdict: verdict.to_owned(), comment }));
    }

    /// No endpoint anywhere: refuse. Endpoints elsewhere only, but policy Local: drop, so that clients try another node.
    fn refuse(&mut self, container: Container, key: String) {
        let verdict = if self.port.has_endpoints { "drop" } else { "goto reject-chain" };
        self.element(container, key, verdict, true);
    }

    fn external(&mut self) {
        let port = self.port;
        let to_external = format!("goto {}", self.names.external);
        let mut keys: Vec<_> = port
            .external_ips
            .iter()
            .chain(&port.load_balancer_ips)
            .map(|ip| (Container::ServiceIps, self.key(ip)))
            .collect();
        if port.node_port != 0 {
            keys.push((Container::NodePorts, format!("{} . {}", port.protocol.lower(), port.node_port)));
        }
        for (container, key) in keys {
            if port.external_endpoints().is_empty() {
                let refusal = match container {
                    Container::NodePorts => Container::NoEndpointNodePorts,
                    _ => Container::NoEndpointServices,
                };
                self.refuse(refusal, key.clone());
            }
            if port.has_endpoints {
                self.element(container, key, &to_external, false);
            }
        }
        if port.has_endpoints {
            let rules = self.external_rules();
            self.parts.chains.push((self.names.external.clone(), rules));
        }
        if !port.load_balancer_ips.is_empty() && !port.source_ranges.is_empty() {
            self.firewall();
        }
    }

    fn external_rules(&self) -> Vec<String> {
        let (settings, cluster, mut out) = (self.settings, &self.names.cluster, Vec::new());
        let masquerade = masquerade(settings);
        if self.port.external_local {
            // the node and its pods reach any endpoint, as if they went out to the load balancer and came back
            if let Some(pods) = settings.local_traffic.nftables(settings.family, false) {
                out.push(format!("{pods} goto {cluster} comment \"short-circuit pod traffic\""));
            }
            out.push(format!("fib saddr type local {masquerade} comment \"masquerade local traffic\""));
            out.push(format!("fib saddr type local goto {cluster} comment \"short-circuit local traffic\""));
            if !self.port.local_endpoints.is_empty() {
                out.push(format!("goto {}", self.names.local));
            }
        } else {
            out.push(format!("{masquerade} comment \"masquerade\""));
            out.push(format!("goto {cluster}"));
        }
        out
    }

    fn firewall(&mut self) {
        let port = self.port;
        let chain = self.names.firewall.clone();
        for ip in &port.load_balancer_ips {
            self.element(Container::FirewallIps, self.key(ip), &format!("goto {chain}"), false);
        }
        let mut sources: Vec<String> = port.source_ranges.iter().map(ToString::to_string).collect();
        if port.admits(self.settings.node_ip) {
            // where the address is also the node's, its packets come from that very address
            sources.extend(port.load_balancer_ips.iter().map(ToString::to_string));
        }
        let rule = format!("{} saddr != {{ {} }} drop", self.settings.family.nft(), sources.join(", "));
        self.parts.chains.push((chain, vec![rule]));
    }

    /// Chains that choose an endpoint; with affinity each endpoint needs a chain that remembers its clients.
    fn balance(&mut self) {
        let (port, ip) = (self.port, self.settings.family.nft());
        let protocol = port.protocol.lower();
        for (chain, endpoints) in
            [(&self.names.cluster, &port.cluster_endpoints), (&self.names.local, &port.local_endpoints)]
        {
            if endpoints.is_empty() {
                continue;
            }
            let (count, mut rules) = (endpoints.len(), Vec::new());
            if port.affinity_seconds.is_some() {
                let names: Vec<String> = endpoints.iter().map(|e| endpoint_name(port, e)).collect();
                rules.extend(names.iter().map(|n| format!("{ip} saddr @affinity-{n} goto endpoint-{n}")));
                let targets = list(names.iter().enumerate().map(|(at, name)| format!("{at} : goto endpoint-{name}")));
                rules.push(format!("numgen random mod {count} vmap {{ {targets} }}"));
            } else {
                let targets = list(endpoints.iter().enumerate().map(|(at, e)| format!("{at} : {} . {}", e.ip, e.port)));
                let dnat = format!("dnat {ip} addr . port to numgen random mod {count} map {{ {targets} }}");
                rules.push(format!("meta l4proto {protocol} {dnat}"));
            }
            self.parts.chains.push((chain.clone(), rules));
        }
        let Some(seconds) = port.affinity_seconds else { return };
        for endpoint in port.reachable() {
            let name = endpoint_name(port, endpoint);
            let remember = format!("update @affinity-{name} {{ {ip} saddr }}");
            let send = format!("meta l4proto {protocol} dnat to {}", endpoint.socket());
            self.parts.chains.push((format!("endpoint-{name}"), vec![remember, send]));
            self.parts.affinity.push((format!("affinity-{name}"), seconds));
        }
    }
}

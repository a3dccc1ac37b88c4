//! From the desired state to chains and rules. Pure; the rules are those of upstream's iptables mode.

use std::net::IpAddr;

use super::names;
use super::ruleset::{Jump, Ruleset, Table};
use crate::core::{Desired, Endpoint, Family, ServicePort};

/// How traffic of this node's pods is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum LocalTraffic {
    /// Not at all.
    #[default]
    Unknown,
    /// By source range.
    Cidr(String),
    /// By the bridge it comes from.
    Bridge(String),
    /// By the start of the interface's name.
    InterfacePrefix(String),
}

impl LocalTraffic {
    fn matches(&self, negated: bool) -> Option<String> {
        let not = if negated { "! " } else { "" };
        match self {
            Self::Unknown => None,
            Self::Cidr(cidr) => Some(format!("{not}-s {cidr}")),
            Self::Bridge(name) => Some(format!("{not}-i {name}")),
            Self::InterfacePrefix(prefix) => Some(format!("{not}-i {prefix}+")),
        }
    }
}

/// At which of the node's addresses node ports answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All local ones.
    All,
    /// These.
    Only(Vec<IpAddr>),
}

/// What else decides the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Address family.
    pub family: Family,
    /// The mark of packets to be masqueraded, a single bit.
    pub masquerade_mark: u32,
    /// Masquerade all traffic to cluster addresses.
    pub masquerade_all: bool,
    /// Whether the kernel knows `MASQUERADE --random-fully`.
    pub random_fully: bool,
    /// Node ports answer at 127.0.0.0/8 too (IPv4).
    pub localhost_node_ports: bool,
    /// How pods are recognised.
    pub local_traffic: LocalTraffic,
    /// Where node ports answer.
    pub node_port_addresses: NodePortAddresses,
    /// Drop packets that connection tracking calls invalid (not with the kernel's liberal TCP tracking).
    pub drop_invalid: bool,
}

const NEW: &str = "-m conntrack --ctstate NEW";

const FILTER_JUMPS: [Jump; 9] = [
    jump("INPUT", "KUBE-EXTERNAL-SERVICES", NEW, "kubernetes externally-visible service portals"),
    jump("FORWARD", "KUBE-EXTERNAL-SERVICES", NEW, "kubernetes externally-visible service portals"),
    jump("INPUT", "KUBE-NODEPORTS", "", "kubernetes health check service ports"),
    jump("FORWARD", "KUBE-SERVICES", NEW, "kubernetes service portals"),
    jump("OUTPUT", "KUBE-SERVICES", NEW, "kubernetes service portals"),
    jump("FORWARD", "KUBE-FORWARD", "", "kubernetes forwarding rules"),
    jump("INPUT", "KUBE-PROXY-FIREWALL", NEW, "kubernetes load balancer firewall"),
    jump("OUTPUT", "KUBE-PROXY-FIREWALL", NEW, "kubernetes load balancer firewall"),
    jump("FORWARD", "KUBE-PROXY-FIREWALL", NEW, "kubernetes load balancer firewall"),
];

/// The kubelet makes the same chain; upstream's jumps into it have no comment.
const FIREWALL_JUMPS: [Jump; 2] = [jump("INPUT", "KUBE-FIREWALL", "", ""), jump("OUTPUT", "KUBE-FIREWALL", "", "")];

const NAT_JUMPS: [Jump; 3] = [
    jump("OUTPUT", "KUBE-SERVICES", "", "kubernetes service portals"),
    jump("PREROUTING", "KUBE-SERVICES", "", "kubernetes service portals"),
    jump("POSTROUTING", "KUBE-POSTROUTING", "", "kubernetes postrouting rules"),
];

const fn jump(from: &'static str, to: &'static str, matches: &'static str, comment: &'static str) -> Jump {
    Jump { from, to, matches, comment }
}

/// All rules of one family.
pub fn render(settings: &Settings, desired: &Desired) -> Ruleset {
    let mut rules = Ruleset::default();
    rules.filter.jumps = FILTER_JUMPS.to_vec();
    rules.nat.jumps = NAT_JUMPS.to_vec();
    for chain in ["KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"] {
        rules.filter.chain(chain);
    }
    for chain in ["KUBE-NODEPORTS", "KUBE-SERVICES"] {
        rules.nat.chain(chain);
    }
    base(settings, &mut rules);
    if settings.localhost_node_ports && settings.family == Family::V4 {
        guard_localnet(&mut rules.filter);
    }
    for port in &desired.ports {
        PortRules { settings, port, rules: &mut rules }.add();
    }
    node_ports(settings, &mut rules.nat);
    rules
}

fn base(settings: &Settings, rules: &mut Ruleset) {
    let mark = settings.masquerade_mark;
    let forward = rules.filter.chain("KUBE-FORWARD");
    if settings.drop_invalid {
        forward.push("-m conntrack --ctstate INVALID -j DROP".to_owned());
    }
    forward.push(format!(
        "-m comment --comment \"kubernetes forwarding rules\" -m mark --mark {mark:#x}/{mark:#x} -j ACCEPT"
    ));
    forward.push(
        "-m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
            .to_owned(),
    );
    rules.nat.rule("KUBE-MARK-MASQ", format!("-j MARK --or-mark {mark:#x}"));
    let random = if settings.random_fully { " --random-fully" } else { "" };
    // the mark is cleared so that a packet passing the stack again is not masqueraded twice
    let post = rules.nat.chain("KUBE-POSTROUTING");
    post.push(format!("-m mark ! --mark {mark:#x}/{mark:#x} -j RETURN"));
    post.push(format!("-j MARK --xor-mark {mark:#x}"));
    post.push(format!("-m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE{random}"));
}

/// Node ports at 127.0.0.1 need `route_localnet`, which would let neighbours reach what listens on this node's loopback
/// address only: their packets are dropped, unless translation sent them there.
fn guard_localnet(filter: &mut Table) {
    filter.jumps.extend(FIREWALL_JUMPS);
    filter.rule(
        "KUBE-FIREWALL",
        "-m comment --comment \"block incoming localnet connections\" -d 127.0.0.0/8 ! -s 127.0.0.0/8 \
         -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
    );
}

/// Node ports come last: addresses of Services must be looked at before "any local address".
fn node_ports(settings: &Settings, nat: &mut Table) {
    let comment =
        "-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\"";
    match &settings.node_port_addresses {
        NodePortAddresses::All => {
            let not_loopback = match settings.family {
                Family::V4 if settings.localhost_node_ports => "",
                Family::V4 => " ! -d 127.0.0.0/8",
                Family::V6 => " ! -d ::1/128",
            };
            let rule = format!("{comment} -m addrtype --dst-type LOCAL{not_loopback} -j KUBE-NODEPORTS");
            nat.rule("KUBE-SERVICES", rule);
        }
        NodePortAddresses::Only(addresses) => {
            for address in addresses.iter().filter(|a| settings.family.has(a)) {
                nat.rule("KUBE-SERVICES", format!("{comment} -d {address} -j KUBE-NODEPORTS"));
            }
        }
    }
}

/// The rules of one service port.
struct PortRules<'a> {
    settings: &'a Settings,
    port: &'a ServicePort,
    rules: &'a mut Ruleset,
}

impl PortRules<'_> {
    fn add(&mut self) {
        let port = self.port;
        let (internal, external) = (port.internal_endpoints(), port.external_endpoints());
        if internal.is_empty() {
            self.refuse_internal();
        } else {
            self.capture_internal();
        }
        if port.is_external() {
            if external.is_empty() {
                self.refuse_external();
            } else {
                self.capture_external();
            }
            self.health_check();
        }
        self.endpoint_chains();
    }

    /// `-m tcp -p tcp -d IP --dport PORT`
    fn to(&self, ip: IpAddr, number: u16) -> String {
        let protocol = self.port.protocol.lower();
        format!("-m {protocol} -p {protocol} -d {ip} --dport {number}")
    }

    fn to_node_port(&self) -> String {
        let protocol = self.port.protocol.lower();
        format!("-m {protocol} -p {protocol} --dport {}", self.port.node_port)
    }

    fn comment(&self, what: &str) -> String {
        comment(&format!("{} {what}", self.port.name))
    }

    fn internal_chain(&self) -> String {
        if self.port.internal_local { names::local(self.port) } else { names::cluster(self.port) }
    }

    fn external_chain(&self) -> String {
        if self.port.external_local { names::local(self.port) } else { names::cluster(self.port) }
    }

    fn capture_internal(&mut self) {
        let rule = format!(
            "{} {} -j {}",
            self.comment("cluster IP"),
            self.to(self.port.cluster_ip, self.port.port),
            self.internal_chain()
        );
        self.rules.nat.rule("KUBE-SERVICES", rule);
    }

    /// No endpoint anywhere: refuse. Endpoints elsewhere only, but policy Local: drop, so that clients try another node.
    fn refusal(&self, local: bool) -> (&'static str, &'static str) {
        if local && self.port.has_endpoints {
            ("has no local endpoints", "DROP")
        } else {
            ("has no endpoints", "REJECT")
        }
    }

    fn refuse_internal(&mut self) {
        let (why, target) = self.refusal(self.port.internal_local);
        let rule = format!("{} {} -j {target}", self.comment(why), self.to(self.port.cluster_ip, self.port.port));
        self.rules.filter.rule("KUBE-SERVICES", rule);
    }

    fn refuse_external(&mut self) {
        let (why, target) = self.refusal(self.port.external_local);
        let comment = self.comment(why);
        for ip in self.port.external_ips.iter().chain(&self.port.load_balancer_ips) {
            let rule = format!("{comment} {} -j {target}", self.to(*ip, self.port.port));
            self.rules.filter.rule("KUBE-EXTERNAL-SERVICES", rule);
        }
        if self.port.node_port != 0 {
            let rule = format!("{comment} -m addrtype --dst-type LOCAL {} -j {target}", self.to_node_port());
            self.rules.filter.rule("KUBE-EXTERNAL-SERVICES", rule);
        }
    }

    fn capture_external(&mut self) {
        let (port, external) = (self.port, names::external(self.port));
        for ip in &port.external_ips {
            let rule = format!("{} {} -j {external}", self.comment("external IP"), self.to(*ip, port.port));
            self.rules.nat.rule("KUBE-SERVICES", rule);
        }
        let balanced = if port.source_ranges.is_empty() { external.clone() } else { names::firewall(port) };
        for ip in &port.load_balancer_ips {
            let rule = format!("{} {} -j {balanced}", self.comment("loadbalancer IP"), self.to(*ip, port.port));
            self.rules.nat.rule("KUBE-SERVICES", rule);
        }
        if !port.load_balancer_ips.is_empty() && !port.source_ranges.is_empty() {
            self.firewall(&balanced, &external);
        }
        if port.node_port != 0 {
            let rule = format!("{} {} -j {external}", comment(&port.name), self.to_node_port());
            self.rules.nat.rule("KUBE-NODEPORTS", rule);
        }
        self.external_entry(&external);
    }

    /// Traffic to the load balancer's addresses from elsewhere falls through and is dropped in the filter table.
    fn firewall(&mut self, chain: &str, external: &str) {
        let comment_text = self.comment("loadbalancer IP");
        for range in &self.port.source_ranges {
            self.rules.nat.rule(chain, format!("{comment_text} -s {range} -j {external}"));
        }
        // a node that owns the address talks to it by itself
        for ip in &self.port.load_balancer_ips {
            let inside = self.port.source_ranges.iter().any(|range| contains(range, *ip));
            if inside {
                self.rules.nat.rule(chain, format!("{comment_text} -s {ip} -j {external}"));
            }
        }
        let other = comment(&format!("other traffic to {} will be dropped by KUBE-PROXY-FIREWALL", self.port.name));
        self.rules.nat.rule(chain, other);
        let dropped = comment(&format!("{} traffic not accepted by {chain}", self.port.name));
        for ip in &self.port.load_balancer_ips {
            let rule = format!("{dropped} {} -j DROP", self.to(*ip, self.port.port));
            self.rules.filter.rule("KUBE-PROXY-FIREWALL", rule);
        }
    }

    fn external_entry(&mut self, external: &str) {
        let name = &self.port.name;
        let destinations = format!("{name} external destinations");
        let mut entry = Vec::new();
        if self.port.external_local {
            // pods reach any endpoint, as they would at the cluster address; so does the node itself
            let cluster = names::cluster(self.port);
            if let Some(pods) = self.settings.local_traffic.matches(false) {
                let comment = comment(&format!("pod traffic for {destinations}"));
                entry.push(format!("{comment} {pods} -j {cluster}"));
            }
            let local = "-m addrtype --src-type LOCAL";
            let masquerade = comment(&format!("masquerade LOCAL traffic for {destinations}"));
            entry.push(format!("{masquerade} {local} -j KUBE-MARK-MASQ"));
            let route = comment(&format!("route LOCAL traffic for {destinations}"));
            entry.push(format!("{route} {local} -j {cluster}"));
        } else {
            let comment = comment(&format!("masquerade traffic for {destinations}"));
            entry.push(format!("{comment} -j KUBE-MARK-MASQ"));
        }
        entry.push(format!("-j {}", self.external_chain()));
        self.rules.nat.chain(external).extend(entry);
    }

    fn health_check(&mut self) {
        if self.port.external_local && self.port.health_check_node_port != 0 {
            let rule = format!(
                "{} -m tcp -p tcp --dport {} -j ACCEPT",
                self.comment("health check node port"),
                self.port.health_check_node_port
            );
            let chain = self.rules.filter.chain("KUBE-NODEPORTS");
            if !chain.contains(&rule) {
                chain.push(rule);
            }
        }
    }

    fn endpoint_chains(&mut self) {
        let port = self.port;
        let cluster = names::cluster(port);
        let needs_cluster = !port.internal_local || (port.is_external() && !port.external_endpoints().is_empty());
        if needs_cluster && (!port.cluster_endpoints.is_empty() || self.is_target(&cluster)) {
            self.masquerade_internal(&cluster, !port.internal_local);
            self.balance(&cluster, &port.cluster_endpoints);
        }
        if (port.internal_local || port.external_local) && !port.local_endpoints.is_empty() {
            let local = names::local(port);
            self.masquerade_internal(&local, port.internal_local);
            self.balance(&local, &port.local_endpoints);
        }
        let mut all: Vec<&Endpoint> = port.cluster_endpoints.iter().chain(&port.local_endpoints).collect();
        all.sort();
        all.dedup();
        for endpoint in all {
            self.endpoint(endpoint);
        }
    }

    /// Whether some rule leads to the chain (an empty one must exist then).
    fn is_target(&self, chain: &str) -> bool {
        let suffix = format!("-j {chain}");
        self.rules.nat.chains.get(&names::external(self.port)).is_some_and(|c| c.iter().any(|r| r.ends_with(&suffix)))
    }

    fn masquerade_internal(&mut self, chain: &str, is_internal: bool) {
        self.rules.nat.chain(chain);
        if !is_internal {
            return;
        }
        let capture = format!("{} {}", self.comment("cluster IP"), self.to(self.port.cluster_ip, self.port.port));
        if self.settings.masquerade_all {
            self.rules.nat.rule(chain, format!("{capture} -j KUBE-MARK-MASQ"));
        } else if let Some(outside) = self.settings.local_traffic.matches(true) {
            self.rules.nat.rule(chain, format!("{capture} {outside} -j KUBE-MARK-MASQ"));
        }
    }

    fn balance(&mut self, chain: &str, endpoints: &[Endpoint]) {
        let port = self.port;
        if let Some(seconds) = port.affinity_seconds {
            for endpoint in endpoints {
                let target = names::endpoint(port, endpoint);
                let comment = comment(&format!("{} -> {}", port.name, endpoint.socket()));
                let recent = format!("-m recent --name {target} --rcheck --seconds {seconds} --reap");
                self.rules.nat.rule(chain, format!("{comment} {recent} -j {target}"));
            }
        }
        for (at, endpoint) in endpoints.iter().enumerate() {
            let left = endpoints.len() - at;
            // each rule takes its share of what the ones before it let pass; the last takes the rest
            let share = if left > 1 {
                format!(
                    " -m statistic --mode random --probability {:.10}",
                    1.0 / f64::from(u32::try_from(left).unwrap_or(u32::MAX))
                )
            } else {
                String::new()
            };
            let comment = comment(&format!("{} -> {}", port.name, endpoint.socket()));
            self.rules.nat.rule(chain, format!("{comment}{share} -j {}", names::endpoint(port, endpoint)));
        }
    }

    fn endpoint(&mut self, endpoint: &Endpoint) {
        let port = self.port;
        let (chain, comment) = (names::endpoint(port, endpoint), comment(&port.name));
        // a pod that reaches itself through the Service must see another source address than its own
        let hairpin = format!("{comment} -s {} -j KUBE-MARK-MASQ", endpoint.ip);
        let recent =
            if port.affinity_seconds.is_some() { format!(" -m recent --name {chain} --set") } else { String::new() };
        let protocol = port.protocol.lower();
        let send =
            format!("{comment}{recent} -m {protocol} -p {protocol} -j DNAT --to-destination {}", endpoint.socket());
        self.rules.nat.chain(&chain).extend([hairpin, send]);
    }
}

fn comment(text: &str) -> String {
    if text.contains(' ') { format!("-m comment --comment \"{text}\"") } else { format!("-m comment --comment {text}") }
}

/// Whether an address lies in a CIDR; a malformed CIDR contains nothing.
fn contains(cidr: &str, ip: IpAddr) -> bool {
    let Some((network, bits)) = cidr.split_once('/') else { return false };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (network, ip) {
        (IpAddr::V4(n), IpAddr::V4(i)) => same_prefix(u32::from(n).into(), u32::from(i).into(), 32, bits),
        (IpAddr::V6(n), IpAddr::V6(i)) => same_prefix(n.into(), i.into(), 128, bits),
        _ => false,
    }
}

fn same_prefix(a: u128, b: u128, width: u32, bits: u32) -> bool {
    bits <= width && (bits == 0 || (a ^ b) >> (width - bits) == 0)
}

//! From the desired state to chains and rules. Pure; the rules are those of upstream's iptables mode.

use std::net::IpAddr;

use super::names;
use super::ruleset::{Jump, Ruleset, Table, jump};
use crate::core::{Endpoint, Family, ServicePort};
use crate::settings::{NodePortAddresses, Settings};

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

/// Chains that hold rules of many Services.
pub const SHARED: [&str; 4] = ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL"];

/// What is there without any Service, but for [`node_ports`].
pub fn frame(settings: &Settings) -> Ruleset {
    let mut rules = Ruleset::default();
    rules.filter.jumps = FILTER_JUMPS.to_vec();
    rules.nat.jumps = NAT_JUMPS.to_vec();
    for chain in SHARED {
        rules.filter.chain(chain);
    }
    for chain in ["KUBE-NODEPORTS", "KUBE-SERVICES"] {
        rules.nat.chain(chain);
    }
    base(settings, &mut rules);
    if settings.localhost_node_ports && settings.family == Family::V4 {
        guard_localnet(&mut rules.filter);
    }
    rules
}

/// Adds the rules of one service port.
pub fn service_port(settings: &Settings, port: &ServicePort, rules: &mut Ruleset) {
    PortRules { settings, port, rules }.add();
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
pub fn node_ports(settings: &Settings, nat: &mut Table) {
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
        if port.internal_endpoints().is_empty() {
            self.refuse_internal();
        } else {
            self.capture_internal();
        }
        if port.is_external() {
            if port.external_endpoints().is_empty() {
                self.refuse_external();
            }
            // also without endpoints for others: the node and its pods may use those of other nodes
            if port.has_endpoints {
                self.capture_external();
            }
        }
        self.health_check();
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
        // where the address is also the node's, its packets come from that very address
        for ip in self.port.load_balancer_ips.iter().filter(|_| self.port.admits(self.settings.node_ip)) {
            self.rules.nat.rule(chain, format!("{comment_text} -s {ip} -j {external}"));
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
            if let Some(pods) = self.settings.local_traffic.iptables(false) {
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
        if !self.port.external_endpoints().is_empty() {
            entry.push(format!("-j {}", self.external_chain()));
        }
        self.rules.nat.chain(external).extend(entry);
    }

    fn health_check(&mut self) {
        if self.port.external_local && self.port.health_check_node_port != 0 {
            let comment = self.comment("health check node port");
            let rule = format!("{comment} -m tcp -p tcp --dport {} -j ACCEPT", self.port.health_check_node_port);
            self.rules.filter.rule("KUBE-NODEPORTS", rule);
        }
    }

    fn endpoint_chains(&mut self) {
        let port = self.port;
        for (chain, endpoints, is_internal) in [
            (names::cluster(port), &port.cluster_endpoints, !port.internal_local),
            (names::local(port), &port.local_endpoints, port.internal_local),
        ] {
            if !endpoints.is_empty() {
                self.masquerade_internal(&chain, is_internal);
                self.balance(&chain, endpoints);
            }
        }
        for endpoint in port.reachable() {
            self.endpoint(endpoint);
        }
    }

    fn masquerade_internal(&mut self, chain: &str, is_internal: bool) {
        if !is_internal {
            return;
        }
        let capture = format!("{} {}", self.comment("cluster IP"), self.to(self.port.cluster_ip, self.port.port));
        if self.settings.masquerade_all {
            self.rules.nat.rule(chain, format!("{capture} -j KUBE-MARK-MASQ"));
        } else if let Some(outside) = self.settings.local_traffic.iptables(true) {
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

//! The iptables rules around IPVS: they look into sets, so they change only when a set becomes empty or stops being so. Pure.

use std::collections::BTreeSet;

use super::plan::Server;
use super::sets::Set;
use crate::core::Family;
use crate::iptables::{Jump, Ruleset, jump};
use crate::settings::Settings;

const NAT_JUMPS: [Jump; 3] = [
    jump("OUTPUT", "KUBE-SERVICES", "", "kubernetes service portals"),
    jump("PREROUTING", "KUBE-SERVICES", "", "kubernetes service portals"),
    jump("POSTROUTING", "KUBE-POSTROUTING", "", "kubernetes postrouting rules"),
];

const FILTER_JUMPS: [Jump; 6] = [
    jump("FORWARD", "KUBE-FORWARD", "", "kubernetes forwarding rules"),
    jump("INPUT", "KUBE-NODE-PORT", "", "kubernetes health check rules"),
    jump("INPUT", "KUBE-PROXY-FIREWALL", "", "kube-proxy firewall rules"),
    jump("FORWARD", "KUBE-PROXY-FIREWALL", "", "kube-proxy firewall rules"),
    jump("INPUT", "KUBE-IPVS-FILTER", "", "kubernetes ipvs access filter"),
    jump("OUTPUT", "KUBE-IPVS-OUT-FILTER", "", "kubernetes ipvs access filter"),
];

const NAT_CHAINS: [&str; 5] =
    ["KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", "KUBE-MARK-MASQ"];
const FILTER_CHAINS: [&str; 6] = [
    "KUBE-FORWARD", "KUBE-NODE-PORT", "KUBE-PROXY-FIREWALL", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];

/// Rules of one set each: set, whether in nat, chain, protocol, directions, target.
const OF_SETS: [(Set, bool, &str, &str, &str, &str); 12] = [
    (Set::LoopBack, true, "KUBE-POSTROUTING", "", "dst,dst,src", "MASQUERADE"),
    (Set::LoadBalancer, true, "KUBE-SERVICES", "", "dst,dst", "KUBE-LOAD-BALANCER"),
    (Set::LoadBalancerLocal, true, "KUBE-LOAD-BALANCER", "", "dst,dst", "RETURN"),
    (Set::NodePortLocalTcp, true, "KUBE-NODE-PORT", "tcp", "dst", "RETURN"),
    (Set::NodePortTcp, true, "KUBE-NODE-PORT", "tcp", "dst", "KUBE-MARK-MASQ"),
    (Set::NodePortLocalUdp, true, "KUBE-NODE-PORT", "udp", "dst", "RETURN"),
    (Set::NodePortUdp, true, "KUBE-NODE-PORT", "udp", "dst", "KUBE-MARK-MASQ"),
    (Set::NodePortLocalSctp, true, "KUBE-NODE-PORT", "sctp", "dst,dst", "RETURN"),
    (Set::NodePortSctp, true, "KUBE-NODE-PORT", "sctp", "dst,dst", "KUBE-MARK-MASQ"),
    (Set::LoadBalancerFw, false, "KUBE-PROXY-FIREWALL", "", "dst,dst", "KUBE-SOURCE-RANGES-FIREWALL"),
    (Set::LoadBalancerSourceCidr, false, "KUBE-SOURCE-RANGES-FIREWALL", "", "dst,dst,src", "RETURN"),
    (Set::LoadBalancerSourceIp, false, "KUBE-SOURCE-RANGES-FIREWALL", "", "dst,dst,src", "RETURN"),
];

/// All rules, given which sets have entries and which load balancers this node may not use.
pub fn rules(settings: &Settings, filled: &BTreeSet<Set>, no_node_access: &BTreeSet<Server>) -> Ruleset {
    let mut rules = Ruleset::default();
    rules.nat.jumps = NAT_JUMPS.to_vec();
    rules.filter.jumps = FILTER_JUMPS.to_vec();
    for chain in NAT_CHAINS {
        rules.nat.chain(chain);
    }
    for chain in FILTER_CHAINS {
        rules.filter.chain(chain);
    }
    let loopback = if settings.family == Family::V4 { "127.0.0.0/8" } else { "::1/128" };
    rules.nat.rule("KUBE-SERVICES", format!("-s {loopback} -j RETURN"));
    for (set, nat, chain, protocol, directions, target) in OF_SETS {
        if filled.contains(&set) {
            let table = if nat { &mut rules.nat } else { &mut rules.filter };
            let protocol = if protocol.is_empty() { String::new() } else { format!("-p {protocol} ") };
            table.rule(chain, format!("{protocol}{} {directions} -j {target}", commented(settings, set)));
        }
    }
    services(settings, filled, &mut rules);
    filter(settings, no_node_access, &mut rules);
    postrouting(settings, &mut rules);
    rules
}

fn matches(settings: &Settings, set: Set) -> String {
    format!("-m set --match-set {}", set.name(settings.family))
}

fn commented(settings: &Settings, set: Set) -> String {
    format!("-m comment --comment \"{}\" {}", set.comment(), matches(settings, set))
}

fn services(settings: &Settings, filled: &BTreeSet<Set>, rules: &mut Ruleset) {
    let chain = rules.nat.chain("KUBE-SERVICES");
    if filled.contains(&Set::ClusterIp) {
        let who = match settings.local_traffic.iptables(true) {
            _ if settings.masquerade_all => "dst,dst".to_owned(),
            Some(outside) => format!("dst,dst {outside}"),
            None => "src,dst".to_owned(),
        };
        chain.push(format!("{} {who} -j KUBE-MARK-MASQ", commented(settings, Set::ClusterIp)));
    }
    for set in [Set::ExternalIp, Set::ExternalIpLocal].into_iter().filter(|set| filled.contains(set)) {
        let start = format!("{} dst,dst", commented(settings, set));
        if set == Set::ExternalIp {
            chain.push(format!("{start} -j KUBE-MARK-MASQ"));
        }
        // from off this machine, and to addresses that happen to be this machine's
        chain.push(format!("{start} -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT"));
        chain.push(format!("{start} -m addrtype --dst-type LOCAL -j ACCEPT"));
    }
    chain.push("-m addrtype --dst-type LOCAL -j KUBE-NODE-PORT".to_owned());
    for set in [Set::ClusterIp, Set::LoadBalancer].into_iter().filter(|set| filled.contains(set)) {
        chain.push(format!("{} dst,dst -j ACCEPT", matches(settings, set)));
    }
    rules.nat.rule("KUBE-LOAD-BALANCER", "-j KUBE-MARK-MASQ");
}

fn filter(settings: &Settings, no_node_access: &BTreeSet<Server>, rules: &mut Ruleset) {
    let (mark, filter) = (settings.masquerade_mark, &mut rules.filter);
    filter.rule("KUBE-SOURCE-RANGES-FIREWALL", "-j DROP");
    for Server { protocol, address } in no_node_access {
        let (ip, protocol, port) = (address.ip(), protocol.lower(), address.port());
        let server = format!("-m ipvs --vaddr {ip} --vproto {protocol} --vport {port}");
        filter.rule("KUBE-IPVS-OUT-FILTER", format!("-s {ip} {server} -j DROP"));
    }
    let comment = "-m comment --comment \"kubernetes forwarding rules\"";
    filter.rule("KUBE-FORWARD", format!("{comment} -m mark --mark {mark:#x}/{mark:#x} -j ACCEPT"));
    let comment = "-m comment --comment \"kubernetes forwarding conntrack rule\"";
    filter.rule("KUBE-FORWARD", format!("{comment} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
    let health = Set::HealthCheckNodePort;
    filter.rule("KUBE-NODE-PORT", format!("{} dst -j ACCEPT", commented(settings, health)));
    // what is left for an address of Services goes to a port that no Service has
    for set in [Set::LoadBalancer, Set::ClusterIp, Set::ExternalIp, Set::ExternalIpLocal, health] {
        let directions = if set == health { "dst" } else { "dst,dst" };
        filter.rule("KUBE-IPVS-FILTER", format!("{} {directions} -j RETURN", matches(settings, set)));
    }
    let addresses = matches(settings, Set::IpvsIps);
    filter.rule("KUBE-IPVS-FILTER", format!("-m conntrack --ctstate NEW {addresses} dst -j REJECT"));
}

fn postrouting(settings: &Settings, rules: &mut Ruleset) {
    let mark = settings.masquerade_mark;
    let random = if settings.random_fully { " --random-fully" } else { "" };
    let chain = rules.nat.chain("KUBE-POSTROUTING");
    chain.push(format!("-m mark ! --mark {mark:#x}/{mark:#x} -j RETURN"));
    chain.push(format!("-j MARK --xor-mark {mark:#x}"));
    chain.push(format!("-m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE{random}"));
    rules.nat.rule("KUBE-MARK-MASQ", format!("-j MARK --or-mark {mark:#x}"));
}

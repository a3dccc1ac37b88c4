//! Servers, sets and rules as expected text.

use std::collections::BTreeSet;

use serde_json::json;

use super::plan::{Action, Key, Server, State, actions, claims};
use super::rules::rules;
use super::sets::{self, Set};
use crate::core::tests::{desired_of, sampler, settings};
use crate::core::{Family, Protocol};

#[test]
fn one_service_of_each_sort() {
    let desired = desired_of(&sampler());
    let mut lines: Vec<String> = Vec::new();
    for (key, state) in desired.ports().flat_map(|port| claims(&settings(), port)) {
        lines.push(match key {
            Key::Address(ip) => format!("address {ip}"),
            Key::Entry(set, entry) => format!("{} {entry}", set.name(Family::V4)),
            Key::Server(server) => format!("server {} {:?}", server.address, state),
            Key::NoNodeAccess(server) => format!("not from this node: {}", server.address),
        });
    }
    lines.sort();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn the_rules_are_upstreams() {
    let all: BTreeSet<Set> = Set::ALL.iter().copied().collect();
    let server = Server { protocol: Protocol::Tcp, address: "1.2.3.4:80".parse().unwrap() };
    let script = crate::iptables::sync::full("", &rules(&settings(), &all, &BTreeSet::from([server])), true).concat();
    insta::assert_snapshot!(script);
}

#[test]
fn sets_are_compared_with_what_there_is() {
    let saved = "create KUBE-CLUSTER-IP hash:ip,port family inet hashsize 1024 maxelem 65536 bucketsize 12\n\
        add KUBE-CLUSTER-IP 10.96.0.1,tcp:443\nadd KUBE-CLUSTER-IP 10.96.0.9,tcp:80\nadd MINE 10.0.0.1\n";
    let wanted = [(Set::ClusterIp, "10.96.0.1,tcp:443"), (Set::IpvsIps, "10.96.0.1")];
    let (create, edits) = sets::full(Family::V4, saved, wanted.into_iter());
    assert!(create.lines().count() == Set::ALL.len() && create.lines().all(|line| line.ends_with(" -exist")));
    let expected = "del KUBE-CLUSTER-IP 10.96.0.9,tcp:80 -exist\nadd KUBE-IPVS-IPS 10.96.0.1 -exist\n";
    assert_eq!(sets::script(Family::V4, &edits), expected);
    assert_eq!(Set::LoadBalancerSourceCidr.name(Family::V6), "KUBE-6-LOAD-BALANCER-SOURCE-CID");
}

#[test]
fn an_endpoint_that_goes_is_drained() {
    let server = Server { protocol: Protocol::Tcp, address: "10.96.0.1:80".parse().unwrap() };
    let state = |endpoints: &[&str], affinity_seconds| State {
        affinity_seconds,
        endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
    };
    let (one, two) = (state(&["10.0.0.1:80"], None), state(&["10.0.0.2:80"], Some(5)));
    let run = |before, after| {
        let mut out = Vec::new();
        actions(server, before, after, &mut out);
        out
    };
    let (a, b) = ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
    assert_eq!(run(None, Some(&one)), [Action::Add(server, None), Action::Open(server, a)]);
    let changed = [Action::Change(server, Some(5)), Action::Open(server, b), Action::Drain(server, a)];
    assert_eq!(run(Some(&one), Some(&two)), changed);
    assert_eq!(run(Some(&one), None), [Action::Delete(server)]);
    assert_eq!(run(Some(&one), Some(&one)), []);
}

#[test]
fn sets_cannot_hold_everything_at_once() {
    let mut objects = sampler();
    objects[4]["spec"]["loadBalancerSourceRanges"] = json!(["0.0.0.0/0", "203.0.113.7/32"]);
    let desired = desired_of(&objects);
    let keys: Vec<Key> = desired.ports().flat_map(|port| claims(&settings(), port)).map(|(key, _)| key).collect();
    let ranges = keys.iter().filter_map(|key| match key {
        Key::Entry(Set::LoadBalancerSourceCidr, entry) => entry.rsplit(',').next(),
        _ => None,
    });
    assert_eq!(ranges.collect::<Vec<_>>(), ["0.0.0.0/1", "128.0.0.0/1", "203.0.113.7"]);
}

//! Whole rulesets as expected text.

use serde_json::{Value, json};

use super::*;
use crate::core::{Family, NodeView, desired};

pub(crate) fn settings() -> Settings {
    Settings {
        family: Family::V4,
        masquerade_mark: 0x4000,
        masquerade_all: false,
        random_fully: true,
        localhost_node_ports: true,
        local_traffic: LocalTraffic::Cidr("10.0.0.0/8".to_owned()),
        node_port_addresses: NodePortAddresses::All,
        drop_invalid: true,
    }
}

fn rules_of(objects: &[Value]) -> Ruleset {
    let services: Vec<_> = parse(objects, "Service");
    let slices: Vec<_> = parse(objects, "EndpointSlice");
    let node = NodeView { name: "here".to_owned(), zone: String::new() };
    render(&settings(), &desired(Family::V4, &node, &services, &slices))
}

fn parse<T: serde::de::DeserializeOwned>(objects: &[Value], kind: &str) -> Vec<T> {
    objects.iter().filter(|o| o["kind"] == kind).map(|o| serde_json::from_value(o.clone()).unwrap()).collect()
}

fn service(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["clusterIPs"] = json!(["172.30.0.41"]);
    spec["ports"] =
        json!([{"name": "p80", "port": 80, "protocol": "TCP", "nodePort": spec["nodePort"].as_u64().unwrap_or(0)}]);
    let status =
        json!({"loadBalancer": {"ingress": spec["lb"].as_str().map(|ip| json!([{"ip": ip}])).unwrap_or(json!([]))}});
    json!({"kind": "Service", "metadata": {"name": name, "namespace": "ns"}, "spec": spec, "status": status})
}

fn slice(name: &str, endpoints: &[(&str, &str)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, node)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}}))
        .collect();
    json!({"kind": "EndpointSlice", "metadata": {"name": format!("{name}-x"), "namespace": "ns",
        "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "p80", "protocol": "TCP", "port": 80}]})
}

/// Rules only, without the ones that are always there.
fn text(rules: &Ruleset) -> String {
    let always = render(&settings(), &crate::core::Desired::default());
    let mut out = String::new();
    for ((name, table), (_, base)) in rules.tables().into_iter().zip(always.tables()) {
        for (chain, rules) in &table.chains {
            for rule in rules.iter().filter(|r| !base.chains.get(chain).is_some_and(|b| b.contains(r))) {
                out.push_str(&format!("{name} {chain} {rule}\n"));
            }
        }
    }
    out
}

#[test]
fn the_frame_is_upstreams() {
    insta::assert_snapshot!(sync::full("", &rules_of(&[])));
}

#[test]
fn cluster_ip_and_node_port() {
    let rules = rules_of(&[
        service("svc", json!({"type": "NodePort", "nodePort": 3001})),
        slice("svc", &[("10.180.0.1", "here"), ("10.180.0.2", "there")]),
    ]);
    insta::assert_snapshot!(text(&rules));
}

#[test]
fn chain_names_are_upstreams() {
    let service = json!({"kind": "Service", "metadata": {"name": "svc1", "namespace": "ns1"},
        "spec": {"clusterIPs": ["172.30.0.41"], "ports": [{"name": "p80", "port": 80, "protocol": "TCP"}]}});
    let mut endpoints = slice("svc1", &[("10.180.0.1", "here")]);
    endpoints["metadata"]["namespace"] = json!("ns1");
    let rules = text(&rules_of(&[service, endpoints]));
    assert!(rules.contains("KUBE-SVC-XPGD46QRK7WJZT7O"), "{rules}");
    assert!(rules.contains("KUBE-SEP-SXIVWICOYRO3J4NJ"), "{rules}");
}

#[test]
fn no_endpoints_reject_and_no_local_endpoints_drop() {
    let nobody = service("a", json!({"type": "NodePort", "nodePort": 3001}));
    let elsewhere = service("b", json!({"type": "NodePort", "nodePort": 3002, "externalTrafficPolicy": "Local"}));
    insta::assert_snapshot!(text(&rules_of(&[nobody, elsewhere, slice("b", &[("10.180.0.2", "there")])])));
}

#[test]
fn load_balancer_with_local_policy_ranges_and_affinity() {
    let spec = json!({"type": "LoadBalancer", "nodePort": 3001, "lb": "1.2.3.4", "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 30000, "loadBalancerSourceRanges": ["203.0.113.0/25"], "externalIPs": ["192.168.99.22"],
        "sessionAffinity": "ClientIP"});
    let endpoints = slice("svc", &[("10.180.0.1", "here"), ("10.180.0.2", "there")]);
    insta::assert_snapshot!(text(&rules_of(&[service("svc", spec), endpoints])));
}

#[test]
fn a_partial_sync_touches_only_what_changed() {
    let other = [service("other", json!({"type": "ClusterIP"})), slice("other", &[("10.180.1.1", "here")])];
    let with = |endpoints: &[(&str, &str)]| {
        let mut objects = other.to_vec();
        objects.extend([service("svc", json!({"type": "ClusterIP"})), slice("svc", endpoints)]);
        rules_of(&objects)
    };
    let (one, two) = (with(&[("10.180.0.1", "here")]), with(&[("10.180.0.1", "here"), ("10.180.0.2", "there")]));
    assert_eq!(sync::partial(&one, &one), "");
    let grow = sync::partial(&one, &two);
    assert!(!grow.contains("ns/other") && !grow.contains("*filter") && !grow.contains("-X"), "{grow}");
    let shrink = sync::partial(&two, &one);
    assert_eq!(shrink.matches("-X KUBE-SEP-").count(), 1, "{shrink}");
}

#[test]
fn a_full_sync_removes_what_is_stale_and_keeps_other_peoples_rules() {
    let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SVC-OLD - [0:0]\n:MINE - [0:0]\n\
        -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\nCOMMIT\n";
    let script = sync::full(saved, &rules_of(&[]));
    assert!(script.contains("-X KUBE-SVC-OLD\n") && !script.contains("MINE"));
    assert!(!script.contains("-I PREROUTING 1") && script.contains("-I POSTROUTING 1"));
}

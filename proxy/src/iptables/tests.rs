//! Whole rulesets as expected text.

use serde_json::{Value, json};

use super::executor::State;
use super::*;
use crate::core::tests::{changes, desired_of, sampler, service_object as service, settings, slice_object as slice};

fn rules_of(objects: &[Value]) -> Ruleset {
    State::of(&settings(), &desired_of(objects)).1
}

/// Rules only, without the ones that are always there.
fn text(rules: &Ruleset) -> String {
    let always = rules_of(&[]);
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
    insta::assert_snapshot!(sync::full("", &rules_of(&[]), true).concat());
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
    let other = [service("other", json!({"ip": "172.30.0.50"})), slice("other", &[("10.180.1.1", "here")])];
    let with = |endpoints: &[(&str, &str)]| {
        let mut objects = other.to_vec();
        objects.extend([service("svc", json!({"type": "ClusterIP"})), slice("svc", endpoints)]);
        desired_of(&objects)
    };
    let (one, two) = (with(&[("10.180.0.1", "here")]), with(&[("10.180.0.1", "here"), ("10.180.0.2", "there")]));
    let (mut state, _) = State::of(&settings(), &one);
    assert_eq!(state.change(&settings(), &[]), "");
    let grow = state.change(&settings(), &changes(&one, &two));
    assert!(!grow.contains("ns/other") && !grow.contains("*filter") && !grow.contains("-X"), "{grow}");
    let shrink = state.change(&settings(), &changes(&two, &one));
    assert_eq!(shrink.matches("-X KUBE-SEP-").count(), 1, "{shrink}");
    // a Service that loses its last endpoint moves from one shared chain to another, whose other rules stay
    let gone = state.change(&settings(), &changes(&one, &with(&[])));
    assert!(gone.contains("-A KUBE-SERVICES -m comment --comment \"ns/other:p80 cluster IP\""), "{gone}");
    assert!(gone.contains("ns/svc:p80 has no endpoints"), "{gone}");
}

/// Chains after a script, starting from a ruleset.
fn play(rules: &Ruleset, script: &str) -> Ruleset {
    let (mut out, mut in_nat) = (rules.clone(), false);
    for line in script.lines() {
        let [filter, nat] = out.tables_mut();
        let table = if in_nat { nat } else { filter };
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "*filter" | "*nat" => in_nat = verb == "*nat",
            "-A" => table.rule(rest.split_once(' ').unwrap().0, rest.split_once(' ').unwrap().1),
            "-X" => drop(table.chains.remove(rest)),
            chain if chain.starts_with(':') => drop(table.chains.insert(chain[1..].to_owned(), Vec::new())),
            _ => {}
        }
    }
    out
}

#[test]
fn differences_lead_where_a_full_write_would() {
    let all = sampler();
    for left_out in 0..all.len() {
        let mut some = all.clone();
        some.remove(left_out);
        let (some, all) = (desired_of(&some), desired_of(&all));
        for (old, new) in [(&some, &all), (&all, &some)] {
            let (mut state, rules) = State::of(&settings(), old);
            let script = state.change(&settings(), &changes(old, new));
            let (expected, reached) = (State::of(&settings(), new).1, play(&rules, &script));
            assert_eq!(reached, expected, "without {left_out}: {script}");
        }
    }
}

#[test]
fn many_rules_are_written_in_batches_that_need_nothing_later() {
    let mut objects = Vec::new();
    for at in 0..400 {
        let (name, ip) = (format!("s{at}"), format!("172.30.{}.{}", at / 200, at % 200));
        objects.push(service(&name, json!({"ip": ip, "type": "NodePort", "nodePort": 30000 + at})));
        objects.push(slice(&name, &[("10.180.0.1", "here"), ("10.180.0.2", "there")]));
    }
    let rules = rules_of(&objects);
    let scripts = sync::full("", &rules, true);
    assert!(scripts.len() > 1);
    let (mut made, mut reached) = (std::collections::BTreeSet::new(), Ruleset::default());
    for script in &scripts {
        made.extend(script.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next()));
        let targets = script.lines().filter_map(|line| line.rsplit_once("-j ").map(|(_, to)| to));
        let targets: Vec<&str> = targets.filter(|to| to.starts_with("KUBE-")).collect();
        assert!(targets.iter().all(|to| made.contains(to)));
        // but for the last, which leads to Services, none leads out of itself
        let own = |to: &&str| *to == "KUBE-MARK-MASQ" || script.contains(&format!(":{to} "));
        assert!(script.contains("-A KUBE-SERVICES ") || targets.iter().all(own));
        reached = play(&reached, script);
    }
    assert_eq!(reached.nat.chains, rules.nat.chains);
    assert_eq!(sync::full("", &rules, false).len(), 1);
}

#[test]
fn a_full_sync_removes_what_is_stale_and_keeps_other_peoples_rules() {
    let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SVC-OLD - [0:0]\n:MINE - [0:0]\n\
        -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\nCOMMIT\n";
    let script = sync::full(saved, &rules_of(&[]), true).concat();
    assert!(script.contains("-X KUBE-SVC-OLD\n") && !script.contains("MINE"));
    assert!(!script.contains("-I PREROUTING 1") && script.contains("-I POSTROUTING 1"));
}

#[test]
fn the_empty_state_leaves_other_peoples_rules_and_jumps_of_other_modes_go() {
    let saved = "*filter\n:INPUT ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\n:KUBE-FORWARD - [0:0]\n:MINE - [0:0]\n-A INPUT -j ACCEPT\n\
        -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n-A MINE -j KUBE-FORWARD\nCOMMIT\n\
        *mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n";
    let script = "*filter\n:KUBE-FORWARD - [0:0]\n\
        -D FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n-D MINE -j KUBE-FORWARD\n\
        -X KUBE-FORWARD\nCOMMIT\n*mangle\n:KUBE-PROXY-CANARY - [0:0]\n-X KUBE-PROXY-CANARY\nCOMMIT\n";
    assert_eq!(sync::full(saved, &Ruleset::default(), true).concat(), script);
    let ipvs = "*filter\n:KUBE-PROXY-FIREWALL - [0:0]\n-A OUTPUT -j KUBE-PROXY-FIREWALL\nCOMMIT\n";
    let rules = crate::ipvs::rules::rules(&settings(), &Default::default(), &Default::default());
    assert!(sync::full(ipvs, &rules, true).concat().contains("-D OUTPUT -j KUBE-PROXY-FIREWALL\n"));
}

#[test]
fn chains_of_one_table_are_listed() {
    let listed = "table ip nat {\n\tchain PREROUTING {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\t}\n\
        \tchain KUBE-SVC-OLD {\n\t}\n}\ntable ip filter {\n\tchain INPUT {\n\t}\n}\n";
    assert_eq!(sync::names(listed, "ip", "nat", "chain"), ["PREROUTING", "KUBE-SVC-OLD"]);
    assert_eq!(sync::names(listed, "ip", "mangle", "chain"), Vec::<&str>::new());
}

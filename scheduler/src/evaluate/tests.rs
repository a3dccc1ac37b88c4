//! The recorded scores of upstream v1.36.3, and the property that both evaluators agree on random clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::Ranking;
use super::incremental::Evaluator;
use super::naive::{CycleState, NodeScore, NodeView};
use crate::cluster::Cluster;
use crate::config::profile::Profile;
use crate::model::node::NodeInfo;
use crate::model::pod::{PodInfo, PodKey};
use crate::objects::selector::Labels;
use crate::plugins::Plugin;

fn pod_of(v: Value) -> Arc<PodInfo> {
    Arc::new(PodInfo::of(&serde_json::from_value(v).unwrap()))
}

fn node_of(v: Value) -> NodeInfo {
    NodeInfo::of(&serde_json::from_value(v).unwrap())
}

fn naive(cluster: &Cluster, profile: &Profile, pod: &PodInfo) -> (CycleOutcome, Vec<NodeScore>) {
    let Ok(state) = CycleState::new(cluster, profile, &pod.template) else { return (None, Vec::new()) };
    let views = cluster.nodes.ids().filter_map(|id| NodeView::of(cluster, id));
    let feasible: Vec<NodeView<'_>> = views.filter(|v| state.filter(v).is_ok()).collect();
    let scores = state.score(&feasible);
    (Some(feasible.iter().map(|v| v.id).collect()), scores)
}

type CycleOutcome = Option<Vec<usize>>;

/// A scenario's node, as its player makes it.
fn scenario_node(n: &Value) -> NodeInfo {
    let text = |key: &str, default: &str| n[key].as_str().unwrap_or(default).to_string();
    let name = n["name"].as_str().unwrap();
    let mut labels =
        json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"});
    for (k, v) in n["labels"].as_object().into_iter().flatten() {
        labels[k] = v.clone();
    }
    let mut taints = n["taints"].as_array().cloned().unwrap_or_default();
    let unschedulable = n["unschedulable"] == json!(true);
    if unschedulable {
        taints.push(json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}));
    }
    let image = |i: &Value| json!({"names": [i["name"]], "sizeBytes": i["size"]});
    let images: Vec<Value> = n["images"].as_array().into_iter().flatten().map(image).collect();
    node_of(json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"unschedulable": unschedulable, "taints": taints},
        "status": {"images": images, "allocatable": {"cpu": text("cpu", "4"), "memory": text("mem", "8Gi"),
            "pods": text("pods", "110"), "ephemeral-storage": text("disk", "50Gi")}},
    }))
}

fn scenario_existing(i: usize, k: usize, e: &Value) -> Value {
    let mut requests = json!({});
    for (from, to) in [("cpu", "cpu"), ("mem", "memory")] {
        if let Some(v) = e[from].as_str() {
            requests[to] = json!(v);
        }
    }
    let container = json!({"name": "c", "image": e["image"].as_str().unwrap_or("img"),
        "resources": {"requests": requests}, "ports": e["ports"].as_array().cloned().unwrap_or_default()});
    let mut spec = json!({"nodeName": e["node"], "containers": [container]});
    for (key, v) in e["spec"].as_object().into_iter().flatten() {
        spec[key] = v.clone();
    }
    json!({"metadata": {"name": format!("e{i}-{k}"), "namespace": e["in"].as_str().unwrap_or("main"),
        "labels": e["labels"].as_object().cloned().unwrap_or_default()}, "spec": spec})
}

fn scenario(s: &Value) -> (Cluster, Arc<PodInfo>, BTreeMap<String, BTreeMap<String, i64>>) {
    let mut cluster = Cluster::default();
    for (name, labels) in [("main", json!({})), ("other", json!({"team": "blue"})), ("third", json!({"team": "red"}))] {
        cluster.set_namespace(name, Some(serde_json::from_value(labels).unwrap()));
    }
    for o in s["objects"].as_array().into_iter().flatten().filter(|o| o["kind"] == "Service") {
        let selector: Labels = serde_json::from_value(o["spec"]["selector"].clone()).unwrap();
        let name = o["metadata"]["name"].as_str().unwrap().to_string();
        cluster.world.selectors.services.entry("main".into()).or_default().insert(name, selector);
    }
    for n in s["nodes"].as_array().unwrap() {
        cluster.set_node(scenario_node(n));
    }
    for (i, e) in s["existing"].as_array().into_iter().flatten().enumerate() {
        for k in 0..usize::try_from(e["n"].as_u64().unwrap_or(1)).unwrap() {
            cluster.place(&pod_of(scenario_existing(i, k, e)), false);
        }
    }
    let mut pod = s["steps"][0]["create"].clone();
    pod["metadata"]["namespace"] = json!("main");
    let expected = s["steps"][1]["scores"].clone();
    let expected = if expected.is_null() { BTreeMap::new() } else { serde_json::from_value(expected).unwrap() };
    (cluster, pod_of(pod), expected)
}

fn check_recorded(text: &str) -> usize {
    let scenarios: Value = serde_json::from_str(text).unwrap();
    let list = scenarios.get("scenarios").unwrap_or(&scenarios).as_array().unwrap().clone();
    let profile = Profile::default_for("default-scheduler");
    for s in &list {
        let (mut cluster, pod, expected) = scenario(s);
        let name = &s["name"];
        let (_, scores) = naive(&cluster, &profile, &pod);
        let got: BTreeSet<String> = scores.iter().map(|s| cluster.nodes.name(s.node).to_string()).collect();
        // With one feasible node upstream scores nothing.
        if scores.len() > 1 {
            assert_eq!(got, expected.keys().cloned().collect(), "{name}: feasible nodes");
        }
        for score in scores.iter().filter(|_| scores.len() > 1) {
            let node = cluster.nodes.name(score.node).to_string();
            for (plugin, want) in &expected[&node] {
                let Some(p) = Plugin::by_name(plugin) else { continue };
                assert_eq!(score.by_plugin.get(&p).copied().unwrap_or(0), *want, "{name}: {plugin} on {node}");
            }
            assert_eq!(score.total, expected[&node]["total"], "{name}: total of {node}");
        }
        let ranking = Evaluator::default().rank(&mut cluster, std::slice::from_ref(&profile), 0, &pod).unwrap();
        agree(&ranking, &scores);
    }
    list.len()
}

fn agree(ranking: &Ranking, scores: &[NodeScore]) {
    assert_eq!(ranking.nodes, scores.iter().map(|s| s.node).collect::<Vec<_>>());
    if scores.len() > 1 {
        assert_eq!(ranking.totals, scores.iter().map(|s| s.total).collect::<Vec<_>>());
    }
}

#[test]
fn recorded_scores() {
    assert!(check_recorded(include_str!("../../testdata/scores.json")) > 10);
}

/// A larger record, when one is at hand.
#[test]
fn recorded_scores_elsewhere() {
    if let Some(path) = std::env::var_os("HARDWAY_RECORDED_SCORES") {
        check_recorded(&std::fs::read_to_string(path).unwrap());
    }
}

const APPS: [&str; 3] = ["web", "db", "cache"];
const KEYS: [&str; 3] = ["kubernetes.io/hostname", "topology.kubernetes.io/zone", "rack"];

/// One change of a random cluster.
#[derive(Debug, Clone)]
enum Change {
    Node(u8, Value),
    DropNode(u8),
    Pod(u8, Value),
    DropPod(u8),
    Namespace(u8, bool),
    Service(u8),
    Schedule(Value),
}

fn any_node() -> impl Strategy<Value = Value> {
    let taint = prop_oneof![
        4 => Just(json!([])),
        1 => Just(json!([{"key": "t", "effect": "NoSchedule"}])),
        1 => Just(json!([{"key": "t", "effect": "PreferNoSchedule"}, {"key": "u", "effect": "PreferNoSchedule"}])),
    ];
    (0..3u8, prop::option::of(0..3u8), prop::option::of(0..2u8), taint, 1..5u8, prop::bool::weighted(0.1), 0..2u8)
        .prop_map(|(_, zone, rack, taints, cpu, unschedulable, image)| {
            let mut labels = json!({});
            if let Some(z) = zone {
                labels["topology.kubernetes.io/zone"] = json!(format!("z{z}"));
            }
            if let Some(r) = rack {
                labels["rack"] = json!(format!("r{r}"));
            }
            let images = json!([{"names": ["img:1"], "sizeBytes": 900_000_000u64 * u64::from(image)}]);
            json!({"metadata": {"labels": labels}, "spec": {"taints": taints, "unschedulable": unschedulable},
                "status": {"images": images, "declaredFeatures": if image == 1 { json!(["RestartAllContainersOnContainerExits"]) } else { json!([]) },
                    "allocatable": {"cpu": cpu.to_string(), "memory": "4Gi", "pods": "6"}}})
        })
}

fn any_selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        5 => (0..3usize).prop_map(|a| json!({"matchLabels": {"app": APPS[a]}})),
        1 => Just(json!({})),
        1 => (0..3usize).prop_map(|a| json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [APPS[a]]}]})),
    ]
}

fn any_terms() -> impl Strategy<Value = Vec<Value>> {
    let namespaces = prop_oneof![
        3 => Just(json!({})),
        1 => Just(json!({"namespaceSelector": {}})),
        1 => Just(json!({"namespaceSelector": {"matchLabels": {"team": "blue"}}})),
        1 => Just(json!({"namespaces": ["ns1"]})),
    ];
    let term = (any_selector(), 0..3usize, namespaces).prop_map(|(selector, key, mut term)| {
        term["labelSelector"] = selector;
        term["topologyKey"] = json!(KEYS[key]);
        term
    });
    prop::collection::vec(term, 0..2)
}

fn any_affinity() -> impl Strategy<Value = Value> {
    let weigh = |terms: Vec<Value>| -> Vec<Value> {
        terms.into_iter().enumerate().map(|(i, t)| json!({"weight": 10 + 7 * i, "podAffinityTerm": t})).collect()
    };
    let full = (any_terms(), any_terms(), any_terms(), any_terms()).prop_map(move |(a, b, c, d)| {
        json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": a,
                "preferredDuringSchedulingIgnoredDuringExecution": weigh(b)},
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": c,
                "preferredDuringSchedulingIgnoredDuringExecution": weigh(d)},
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                [{"weight": 5, "preference": {"matchExpressions": [{"key": "rack", "operator": "Exists"}]}}]}})
    });
    prop_oneof![3 => Just(json!({})), 2 => full]
}

fn any_spread() -> impl Strategy<Value = Vec<Value>> {
    let one =
        (1..3u8, 0..3usize, any::<bool>(), any_selector(), prop::option::of(1..4u8), any::<bool>(), any::<bool>())
            .prop_map(|(skew, key, hard, selector, min, taints, affinity)| {
                let mut c = json!({"maxSkew": skew, "topologyKey": KEYS[key], "labelSelector": selector,
                "whenUnsatisfiable": if hard { "DoNotSchedule" } else { "ScheduleAnyway" },
                "nodeTaintsPolicy": if taints { "Honor" } else { "Ignore" },
                "nodeAffinityPolicy": if affinity { "Honor" } else { "Ignore" }});
                if let (true, Some(m)) = (hard, min) {
                    c["minDomains"] = json!(m);
                }
                c
            });
    prop_oneof![2 => Just(vec![]), 2 => prop::collection::vec(one, 1..3)]
}

fn any_pod() -> impl Strategy<Value = Value> {
    let shape = (0..3usize, 0..2u8, prop::option::of(1..20u16), any_affinity(), any_spread());
    let extra = (any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    (shape, extra).prop_map(|((app, ns, cpu, affinity, spread), (tolerates, selects, port, terminating))| {
        let mut spec = json!({"affinity": affinity, "topologySpreadConstraints": spread,
            "containers": [{"name": "c", "image": "img:1"}]});
        if let Some(n) = cpu {
            spec["containers"][0]["resources"] =
                json!({"requests": {"cpu": format!("{}m", n * 100), "memory": "64Mi"}});
        }
        if port {
            spec["containers"][0]["ports"] = json!([{"hostPort": 80, "protocol": "TCP"}]);
        }
        if tolerates {
            spec["tolerations"] = json!([{"key": "t", "operator": "Exists"}]);
        }
        if port && tolerates {
            spec["containers"][0]["restartPolicyRules"] = json!([{"action": "RestartAllContainers"}]);
        }
        if selects {
            spec["nodeSelector"] = json!({"rack": "r0"});
        }
        let mut pod = json!({"metadata": {"namespace": format!("ns{ns}"), "labels": {"app": APPS[app]}}, "spec": spec});
        if terminating {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        pod
    })
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (0..8u8, any_node()).prop_map(|(i, n)| Change::Node(i, n)),
        1 => (0..8u8).prop_map(Change::DropNode),
        4 => (0..20u8, any_pod()).prop_map(|(i, p)| Change::Pod(i, p)),
        2 => (0..20u8).prop_map(Change::DropPod),
        1 => (0..2u8, any::<bool>()).prop_map(|(i, b)| Change::Namespace(i, b)),
        1 => (0..3u8).prop_map(Change::Service),
        6 => any_pod().prop_map(Change::Schedule),
    ]
}

/// Performs a change; whether it ran an evaluation (which the caller compares) is in the return value.
fn perform(cluster: &mut Cluster, change: &Change, i: usize) -> Option<Arc<PodInfo>> {
    match change {
        Change::Node(n, v) => {
            let mut v = v.clone();
            v["metadata"]["name"] = json!(format!("n{n}"));
            v["metadata"]["labels"]["kubernetes.io/hostname"] = json!(format!("n{n}"));
            cluster.set_node(node_of(v));
        }
        Change::DropNode(n) => {
            cluster.remove_node(&format!("n{n}"));
        }
        Change::Pod(n, v) => {
            let mut v = v.clone();
            v["metadata"]["name"] = json!(format!("p{n}"));
            v["metadata"]["namespace"] = json!("ns0");
            v["spec"]["nodeName"] = json!(format!("n{}", n % 8));
            cluster.place(&pod_of(v), false);
        }
        Change::DropPod(n) => {
            cluster.take(&PodKey::new("ns0", &format!("p{n}")));
        }
        Change::Namespace(n, blue) => {
            let labels = if *blue { Labels::from([("team".into(), "blue".into())]) } else { Labels::new() };
            cluster.set_namespace(&format!("ns{n}"), Some(labels));
        }
        Change::Service(app) => {
            let selector = Labels::from([("app".to_string(), APPS[usize::from(*app)].to_string())]);
            let selectors = &mut cluster.world.selectors;
            selectors.services.entry("ns0".into()).or_default().insert(format!("s{app}"), selector);
            *selectors.epochs.entry("ns0".into()).or_default() += 1;
        }
        Change::Schedule(v) => {
            let mut v = v.clone();
            v["metadata"]["name"] = json!(format!("s{i}"));
            return Some(pod_of(v));
        }
    }
    None
}

/// The default profile, and two in which everything that can be set is set otherwise.
fn some_profiles() -> [Profile; 3] {
    let spread = json!({"defaultingType": "List", "defaultConstraints": [
        {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"},
        {"maxSkew": 2, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}]});
    let added = json!({"addedAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 9, "preference": {"matchExpressions": [{"key": "rack", "operator": "In", "values": ["r1"]}]}}]}});
    let resources = json!([{"name": "cpu", "weight": 3}, {"name": "memory", "weight": 1}, {"name": "ephemeral-storage", "weight": 2}]);
    let shape =
        json!([{"utilization": 0, "score": 2}, {"utilization": 60, "score": 10}, {"utilization": 100, "score": 1}]);
    let ratio = json!({"scoringStrategy": {"type": "RequestedToCapacityRatio", "resources": resources,
        "requestedToCapacityRatio": {"shape": shape}}});
    let files = json!([
        {"schedulerName": "default-scheduler"},
        {"schedulerName": "b", "pluginConfig": [{"name": "PodTopologySpread", "args": spread},
            {"name": "NodeAffinity", "args": added}, {"name": "NodeResourcesFit", "args": ratio},
            {"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 77}}]},
        {"schedulerName": "c", "plugins": {"multiPoint": {"disabled": [{"name": "TaintToleration"}, {"name": "NodePorts"}],
            "enabled": [{"name": "ImageLocality", "weight": 7}]}, "filter": {"disabled": [{"name": "PodTopologySpread"}]}},
            "pluginConfig": [{"name": "InterPodAffinity", "args": {"ignorePreferredTermsOfExistingPods": true}},
                {"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated"}}},
                {"name": "NodeResourcesBalancedAllocation", "args": {"resources": resources}}]},
    ]);
    let files: Vec<crate::config::file::FileProfile> = serde_json::from_value(files).unwrap();
    crate::config::file::profiles(&files).unwrap().try_into().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// After any history, every class that was ever used gives what an evaluation from scratch gives.
    #[test]
    fn incremental_equals_naive(changes in prop::collection::vec(any_change(), 1..60)) {
        let profiles = some_profiles();
        let (mut cluster, mut evaluator) = (Cluster::default(), Evaluator::default());
        let mut seen: Vec<Arc<PodInfo>> = Vec::new();
        for (i, change) in changes.iter().enumerate() {
            let Some(pod) = perform(&mut cluster, change, i) else { continue };
            seen.push(pod);
            for (i, pod) in seen.iter().enumerate() {
                let at = i % profiles.len();
                let ranking = evaluator.rank(&mut cluster, &profiles, at, pod).unwrap();
                let (nodes, scores) = naive(&cluster, &profiles[at], pod);
                prop_assert_eq!(Some(ranking.nodes.clone()), nodes);
                if scores.len() > 1 {
                    let totals: Vec<i64> = scores.iter().map(|s| s.total).collect();
                    prop_assert_eq!(&ranking.totals, &totals);
                }
                let diagnosis = evaluator.diagnose(&mut cluster, &profiles, at, pod);
                prop_assert_eq!(diagnosis.rejections.len() + ranking.nodes.len(), cluster.nodes.len());
                let state = CycleState::new(&cluster, &profiles[at], &pod.template).unwrap();
                for (id, rejection) in &diagnosis.rejections {
                    let view = NodeView::of(&cluster, *id).unwrap();
                    let from_scratch = state.filter(&view).err();
                    prop_assert_eq!(from_scratch.as_ref(), Some(rejection));
                }
            }
            // Place it on the best node, as the scheduler would.
            let pod = seen[seen.len() - 1].clone();
            let best = evaluator.rank(&mut cluster, &profiles, 0, &pod).unwrap().best();
            if let Some(node) = best.first() {
                let mut placed = (*pod).clone();
                placed.node_name = cluster.nodes.name(*node).as_ref().into();
                cluster.place(&Arc::new(placed), true);
            }
        }
    }
}

//! Tables of "these Services and slices, this node: these endpoints".

use std::net::IpAddr;

use serde_json::{Value, json};

use super::*;
use crate::settings::{LocalTraffic, NodePortAddresses, Settings};

/// Those of a node "here", 192.168.0.2, with pods in 10.0.0.0/8.
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
        node_ip: Some([192, 168, 0, 2].into()),
        service_cidrs: vec![],
        machine: vec![[192, 168, 0, 2].into()],
    }
}

/// The desired state of Services and EndpointSlices on a node "here".
pub(crate) fn desired_of(objects: &[Value]) -> Desired {
    let node = NodeView { name: "here".to_owned(), zone: String::new() };
    let mut out = Desired::default();
    for service in objects.iter().filter(|o| o["kind"] == "Service") {
        let service: Service = serde_json::from_value(service.clone()).unwrap();
        let slices = objects.iter().filter(|o| o["kind"] == "EndpointSlice");
        let slices = slices.map(|o| serde_json::from_value::<EndpointSlice>(o.clone()).unwrap());
        let ours: Vec<_> =
            slices.filter(|s| s.metadata.labels.get(SERVICE_NAME_LABEL) == Some(&service.metadata.name)).collect();
        out.take_over(&Change { old: Ports::default(), new: service_ports(Family::V4, &node, &service, &ours) });
    }
    out
}

/// Of one desired state and the next, what changed.
pub(crate) fn changes(old: &Desired, new: &Desired) -> Vec<Change> {
    let keys: std::collections::BTreeSet<_> = old.services().chain(new.services()).collect();
    let pair = |key| Change { old: old.get(key), new: new.get(key) };
    keys.into_iter().map(pair).filter(|change| change.old != change.new).collect()
}

/// Service `ns/NAME` 172.30.0.41 with a port `p80`; `lb` in the spec is its load balancer's address.
pub(crate) fn service_object(name: &str, mut spec: Value) -> Value {
    spec["clusterIPs"] = json!([spec["ip"].as_str().unwrap_or("172.30.0.41")]);
    spec["ports"] =
        json!([{"name": "p80", "port": 80, "protocol": "TCP", "nodePort": spec["nodePort"].as_u64().unwrap_or(0)}]);
    let status =
        json!({"loadBalancer": {"ingress": spec["lb"].as_str().map(|ip| json!([{"ip": ip}])).unwrap_or(json!([]))}});
    json!({"kind": "Service", "metadata": {"name": name, "namespace": "ns"}, "spec": spec, "status": status})
}

/// A slice of that Service: addresses and nodes.
pub(crate) fn slice_object(name: &str, endpoints: &[(&str, &str)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, node)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}}))
        .collect();
    json!({"kind": "EndpointSlice", "metadata": {"name": format!("{name}-x"), "namespace": "ns",
        "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "p80", "protocol": "TCP", "port": 80}]})
}

/// One Service of each sort: cluster, node port, load balancer with everything, nobody, nobody here.
pub(crate) fn sampler() -> Vec<Value> {
    let everything = json!({"ip": "172.30.0.43", "type": "LoadBalancer", "nodePort": 3002, "lb": "1.2.3.4",
        "loadBalancerSourceRanges": [" 203.0.113.0/25", "192.168.0.0/24"], "externalIPs": ["192.168.99.22"],
        "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30000});
    vec![
        service_object("cluster", json!({})),
        slice_object("cluster", &[("10.180.0.1", "here"), ("10.180.0.2", "there")]),
        service_object("node", json!({"ip": "172.30.0.42", "type": "NodePort", "nodePort": 3001})),
        slice_object("node", &[("10.180.0.1", "here")]),
        service_object("lb", everything),
        slice_object("lb", &[("10.180.0.3", "here"), ("10.180.0.4", "there")]),
        service_object("nobody", json!({"ip": "172.30.0.44", "type": "NodePort", "nodePort": 3003})),
        service_object(
            "away",
            json!({"ip": "172.30.0.45", "type": "NodePort", "nodePort": 3004, "externalTrafficPolicy": "Local",
            "externalIPs": ["192.168.99.33"]}),
        ),
        slice_object("away", &[("10.180.0.5", "there")]),
    ]
}

fn service(more: &Value) -> Value {
    let mut spec = json!({"type": "NodePort", "clusterIPs": ["10.96.0.10", "fd00::10"],
        "ports": [{"name": "p", "port": 80, "nodePort": 30080, "protocol": "TCP"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": "web", "namespace": "x"}, "spec": spec})
}

fn slice(family: &str, endpoints: &[Value]) -> Value {
    json!({"metadata": {"namespace": "x", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": family,
        "endpoints": endpoints, "ports": [{"name": "p", "port": 8080}]})
}

/// An endpoint `10.0.0.N` on a node with conditions written as `r`eady, `s`erving, `t`erminating.
fn endpoint(number: u8, node: &str, conditions: &str) -> Value {
    let is = |letter| conditions.contains(letter);
    json!({"addresses": [format!("10.0.0.{number}")], "nodeName": node,
        "conditions": {"ready": is('r'), "serving": is('s'), "terminating": is('t')}})
}

fn hinted(mut endpoint: Value, zones: &[&str]) -> Value {
    let zones: Vec<Value> = zones.iter().map(|zone| json!({"name": zone})).collect();
    endpoint["hints"] = json!({"forZones": zones});
    endpoint
}

fn run(family: Family, service: Value, slices: &[Value]) -> ServicePort {
    let service: Service = serde_json::from_value(service).unwrap();
    let slices: Vec<EndpointSlice> = slices.iter().map(|s| serde_json::from_value(s.clone()).unwrap()).collect();
    let node = NodeView { name: "here".to_owned(), zone: "a".to_owned() };
    service_ports(family, &node, &service, &slices)[0].clone()
}

/// A UDP Service 10.96.0.10:80, node port 30080, with these endpoints at port 8080.
pub(crate) fn udp_desired(endpoints: &[&str]) -> Desired {
    let ports = json!({"ports": [{"name": "p", "port": 80, "nodePort": 30080, "protocol": "UDP"}]});
    let endpoints: Vec<Value> = endpoints.iter().map(|ip| json!({"addresses": [ip]})).collect();
    let mut slice = slice("IPv4", &endpoints);
    slice["ports"][0]["protocol"] = "UDP".into();
    let service: Service = serde_json::from_value(service(&ports)).unwrap();
    let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
    let mut out = Desired::default();
    let new = service_ports(Family::V4, &NodeView::default(), &service, [&slice]);
    out.take_over(&Change { old: Ports::default(), new });
    out
}

fn last_digits(endpoints: &[Endpoint]) -> String {
    endpoints.iter().map(|e| e.ip.to_string().rsplit('.').next().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
}

/// Cluster and local endpoints.
fn both(service: Value, endpoints: &[Value]) -> (String, String) {
    let port = run(Family::V4, service, &[slice("IPv4", endpoints)]);
    (last_digits(&port.cluster_endpoints), last_digits(&port.local_endpoints))
}

#[test]
fn ready_endpoints_or_else_those_that_still_serve() {
    let (any, local) = (json!({}), json!({"externalTrafficPolicy": "Local"}));
    let (ready, ending, gone) = (endpoint(1, "here", "rs"), endpoint(2, "here", "st"), endpoint(3, "here", "t"));
    let elsewhere = endpoint(4, "there", "rs");
    for (policy, endpoints, expected) in [
        (&any, vec![&ready, &ending, &gone], ("1", "")),
        (&any, vec![&ending, &gone], ("2", "")),
        (&any, vec![&gone], ("", "")),
        (&local, vec![&ready, &elsewhere], ("1 4", "1")),
        // the node's own ending endpoint still takes what must stay here, although another node has a ready one
        (&local, vec![&ending, &elsewhere], ("4", "2")),
        (&local, vec![&elsewhere], ("4", "")),
    ] {
        let endpoints: Vec<Value> = endpoints.into_iter().cloned().collect();
        let found = both(service(policy), &endpoints);
        assert_eq!((found.0.as_str(), found.1.as_str()), expected, "{policy} {endpoints:?}");
    }
}

#[test]
fn load_balancers_are_told_of_ready_endpoints_only() {
    let local = || service(&json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 30000}));
    let here = |endpoints: &[Value]| run(Family::V4, local(), &[slice("IPv4", endpoints)]);
    let port = here(&[endpoint(1, "here", "rs"), endpoint(2, "here", "st"), endpoint(3, "there", "rs")]);
    assert_eq!(port.ready_here.into_iter().collect::<Vec<_>>(), [IpAddr::from([10, 0, 0, 1])]);
    let port = here(&[endpoint(2, "here", "st")]);
    assert!(port.ready_here.is_empty() && last_digits(&port.local_endpoints) == "2");
}

#[test]
fn absent_conditions_mean_ready() {
    let bare = json!({"addresses": ["10.0.0.9"]});
    assert_eq!(both(service(&json!({})), &[bare]).0, "9");
}

#[test]
fn hints_count_when_all_have_them_and_some_are_for_us() {
    let one = |zones: &[&str]| hinted(endpoint(1, "there", "rs"), zones);
    let two = |zones: &[&str]| hinted(endpoint(2, "there", "rs"), zones);
    for (endpoints, expected) in [
        (vec![one(&["a"]), two(&["b"])], "1"),
        (vec![one(&["a"]), two(&["a", "b"])], "1 2"),
        (vec![one(&["a"]), endpoint(2, "there", "rs")], "1 2"),
        (vec![one(&["b"]), two(&["b"])], "1 2"),
    ] {
        assert_eq!(both(service(&json!({})), &endpoints).0, expected, "{endpoints:?}");
    }
}

#[test]
fn internal_policy_local() {
    let port = run(
        Family::V4,
        service(&json!({"type": "ClusterIP", "internalTrafficPolicy": "Local",
            "ports": [{"name": "p", "port": 80, "protocol": "TCP"}]})),
        &[slice("IPv4", &[endpoint(1, "here", "rs"), endpoint(2, "there", "rs")])],
    );
    assert_eq!(last_digits(port.internal_endpoints()), "1");
    assert!(port.has_endpoints && !port.is_external());
}

#[test]
fn families_are_separate_and_duplicates_take_the_better_state() {
    let six = json!({"addresses": ["fd00::7"], "conditions": {"ready": true}});
    let slices = [
        slice("IPv4", &[endpoint(1, "there", "st")]),
        slice("IPv4", &[endpoint(1, "there", "rs")]),
        slice("IPv6", &[six]),
    ];
    let four = run(Family::V4, service(&json!({})), &slices);
    assert_eq!(
        (last_digits(&four.cluster_endpoints).as_str(), four.cluster_ip.to_string().as_str()),
        ("1", "10.96.0.10")
    );
    let six = run(Family::V6, service(&json!({})), &slices);
    assert_eq!(
        (six.cluster_endpoints[0].socket().as_str(), six.cluster_ip.to_string().as_str()),
        ("[fd00::7]:8080", "fd00::10")
    );
}

#[test]
fn headless_external_name_and_other_proxies_services_make_nothing() {
    let other_proxy = {
        let mut service = service(&json!({}));
        service["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
        service
    };
    for value in [
        service(&json!({"clusterIPs": ["None"]})),
        service(&json!({"type": "ExternalName", "clusterIPs": []})),
        other_proxy,
    ] {
        let service: Service = serde_json::from_value(value).unwrap();
        assert!(service_ports(Family::V4, &NodeView::default(), &service, []).is_empty());
    }
}

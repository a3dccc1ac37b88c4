//! Tables of "these Services and slices, this node: these endpoints".

use serde_json::{Value, json};

use super::*;

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
    desired(family, &node, [&service], &slices).ports.remove(0)
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
        assert_eq!(desired(Family::V4, &NodeView::default(), [&service], []), Desired::default());
    }
}

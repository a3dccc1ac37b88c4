use serde_json::{Value, json};

use super::{Devices, Grant};
use crate::model::node::NodeInfo;
use crate::model::template::Template;
use crate::plugins::Rejection;

fn world(devices: &Value, claims: &[Value]) -> Devices {
    let mut world = Devices::default();
    let class = json!({"spec": {"selectors": [{"cel": {"expression": "device.driver == 'd'"}}]}});
    world.classes.insert("k".into(), serde_json::from_value(class).unwrap());
    let slice = json!({"spec": {"driver": "d", "nodeName": "n", "devices": devices,
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "sharedCounters": [{"name": "s", "counters": {"memory": {"value": "10Gi"}}}]}});
    world.slices.insert("s".into(), serde_json::from_value(slice).unwrap());
    for (i, claim) in claims.iter().enumerate() {
        let name = format!("c{i}");
        let mut claim = claim.clone();
        claim["metadata"] = json!({"namespace": "ns", "name": name});
        world.claims.entry("ns".into()).or_default().insert(name, serde_json::from_value(claim).unwrap());
    }
    world
}

fn place(world: &Devices) -> Result<Vec<Grant>, Rejection> {
    let claims = world.claims["ns"].keys().map(|name| Some(name.clone())).collect();
    let t = Template { namespace: "ns".into(), claims, ..Template::default() };
    let need = world.prepare(&t).unwrap().unwrap();
    world.filter(&need, &NodeInfo { name: "n".into(), ..NodeInfo::default() })
}

fn names(world: &Devices) -> Vec<String> {
    let results = |g: &Grant| g.allocation["devices"]["results"].as_array().unwrap().clone();
    let name = |r: Value| format!("{}={}", r["request"].as_str().unwrap(), r["device"].as_str().unwrap());
    place(world).map(|grants| grants.iter().flat_map(results).map(name).collect()).unwrap_or_default()
}

fn exactly(more: Value) -> Value {
    let mut request = more;
    request["deviceClassName"] = json!("k");
    json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": request}]}}})
}

fn wants(expression: &str) -> Value {
    exactly(json!({"selectors": [{"cel": {"expression": expression}}]}))
}

#[test]
fn selectors_counts_and_taints() {
    let devices = json!([
        {"name": "a", "attributes": {"model": {"string": "x"}, "o.example.com/v": {"version": "1.2.0"}}},
        {"name": "b", "attributes": {"model": {"string": "y"}}, "capacity": {"memory": {"value": "8Gi"}}},
        {"name": "t", "taints": [{"key": "broken", "effect": "NoSchedule"}]},
    ]);
    let of = |claims: &[Value]| names(&world(&devices, claims));
    assert_eq!(of(&[wants("device.attributes['d'].model == 'y'")]), ["r=b"]);
    assert_eq!(of(&[wants("device.capacity['d'].memory.compareTo(quantity('4Gi')) > 0")]), ["r=b"]);
    assert_eq!(of(&[wants("device.attributes['o.example.com'].v.isLessThan(semver('2.0.0'))")]), ["r=a"]);
    assert_eq!(of(&[wants("!has(device.attributes['o.example.com'].v)")]), ["r=b"]);
    assert_eq!(of(&[exactly(json!({"count": 2}))]), ["r=a", "r=b"]);
    assert_eq!(of(&[exactly(json!({"allocationMode": "All"}))]), ["r=a", "r=b"]);
    assert!(of(&[exactly(json!({"count": 3}))]).is_empty());
    assert_eq!(of(&[exactly(json!({"count": 3, "tolerations": [{"operator": "Exists"}]}))]).len(), 3);
    // The first claim could take what only the second can use: it is given the other.
    assert_eq!(of(&[exactly(json!({})), wants("device.attributes['d'].model == 'x'")]), ["r=b", "r=a"]);
    let taken =
        json!({"status": {"allocation": {"devices": {"results": [{"driver": "d", "pool": "p", "device": "a"}]}}}});
    assert_eq!(of(&[exactly(json!({})), taken]), ["r=b"]);
    let first = json!({"spec": {"devices": {"requests": [{"name": "r", "firstAvailable": [
        {"name": "many", "deviceClassName": "k", "count": 5}, {"name": "one", "deviceClassName": "k"}]}]}}});
    assert_eq!(of(&[first]), ["r/one=a"]);
}

#[test]
fn constraints_and_shared_counters() {
    let part = |name: &str, board: i64, memory: &str| {
        json!({"name": name, "attributes": {"board": {"int": board}},
            "consumesCounters": [{"counterSet": "s", "counters": {"memory": {"value": memory}}}]})
    };
    let devices = json!([part("a", 1, "4Gi"), part("b", 2, "4Gi"), part("c", 1, "4Gi"), part("d", 2, "2Gi")]);
    let two = |constraint: Value| {
        let mut claim = exactly(json!({"count": 2}));
        claim["spec"]["devices"]["constraints"] = json!([constraint]);
        names(&world(&devices, &[claim]))
    };
    assert_eq!(two(json!({"matchAttribute": "d/board"})), ["r=a", "r=c"]);
    assert_eq!(two(json!({"distinctAttribute": "d/board"})), ["r=a", "r=b"]);
    // 10Gi are shared: three of 4Gi are too many.
    assert_eq!(names(&world(&devices, &[exactly(json!({"count": 3}))])), ["r=a", "r=b", "r=d"]);
    let grants = place(&world(&devices, &[exactly(json!({}))])).unwrap();
    let field = &grants[0].allocation["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0];
    assert_eq!(field["values"], json!(["n"]));
}

#[test]
fn earlier_alternatives_are_worth_more() {
    let wish = |count: u8| {
        json!({"spec": {"devices": {"requests": [{"name": "r", "firstAvailable": [
            {"name": "two", "deviceClassName": "k", "count": count}, {"name": "one", "deviceClassName": "k"}]}]}}})
    };
    let score = |claim: Value| {
        let world = world(&json!([{"name": "a"}, {"name": "b"}]), &[claim]);
        let t = Template { namespace: "ns".into(), claims: vec![Some("c0".into())], ..Template::default() };
        let need = world.prepare(&t).unwrap().unwrap();
        world.score(&need, &NodeInfo { name: "n".into(), ..NodeInfo::default() })
    };
    assert_eq!((score(wish(2)), score(wish(3)), score(exactly(json!({})))), (8, 7, 0));
}

#[test]
fn a_claim_of_nobody_else_is_given_back_where_it_keeps_the_pod_away() {
    let on = |node: &str, user: &str| {
        let fields = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
        let selector = json!({"nodeSelectorTerms": [{"matchFields": fields}]});
        json!({"status": {"allocation": {"nodeSelector": selector}, "reservedFor": [{"uid": user}]}})
    };
    let returned = |claim: Value| {
        let world = world(&json!([]), &[claim]);
        let t = Template { namespace: "ns".into(), claims: vec![Some("c0".into())], ..Template::default() };
        let node = NodeInfo { name: "n".into(), ..NodeInfo::default() };
        world.returnable(&t, "me", std::iter::once(&node)).is_some()
    };
    assert_eq!((returned(on("m", "me")), returned(on("n", "me")), returned(on("m", "other"))), (true, false, false));
}

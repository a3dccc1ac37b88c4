use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::reconcile::{slice_labels, wanted};
use crate::controllers::slices::{Family, Pace, plan};
use crate::framework::{Action, Key, View};
use crate::views::discovery::EndpointSliceView;
use crate::views::node::NodeView;
use crate::views::pod::PodView;
use crate::views::service::ServiceView;

fn service(change: impl FnOnce(&mut Value)) -> ServiceView {
    let mut value = json!({
        "metadata": {"name": "svc", "namespace": "ns", "uid": "s", "labels": {"l": "1"}},
        "spec": {"selector": {"app": "a"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
                 "ports": [{"name": "web", "protocol": "TCP", "port": 80, "targetPort": "http"}]},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Arc<PodView> {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "a"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": format!("10.1.0.{}", name.len())}],
                   "conditions": [{"type": "Ready", "status": "True"}]},
    });
    change(&mut value);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn node(name: &str) -> Option<Arc<NodeView>> {
    (name == "n").then(|| {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}}}))
                .unwrap(),
        )
    })
}

fn family(service: &ServiceView, max_endpoints: usize) -> Family {
    Family { owner: service.subject(), labels: slice_labels(service), annotations: None, max_endpoints }
}

/// What the server would hold after the actions.
fn apply(actions: Vec<Action>, mut slices: Vec<Arc<EndpointSliceView>>) -> Vec<Arc<EndpointSliceView>> {
    for action in actions {
        match action {
            Action::Create { mut body, .. } => {
                body["metadata"]["name"] = json!(format!("svc-{}", slices.len()));
                body["metadata"]["uid"] = json!(format!("u{}", slices.len()));
                slices.push(Arc::new(serde_json::from_value(body).unwrap()));
            }
            Action::Change { target, change, .. } => {
                let slot = slices.iter_mut().find(|slice| slice.metadata.name == target.key.name).unwrap();
                let mut slice = (**slot).clone();
                slice.endpoints = serde_json::from_value(change["endpoints"].clone()).unwrap();
                if let Some(ports) = change.get("ports") {
                    slice.ports = serde_json::from_value(ports.clone()).unwrap();
                }
                *slot = Arc::new(slice);
            }
            Action::Delete { target, .. } => slices.retain(|slice| slice.metadata.name != target.key.name),
            other => panic!("unexpected {other:?}"),
        }
    }
    slices
}

#[test]
fn endpoints_carry_state_place_and_named_ports() {
    let service = service(|_| {});
    let pods = [
        pod("a", |_| {}),
        pod("bb", |p| p["status"]["conditions"][0]["status"] = json!("False")),
        pod("ccc", |p| p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
        pod("dddd", |p| p["status"]["phase"] = json!("Failed")),
        pod("eeeee", |p| p["spec"]["nodeName"] = json!("gone")),
    ];
    let (groups, missing) = wanted(&service, &pods, node);
    assert_eq!(missing, ["gone"]);
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0].ports[0].port, Some(8080));
    let states: Vec<Vec<Option<bool>>> = groups[0]
        .endpoints
        .iter()
        .map(|endpoint| {
            let state = &endpoint.conditions;
            vec![state.ready, state.serving, state.terminating]
        })
        .collect();
    let flags = |all: [bool; 3]| all.map(Some).to_vec();
    assert_eq!(states, [flags([true, true, false]), flags([false, false, false]), flags([false, true, true])]);
    assert_eq!(groups[0].endpoints[0].zone.as_deref(), Some("z"));
}

#[test]
fn hints_follow_the_traffic_distribution() {
    let service = service(|s| s["spec"]["trafficDistribution"] = json!("PreferSameNode"));
    let (groups, _) = wanted(&service, &[pod("a", |_| {})], node);
    let hints = groups[0].endpoints[0].hints.clone().unwrap();
    assert_eq!((hints.for_zones[0].name.as_str(), hints.for_nodes[0].name.as_str()), ("z", "n"));
}

#[test]
fn slices_change_as_little_as_possible() {
    let service = service(|_| {});
    let family = family(&service, 3);
    let names = ["a", "bb", "ccc", "dddd"];
    let pods: Vec<Arc<PodView>> = names.iter().map(|name| pod(name, |_| {})).collect();
    let of = |pods: &[Arc<PodView>]| wanted(&service, pods, node).0;

    let empty = apply(plan(&family, of(&[]), &[]), Vec::new());
    assert_eq!(empty.len(), 1, "a placeholder");
    assert!(plan(&family, of(&[]), &empty).is_empty(), "which stays");

    let slices = apply(plan(&family, of(&pods), &empty), empty);
    let mut counts: Vec<usize> = slices.iter().map(|slice| slice.endpoints.len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 3]);
    assert!(plan(&family, of(&pods), &slices).is_empty(), "nothing to do");

    let fewer = plan(&family, of(&pods[..3]), &slices);
    assert_eq!(fewer.len(), 1, "only the slice that held the pod is touched");
    let slices = apply(fewer, slices);
    assert_eq!(slices.iter().map(|slice| slice.endpoints.len()).sum::<usize>(), 3);

    let relabelled = EndpointSliceView { metadata: Default::default(), ..(*slices[0]).clone() };
    assert_eq!(plan(&family, of(&pods[..3]), &[Arc::new(relabelled)]).len(), 1, "labels and owner are put right");
}

#[test]
fn a_slice_that_nothing_is_left_in_takes_what_needs_a_new_one() {
    let service = service(|_| {});
    let family = family(&service, 2);
    let of = |pods: &[Arc<PodView>]| wanted(&service, pods, node).0;
    let both = |names: [&str; 2], port: i32| {
        names.map(|name| pod(name, |p| p["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(port)))
    };
    let owned = |slices: Vec<Arc<EndpointSliceView>>| -> Vec<Arc<EndpointSliceView>> {
        let own = |slice: Arc<EndpointSliceView>| {
            let mut slice = (*slice).clone();
            slice.metadata.owner_references = service_owner();
            Arc::new(slice)
        };
        slices.into_iter().map(own).collect()
    };
    let slices = owned(apply(plan(&family, of(&both(["a", "bb"], 80)), &[]), Vec::new()));
    for next in [both(["ccc", "dddd"], 80), both(["eeeee", "ffffff"], 81)] {
        let actions = plan(&family, of(&next), &slices);
        assert!(matches!(&actions[..], [Action::Change { .. }]), "{actions:?}");
        assert!(plan(&family, of(&next), &apply(actions, slices.clone())).is_empty());
    }
}

fn service_owner() -> Vec<apimachinery::meta::OwnerReference> {
    serde_json::from_value(json!([{"apiVersion": "v1", "kind": "Service", "name": "svc", "uid": "s"}])).unwrap()
}

#[test]
fn slices_rest_as_long_as_their_writes_would_take_at_the_default_limit() {
    let (pace, key, start) = (Pace::default(), Key::new("ns", "svc"), Instant::now());
    assert_eq!(pace.rest(&key, start), None, "the first change is not held up");
    let at = |ms| start + Duration::from_millis(ms);
    pace.wrote(&key, 4, start);
    assert_eq!(pace.rest(&key, at(100)), Some(Duration::from_millis(300)));
    assert_eq!(pace.rest(&Key::new("ns", "other"), at(100)), None);
    assert_eq!(pace.rest(&key, at(400)), None);
    pace.wrote(&key, 50, start);
    assert_eq!(pace.rest(&key, at(400)), Some(Duration::from_millis(600)), "never longer than kube-proxy waits");
}

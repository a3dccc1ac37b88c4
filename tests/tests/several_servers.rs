//! Two API servers on one etcd that know nothing of each other.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};
use tests::{ControlPlane, Options, Peer, Process, Raw, eventually};

const SERVICES: usize = 24;

/// Addresses that nobody has: they are only published.
const FIRST: &str = "192.0.2.1";
const SECOND: &str = "192.0.2.2";

fn items(text: &str) -> Vec<Value> {
    serde_json::from_str::<Value>(text).unwrap()["items"].as_array().unwrap().clone()
}

fn texts(values: &Value) -> Vec<String> {
    values.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn published(plane: &ControlPlane) -> Vec<String> {
    let text = plane.kubectl(&["get", "endpointslice", "kubernetes", "-n", "default", "-o", "json"]).unwrap();
    let slice: Value = serde_json::from_str(&text).unwrap();
    let mut all: Vec<String> =
        slice["endpoints"].as_array().into_iter().flatten().flat_map(|e| texts(&e["addresses"])).collect();
    all.sort_unstable();
    all
}

/// Node ports are few, so that two servers that choose without each other would meet.
fn start() -> (ControlPlane, Peer) {
    let ports = format!("--service-node-port-range=30000-300{}", SERVICES * 2 + 9);
    let options = Options { api_flags: vec![ports, format!("--advertise-address={FIRST}")], ..Options::default() };
    let plane = ControlPlane::start(options);
    let peer = plane.start_peer("second", &[format!("--advertise-address={SECOND}")]);
    (plane, peer)
}

fn make_services(raw: Raw, name: &'static str) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for number in 0..SERVICES {
            let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("{name}-{number}")},
                "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
            assert_eq!(raw.post("/api/v1/namespaces/default/services", &service), Ok(201), "{name}-{number}");
        }
    })
}

#[test]
fn two_servers_are_one_cluster() {
    let (plane, peer) = start();

    // both are endpoints, and both have an identity
    eventually("both addresses", || match published(&plane) {
        both if both == [FIRST, SECOND] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let leases = plane.kubectl(&["get", "leases", "-n", "kube-system", "-o", "json"]).unwrap();
    let identities = items(&leases)
        .into_iter()
        .filter(|lease| lease["metadata"]["labels"]["apiserver.kubernetes.io/identity"] == "kube-apiserver");
    assert_eq!(identities.count(), 2);

    // what is written through one is seen by a watch of the other
    let seen = plane.path("watch.log");
    let mut watch = Command::new("kubectl");
    watch.arg("--kubeconfig").arg(plane.kubeconfig());
    watch.args(["--server", &peer.server, "get", "configmaps", "-n", "default", "--watch", "-o", "name"]);
    let _watch = Process::start(&mut watch, &seen);
    plane.kubectl(&["create", "configmap", "through-the-first", "-n", "default"]).unwrap();
    eventually("the other server's watch", || {
        let text = std::fs::read_to_string(&seen).unwrap_or_default();
        if text.contains("through-the-first") { Ok(()) } else { Err(text) }
    });

    // nothing is given out twice
    let mut other = plane.raw();
    other.server.clone_from(&peer.server);
    for thread in [make_services(plane.raw(), "first"), make_services(other, "second")] {
        thread.join().unwrap();
    }
    let services = items(&plane.kubectl(&["get", "services", "-n", "default", "-o", "json"]).unwrap());
    let addresses: BTreeSet<String> =
        services.iter().flat_map(|service| texts(&service["spec"]["clusterIPs"])).collect();
    let ports: BTreeSet<u64> = services.iter().filter_map(|s| s["spec"]["ports"][0]["nodePort"].as_u64()).collect();
    assert_eq!((services.len(), addresses.len(), ports.len()), (2 * SERVICES + 1, 2 * SERVICES + 1, 2 * SERVICES));

    // a server that crashes is no endpoint any more when its lease is over
    drop(peer);
    eventually("only one address", || match published(&plane) {
        one if one == [FIRST] => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

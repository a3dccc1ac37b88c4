//! Two controller managers and two schedulers: the ones that lead are killed in the middle of a rollout. The others finish it,
//! and nothing is done twice.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tests::{ControlPlane, Options, Process, Raw, eventually, free_port};

const REPLICAS: usize = 12;
const SURGE: usize = 3;
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/web";
const ELECTION: [&str; 3] =
    ["--leader-elect-lease-duration=4s", "--leader-elect-renew-deadline=3s", "--leader-elect-retry-period=1s"];

/// What was seen of the pods.
#[derive(Default)]
struct Seen {
    uids: BTreeSet<String>,
    most_at_once: usize,
}

/// Two of a kind, one of which leads.
struct Pair {
    lease: &'static str,
    members: Vec<(String, Process)>,
}

impl Pair {
    fn holder(&self, raw: &Raw) -> Result<String, String> {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{}", self.lease);
        let holder = raw.get(&path)?["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        if holder.is_empty() { Err(format!("nobody holds {}", self.lease)) } else { Ok(holder) }
    }

    /// Kills the one that holds the lease, as a crash would, and returns who it was.
    fn kill_leader(&mut self, plane: &ControlPlane) -> String {
        let holder = self.holder(&plane.raw()).unwrap();
        let leads = |log: &str| std::fs::read_to_string(plane.path(log)).is_ok_and(|text| text.contains(&holder));
        let (_, leader) = self.members.iter_mut().find(|(log, _)| leads(log)).expect("the leader says so in its log");
        leader.kill();
        holder
    }
}

#[test]
fn a_rollout_survives_the_death_of_its_leaders() {
    let plane = ControlPlane::start(Options::default());
    for node in ["a", "b", "c"] {
        plane.add_node(node, 32, &json!([]));
    }
    let start = |kind: &str, n: u32| {
        let log = format!("{kind}-{n}.log");
        let process = if kind == "scheduler" {
            plane.scheduler(free_port(), &log, &ELECTION)
        } else {
            // the nodes are not alive: their controller would taint them
            let more = ["--controllers=*,-node-lifecycle-controller"];
            plane.controller_manager(free_port(), &log, &[&ELECTION[..], &more].concat())
        };
        (log, process)
    };
    let pair = |lease, kind: &str| Pair { lease, members: vec![start(kind, 1), start(kind, 2)] };
    let mut managers = pair("kube-controller-manager", "manager");
    let mut schedulers = pair("kube-scheduler", "scheduler");
    let (seen, stop): (Arc<Mutex<Seen>>, Arc<AtomicBool>) = Default::default();
    let kubelet = {
        let (raw, seen, stop) = (plane.raw(), Arc::clone(&seen), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                play_kubelet(&raw, &seen);
            }
        })
    };
    eventually("the service account", || plane.raw().get("/api/v1/namespaces/default/serviceaccounts/default"));
    assert_eq!(plane.raw().post("/apis/apps/v1/namespaces/default/deployments", &deployment()), Ok(201));
    complete(&plane, 1);
    let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "second"}]}}}});
    assert_eq!(plane.raw().merge(DEPLOYMENT, &change), Ok(200));
    eventually("the rollout's begin", || match plane.raw().get(DEPLOYMENT)?["status"]["updatedReplicas"].as_u64() {
        Some(updated) if updated > 0 => Ok(()),
        updated => Err(format!("{updated:?} replicas are updated")),
    });
    let dead = [managers.kill_leader(&plane), schedulers.kill_leader(&plane)];
    complete(&plane, 2);
    let successors = [managers.holder(&plane.raw()).unwrap(), schedulers.holder(&plane.raw()).unwrap()];
    stop.store(true, Ordering::Relaxed);
    kubelet.join().unwrap();
    let seen = seen.lock().unwrap();
    println!("{} pods in all, at most {} at once", seen.uids.len(), seen.most_at_once);
    assert!(successors.iter().zip(&dead).all(|(new, old)| new != old), "{successors:?} took over from {dead:?}");
    assert_eq!(seen.uids.len(), 2 * REPLICAS, "every pod was made once");
    assert!(seen.most_at_once <= REPLICAS + SURGE, "{} pods at once", seen.most_at_once);
    let sets = plane.raw().get("/apis/apps/v1/namespaces/default/replicasets").unwrap();
    assert_eq!(sets["items"].as_array().unwrap().len(), 2);
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": SURGE, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "first"}]},
            },
        },
    })
}

/// Waits until all replicas are of the `revision`-th template and serve, and nothing else is left.
fn complete(plane: &ControlPlane, revision: u32) {
    eventually(&format!("rollout {revision}"), || {
        let raw = plane.raw();
        let status = raw.get(DEPLOYMENT)?["status"].clone();
        let all = |field: &str| status[field].as_u64() == Some(REPLICAS as u64);
        let pods = raw.get(PODS)?["items"].as_array().map_or(0, Vec::len);
        let seen = status["observedGeneration"].as_u64() == Some(u64::from(revision));
        if seen && all("updatedReplicas") && all("availableReplicas") && all("replicas") && pods == REPLICAS {
            Ok(())
        } else {
            let logs =
                ["manager-1.log", "manager-2.log", "scheduler-1.log", "scheduler-2.log"].map(|log| plane.log(log));
            Err(format!("{pods} pods, {status}\n{}", logs.join("\n")))
        }
    });
}

/// Bound pods run at once; those that are to end are gone at once.
fn play_kubelet(raw: &Raw, seen: &Mutex<Seen>) {
    let Ok(list) = raw.get(PODS) else { return };
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    let going = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
    {
        let mut seen = seen.lock().unwrap();
        seen.uids.extend(pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str()).map(str::to_owned));
        seen.most_at_once = seen.most_at_once.max(pods.iter().filter(|pod| !going(pod)).count());
    }
    for pod in &pods {
        let path = format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap_or_default());
        let bound = pod["spec"]["nodeName"].is_string();
        // the pod may change or go at any moment; the next look tells
        if going(pod) {
            let _ = raw.delete_now(&path);
        } else if bound && pod["status"]["phase"] == "Pending" {
            let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
            let _ = raw.merge(&format!("{path}/status"), &json!({"status": {"phase": "Running", "conditions": ready}}));
        }
    }
}

//! Nothing acknowledged is lost: the API server and etcd are killed under load, and what was acknowledged is compared with
//! what is there afterwards.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tests::{ControlPlane, Options, Raw, eventually};

const WRITERS: usize = 4;
const KILLS: usize = 4;
const ENOUGH_PER_ROUND: usize = 40;

#[test]
fn what_was_acknowledged_is_there_after_crashes() {
    let mut plane = ControlPlane::start(Options::default());
    let acknowledged: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (raw, acknowledged, stop) = (plane.raw(), Arc::clone(&acknowledged), Arc::clone(&stop));
            std::thread::spawn(move || write(writer, &raw, &acknowledged, &stop))
        })
        .collect();
    for round in 0..KILLS {
        let goal = acknowledged.lock().unwrap().len() + ENOUGH_PER_ROUND;
        eventually("acknowledged writes", || match acknowledged.lock().unwrap().len() {
            n if n >= goal => Ok(()),
            n => Err(format!("{n} of {goal}; {}", plane.log("apiserver.log"))),
        });
        if round % 2 == 0 {
            plane.kill_api();
            plane.start_api();
        } else {
            plane.kill_etcd();
            plane.start_etcd();
        }
        plane.wait_ready();
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().unwrap();
    }
    let text = plane.kubectl(&["get", "configmaps", "-n", "default", "-o", "json"]).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let there: BTreeSet<String> =
        list["items"].as_array().unwrap().iter().map(|c| c["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    let acknowledged = acknowledged.lock().unwrap().clone();
    let lost: Vec<&String> = acknowledged.difference(&there).collect();
    println!("{} acknowledged, {} there, {} lost", acknowledged.len(), there.len(), lost.len());
    assert!(lost.is_empty(), "lost: {lost:?}");
}

fn write(writer: usize, raw: &Raw, acknowledged: &Mutex<BTreeSet<String>>, stop: &AtomicBool) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("write-{writer}-{number}");
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": "1"}});
        // an answer that never came is not an acknowledgement: the object may be there or not
        if matches!(raw.post("/api/v1/namespaces/default/configmaps", &object), Ok(201)) {
            acknowledged.lock().unwrap().insert(name);
        }
    }
}

/// A status written to a pod that is marked for immediate deletion removes it; the one who asked for the deletion is told of
/// success nevertheless.
#[test]
fn an_immediate_deletion_succeeds_whoever_removes_the_pod() {
    const PODS: &str = "/api/v1/namespaces/default/pods";
    let plane = ControlPlane::start(Options::default());
    let raw = plane.raw();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    raw.post("/api/v1/namespaces/default/serviceaccounts", &account).unwrap();
    for round in 0..60 {
        let spec = json!({"nodeName": "n", "containers": [{"name": "c", "image": "i"}]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{round}")}, "spec": spec});
        assert_eq!(raw.post(PODS, &pod), Ok(201));
        let path = format!("{PODS}/p{round}");
        let writers: [_; WRITERS] = std::array::from_fn(|writer| {
            let (raw, path) = (raw.clone(), format!("{path}/status"));
            let change = move |n: u32| json!({"status": {"message": format!("{writer} {n}")}});
            std::thread::spawn(move || (0..).find(|n| raw.merge(&path, &change(*n)) != Ok(200)))
        });
        assert_eq!(raw.delete_now(&path), Ok(200), "round {round}");
        for writer in writers {
            writer.join().unwrap();
        }
    }
}

//! `hardway explain pod` tells for pods of a real scheduler why they are where they are, or why they wait.

use std::process::Command;

use serde_json::{Value, json};
use tests::{ControlPlane, Options, bin, eventually, free_port, output};

#[test]
fn a_placed_a_waiting_and_a_gated_pod_are_explained() {
    let plane = ControlPlane::start(Options::default());
    plane.add_node("roomy", 8, &json!([]));
    plane.add_node("small", 1, &json!([]));
    plane.add_node("kept", 8, &json!([{"key": "for", "value": "others", "effect": "NoSchedule"}]));
    let port = free_port();
    let _scheduler = plane.scheduler(port, "scheduler.log", &["--leader-elect=false"]);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    plane.raw().post("/api/v1/namespaces/default/serviceaccounts", &account).unwrap();
    pod(&plane, "placed", "4", &Value::Null);
    pod(&plane, "waiting", "6", &Value::Null);
    pod(&plane, "gated", "1", &json!([{"name": "example.com/gate"}]));
    let explained = |name: &str, wanted: &[&str]| {
        eventually(&format!("the explanation of {name}"), || {
            let mut command = Command::new(bin("hardway"));
            command.args(["explain", "pod", name, "--kubeconfig"]).arg(plane.kubeconfig());
            let text = output(command.arg(format!("--scheduler=https://127.0.0.1:{port}")))?;
            if wanted.iter().all(|part| text.contains(part)) { Ok(text) } else { Err(format!("{text}\n{wanted:?}")) }
        })
    };
    let placed = explained("placed", &["default/placed: on node roomy", "NodeResourcesFit"]);
    assert!(placed.lines().nth(2).unwrap().starts_with("roomy"), "the best node comes first:\n{placed}");
    let taint = "TaintToleration: node(s) had untolerated taint(s)";
    explained("waiting", &["waits for a change", "NodeResourcesFit: Insufficient cpu", taint]);
    explained("gated", &["held by its gates"]);
    let mut unknown = Command::new(bin("hardway"));
    unknown.args(["explain", "pod", "nobody", "--kubeconfig"]).arg(plane.kubeconfig());
    let why = output(unknown.arg(format!("--scheduler=https://127.0.0.1:{port}"))).unwrap_err();
    assert!(why.contains("no pod default/nobody"), "{why}");
}

fn pod(plane: &ControlPlane, name: &str, cpu: &str, gates: &Value) {
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}});
    let spec = json!({"containers": [container], "schedulingGates": gates});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    assert_eq!(plane.raw().post("/api/v1/namespaces/default/pods", &pod), Ok(201), "pod {name}");
}

//! What hurts a node is said in one line that names cause and remedy: in the kubelet's log and, where the API server can
//! be reached, on the node's condition. A missing CNI is part of the session in cluster.rs.

use std::process::Command;

use tests::{ControlPlane, Options, Process, bin, eventually, free_port, output};

/// What faketime makes programs load. The wrapper itself is of no use here: it forks, and its child outlives it.
fn faketime_library() -> String {
    let environment = output(Command::new("faketime").args(["-f", "+0", "env"])).unwrap();
    let line = environment.lines().find_map(|line| line.strip_prefix("LD_PRELOAD="));
    line.expect("faketime preloads its library").to_owned()
}

/// A kubelet without a runtime, its clock moved by `offset` (faketime's notation).
fn kubelet(plane: &ControlPlane, offset: &str, log: &str) -> Process {
    let file = |below: &str| plane.path(below).display().to_string();
    let mut command = Command::new(bin("kubelet"));
    command.env("LD_PRELOAD", faketime_library()).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command.args([
        format!("--kubeconfig={}", file("kubelet-node-a.conf")),
        format!("--cert-dir={}", file("kubelet-pki")),
        format!("--root-dir={}", file("kubelet-root")),
        "--hostname-override=node-a".to_owned(),
        format!("--container-runtime-endpoint=unix://{}", file("no-runtime.sock")),
        format!("--port={}", free_port()),
        "--read-only-port=0".to_owned(),
        "--healthz-port=0".to_owned(),
    ]);
    Process::start(&mut command, &plane.path(log))
}

fn says(plane: &ControlPlane, log: &str, words: &[&str]) {
    eventually(&format!("a line with {words:?}"), || {
        let said = std::fs::read_to_string(plane.path(log)).unwrap_or_default();
        let found = said.lines().find(|line| words.iter().all(|word| line.contains(word)));
        found.map(|line| println!("{line}")).ok_or(said)
    });
}

#[test]
fn a_missing_runtime_and_a_wrong_clock_are_named_with_their_remedy() {
    let plane = ControlPlane::start(Options::default());
    let socket = plane.path("no-runtime.sock").display().to_string();

    let ahead = kubelet(&plane, "+1h", "ahead.log");
    says(&plane, "ahead.log", &["container runtime is down", &socket, "start the container runtime"]);
    says(&plane, "ahead.log", &["clock is 36", "s ahead of the API server's", "synchronise the clocks"]);
    eventually("the node's condition", || {
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].message}"#;
        let message = plane.kubectl(&["get", "node", "node-a", "-o", ready])?;
        let all = message.contains(&socket) && message.contains("start the container runtime");
        if all { Ok(()) } else { Err(message) }
    });
    drop(ahead);

    // before the certificates' first second no connection comes about; the cause is said all the same
    let _behind = kubelet(&plane, "-400d", "behind.log");
    says(&plane, "behind.log", &["client certificate (system:node:node-a)", "valid only from", "clock skew"]);
}

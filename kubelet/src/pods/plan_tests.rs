//! Table tests of the planner: a pod, what the runtime has, and the steps that must follow.

use serde_json::json;

use super::*;
use crate::cri::snapshot::Sandbox;
use crate::pods::types::tests::pod;

fn sandbox(attempt: u32, ready: bool) -> Sandbox {
    Sandbox {
        id: format!("s{attempt}"),
        attempt,
        ready,
        created_at: Timestamp::UNIX_EPOCH,
        ips: vec!["10.0.0.2".into()],
        host_network: false,
    }
}

fn container(name: &str, attempt: u32, state: State, exit_code: i32) -> Container {
    Container {
        id: format!("{name}{attempt}"),
        sandbox_id: "s0".into(),
        name: name.into(),
        attempt,
        state,
        hash: String::new(),
        created_at: Timestamp::UNIX_EPOCH,
        started_at: Some(Timestamp::UNIX_EPOCH),
        finished_at: (state == State::Exited).then_some(Timestamp::UNIX_EPOCH),
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: String::new(),
        image_ref: String::new(),
        log_path: String::new(),
        annotations: HashMap::new(),
        mounts: Vec::new(),
        user: None,
    }
}

fn run(pod: &Pod, sandboxes: Vec<Sandbox>, containers: Vec<Container>, probes: &ProbeResults) -> Plan {
    let actual = PodActual { sandboxes, containers, ..PodActual::default() };
    next(&Input {
        pod,
        actual: &actual,
        probes,
        backoff: &Backoff::default(),
        max_backoff: SignedDuration::from_secs(300),
        told: &pod.status,
        applied: &Applied::new(),
        now: Timestamp::UNIX_EPOCH,
    })
}

fn summary(plan: &Plan) -> String {
    let mut parts = Vec::new();
    if plan.stop_all {
        parts.push("stop-all".to_owned());
    }
    parts.extend(plan.kill.iter().map(|k| format!("kill {}", k.id)));
    parts.extend(plan.create_sandbox.map(|a| format!("sandbox {a}")));
    parts.extend(plan.start.iter().map(|s| format!("start {}#{}", s.name, s.attempt)));
    parts.extend(plan.wait.iter().map(|w| format!("wait {}", w.name)));
    parts.join(", ")
}

#[test]
fn a_plain_pod() {
    let probes = ProbeResults::new();
    for (policy, containers, expected) in [
        ("Always", vec![], "start a#0, start b#0"),
        ("Always", vec![("a", State::Running, 0)], "start b#0"),
        ("Always", vec![("a", State::Running, 0), ("b", State::Exited, 0)], "start b#1"),
        ("OnFailure", vec![("a", State::Exited, 0), ("b", State::Exited, 1)], "start b#1"),
        ("OnFailure", vec![("a", State::Exited, 0), ("b", State::Exited, 0)], "stop-all"),
        ("Never", vec![("a", State::Exited, 1), ("b", State::Running, 0)], ""),
        ("Never", vec![("a", State::Exited, 1), ("b", State::Exited, 0)], "stop-all"),
        ("Never", vec![("a", State::Created, 0), ("b", State::Exited, 0)], "start a#0"),
        ("Never", vec![("a", State::Unknown, 0), ("b", State::Exited, 0)], "kill a0, start a#1"),
    ] {
        let pod = pod(json!({"spec": {"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}}));
        let containers = containers.into_iter().map(|(n, s, e)| container(n, 0, s, e)).collect();
        let plan = run(&pod, vec![sandbox(0, true)], containers, &probes);
        assert_eq!(summary(&plan), expected, "{policy}");
    }
}

#[test]
fn sandboxes() {
    let probes = ProbeResults::new();
    let always = pod(json!({"spec": {"containers": [{"name": "a"}]}}));
    let never = pod(json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "a"}]}}));
    assert_eq!(summary(&run(&always, vec![], vec![], &probes)), "sandbox 0");
    let dead = vec![sandbox(0, false)];
    assert_eq!(summary(&run(&always, dead.clone(), vec![container("a", 0, State::Exited, 0)], &probes)), "sandbox 1");
    assert_eq!(
        summary(&run(&always, dead.clone(), vec![container("a", 0, State::Running, 0)], &probes)),
        "stop-all, sandbox 1"
    );
    assert_eq!(summary(&run(&never, dead.clone(), vec![container("a", 0, State::Exited, 1)], &probes)), "");
    assert_eq!(summary(&run(&never, dead.clone(), vec![container("a", 0, State::Created, 0)], &probes)), "sandbox 1");
    assert_eq!(summary(&run(&never, dead, vec![], &probes)), "sandbox 1");
}

#[test]
fn init_containers_and_sidecars() {
    let spec = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [
        {"name": "i"}, {"name": "s", "restartPolicy": "Always", "startupProbe": {}}, {"name": "j"}]}});
    let pod = pod(spec);
    let started = ProbeResults::from([(("s0".to_owned(), ProbeKind::Startup), true)]);
    let none = ProbeResults::new();
    let ready = || vec![sandbox(0, true)];
    let c = |n: &str, s, e| container(n, 0, s, e);
    use State::{Exited, Running};
    for (containers, probes, expected) in [
        (vec![], &none, "start i#0"),
        (vec![c("i", Running, 0)], &none, ""),
        (vec![c("i", Exited, 1)], &none, "start i#1"),
        (vec![c("i", Exited, 0)], &none, "start s#0"),
        (vec![c("i", Exited, 0), c("s", Running, 0)], &none, ""),
        (vec![c("i", Exited, 0), c("s", Running, 0)], &started, "start j#0"),
        (vec![c("i", Exited, 0), c("s", Running, 0), c("j", Exited, 0)], &started, "start a#0"),
        (vec![c("s", Running, 0), c("j", Exited, 0)], &started, "start a#0"),
        (vec![c("i", Exited, 0), c("s", Exited, 0), c("a", Running, 0)], &none, "start s#1"),
        (vec![c("s", Running, 0), c("a", Running, 0)], &started, ""),
    ] {
        assert_eq!(summary(&run(&pod, ready(), containers, probes)), expected);
    }
}

#[test]
fn probes_and_changes_kill() {
    let pod = pod(json!({"spec": {"containers": [{"name": "a", "image": "x", "livenessProbe": {}}]}}));
    let running = container("a", 0, State::Running, 0);
    let failed = ProbeResults::from([(("a0".to_owned(), ProbeKind::Liveness), false)]);
    let plan = run(&pod, vec![sandbox(0, true)], vec![running.clone()], &failed);
    assert_eq!(plan.kill[0].message, "Container a failed liveness probe");
    let other = Container { hash: "1".into(), ..running.clone() };
    let plan = run(&pod, vec![sandbox(0, true)], vec![other], &ProbeResults::new());
    assert_eq!(summary(&plan), "kill a0");
    let same = Container { hash: container_hash(&pod.spec.containers[0]), ..running };
    assert!(run(&pod, vec![sandbox(0, true)], vec![same], &ProbeResults::new()).is_settled());
}

#[test]
fn crash_loops_wait() {
    let pod = pod(json!({"spec": {"containers": [{"name": "a"}]}}));
    let actual = PodActual {
        sandboxes: vec![sandbox(0, true)],
        containers: vec![container("a", 2, State::Exited, 1)],
        ..PodActual::default()
    };
    let max_backoff = SignedDuration::from_secs(300);
    let mut backoff = Backoff::default();
    let now = Timestamp::UNIX_EPOCH;
    backoff.next(&backoff_key(&pod.spec.containers[0]), now, now, max_backoff);
    let probes = ProbeResults::new();
    let (told, applied) = (&pod.status, &Applied::new());
    let input =
        Input { pod: &pod, actual: &actual, probes: &probes, backoff: &backoff, max_backoff, told, applied, now };
    let plan = |now| next(&Input { now, ..input });
    assert_eq!(summary(&plan(now)), "wait a");
    assert_eq!(summary(&plan(now + SignedDuration::from_secs(10))), "start a#3");
}

#[test]
fn restart_rules() {
    let pod = pod(json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}}));
    assert!(restarts(&pod, &pod.spec.containers[0], 42));
    assert!(!restarts(&pod, &pod.spec.containers[0], 1));
}

#[test]
fn sidecars_end_last_and_in_reverse() {
    let pod = pod(json!({"spec": {"containers": [{"name": "a"}], "initContainers": [
        {"name": "s", "restartPolicy": "Always"}, {"name": "t", "restartPolicy": "Always"}]}}));
    let actual = PodActual {
        sandboxes: vec![sandbox(0, true)],
        containers: ["s", "t", "a"].map(|n| container(n, 0, State::Running, 0)).to_vec(),
        ..PodActual::default()
    };
    let ending = ending(&pod, &actual);
    let names: Vec<Vec<_>> = ending.stages.iter().map(|s| s.iter().map(|k| k.name.clone()).collect()).collect();
    assert_eq!(names, [["a"], ["t"], ["s"]]);
    assert_eq!(ending.sandboxes, ["s0"]);
}

#[test]
fn a_rule_makes_the_whole_pod_begin_anew() {
    let pod = pod(
        json!({"spec": {"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"},
        {"name": "b", "restartPolicyRules": [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [7]}}]}]},
        "status": {"containerStatuses": [{"name": "a", "restartCount": 2, "containerID": "containerd://x", "image": "",
            "imageID": "", "ready": false}]}}),
    );
    let with = |code| {
        let containers = vec![
            container("b", 0, State::Exited, code),
            container("a", 0, State::Running, 0),
            container("i", 0, State::Exited, 0),
        ];
        run(&pod, vec![sandbox(0, true)], containers, &ProbeResults::new())
    };
    assert!(with(7).reset && !with(7).is_settled());
    assert!(!with(8).reset);
    let anew = run(&pod, vec![sandbox(0, true)], vec![container("i", 1, State::Exited, 0)], &ProbeResults::new());
    let attempts: Vec<_> = anew.start.iter().map(|s| (s.name.as_str(), s.attempt)).collect();
    assert_eq!(attempts, [("a", 3), ("b", 0)]);
}

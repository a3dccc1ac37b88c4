//! Table tests of the status generator.

use serde_json::json;

use super::*;
use crate::cri::snapshot::Sandbox;
use crate::pods::types::tests::pod;

fn container(name: &str, state: State, exit_code: i32) -> Container {
    Container {
        id: format!("{name}-id"),
        sandbox_id: "s0".into(),
        name: name.into(),
        attempt: 0,
        state,
        hash: String::new(),
        created_at: Timestamp::UNIX_EPOCH,
        started_at: Some(Timestamp::UNIX_EPOCH),
        finished_at: (state == State::Exited).then_some(Timestamp::UNIX_EPOCH),
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "img".into(),
        image_ref: "sha256:1".into(),
        log_path: String::new(),
        annotations: HashMap::new(),
        mounts: Vec::new(),
        user: None,
    }
}

fn actual(containers: Vec<Container>, ready: bool) -> PodActual {
    let sandbox = Sandbox {
        id: "s0".into(),
        attempt: 0,
        ready,
        created_at: Timestamp::UNIX_EPOCH,
        ips: vec!["10.0.0.2".into()],
        host_network: false,
    };
    PodActual { sandboxes: vec![sandbox], containers, ..PodActual::default() }
}

fn run(pod: &Pod, actual: &PodActual, reasons: &Reasons, termination: Option<&Termination>) -> core::PodStatus {
    generate(&Input {
        pod,
        actual,
        probes: &ProbeResults::new(),
        reasons,
        termination,
        applied: &Applied::new(),
        refused: None,
        resize_error: None,
        previous: &pod.status,
        runtime_name: "containerd",
        host_ips: &["192.168.0.1".to_owned()],
        now: Timestamp::UNIX_EPOCH,
    })
}

fn condition<'a>(status: &'a core::PodStatus, type_: &str) -> (&'a str, &'a str) {
    let c = status.conditions.iter().flatten().find(|c| c.type_ == type_).unwrap();
    (c.status.as_str(), c.reason.as_deref().unwrap_or_default())
}

#[test]
fn phases() {
    use State::{Exited, Running};
    for (policy, containers, ending, expected) in [
        ("Always", vec![], false, "Pending"),
        ("Always", vec![("a", Running, 0)], false, "Pending"),
        ("Always", vec![("a", Running, 0), ("b", Running, 0)], false, "Running"),
        ("Always", vec![("a", Exited, 1), ("b", Exited, 0)], false, "Running"),
        ("Never", vec![("a", Exited, 1), ("b", Running, 0)], false, "Running"),
        ("Never", vec![("a", Exited, 1), ("b", Exited, 0)], false, "Failed"),
        ("Never", vec![("a", Exited, 0), ("b", Exited, 0)], false, "Succeeded"),
        ("OnFailure", vec![("a", Exited, 0), ("b", Exited, 1)], false, "Running"),
        ("Always", vec![("a", Exited, 0), ("b", Exited, 0)], true, "Succeeded"),
        ("Always", vec![("a", Exited, 137), ("b", Exited, 0)], true, "Failed"),
    ] {
        let pod = pod(json!({"spec": {"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}}));
        let containers = containers.into_iter().map(|(n, s, e)| container(n, s, e)).collect();
        let termination = Termination::default();
        let status = run(&pod, &actual(containers, !ending), &Reasons::new(), ending.then_some(&termination));
        assert_eq!(status.phase.as_deref(), Some(expected), "{policy} {ending}");
    }
}

#[test]
fn ready_pod() {
    let pod = pod(json!({"metadata": {"generation": 2}, "spec": {"containers": [{"name": "a"}]}}));
    let status = run(&pod, &actual(vec![container("a", State::Running, 0)], true), &Reasons::new(), None);
    for type_ in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&status, type_), ("True", ""));
    }
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.2"));
    assert_eq!(status.observed_generation, Some(2));
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("containerd://a-id"));
    assert!(container.ready);
}

#[test]
fn crash_loop_moves_the_end_to_the_last_state() {
    let pod = pod(json!({"spec": {"containers": [{"name": "a"}]}}));
    let reasons = Reasons::from([("a".into(), ("CrashLoopBackOff".into(), "back-off 10s".into()))]);
    let status = run(&pod, &actual(vec![container("a", State::Exited, 3)], true), &reasons, None);
    assert_eq!(condition(&status, "Ready"), ("False", "ContainersNotReady"));
    let container = &status.container_statuses.unwrap()[0];
    let state = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(state.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(container.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn waiting_for_init_and_gates() {
    let spec = json!({"spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}],
        "readinessGates": [{"conditionType": "x/y"}]}});
    let pod = pod(spec);
    let status = run(&pod, &actual(vec![container("i", State::Running, 0)], true), &Reasons::new(), None);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(condition(&status, "Initialized"), ("False", "ContainersNotInitialized"));
    let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
    let done = vec![container("i", State::Exited, 0), container("a", State::Running, 0)];
    let status = run(&pod, &actual(done, true), &Reasons::new(), None);
    assert_eq!(condition(&status, "ContainersReady"), ("True", ""));
    assert_eq!(condition(&status, "Ready"), ("False", "ReadinessGatesNotReady"));
}

#[test]
fn eviction_fails_the_pod() {
    let pod = pod(json!({"spec": {"containers": [{"name": "a"}]}}));
    let termination = Termination {
        grace_seconds: 0,
        failed: Some(("Evicted".into(), "low".into())),
        disruption: Some(("TerminationByKubelet".into(), "low".into())),
    };
    let status =
        run(&pod, &actual(vec![container("a", State::Exited, 137)], false), &Reasons::new(), Some(&termination));
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    assert_eq!(condition(&status, "DisruptionTarget"), ("True", "TerminationByKubelet"));
}

#[test]
fn a_restarted_kubelet_trusts_what_it_told() {
    let spec = json!({"spec": {"containers": [{"name": "a", "readinessProbe": {}, "startupProbe": {}}]},
        "status": {"containerStatuses": [{"name": "a", "containerID": "containerd://a-id", "ready": true,
            "started": true, "image": "", "imageID": "", "restartCount": 0}]}});
    let pod = pod(spec);
    let running = actual(vec![container("a", State::Running, 0)], true);
    let status = run(&pod, &running, &Reasons::new(), None);
    assert_eq!(condition(&status, "Ready").0, "True");
    let other = Container { id: "b-id".into(), ..container("a", State::Running, 0) };
    let status = run(&pod, &actual(vec![other], true), &Reasons::new(), None);
    assert_eq!(condition(&status, "Ready").0, "False");
}

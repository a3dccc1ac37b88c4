//! The session of a new user, from `hardway up` to `hardway down`: real kubectl, etcd, containerd and packets.
//!
//! One test, because its steps build on each other as the user's do; a network namespace of its own keeps it from the
//! machine's rules and ports. Needs root.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::session::{Session, name};
use tests::{Process, eventually};

fn containers(pods: &[Value]) -> BTreeSet<String> {
    pods.iter()
        .map(|p| {
            let status = &p["status"]["containerStatuses"][0];
            format!("{} {} {}", name(p), status["containerID"], status["restartCount"])
        })
        .collect()
}

#[test]
fn from_up_to_down() {
    Session::with("hardway-test", use_it);
}

fn use_it(session: &Session) {
    assert!(session.must("kubectl get nodes").contains(" Ready "));
    session.must("kubectl create deployment web --image=hardway/web:v1 --replicas=3");
    session.must("kubectl expose deployment web --port=80 --type=NodePort");
    session.must("kubectl rollout status deployment web --timeout=120s");
    let first = session.settled(3);
    let field = |path: &str| session.must(&format!("kubectl get service web -o jsonpath={{.spec.{path}}}"));
    session.answered_by_all(&format!("http://{}/", field("clusterIP")), &first);
    session.answered_by_all(&format!("http://127.0.0.1:{}/", field("ports[0].nodePort")), &first);

    session.must("kubectl scale deployment web --replicas=5");
    let scaled = session.settled(5);
    assert!(scaled.is_superset(&first));
    session.must("kubectl rollout restart deployment web");
    session.must("kubectl rollout status deployment web --timeout=120s");
    let fresh = session.settled(5);
    assert!(fresh.is_disjoint(&scaled), "a restart replaces every pod");
    session.answered_by_all(&format!("http://{}/", field("clusterIP")), &fresh);

    look_inside(session, &fresh);
    survive(session, &fresh);
    mirrors(session);
    suffer(session, &session.settled(5));
    session.must("kubectl delete service,deployment web");
    eventually("the pods' end", || match session.pods().len() {
        0 => Ok(()),
        n => Err(format!("{n} pods")),
    });
}

/// logs, exec, port-forward, describe, events, top.
fn look_inside(session: &Session, pods: &BTreeSet<String>) {
    assert!(session.must("kubectl logs deploy/web").contains("listens on port 80"));
    let answered = session.must("kubectl exec deploy/web -- hostname");
    assert!(pods.contains(&answered), "{answered}");
    let exit = session.ask("kubectl exec deploy/web -- sh -c false").unwrap_err();
    assert!(exit.contains("exit code 1"), "{exit}");

    let mut forward = session.command("kubectl port-forward deploy/web 18080:80");
    let forwarding = Process::start(&mut forward, &session.dir.join("logs/port-forward.log"));
    let answer = eventually("the forwarded port", || session.ask("curl -sS --max-time 3 http://127.0.0.1:18080/"));
    assert!(pods.contains(&answer), "{answer}");
    drop(forwarding);

    let one = pods.first().unwrap();
    let described = session.must(&format!("kubectl describe pod {one}"));
    for part in ["Started", "Scheduled", "hardway/web:v1"] {
        assert!(described.contains(part), "{part} is not in:\n{described}");
    }
    let events = session.must("kubectl get events");
    for reason in ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled", "Started", "Killing"] {
        assert!(events.contains(reason), "{reason} is not in:\n{events}");
    }
    let top = session.ask("kubectl top nodes").unwrap_err();
    assert!(top.contains("Metrics API not available"), "{top}");
}

/// A deleted pod is replaced, a killed process is restarted, a killed kubelet changes nothing.
fn survive(session: &Session, pods: &BTreeSet<String>) {
    let victim = pods.first().unwrap();
    session.must(&format!("kubectl delete pod {victim}"));
    let replaced = session.settled(5);
    assert!(!replaced.contains(victim));

    let target = name(&session.pods()[0]);
    // the first process of a container ignores signals it does not handle; the server handles this one by ending
    session.must(&format!("kubectl exec {target} -- kill -TERM 1"));
    eventually("the restart of a killed container", || {
        let text = session.must(&format!("kubectl get pod {target} -o json"));
        let pod: Value = serde_json::from_str(&text).unwrap();
        let status = &pod["status"]["containerStatuses"][0];
        if status["restartCount"] == 1 && status["ready"] == true { Ok(()) } else { Err(status.to_string()) }
    });

    session.settled(5);
    let before = containers(&session.pods());
    let lease = "kubectl get lease -n kube-node-lease -o jsonpath={.items[0].spec.renewTime}";
    session.crash(&["kubelet"]);
    let renewed = session.must(lease);
    eventually("the new kubelet's lease", || match session.must(lease) {
        now if now != renewed => Ok(()),
        now => Err(now),
    });
    session.settled(5);
    assert_eq!(containers(&session.pods()), before, "a new kubelet adopts what runs");
}

/// A static pod's mirror comes back when it is deleted, without touching the pod, and goes with the file; one that a user
/// made is deleted and never run.
fn mirrors(session: &Session) {
    let manifest = session.dir.join("manifests/still.json");
    let spec = json!({"containers": [{"name": "c", "image": "hardway/web:v1"}], "terminationGracePeriodSeconds": 1});
    let still = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "still"}, "spec": spec});
    std::fs::write(&manifest, still.to_string()).unwrap();
    let node = session.must("kubectl get nodes -o jsonpath={.items[0].metadata.name}");
    let name = format!("still-{node}");
    let see = |fields: &str| session.ask(&format!("kubectl get pod {name} -o jsonpath={fields}"));
    let container = "{.status.containerStatuses[0].containerID}";
    let running = |old: &str| {
        eventually("a mirror that runs", || match see("{.metadata.uid}_{.status.phase}")? {
            told if told.ends_with("_Running") && told != old => Ok(told),
            told => Err(told),
        })
    };
    let (first, id) = (running(""), see(container).unwrap());
    session.must(&format!("kubectl delete pod {name} --force --grace-period=0"));
    running(&first);
    assert_eq!(see(container), Ok(id), "the pod itself ran on");

    let mut spec = spec;
    spec["nodeName"] = node.into();
    let annotations = json!({"kubernetes.io/config.mirror": "x", "kubernetes.io/config.hash": "x"});
    let fake = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fake", "annotations": annotations}, "spec": spec});
    let file = session.dir.join("fake.json");
    std::fs::write(&file, fake.to_string()).unwrap();
    session.must(&format!("kubectl create -f {}", file.display()));
    std::fs::remove_file(&manifest).unwrap();
    eventually("the end of both mirrors", || match session.must("kubectl get pods -o name") {
        pods if pods.contains("still") || pods.contains("fake") => Err(pods),
        _ => Ok(()),
    });
    assert!(!session.must("kubectl get events").contains("pod/fake"), "nothing of it was run");
}

/// A missing CNI is named on the node's condition and in the log, with the remedy; when it is mended the node is Ready
/// again and its pods are the same. (A missing runtime: node_pains.rs.)
fn suffer(session: &Session, pods: &BTreeSet<String>) {
    let before = containers(&session.pods());
    let config = session.dir.join("cni/net.d/10-hardway.conflist");
    let text = std::fs::read(&config).unwrap();
    std::fs::remove_file(&config).unwrap();
    session.not_ready(&["NetworkPluginNotReady", "put a CNI configuration into", "/etc/cni/net.d"]);
    // written, not moved: containerd 1.6 overlooks a file that is moved into its directory
    std::fs::write(&config, text).unwrap();
    session.ready_again();
    assert_eq!(&session.settled(5), pods);
    assert_eq!(containers(&session.pods()), before, "pods outlive their node's pains");
}

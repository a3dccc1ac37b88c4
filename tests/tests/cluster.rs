//! The session of a new user, from `hardway up` to `hardway down`: real kubectl, etcd, containerd and packets.
//!
//! One test, because its steps build on each other as the user's do; a network namespace of its own keeps it from the
//! machine's rules and ports. Needs root.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::{Netns, Process, bin, bin_dir, eventually, output, run};

struct Session {
    net: Netns,
    dir: PathBuf,
    _temporary: tempfile::TempDir,
}

impl Session {
    fn hardway(&self, verb: &str) -> Command {
        let mut command = self.net.command(bin("hardway"));
        command.arg(verb).arg("--dir").arg(&self.dir);
        command
    }

    fn command(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let mut command = self.net.command(words.next().unwrap_or_default());
        if line.starts_with("kubectl") {
            command.arg("--kubeconfig").arg(self.dir.join("admin.conf"));
        }
        command.args(words);
        command
    }

    fn ask(&self, line: &str) -> Result<String, String> {
        output(&mut self.command(line)).map(|text| text.trim().to_owned())
    }

    fn must(&self, line: &str) -> String {
        self.ask(line).unwrap_or_else(|why| panic!("{why}"))
    }

    fn pods(&self) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.must("kubectl get pods -l app=web -o json")).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// Waits until exactly `count` pods exist, all Ready and none going.
    fn settled(&self, count: usize) -> BTreeSet<String> {
        eventually(&format!("{count} ready pods"), || {
            let pods = self.pods();
            let ready = |pod: &Value| {
                pod["metadata"]["deletionTimestamp"].is_null()
                    && conditions(pod).any(|c| c["type"] == "Ready" && c["status"] == "True")
            };
            if pods.len() == count && pods.iter().all(ready) {
                Ok(pods.iter().map(name).collect())
            } else {
                Err(self.ask("kubectl get pods -o wide").unwrap_or_else(|why| why))
            }
        })
    }

    fn node_ready(&self) -> Value {
        let node: Value = serde_json::from_str(&self.must("kubectl get nodes -o json")).unwrap();
        conditions(&node["items"][0]).find(|c| c["type"] == "Ready").cloned().unwrap_or_default()
    }

    /// Waits until the node says that it is not Ready, in these words, and the kubelet's log does too.
    fn not_ready(&self, words: &[&str]) {
        eventually(&format!("a node that is not Ready: {words:?}"), || {
            let ready = self.node_ready();
            let message = ready["message"].as_str().unwrap_or_default();
            let told = ready["status"] == "False" && words.iter().all(|word| message.contains(word));
            if told { Ok(()) } else { Err(ready.to_string()) }
        });
        let log = std::fs::read_to_string(self.dir.join("logs/kubelet.log")).unwrap();
        assert!(log.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?} is not in:\n{log}");
    }

    fn ready_again(&self) {
        eventually("a Ready node", || match self.node_ready() {
            ready if ready["status"] == "True" => Ok(()),
            ready => Err(ready.to_string()),
        });
    }

    /// Asks a URL until each of the pods has answered.
    fn answered_by_all(&self, url: &str, pods: &BTreeSet<String>) {
        let mut seen = BTreeSet::new();
        eventually(&format!("answers of {pods:?} from {url}"), || {
            for _ in 0..10 {
                seen.insert(self.ask(&format!("curl -sS --max-time 3 {url}"))?);
            }
            if seen.is_superset(pods) { Ok(()) } else { Err(format!("only {seen:?} answered")) }
        });
    }
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap().to_owned()
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}

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
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cluster");
    let session = Session { net: Netns::new("hardway-test"), dir, _temporary: temporary };
    let before = leftovers();
    println!("{}", run(&mut session.hardway("up")));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| use_it(&session)));
    if outcome.is_err() {
        show_logs(&session.dir);
    }
    run(&mut session.hardway("down"));
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    nothing_is_left(&session, &before);
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
    let pid_file = session.dir.join("run/kubelet.pid");
    let old = std::fs::read_to_string(&pid_file).unwrap();
    run(Command::new("kill").args(["-9", &old]));
    let lease = "kubectl get lease -n kube-node-lease -o jsonpath={.items[0].spec.renewTime}";
    eventually("a new kubelet", || match std::fs::read_to_string(&pid_file) {
        Ok(new) if new != old && !new.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let renewed = session.must(lease);
    eventually("the new kubelet's lease", || match session.must(lease) {
        now if now != renewed => Ok(()),
        now => Err(now),
    });
    session.settled(5);
    assert_eq!(containers(&session.pods()), before, "a new kubelet adopts what runs");
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

fn show_logs(dir: &Path) {
    for unit in ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "containerd"] {
        let text = std::fs::read_to_string(dir.join(format!("logs/{unit}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        println!("--- {unit}\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
    }
}

/// What a cluster could leave on a machine, outside its network namespace.
fn leftovers() -> BTreeSet<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut out: BTreeSet<String> =
        mounts.lines().filter_map(|l| l.split(' ').nth(4)).map(|point| format!("mount {point}")).collect();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        if hierarchy.path().join("hardway").exists() {
            out.insert(format!("cgroup {}", hierarchy.path().display()));
        }
    }
    out
}

fn nothing_is_left(session: &Session, before: &BTreeSet<String>) {
    let new: Vec<String> = leftovers().difference(before).cloned().collect();
    assert!(new.is_empty(), "left behind: {new:?}");
    assert!(!session.dir.exists());
    let processes = session.must("ps -eo args");
    let ours = session.dir.display().to_string();
    let strays: Vec<&str> = processes.lines().filter(|line| line.contains(&ours)).collect();
    assert!(strays.is_empty(), "still running: {strays:?} ({})", bin_dir().display());
    for save in ["iptables-save", "ip6tables-save"] {
        let rules = session.ask(save).unwrap_or_default();
        let kept: Vec<&str> = rules.lines().filter(|l| l.contains("KUBE-") || l.contains("CNI-")).collect();
        assert!(kept.is_empty(), "{save} still has {kept:?}");
    }
    assert!(!session.must("ip -brief link").contains("hardway0"));
}

//! A new user's cluster: `hardway up`, and `hardway down` without a trace. Needs root.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{Netns, bin, bin_dir, eventually, output, run};

/// A cluster of one machine, made by `hardway up` in a network namespace of its own.
pub struct Session {
    /// Its network.
    pub net: Netns,
    /// Where it keeps everything.
    pub dir: PathBuf,
    /// The runtime was killed: what its network plugin was doing just then is never undone.
    runtime_died: Cell<bool>,
    _temporary: tempfile::TempDir,
}

impl Session {
    /// From `hardway up` to `hardway down`, with `use_it` between them; then nothing may be left.
    ///
    /// # Panics
    /// With the daemons' last words, when one of them fails.
    pub fn with(netns: &str, use_it: impl FnOnce(&Self)) {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let dir = temporary.path().join("cluster");
        let session = Self { net: Netns::new(netns), dir, runtime_died: Cell::new(false), _temporary: temporary };
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

    /// A daemon's process id while it runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn pid(&self, unit: &str) -> Result<String, String> {
        let pid = std::fs::read_to_string(self.dir.join(format!("run/{unit}.pid"))).map_err(|e| e.to_string())?;
        if pid.is_empty() { Err(format!("{unit} is being started")) } else { Ok(pid) }
    }

    /// Kills daemons as a crash would, and waits until the supervisor has started them again.
    pub fn crash(&self, units: &[&str]) {
        self.runtime_died.set(self.runtime_died.get() || units.contains(&"containerd"));
        let killed: Vec<String> = units
            .iter()
            .map(|unit| {
                let pid = eventually(unit, || self.pid(unit));
                run(Command::new("kill").args(["-9", &pid]));
                pid
            })
            .collect();
        for (unit, old) in units.iter().zip(killed) {
            eventually(&format!("a new {unit}"), || match self.pid(unit) {
                Ok(new) if new != old => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    }

    fn hardway(&self, verb: &str) -> Command {
        let mut command = self.net.command(bin("hardway"));
        command.arg(verb).arg("--dir").arg(&self.dir);
        command
    }

    /// A command inside; kubectl as administrator.
    pub fn command(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let mut command = self.net.command(words.next().unwrap_or_default());
        if line.starts_with("kubectl") {
            command.arg("--kubeconfig").arg(self.dir.join("admin.conf"));
        }
        command.args(words);
        command
    }

    /// Runs a command inside: what it printed.
    ///
    /// # Errors
    /// Everything it said when it failed.
    pub fn ask(&self, line: &str) -> Result<String, String> {
        output(&mut self.command(line)).map(|text| text.trim().to_owned())
    }

    /// Runs a command that must succeed.
    ///
    /// # Panics
    /// With everything it said, when it fails.
    pub fn must(&self, line: &str) -> String {
        self.ask(line).unwrap_or_else(|why| panic!("{why}"))
    }

    /// The pods of the application `web`.
    ///
    /// # Panics
    /// When they cannot be listed.
    pub fn pods(&self) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.must("kubectl get pods -l app=web -o json")).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// Waits until exactly `count` pods exist, all Ready and none going.
    pub fn settled(&self, count: usize) -> BTreeSet<String> {
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

    /// The node's condition Ready.
    ///
    /// # Panics
    /// When the node cannot be read.
    pub fn node_ready(&self) -> Value {
        let node: Value = serde_json::from_str(&self.must("kubectl get nodes -o json")).unwrap();
        conditions(&node["items"][0]).find(|c| c["type"] == "Ready").cloned().unwrap_or_default()
    }

    /// Waits until the node says that it is not Ready, in these words, and the kubelet's log does too.
    ///
    /// # Panics
    /// When the log does not.
    pub fn not_ready(&self, words: &[&str]) {
        eventually(&format!("a node that is not Ready: {words:?}"), || {
            let ready = self.node_ready();
            let message = ready["message"].as_str().unwrap_or_default();
            let told = ready["status"] == "False" && words.iter().all(|word| message.contains(word));
            if told { Ok(()) } else { Err(ready.to_string()) }
        });
        let log = std::fs::read_to_string(self.dir.join("logs/kubelet.log")).unwrap();
        assert!(log.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?} is not in:\n{log}");
    }

    /// Waits until the node is Ready.
    pub fn ready_again(&self) {
        eventually("a Ready node", || match self.node_ready() {
            ready if ready["status"] == "True" => Ok(()),
            ready => Err(ready.to_string()),
        });
    }

    /// Asks a URL until each of the pods has answered.
    pub fn answered_by_all(&self, url: &str, pods: &BTreeSet<String>) {
        let mut seen = BTreeSet::new();
        eventually(&format!("answers of {pods:?} from {url}"), || {
            for _ in 0..10 {
                seen.insert(self.ask(&format!("curl -sS --max-time 3 {url}"))?);
            }
            if seen.is_superset(pods) { Ok(()) } else { Err(format!("only {seen:?} answered")) }
        });
    }
}

/// A pod's name.
///
/// # Panics
/// When it is none.
pub fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap().to_owned()
}

/// An object's conditions.
pub fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
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
        let ours = |line: &&str| line.contains("KUBE-") || (line.contains("CNI-") && !session.runtime_died.get());
        let kept: Vec<&str> = rules.lines().filter(ours).collect();
        assert!(kept.is_empty(), "{save} still has {kept:?}");
    }
    assert!(!session.must("ip -brief link").contains("hardway0"));
}

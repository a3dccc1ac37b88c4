//! etcd over mutual TLS and one kube-apiserver, on ports of their own, for tests that need no node.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Process, Raw, bin, eventually, free_port, output};

/// What a test may want otherwise.
#[derive(Default)]
pub struct Options {
    /// Added to the API server's command line.
    pub api_flags: Vec<String>,
    /// More members of etcd than the one that is always there.
    pub more_etcd_members: usize,
}

/// A running control plane without controllers, removed when dropped.
pub struct ControlPlane {
    // dropped before the directory they write to
    api: Option<Process>,
    etcd: Vec<Member>,
    options: Options,
    api_port: u16,
    dir: TempDir,
}

/// A member of etcd.
struct Member {
    process: Option<Process>,
    client_port: u16,
    peer_port: u16,
}

/// A further API server of a [`ControlPlane`].
pub struct Peer {
    /// It runs.
    pub process: Process,
    /// Its URL.
    pub server: String,
}

impl ControlPlane {
    /// Starts both and waits until the API server is ready.
    ///
    /// # Panics
    /// With the end of the log, when it does not become ready.
    pub fn start(options: Options) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let etcd = (0..=options.more_etcd_members)
            .map(|_| Member { process: None, client_port: free_port(), peer_port: free_port() })
            .collect();
        let mut this = Self { api: None, etcd, options, api_port: free_port(), dir };
        this.make_pki();
        this.start_etcd();
        this.start_api();
        this.wait_ready();
        this
    }

    fn make_pki(&self) {
        let local = vec!["127.0.0.1".parse().expect("an address")];
        let layout = pki::store::Layout {
            pki_dir: self.path("pki"),
            config_dir: self.dir.path().to_owned(),
            server: format!("https://127.0.0.1:{}", self.api_port),
            cluster_name: "test".to_owned(),
            algorithm: pki::key::Algorithm::EcdsaP256,
        };
        let names = pki::profile::ClusterNames {
            domain: "cluster.local".to_owned(),
            service_ip: "10.0.0.1".parse().expect("an address"),
            api_names: vec![],
            api_ips: local.clone(),
            etcd_ips: vec![],
            nodes: vec![("node-a".to_owned(), local)],
        };
        pki::store::ensure(&layout, &names, jiff::Timestamp::now()).expect("certificates can be made");
    }

    /// A path below the directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn pki(&self, file: &str) -> String {
        self.path("pki").join(file).display().to_string()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("admin.conf")
    }

    /// The API server's process id.
    ///
    /// # Panics
    /// When it is stopped.
    pub fn api_pid(&self) -> u32 {
        self.api.as_ref().expect("the API server runs").pid()
    }

    /// Starts the members of etcd that do not run.
    pub fn start_etcd(&mut self) {
        let peers = self.etcd.iter().enumerate();
        let peers: Vec<String> = peers.map(|(n, m)| format!("m{n}=https://127.0.0.1:{}", m.peer_port)).collect();
        for number in 0..self.etcd.len() {
            if self.etcd[number].process.is_none() {
                let process = self.start_member(number, &peers.join(","));
                self.etcd[number].process = Some(process);
            }
        }
    }

    fn start_member(&self, number: usize, peers: &str) -> Process {
        let Member { client_port: client, peer_port: peer, .. } = self.etcd[number];
        let mut command = Command::new("etcd");
        command.args([
            format!("--name=m{number}"),
            format!("--data-dir={}", self.path(&format!("etcd-{number}")).display()),
            format!("--listen-client-urls=https://127.0.0.1:{client}"),
            format!("--advertise-client-urls=https://127.0.0.1:{client}"),
            format!("--listen-peer-urls=https://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=https://127.0.0.1:{peer}"),
            format!("--initial-cluster={peers}"),
            "--client-cert-auth".to_owned(),
            format!("--cert-file={}", self.pki("etcd/server.crt")),
            format!("--key-file={}", self.pki("etcd/server.key")),
            format!("--trusted-ca-file={}", self.pki("etcd/ca.crt")),
            "--peer-client-cert-auth".to_owned(),
            format!("--peer-cert-file={}", self.pki("etcd/peer.crt")),
            format!("--peer-key-file={}", self.pki("etcd/peer.key")),
            format!("--peer-trusted-ca-file={}", self.pki("etcd/ca.crt")),
            "--log-level=error".to_owned(),
            "--logger=zap".to_owned(),
        ]);
        Process::start(&mut command, &self.path("etcd.log"))
    }

    /// The API server's flags; tests of bad input change one of them.
    pub fn api_flags(&self) -> Vec<String> {
        let pki = |flag: &str, file: &str| format!("--{flag}={}", self.pki(file));
        let mut flags = vec![
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.api_port),
            format!("--etcd-servers={}", self.etcd.iter().map(Member::url).collect::<Vec<_>>().join(",")),
            pki("etcd-cafile", "etcd/ca.crt"),
            pki("etcd-certfile", "apiserver-etcd-client.crt"),
            pki("etcd-keyfile", "apiserver-etcd-client.key"),
            pki("client-ca-file", "ca.crt"),
            pki("tls-cert-file", "apiserver.crt"),
            pki("tls-private-key-file", "apiserver.key"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--enable-bootstrap-token-auth".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            pki("service-account-key-file", "sa.pub"),
            pki("service-account-signing-key-file", "sa.key"),
        ];
        flags.extend(self.options.api_flags.iter().cloned());
        flags
    }

    /// Starts one more API server on the same etcd; it ends when dropped, as by a crash.
    pub fn start_peer(&self, name: &str, more_flags: &[String]) -> Peer {
        let port = free_port();
        let mut command = Command::new(bin("kube-apiserver"));
        let own = [more_flags, &[format!("--secure-port={port}")]].concat();
        let name_of = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
        let ours = |flag: &String| own.iter().any(|own| name_of(own) == name_of(flag));
        command.args(self.api_flags().into_iter().filter(|flag| !ours(flag))).args(&own);
        let log = self.path(&format!("{name}.log"));
        let peer = Peer { process: Process::start(&mut command, &log), server: format!("https://127.0.0.1:{port}") };
        eventually("the other API server's readiness", || {
            self.kubectl(&["--server", &peer.server, "get", "--raw", "/readyz"])
                .map_err(|why| format!("{why}\n{}", tail(&log)))
        });
        peer
    }

    /// Starts the API server (again).
    pub fn start_api(&mut self) {
        let mut command = Command::new(bin("kube-apiserver"));
        command.args(self.api_flags());
        self.api = Some(Process::start(&mut command, &self.path("apiserver.log")));
    }

    /// Starts a controller manager; `log` is the name of its log.
    pub fn controller_manager(&self, port: u16, log: &str, more: &[&str]) -> Process {
        let pki = |flag: &str, file: &str| format!("--{flag}={}", self.pki(file));
        let own = [
            pki("service-account-private-key-file", "sa.key"),
            pki("root-ca-file", "ca.crt"),
            "--use-service-account-credentials=true".to_owned(),
        ];
        self.daemon(
            "kube-controller-manager",
            "controller-manager",
            port,
            log,
            own.iter().map(String::as_str).chain(more.iter().copied()),
        )
    }

    /// Starts a scheduler; `log` is the name of its log.
    pub fn scheduler(&self, port: u16, log: &str, more: &[&str]) -> Process {
        self.daemon("kube-scheduler", "scheduler", port, log, more.iter().copied())
    }

    fn daemon<'a>(
        &self,
        name: &str,
        identity: &str,
        port: u16,
        log: &str,
        more: impl Iterator<Item = &'a str>,
    ) -> Process {
        let conf = self.path(&format!("{identity}.conf")).display().to_string();
        let mut command = Command::new(bin(name));
        command.args([
            format!("--kubeconfig={conf}"),
            format!("--authentication-kubeconfig={conf}"),
            format!("--authorization-kubeconfig={conf}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", self.pki(&format!("{identity}-serving.crt"))),
            format!("--tls-private-key-file={}", self.pki(&format!("{identity}-serving.key"))),
        ]);
        Process::start(command.args(more), &self.path(log))
    }

    /// Makes a node of `cpus` processors that says it is ready, though no kubelet is behind it.
    ///
    /// # Panics
    /// When the API server does not take it.
    pub fn add_node(&self, name: &str, cpus: u32, taints: &Value) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        let capacity = json!({"cpu": cpus.to_string(), "memory": "8Gi", "pods": "110"});
        let ready = json!([{"type": "Ready", "status": "True", "reason": "Test", "message": ""}]);
        let status = json!({"status": {"capacity": capacity, "allocatable": capacity, "conditions": ready}});
        let raw = self.raw();
        assert_eq!(raw.post("/api/v1/nodes", &node), Ok(201), "node {name}");
        assert_eq!(raw.merge(&format!("/api/v1/nodes/{name}/status"), &status), Ok(200), "status of node {name}");
        // admission holds new nodes back until a controller finds them ready; here none may run
        let taints = json!({"spec": {"taints": taints}});
        assert_eq!(raw.merge(&format!("/api/v1/nodes/{name}"), &taints), Ok(200), "taints of node {name}");
    }

    /// Kills the API server as a crash would.
    pub fn kill_api(&mut self) {
        self.api = None;
    }

    /// Kills all of etcd as a crash would.
    pub fn kill_etcd(&mut self) {
        self.etcd.iter_mut().for_each(|member| member.process = None);
    }

    /// Kills etcd's leader as a crash would; the others choose another.
    pub fn kill_etcd_leader(&mut self) {
        let leader = eventually("a leader of etcd", || {
            let leads = |member: &Member| {
                let status: Value = serde_json::from_str(&self.ask(member, "maintenance/status", &json!({}))?)
                    .map_err(|e| e.to_string())?;
                Ok::<bool, String>(status["leader"] == status["header"]["member_id"])
            };
            let members = self.etcd.iter().enumerate();
            members.into_iter().find(|(_, m)| leads(m) == Ok(true)).map(|(n, _)| n).ok_or_else(|| self.log("etcd.log"))
        });
        self.etcd[leader].process = None;
    }

    /// Asks a member of etcd through its gateway.
    fn ask(&self, member: &Member, what: &str, question: &Value) -> Result<String, String> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "--max-time", "10", "--cacert", &self.pki("etcd/ca.crt")]);
        curl.args(["--cert", &self.pki("apiserver-etcd-client.crt"), "--key", &self.pki("apiserver-etcd-client.key")]);
        curl.args(["--data", &question.to_string()]);
        output(curl.arg(format!("{}/v3/{what}", member.url())))
    }

    /// What lies in etcd at a key.
    ///
    /// # Panics
    /// With what etcd said, when it does not answer.
    pub fn stored(&self, key: &str) -> String {
        let base64 = base64::engine::general_purpose::STANDARD;
        let answer = self.ask(&self.etcd[0], "kv/range", &json!({"key": base64.encode(key)})).expect("etcd answers");
        let answer: Value = serde_json::from_str(&answer).expect("etcd answers in JSON");
        let value = base64.decode(answer["kvs"][0]["value"].as_str().unwrap_or_default()).expect("base64");
        String::from_utf8_lossy(&value).into_owned()
    }

    /// Makes etcd forget what was before a resource version.
    ///
    /// # Panics
    /// With what etcd said.
    pub fn compact(&self, version: u64) {
        // The low eight bits tell apart what one revision of etcd wrote.
        let question = json!({"revision": (version >> 8).to_string()});
        eventually("compaction", || {
            let answers = self.etcd.iter().map(|member| self.ask(member, "kv/compaction", &question));
            answers.into_iter().find(Result::is_ok).unwrap_or_else(|| Err(self.log("etcd.log")))
        });
    }

    /// Waits until the API server says that it is ready.
    pub fn wait_ready(&self) {
        eventually("the API server's readiness", || {
            self.kubectl(&["get", "--raw", "/readyz"]).map_err(|why| format!("{why}\n{}", self.log("apiserver.log")))
        });
    }

    /// Runs kubectl as administrator.
    ///
    /// # Errors
    /// What it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        output(Command::new("kubectl").arg("--kubeconfig").arg(self.kubeconfig()).args(arguments))
    }

    /// For single requests.
    pub fn raw(&self) -> Raw {
        Raw { server: format!("https://127.0.0.1:{}", self.api_port), pki: self.path("pki") }
    }

    /// The end of a log.
    pub fn log(&self, name: &str) -> String {
        tail(&self.path(name))
    }
}

impl Member {
    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.client_port)
    }
}

fn tail(path: &Path) -> String {
    const LINES: usize = 15;
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

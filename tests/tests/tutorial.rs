//! The files that a tutorial of 2019 (Kubernetes 1.16) has its readers write still build a control plane and join a node:
//! flags that are gone are ignored with a word about what replaced them, misspelt settings are named, and what cannot work any
//! more (the insecure port) is refused with what to write instead.
//!
//! Only the comments after the line ends, over which a shell would stumble, were taken out of the files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::{Netns, Process, bin, eventually, output, run};

const MASTER: &str = "192.168.31.24";
const ETCD: [&str; 3] = [MASTER, "192.168.31.35", "192.168.31.71"];

/// The tutorial's machines: all of them in one network namespace, with its tree of files in one directory.
struct Machines {
    net: Netns,
    dir: tempfile::TempDir,
}

impl Machines {
    fn new() -> Self {
        let this = Self { net: Netns::new("hardway-tutorial"), dir: tempfile::tempdir().unwrap() };
        for address in ETCD {
            run(this.net.command("ip").args(["address", "add", &format!("{address}/24"), "dev", "lo"]));
        }
        this.make_certificates();
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tutorial");
        std::fs::create_dir_all(this.path("kubernetes/cfg")).unwrap();
        for file in std::fs::read_dir(files).unwrap() {
            let file = file.unwrap();
            let text = std::fs::read_to_string(file.path()).unwrap();
            let text = text.replace("/k8s/", &format!("{}/", this.dir.path().display()));
            std::fs::write(this.path("kubernetes/cfg").join(file.file_name()), text).unwrap();
        }
        this
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// In place of the tutorial's cfssl, under the names of its files.
    fn make_certificates(&self) {
        let etcd_ips: Vec<_> = ETCD.iter().map(|address| address.parse().unwrap()).collect();
        let layout = pki::store::Layout {
            pki_dir: self.path("pki"),
            config_dir: self.dir.path().to_owned(),
            server: format!("https://{MASTER}:6443"),
            cluster_name: "kubernetes".to_owned(),
            algorithm: pki::key::Algorithm::EcdsaP256,
        };
        let names = pki::profile::ClusterNames {
            domain: "cluster.local".to_owned(),
            service_ip: "10.0.0.1".parse().unwrap(),
            api_names: vec![],
            api_ips: vec![MASTER.parse().unwrap()],
            etcd_ips,
            nodes: vec![],
        };
        pki::store::ensure(&layout, &names, jiff::Timestamp::now()).unwrap();
        for (ours, theirs) in [
            ("ca.crt", "kubernetes/ssl/ca.pem"),
            ("ca.key", "kubernetes/ssl/ca-key.pem"),
            ("apiserver.crt", "kubernetes/ssl/kubernetes.pem"),
            ("apiserver.key", "kubernetes/ssl/kubernetes-key.pem"),
            ("etcd/ca.crt", "etcd/ssl/ca.pem"),
            ("etcd/peer.crt", "etcd/ssl/etcd.pem"),
            ("etcd/peer.key", "etcd/ssl/etcd-key.pem"),
        ] {
            let theirs = self.path(theirs);
            std::fs::create_dir_all(theirs.parent().unwrap()).unwrap();
            std::fs::copy(self.path("pki").join(ours), theirs).unwrap();
        }
    }

    fn etcd(&self, number: usize) -> Process {
        let (name, address) = (format!("etcd-{number}"), ETCD[number - 1]);
        let members: Vec<String> =
            (1..).zip(ETCD).map(|(n, address)| format!("etcd-{n}=https://{address}:2380")).collect();
        let ssl = |file: &str| self.path("etcd/ssl").join(file).display().to_string();
        let mut command = self.net.command("etcd");
        command.args([
            format!("--name={name}"),
            format!("--data-dir={}", self.path("data").join(&name).display()),
            format!("--listen-peer-urls=https://{address}:2380"),
            format!("--listen-client-urls=https://{address}:2379"),
            format!("--initial-advertise-peer-urls=https://{address}:2380"),
            format!("--advertise-client-urls=https://{address}:2379"),
            format!("--initial-cluster={}", members.join(",")),
            format!("--cert-file={}", ssl("etcd.pem")),
            format!("--key-file={}", ssl("etcd-key.pem")),
            format!("--trusted-ca-file={}", ssl("ca.pem")),
            format!("--peer-cert-file={}", ssl("etcd.pem")),
            format!("--peer-key-file={}", ssl("etcd-key.pem")),
            format!("--peer-trusted-ca-file={}", ssl("ca.pem")),
            "--log-level=error".to_owned(),
            "--logger=zap".to_owned(),
        ]);
        Process::start(&mut command, &self.path(&name))
    }

    /// The words between the quotes of an environment file, as systemd hands them to the daemon.
    fn options(&self, daemon: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("kubernetes/cfg").join(format!("{daemon}.conf"))).unwrap();
        let (_, options) = text.trim().trim_end_matches('"').split_once('"').unwrap();
        options.replace("\\\n", " ").split_whitespace().map(|word| word.replace("\"\"", "")).collect()
    }

    fn start(&self, daemon: &str, options: &[String]) -> Process {
        Process::start(self.net.command(bin(daemon)).args(options), &self.path(&format!("{daemon}.log")))
    }

    fn log(&self, daemon: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{daemon}.log"))).unwrap_or_default()
    }

    fn kubectl(&self, line: &str) -> Result<String, String> {
        let mut command: Command = self.net.command("kubectl");
        output(command.arg("--kubeconfig").arg(self.path("admin.conf")).args(line.split_whitespace()))
    }

    /// A daemon that the tutorial lets talk to the insecure port: refused as written, and started with a kubeconfig instead.
    fn start_client(&self, daemon: &str) -> Process {
        let mut options = self.options(daemon);
        let mut refused = self.start(daemon, &options);
        let code = refused.wait(Duration::from_secs(60));
        let log = self.log(daemon);
        assert!(matches!(code, Some(code) if code != 0), "{daemon}: {code:?}: {log}");
        assert!(log.contains("write it like https://"), "{log}");
        options.retain(|option| !option.starts_with("--master"));
        options.push(format!("--kubeconfig={}", self.path("admin.conf").display()));
        self.start(daemon, &options)
    }
}

#[test]
fn the_files_of_an_old_tutorial_still_serve() {
    let machines = Machines::new();
    let _etcd: Vec<Process> = (1..=ETCD.len()).map(|number| machines.etcd(number)).collect();
    let _api = machines.start("kube-apiserver", &machines.options("kube-apiserver"));
    eventually("the API server's readiness", || {
        machines.kubectl("get --raw /readyz").map_err(|why| why + &machines.log("kube-apiserver"))
    });
    let _manager = machines.start_client("kube-controller-manager");
    let _scheduler = machines.start_client("kube-scheduler");
    eventually("three healthy components", || {
        let text = machines.kubectl("get cs --no-headers")?;
        if text.matches("Healthy").count() == 3 { Ok(()) } else { Err(text) }
    });

    machines
        .kubectl("create clusterrolebinding kubelet-bootstrap --clusterrole=system:node-bootstrapper --user=kubelet-bootstrap")
        .unwrap();
    // What the tutorial leaves to the machine's own directories.
    let mut options = machines.options("kubelet");
    options.push(format!("--root-dir={}", machines.path("kubelet").display()));
    options.push(format!("--container-runtime-endpoint=unix://{}", machines.path("none.sock").display()));
    let _kubelet = machines.start("kubelet", &options);
    let request = eventually("a certificate request", || {
        let found = machines.kubectl("get csr -o name")?;
        if found.is_empty() { Err(machines.log("kubelet")) } else { Ok(found) }
    });
    machines.kubectl(&format!("certificate approve {}", request.trim())).unwrap();
    eventually("the node", || machines.kubectl("get node k8s-node-1").map_err(|why| why + &machines.log("kubelet")));
    assert!(machines.path("kubernetes/ssl/kubelet-client-current.pem").exists());
    let log = machines.log("kubelet");
    for said in ["--network-plugin is ignored", "cacheAuthorizedTTL"] {
        assert!(log.contains(said), "{said}: {log}");
    }

    let _proxy = machines.start("kube-proxy", &machines.options("kube-proxy"));
    eventually("the proxy's word about its misspelt setting", || {
        let log = machines.log("kube-proxy");
        if log.contains("metricsBindAddress") { Ok(()) } else { Err(log) }
    });
}

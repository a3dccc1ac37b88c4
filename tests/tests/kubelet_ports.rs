//! The kubelet's own ports: nothing is told to strangers, no port is open without being asked for, and the serving
//! certificate is taken over from the cluster's authority while the kubelet runs.

use std::process::Command;

use tests::{ControlPlane, Options, Process, bin, eventually, free_port, output};

const NODE: &str = "node-a";

struct Kubelet {
    plane: ControlPlane,
    port: u16,
    process: Process,
}

impl Kubelet {
    /// A kubelet without a runtime, which its ports do not need, with a signed serving certificate to come.
    fn start() -> Self {
        let plane = ControlPlane::start(Options::default());
        let port = free_port();
        let file = |below: &str| plane.path(below).display().to_string();
        let config = serde_json::json!({"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "address": "127.0.0.1", "port": port, "healthzPort": 0, "serverTLSBootstrap": true,
            "containerRuntimeEndpoint": format!("unix://{}", file("no-runtime.sock")),
            "authentication": {"x509": {"clientCAFile": file("pki/ca.crt")}}});
        std::fs::write(plane.path("kubelet.yaml"), config.to_string()).unwrap();
        let mut command = Command::new(bin("kubelet"));
        command.args([
            format!("--config={}", file("kubelet.yaml")),
            format!("--kubeconfig={}", file("kubelet-node-a.conf")),
            format!("--cert-dir={}", file("kubelet-pki")),
            format!("--root-dir={}", file("kubelet-root")),
            format!("--hostname-override={NODE}"),
            "--node-ip=127.0.0.1".to_owned(),
        ]);
        let process = Process::start(&mut command, &plane.path("kubelet.log"));
        Self { plane, port, process }
    }

    /// The HTTP status of a request with further arguments of curl; 0 when no connection came about.
    fn status(&self, path: &str, arguments: &[&str]) -> u16 {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}"]).args(arguments);
        output(curl.arg(format!("https://127.0.0.1:{}{path}", self.port))).map_or(0, |code| code.parse().unwrap_or(0))
    }

    fn pki(&self, file: &str) -> String {
        self.plane.path("pki").join(file).display().to_string()
    }
}

/// TCP ports that a process listens on.
fn listening(pid: u32) -> Vec<u16> {
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| {
            std::fs::read_link(entry.ok()?.path())
                .ok()?
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')
                .map(str::to_owned)
        })
        .collect();
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default());
    let port = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let open = fields.get(3) == Some(&"0A") && sockets.iter().any(|s| Some(&s.as_str()) == fields.get(9));
        u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok().filter(|_| open)
    };
    tables.iter().flat_map(|table| table.lines()).filter_map(port).collect()
}

#[test]
fn strangers_learn_nothing_and_the_certificate_is_taken_over() {
    let kubelet = Kubelet::start();
    eventually("the kubelet's port", || match kubelet.status("/healthz", &["-k"]) {
        0 => Err(kubelet.plane.log("kubelet.log")),
        _ => Ok(()),
    });
    let paths = [
        "/healthz", "/pods", "/runningpods", "/metrics", "/metrics/cadvisor", "/stats/summary", "/configz", "/logs/",
        "/containerLogs/default/p/c", "/exec/default/p/c?command=id&output=1", "/run/default/p/c?cmd=id", "/nonsense",
    ];
    for path in paths {
        assert_eq!(kubelet.status(path, &["-k"]), 401, "a stranger at {path}");
        assert_eq!(kubelet.status(path, &["-k", "-H", "Authorization: Bearer nonsense"]), 401, "{path}");
    }
    // who is known but may not
    let (cert, key) = (kubelet.pki("front-proxy-client.crt"), kubelet.pki("front-proxy-client.key"));
    assert_eq!(kubelet.status("/pods", &["-k", "--cert", &cert, "--key", &key]), 401, "another authority's client");
    assert_eq!(listening(kubelet.process.pid()), [kubelet.port], "no read-only port, no other");

    let (cert, key, ca) = (kubelet.pki("admin.crt"), kubelet.pki("admin.key"), kubelet.pki("ca.crt"));
    let admin = ["--cacert", ca.as_str(), "--cert", &cert, "--key", &key];
    assert_eq!(kubelet.status("/pods", &admin), 0, "self-signed as yet");
    let request = eventually("the request for a serving certificate", || {
        let names = r#"jsonpath={.items[?(@.spec.signerName=="kubernetes.io/kubelet-serving")].metadata.name}"#;
        let name = kubelet.plane.kubectl(&["get", "csr", "-o", names])?;
        if name.is_empty() { Err(kubelet.plane.log("kubelet.log")) } else { Ok(name) }
    });
    kubelet.plane.kubectl(&["certificate", "approve", &request]).unwrap();
    let _signer = signer(&kubelet.plane);
    eventually("the signed certificate in use", || match kubelet.status("/pods", &admin) {
        200 => Ok(()),
        code => Err(format!("{code}: {}", kubelet.plane.log("kubelet.log"))),
    });
    assert_eq!(kubelet.status("/pods", &["--cacert", &ca]), 401, "strangers stay strangers");
    let as_is = [&admin[..], &["--path-as-is"]].concat();
    assert_eq!(kubelet.status("/logs/", &as_is), 200);
    for path in ["/logs/../../etc/passwd", "/logs/%2e%2e/%2e%2e/etc/passwd", "/logs/..%2f..%2fetc%2fpasswd"] {
        assert_ne!(kubelet.status(path, &as_is), 200, "{path} leaves the log directory");
    }
}

/// The controller that signs approved requests.
fn signer(plane: &ControlPlane) -> Process {
    let file = |name: &str| plane.path(name).display().to_string();
    let mut command = Command::new(bin("kube-controller-manager"));
    command.args([
        format!("--kubeconfig={}", file("controller-manager.conf")),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", free_port()),
        "--leader-elect=false".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        "--controllers=certificatesigningrequest-signing-controller".to_owned(),
        format!("--cluster-signing-cert-file={}", file("pki/ca.crt")),
        format!("--cluster-signing-key-file={}", file("pki/ca.key")),
    ]);
    Process::start(&mut command, &plane.path("kcm.log"))
}

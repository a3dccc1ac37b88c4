//! TLS bootstrap: a kubelet that has nothing but a bootstrap token gets its client certificate by a request that the
//! controller manager approves and signs; with another token it is told why not.

use std::process::Command;

use tests::{ControlPlane, Options, Process, bin, eventually, free_port, output};

const TOKEN_ID: &str = "abcdef";
const TOKEN_SECRET: &str = "0123456789abcdef";

/// The secret and the bindings that kubeadm makes too.
const OBJECTS: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: bootstrap-token-abcdef, namespace: kube-system}
type: bootstrap.kubernetes.io/token
stringData: {token-id: abcdef, token-secret: 0123456789abcdef, usage-bootstrap-authentication: "true"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kubelet-bootstrap}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:node-bootstrapper"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: node-autoapprove-bootstrap}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers"}]
"#;

fn controller_manager(plane: &ControlPlane) -> Process {
    let file = |name: &str| plane.path(name).display().to_string();
    let mut command = Command::new(bin("kube-controller-manager"));
    command.args([
        format!("--kubeconfig={}", file("controller-manager.conf")),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", free_port()),
        "--leader-elect=false".to_owned(),
        // the manager's own role may not sign; its controllers' roles may
        "--use-service-account-credentials=true".to_owned(),
        "--controllers=certificatesigningrequest-approving-controller,certificatesigningrequest-signing-controller"
            .to_owned(),
        format!("--cluster-signing-cert-file={}", file("pki/ca.crt")),
        format!("--cluster-signing-key-file={}", file("pki/ca.key")),
    ]);
    Process::start(&mut command, &plane.path("kcm.log"))
}

/// A kubelet that knows only where the cluster is and a token.
fn kubelet(plane: &ControlPlane, name: &str, secret: &str) -> Process {
    let ca = std::fs::read_to_string(plane.path("pki/ca.crt")).unwrap();
    let token = format!("{TOKEN_ID}.{secret}");
    let credentials = pki::kubeconfig::Credentials::Token(&token);
    let text = pki::kubeconfig::render("test", &plane.raw().server, &ca, "kubelet-bootstrap", &credentials);
    let file = |below: &str| plane.path(&format!("{name}-{below}")).display().to_string();
    std::fs::write(file("bootstrap.conf"), text).unwrap();
    let mut command = Command::new(bin("kubelet"));
    command.args([
        format!("--bootstrap-kubeconfig={}", file("bootstrap.conf")),
        format!("--kubeconfig={}", file("kubelet.conf")),
        format!("--cert-dir={}", file("pki")),
        format!("--root-dir={}", file("root")),
        format!("--hostname-override={name}"),
        // what comes after the certificate is not this test's
        format!("--container-runtime-endpoint=unix://{}", file("no-runtime.sock")),
        format!("--port={}", free_port()),
        "--healthz-port=0".to_owned(),
    ]);
    Process::start(&mut command, &plane.path(&format!("{name}.log")))
}

#[test]
fn a_token_becomes_a_node_certificate() {
    let plane = ControlPlane::start(Options::default());
    let objects = plane.path("bootstrap.yaml");
    std::fs::write(&objects, OBJECTS).unwrap();
    plane.kubectl(&["apply", "-f", &objects.display().to_string()]).unwrap();
    let _kcm = controller_manager(&plane);

    let _stranger = kubelet(&plane, "stranger", "fedcba9876543210");
    eventually("the refusal of a wrong token", || {
        let log = plane.log("stranger.log");
        if log.contains("bootstrap token") { Ok(()) } else { Err(log) }
    });
    assert!(!plane.path("stranger-kubelet.conf").exists());

    let _kubelet = kubelet(&plane, "worker-1", TOKEN_SECRET);
    let kubeconfig = plane.path("worker-1-kubelet.conf");
    eventually("the kubelet's kubeconfig", || {
        if kubeconfig.exists() { Ok(()) } else { Err(plane.log("worker-1.log") + &plane.log("kcm.log")) }
    });
    let whoami =
        output(Command::new("kubectl").arg("--kubeconfig").arg(&kubeconfig).args(["auth", "whoami", "-o", "json"]));
    let whoami: serde_json::Value = serde_json::from_str(&whoami.unwrap()).unwrap();
    let user = &whoami["status"]["userInfo"];
    assert_eq!(user["username"], "system:node:worker-1", "{whoami}");
    assert!(user["groups"].as_array().unwrap().contains(&"system:nodes".into()), "{whoami}");
    let requests = plane.kubectl(&["get", "csr", "-o", "jsonpath={.items[*].spec.signerName}"]).unwrap();
    assert_eq!(requests, "kubernetes.io/kube-apiserver-client-kubelet");
}

//! Real clients against a control plane: helm, the Python client, kube-rs.
//!
//! Their programs lie in `tests/clients`; Go, pip and cargo fetch what those need from the package registries and keep it in
//! `target/clients`, so that only the first run pays. `make clients` runs them; they are no part of `make test`, which asks
//! neither for Go nor for Python.

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{ControlPlane, Options, output, run};

const HELM: &str = "helm.sh/helm/v3/cmd/helm@v3.22.0";
const PYTHON_CLIENT: &str = "kubernetes==37.0.2";

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

fn kept(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients");
    std::fs::create_dir_all(&dir).unwrap();
    dir.canonicalize().unwrap().join(name)
}

/// helm, installed as a Go module where the machine has none.
fn helm() -> PathBuf {
    if Command::new("helm").arg("version").output().is_ok_and(|done| done.status.success()) {
        return "helm".into();
    }
    let path = kept("helm");
    if !path.exists() {
        // Outside of any module, so that no go.mod interferes.
        let dir = path.parent().unwrap();
        run(Command::new("go")
            .args(["install", "-trimpath", HELM])
            .env("GOBIN", dir)
            .env("CGO_ENABLED", "0")
            .current_dir("/"));
    }
    path
}

#[test]
#[ignore = "needs Go and its module proxy: make clients"]
fn helm_installs_upgrades_rolls_back_and_uninstalls() {
    let helm_path = helm();
    let plane = ControlPlane::start(Options::default());
    let chart = programs().join("chart").display().to_string();
    let helm = |line: &str| {
        let words = line.split_whitespace().map(|word| if word == "CHART" { chart.as_str() } else { word });
        output(Command::new(&helm_path).args(words).env("KUBECONFIG", plane.kubeconfig()))
    };
    let text = || plane.kubectl(&["get", "configmap", "one", "-o", "jsonpath={.data.text}"]).unwrap();
    helm("install one CHART").unwrap();
    assert_eq!(text(), "one");
    helm("upgrade one CHART --set text=two").unwrap();
    assert_eq!(text(), "two");
    helm("rollback one 1").unwrap();
    assert_eq!(text(), "one");
    let history = helm("history one -o json").unwrap();
    assert!(history.contains("Rollback to 1") && history.contains("\"revision\":3"), "{history}");
    // Asks for OpenAPI 2 in protobuf, since no document of version 3 knows the kind.
    let why = helm("install two CHART --set unknownKind=Nonsense").unwrap_err();
    assert!(why.contains("no matches for kind \"Nonsense\" in version \"v1\""), "{why}");
    helm("uninstall one").unwrap();
    let left = plane.kubectl(&["get", "configmap,service,deployment,role,secret", "-o", "name"]).unwrap();
    assert_eq!(left.trim(), "service/kubernetes");
}

#[test]
#[ignore = "needs Python and PyPI: make clients"]
fn the_python_client_patches_watches_and_deletes() {
    let venv = kept("python");
    let python = venv.join("bin/python");
    if !venv.join("installed").exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", PYTHON_CLIENT]));
        std::fs::write(venv.join("installed"), PYTHON_CLIENT).unwrap();
    }
    let plane = ControlPlane::start(Options::default());
    run(Command::new(python).arg(programs().join("client.py")).arg(plane.kubeconfig()));
}

#[test]
#[ignore = "builds kube-rs: make clients"]
fn a_program_on_kube_rs_works() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let target = kept("kube-rs");
    let manifest = programs().join("kube-rs/Cargo.toml");
    run(Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(manifest)
        .env("CARGO_TARGET_DIR", &target));
    let plane = ControlPlane::start(Options::default());
    run(Command::new(target.join("debug/kube-rs-client")).env("KUBECONFIG", plane.kubeconfig()));
}

//! Bad input: each mistake gives one clear line that names the thing and the remedy, and exit status 1.

use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use tests::{ControlPlane, Options, Process, bin, eventually, free_port};

/// How long a daemon may try before it gives up on something it cannot have.
const GIVE_UP: Duration = Duration::from_secs(90);

struct Mistake {
    what: &'static str,
    daemon: &'static str,
    flags: Vec<String>,
    /// Whether the daemon ends; otherwise it goes on with a warning, as upstream does.
    ends: bool,
    /// All of these must be in what it says.
    says: Vec<String>,
}

fn replace(flags: &[String], flag: &str, value: &str) -> Vec<String> {
    let name = format!("--{flag}=");
    let mut out: Vec<String> = flags.iter().filter(|f| !f.starts_with(&name)).cloned().collect();
    out.push(format!("{name}{value}"));
    out
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn api_server(plane: &ControlPlane, expired: &str) -> Vec<Mistake> {
    let good = plane.api_flags();
    let pki = |file: &str| plane.path("pki").join(file).display().to_string();
    let missing = pki("nowhere.crt");
    let mistake =
        |what, flags, says: &[&str]| Mistake { what, daemon: "kube-apiserver", flags, ends: true, says: owned(says) };
    let nobody = format!("https://127.0.0.1:{}", free_port());
    let port = free_port().to_string();
    let alone = replace(&good, "secure-port", &port);
    vec![
        mistake("unknown flag", replace(&alone, "etcd-server", "x"), &["--etcd-server", "--etcd-servers"]),
        mistake("missing certificate", replace(&alone, "tls-cert-file", &missing), &[&missing, "tls-cert-file"]),
        // served all the same, as upstream does: clients that skip verification are still answered
        Mistake {
            ends: false,
            ..mistake(
                "expired certificate",
                replace(&alone, "tls-cert-file", expired),
                &["expired.crt", "expired", "renew"],
            )
        },
        mistake(
            "unreachable etcd",
            replace(&replace(&alone, "etcd-servers", &nobody), "storage-initialization-timeout", "2s"),
            &[&nobody, "--etcd-servers"],
        ),
        mistake("wrong CA of etcd", replace(&alone, "etcd-cafile", &pki("ca.crt")), &["etcd", "--etcd-cafile"]),
        mistake("port in use", good.clone(), &["in use", "--secure-port"]),
        mistake(
            "bad address range",
            replace(&alone, "service-cluster-ip-range", "10.0.0.0"),
            &["service-cluster-ip-range", "10.0.0.0"],
        ),
    ]
}

fn others(plane: &ControlPlane) -> Vec<Mistake> {
    let file = |name: &str, text: &str| {
        let path = plane.path(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let malformed = file(
        "malformed.yaml",
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: many\n",
    );
    let proxy =
        file("proxy.yaml", "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: [\n");
    let nowhere = plane.path("nowhere.conf").display().to_string();
    let stranger = file("stranger.conf", &signed_by_a_stranger(plane));
    let mistake = |what, daemon, flags: &[&str], says: &[&str]| Mistake {
        what,
        daemon,
        flags: owned(flags),
        ends: true,
        says: owned(says),
    };
    vec![
        mistake(
            // a misspelt field is one warning, as upstream reads v1beta1 leniently; a value of the wrong type ends it
            "wrong type of a field",
            "kubelet",
            &[&format!("--config={malformed}")],
            &["malformed.yaml", "maxPods"],
        ),
        mistake("malformed file", "kube-proxy", &[&format!("--config={proxy}")], &["proxy.yaml"]),
        mistake("no kubeconfig", "kube-scheduler", &[&format!("--kubeconfig={nowhere}")], &["nowhere.conf"]),
        // goes on trying: the file may be corrected
        Mistake {
            ends: false,
            ..mistake(
                "wrong CA of the API server",
                "kube-scheduler",
                &[
                    &format!("--kubeconfig={stranger}"),
                    "--leader-elect=false",
                    "--bind-address=127.0.0.1",
                    &format!("--secure-port={}", free_port()),
                ],
                &["not signed by an authority", "wrong CA"],
            )
        },
        mistake(
            "no such controller",
            "kube-controller-manager",
            &["--controllers=deploymentt", &format!("--kubeconfig={}", plane.kubeconfig().display())],
            &["deploymentt"],
        ),
        mistake("unknown flag", "kubelet", &["--no-such-thing"], &["no-such-thing"]),
    ]
}

/// The scheduler's kubeconfig with etcd's authority in place of the cluster's.
fn signed_by_a_stranger(plane: &ControlPlane) -> String {
    let read = |file: &str| std::fs::read_to_string(plane.path(file)).unwrap();
    let data = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    read("scheduler.conf").replace(&data(&read("pki/ca.crt")), &data(&read("pki/etcd/ca.crt")))
}

/// An expired copy of the API server's certificate with its own key's request signed for a past year.
fn expired_certificate(plane: &ControlPlane) -> String {
    let read = |file: &str| std::fs::read_to_string(plane.path("pki").join(file)).unwrap();
    let then: jiff::Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
    let day = Duration::from_secs(86_400);
    let (old, _) = pki::authority::Authority::generate("old-ca", pki::key::Algorithm::EcdsaP256, day, then).unwrap();
    let key = pki::key::PrivateKey::from_pem(&read("apiserver.key"), "key").unwrap();
    let policy = pki::authority::Policy { usages: vec![pki::authority::Usage::ServerAuth], lifetime: day };
    let subject = pki::csr::Subject::new("kube-apiserver", &[]);
    let cert = old.issue(&key, &subject, &pki::csr::AltNames::default(), &policy, then).unwrap();
    let path = plane.path("pki/expired.crt");
    std::fs::write(&path, cert).unwrap();
    path.display().to_string()
}

#[test]
fn mistakes_are_named_with_their_remedy() {
    let plane = ControlPlane::start(Options::default());
    let expired = expired_certificate(&plane);
    let mut wrong = Vec::new();
    for (number, mistake) in api_server(&plane, &expired).into_iter().chain(others(&plane)).enumerate() {
        let log = plane.path(&format!("mistake-{number}.log"));
        let mut process = Process::start(Command::new(bin(mistake.daemon)).args(&mistake.flags), &log);
        let missing = || {
            let said = std::fs::read_to_string(&log).unwrap();
            mistake.says.iter().filter(|part| !said.contains(part.as_str())).cloned().collect::<Vec<String>>()
        };
        let code = if mistake.ends {
            process.wait(GIVE_UP)
        } else {
            eventually(mistake.what, || if missing().is_empty() { Ok(()) } else { Err(format!("{:?}", missing())) });
            Some(1)
        };
        let (said, missing) = (std::fs::read_to_string(&log).unwrap(), missing());
        println!("{} ({}): exit {code:?}\n    {}", mistake.what, mistake.daemon, said.trim().replace('\n', "\n    "));
        if code != Some(1) || !missing.is_empty() {
            wrong.push(format!("{} of {}: exit {code:?}, does not say {missing:?}", mistake.what, mistake.daemon));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

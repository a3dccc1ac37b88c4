//! Every process of a one-machine cluster, as data: its command line, what it waits for, how it is known to be ready.
//!
//! Pure: from a [`Cluster`] to a list of [`Unit`]s in starting order. Each daemon is started with upstream's flags alone.

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;

/// One supervised process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Short name: of the log, the pid file, the systemd unit.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// When it counts as started.
    pub ready: Ready,
}

/// How a unit is known to be ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ready {
    /// A TCP port on 127.0.0.1 accepts.
    Port(u16),
    /// A unix socket accepts.
    Socket(String),
    /// The API server's /readyz says ok.
    ApiServer,
    /// The node object's Ready condition is True.
    Node,
}

/// All units in starting order.
pub fn all(cluster: &Cluster) -> Vec<Unit> {
    vec![
        etcd(cluster),
        containerd(cluster),
        api_server(cluster),
        controller_manager(cluster),
        scheduler(cluster),
        proxy(cluster),
        kubelet(cluster),
    ]
}

fn unit(name: &str, description: &str, program: String, flags: &[String], ready: Ready) -> Unit {
    let command = std::iter::once(program).chain(flags.iter().cloned()).collect();
    Unit { name: name.to_owned(), description: description.to_owned(), command, ready }
}

fn ours(cluster: &Cluster, name: &str, description: &str, flags: &[String], ready: Ready) -> Unit {
    unit(name, description, cluster.bin_dir.join(name).display().to_string(), flags, ready)
}

fn etcd(cluster: &Cluster) -> Unit {
    let (client, peer) = (cluster.ports.etcd, cluster.ports.etcd_peer);
    let flags = [
        "--name=hardway".to_owned(),
        format!("--data-dir={}", cluster.path("etcd").display()),
        format!("--listen-client-urls=https://127.0.0.1:{client}"),
        format!("--advertise-client-urls=https://127.0.0.1:{client}"),
        format!("--listen-peer-urls=https://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=https://127.0.0.1:{peer}"),
        format!("--initial-cluster=hardway=https://127.0.0.1:{peer}"),
        format!("--cert-file={}", cluster.pki("etcd/server.crt")),
        format!("--key-file={}", cluster.pki("etcd/server.key")),
        "--client-cert-auth".to_owned(),
        format!("--trusted-ca-file={}", cluster.pki("etcd/ca.crt")),
        format!("--peer-cert-file={}", cluster.pki("etcd/peer.crt")),
        format!("--peer-key-file={}", cluster.pki("etcd/peer.key")),
        "--peer-client-cert-auth".to_owned(),
        format!("--peer-trusted-ca-file={}", cluster.pki("etcd/ca.crt")),
        "--quota-backend-bytes=8589934592".to_owned(),
        "--auto-compaction-retention=5m".to_owned(),
        "--log-level=warn".to_owned(),
        "--logger=zap".to_owned(),
    ];
    unit("etcd", "etcd, the cluster's store", "etcd".to_owned(), &flags, Ready::Port(client))
}

fn containerd(cluster: &Cluster) -> Unit {
    let flags = [format!("--config={}", cluster.path("containerd/config.toml").display())];
    let ready = Ready::Socket(cluster.runtime_socket().display().to_string());
    unit("containerd", "containerd, the container runtime", "containerd".to_owned(), &flags, ready)
}

fn api_server(cluster: &Cluster) -> Unit {
    let pki = |flag: &str, file: &str| format!("--{flag}={}", cluster.pki(file));
    let flags = [
        format!("--advertise-address={}", cluster.node_ip),
        format!("--secure-port={}", cluster.ports.api),
        format!("--etcd-servers=https://127.0.0.1:{}", cluster.ports.etcd),
        pki("etcd-cafile", "etcd/ca.crt"),
        pki("etcd-certfile", "apiserver-etcd-client.crt"),
        pki("etcd-keyfile", "apiserver-etcd-client.key"),
        pki("client-ca-file", "ca.crt"),
        pki("tls-cert-file", "apiserver.crt"),
        pki("tls-private-key-file", "apiserver.key"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--enable-bootstrap-token-auth=true".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--service-cluster-ip-range={}", cluster.service_cidr),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        pki("service-account-key-file", "sa.pub"),
        pki("service-account-signing-key-file", "sa.key"),
        pki("kubelet-certificate-authority", "ca.crt"),
        pki("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
        pki("kubelet-client-key", "apiserver-kubelet-client.key"),
        "--kubelet-preferred-address-types=InternalIP,Hostname".to_owned(),
        pki("requestheader-client-ca-file", "front-proxy-ca.crt"),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        pki("proxy-client-cert-file", "front-proxy-client.crt"),
        pki("proxy-client-key-file", "front-proxy-client.key"),
    ];
    ours(cluster, "kube-apiserver", "Kubernetes API server", &flags, Ready::ApiServer)
}

fn controller_manager(cluster: &Cluster) -> Unit {
    let pki = |flag: &str, file: &str| format!("--{flag}={}", cluster.pki(file));
    let conf = cluster.path("controller-manager.conf").display().to_string();
    let flags = [
        format!("--kubeconfig={conf}"),
        format!("--authentication-kubeconfig={conf}"),
        format!("--authorization-kubeconfig={conf}"),
        "--bind-address=127.0.0.1".to_owned(),
        pki("tls-cert-file", "controller-manager-serving.crt"),
        pki("tls-private-key-file", "controller-manager-serving.key"),
        "--leader-elect=true".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        "--controllers=*".to_owned(),
        pki("root-ca-file", "ca.crt"),
        pki("service-account-private-key-file", "sa.key"),
        pki("cluster-signing-cert-file", "ca.crt"),
        pki("cluster-signing-key-file", "ca.key"),
        "--allocate-node-cidrs=true".to_owned(),
        format!("--cluster-cidr={}", cluster.pod_cidr),
        format!("--service-cluster-ip-range={}", cluster.service_cidr),
    ];
    ours(cluster, "kube-controller-manager", "Kubernetes controllers", &flags, Ready::Port(10257))
}

fn scheduler(cluster: &Cluster) -> Unit {
    let conf = cluster.path("scheduler.conf").display().to_string();
    let flags = [
        format!("--kubeconfig={conf}"),
        format!("--authentication-kubeconfig={conf}"),
        format!("--authorization-kubeconfig={conf}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--tls-cert-file={}", cluster.pki("scheduler-serving.crt")),
        format!("--tls-private-key-file={}", cluster.pki("scheduler-serving.key")),
        "--leader-elect=true".to_owned(),
    ];
    ours(cluster, "kube-scheduler", "Kubernetes scheduler", &flags, Ready::Port(10259))
}

fn proxy(cluster: &Cluster) -> Unit {
    let flags = [format!("--config={}", cluster.path("kube-proxy.yaml").display())];
    ours(cluster, "kube-proxy", "Kubernetes service proxy", &flags, Ready::Port(10256))
}

fn kubelet(cluster: &Cluster) -> Unit {
    let flags = [
        format!("--config={}", cluster.path("kubelet.yaml").display()),
        format!("--kubeconfig={}", cluster.path(&format!("kubelet-{}.conf", cluster.node)).display()),
        format!("--root-dir={}", cluster.path("kubelet").display()),
        format!("--hostname-override={}", cluster.node),
        format!("--node-ip={}", cluster.node_ip),
    ];
    ours(cluster, "kubelet", "Kubernetes node agent", &flags, Ready::Node)
}

//! Every certificate of a cluster, as data: who it names, who signs it, what it is for, where it lies.
//!
//! The layout is kubeadm's (`/etc/kubernetes/pki`), so that its documents and tools apply.

use std::net::IpAddr;
use std::time::Duration;

use crate::authority::{Policy, Usage};
use crate::csr::{AltNames, Subject};

const DAY: Duration = Duration::from_secs(86_400);

/// Lifetime of authorities.
pub const CA_LIFETIME: Duration = DAY.saturating_mul(3650);
/// Lifetime of leaves.
pub const LEAF_LIFETIME: Duration = DAY.saturating_mul(365);

/// Which authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ca {
    /// The cluster's: API server, kubelets, users.
    Cluster,
    /// etcd's own.
    Etcd,
    /// The aggregation layer's.
    FrontProxy,
}

impl Ca {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cluster, Self::Etcd, Self::FrontProxy];

    /// Common name of its certificate.
    pub fn common_name(self) -> &'static str {
        match self {
            Self::Cluster => "kubernetes",
            Self::Etcd => "etcd-ca",
            Self::FrontProxy => "front-proxy-ca",
        }
    }

    /// File name without `.crt`/`.key`.
    pub fn file(self) -> &'static str {
        match self {
            Self::Cluster => "ca",
            Self::Etcd => "etcd/ca",
            Self::FrontProxy => "front-proxy-ca",
        }
    }
}

/// One leaf.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// File name without `.crt`/`.key`.
    pub file: String,
    /// Who signs.
    pub ca: Ca,
    /// Whom it names.
    pub subject: Subject,
    /// Under which names (servers only).
    pub names: AltNames,
    /// What for.
    pub policy: Policy,
    /// Where to also write a kubeconfig with it, relative to the directory of the kubeconfigs.
    pub kubeconfig: Option<String>,
}

/// What a cluster's certificates depend on.
#[derive(Clone, Debug)]
pub struct ClusterNames {
    /// DNS domain, e.g. `cluster.local`.
    pub domain: String,
    /// First address of the service range: the `kubernetes` Service.
    pub service_ip: IpAddr,
    /// Further names of the API server (load balancer, host names).
    pub api_names: Vec<String>,
    /// Addresses of the API server's hosts.
    pub api_ips: Vec<IpAddr>,
    /// Addresses of etcd's hosts.
    pub etcd_ips: Vec<IpAddr>,
    /// Names of nodes whose kubelets get certificates directly.
    pub nodes: Vec<(String, Vec<IpAddr>)>,
}

fn leaf(file: &str, ca: Ca, subject: Subject, names: AltNames, purposes: &[Usage]) -> Leaf {
    let mut usages = vec![Usage::DigitalSignature, Usage::KeyEncipherment];
    usages.extend_from_slice(purposes);
    let policy = Policy { usages, lifetime: LEAF_LIFETIME };
    Leaf { file: file.to_owned(), ca, subject, names, policy, kubeconfig: None }
}

fn user(file: &str, name: &str, groups: &[&str]) -> Leaf {
    let mut made = leaf(file, Ca::Cluster, Subject::new(name, groups), AltNames::default(), &[Usage::ClientAuth]);
    made.kubeconfig = Some(format!("{file}.conf"));
    made
}

/// All leaves of a cluster.
pub fn cluster(names: &ClusterNames) -> Vec<Leaf> {
    use Usage::{ClientAuth, ServerAuth};
    let none = AltNames::default;
    let local: [IpAddr; 2] = [[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
    let mut api_dns: Vec<String> =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).to_vec();
    api_dns.push(format!("kubernetes.default.svc.{}", names.domain));
    api_dns.extend(names.api_names.iter().cloned());
    let api_ips = local.into_iter().chain([names.service_ip]).chain(names.api_ips.iter().copied());
    let etcd = || AltNames::new(["localhost"], local.into_iter().chain(names.etcd_ips.iter().copied()));
    let masters = |name: &str| Subject::new(name, &["system:masters"]);
    let named = |name: &str| Subject::new(name, &[]);
    let mut out = vec![
        leaf("etcd/server", Ca::Etcd, named("etcd-server"), etcd(), &[ServerAuth, ClientAuth]),
        leaf("etcd/peer", Ca::Etcd, named("etcd-peer"), etcd(), &[ServerAuth, ClientAuth]),
        leaf("etcd/healthcheck-client", Ca::Etcd, named("kube-etcd-healthcheck-client"), none(), &[ClientAuth]),
        leaf("apiserver-etcd-client", Ca::Etcd, named("kube-apiserver-etcd-client"), none(), &[ClientAuth]),
        leaf("apiserver", Ca::Cluster, named("kube-apiserver"), AltNames::new(api_dns, api_ips), &[ServerAuth]),
        leaf("apiserver-kubelet-client", Ca::Cluster, masters("kube-apiserver-kubelet-client"), none(), &[ClientAuth]),
        leaf("front-proxy-client", Ca::FrontProxy, named("front-proxy-client"), none(), &[ClientAuth]),
        user("admin", "kubernetes-admin", &["system:masters"]),
        user("controller-manager", "system:kube-controller-manager", &[]),
        user("scheduler", "system:kube-scheduler", &[]),
        user("kube-proxy", "system:kube-proxy", &[]),
    ];
    for (file, name) in
        [("controller-manager-serving", "kube-controller-manager"), ("scheduler-serving", "kube-scheduler")]
    {
        out.push(leaf(file, Ca::Cluster, named(name), AltNames::new(["localhost"], local), &[ServerAuth]));
    }
    for (node, ips) in &names.nodes {
        let subject = Subject::new(format!("system:node:{node}"), &["system:nodes"]);
        let mut made = leaf("kubelet", Ca::Cluster, subject, none(), &[ClientAuth]);
        made.file = format!("kubelet-{node}");
        made.kubeconfig = Some(format!("kubelet-{node}.conf"));
        out.push(made);
        let serving = AltNames::new([node.clone()], ips.iter().copied());
        let subject = Subject::new(format!("system:node:{node}"), &["system:nodes"]);
        let mut made = leaf("", Ca::Cluster, subject, serving, &[ServerAuth]);
        made.file = format!("kubelet-{node}-serving");
        out.push(made);
    }
    out
}

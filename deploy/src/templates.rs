//! Configuration files of the node's parts, rendered from a [`Cluster`]. Pure: path and text.

use std::path::PathBuf;

use serde_json::json;

use crate::cluster::{BRIDGE, CGROUP_ROOT, Cluster, PAUSE_IMAGE};

/// All files to be written before the units start.
pub fn all(cluster: &Cluster) -> Vec<(PathBuf, String)> {
    vec![
        (cluster.path("containerd/config.toml"), containerd(cluster)),
        (cluster.path("cni/net.d/10-hardway.conflist"), cni(cluster)),
        (cluster.path("kubelet.yaml"), kubelet(cluster)),
        (cluster.path("kube-proxy.yaml"), proxy(cluster)),
        (cluster.path("resolv.conf"), "# pods get this when they ask for the node's DNS\n".to_owned()),
    ]
}

fn containerd(cluster: &Cluster) -> String {
    let dir = cluster.path("containerd");
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # hosts without CAP_SYS_RESOURCE or AppArmor run pods too
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{cni_conf}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#,
        cni_bin = cluster.cni_bin_dir.display(),
        cni_conf = cluster.path("cni/net.d").display(),
    )
}

fn cni(cluster: &Cluster) -> String {
    let config = json!({
        "cniVersion": "0.4.0",
        "name": "hardway",
        "plugins": [
            {"type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true, "hairpinMode": true,
             "ipam": {"type": "host-local", "dataDir": cluster.path("cni/ipam"),
                      "ranges": [[{"subnet": cluster.pod_cidr}]], "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    format!("{config:#}\n")
}

fn kubelet(cluster: &Cluster) -> String {
    let serving = |ext: &str| cluster.pki(&format!("kubelet-{}-serving.{ext}", cluster.node));
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": cluster.pki("ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": serving("crt"),
        "tlsPrivateKeyFile": serving("key"),
        "clusterDomain": "cluster.local",
        "clusterDNS": [cluster.dns_ip],
        "containerRuntimeEndpoint": format!("unix://{}", cluster.runtime_socket().display()),
        "resolvConf": cluster.path("resolv.conf"),
        "staticPodPath": cluster.path("manifests"),
        "podLogsDir": cluster.path("logs/pods"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": CGROUP_ROOT,
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        // a machine that is also used for other things may have a fuller disk than a dedicated node
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "2%", "imagefs.available": "2%",
            "nodefs.inodesFree": "2%"},
        // and images that were loaded by hand cannot be pulled again
        "imageGCHighThresholdPercent": 100,
    });
    format!("{config:#}\n")
}

fn proxy(cluster: &Cluster) -> String {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": cluster.path("kube-proxy.conf")},
        "mode": "iptables",
        "clusterCIDR": cluster.pod_cidr,
        "hostnameOverride": cluster.node,
        "oomScoreAdj": 0,
        // the machine's connection tracking limits are its owner's
        "conntrack": {"maxPerCore": 0, "min": 0},
    });
    format!("{config:#}\n")
}

//! Names inside a pod: host name, `/etc/hosts`, and the DNS settings of its sandbox. Pure.

use std::path::{Path, PathBuf};

use super::types::Pod;
use crate::cri::api;
use crate::volumes::pod_dir;

/// Longest host name the kernel and DNS take, in bytes.
const MAX_HOSTNAME_BYTES: usize = 63;
/// Most search domains and name servers, as the API validates.
const MAX_SEARCHES: usize = 32;
const MAX_SERVERS: usize = 3;

/// The cluster's DNS as the kubelet is configured.
#[derive(Debug, Clone, Default)]
pub struct ClusterDns {
    pub servers: Vec<String>,
    pub domain: String,
}

/// Host name and, when the pod has a subdomain, its full domain (without the host name).
pub fn host_name(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    if let Some(name) = &pod.spec.hostname_override {
        return (name.clone(), None);
    }
    let name = pod.spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or_else(|| pod.name());
    let mut name = name.to_owned();
    name.truncate(MAX_HOSTNAME_BYTES);
    let name = name.trim_end_matches(['-', '.']).to_owned();
    let subdomain = pod.spec.subdomain.as_deref().filter(|s| !s.is_empty());
    let domain = subdomain.map(|s| format!("{s}.{}.svc.{cluster_domain}", pod.namespace()));
    match domain {
        Some(domain) if pod.spec.set_hostname_as_fqdn == Some(true) => (format!("{name}.{domain}"), Some(domain)),
        domain => (name, domain),
    }
}

/// Where a pod's hosts file is kept.
pub fn hosts_path(root: &Path, uid: &str) -> PathBuf {
    pod_dir(root, uid).join("etc-hosts")
}

/// The text of the pod's hosts file; `node_hosts` is the node's own, for pods in its network.
pub fn hosts_file(pod: &Pod, cluster_domain: &str, pod_ips: &[String], node_hosts: &str) -> String {
    let mut text = String::new();
    if pod.host_network() {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(node_hosts);
    } else {
        text.push_str("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n");
        text.push_str("::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n");
        text.push_str("fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        let (name, domain) = host_name(pod, cluster_domain);
        let short = name.split('.').next().unwrap_or_default();
        for ip in pod_ips {
            match &domain {
                Some(domain) => text.push_str(&format!("{ip}\t{short}.{domain}\t{short}\n")),
                None => text.push_str(&format!("{ip}\t{name}\n")),
            }
        }
    }
    let aliases = pod.spec.host_aliases.iter().flatten();
    let lines: Vec<String> = aliases
        .map(|a| format!("{}\t{}\n", a.ip, a.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")))
        .collect();
    if !lines.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        text.push_str(&lines.concat());
    }
    text
}

/// Parses a resolv.conf; comments and unknown lines are skipped.
pub fn parse_resolv_conf(text: &str) -> api::DnsConfig {
    let mut config = api::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => config.servers.extend(words.next()),
            Some("search") => config.searches = words.filter(|w| w != ".").collect(),
            Some("options") => config.options.extend(words),
            _ => {}
        }
    }
    config
}

/// The DNS settings of a pod's sandbox by its policy; `host` is the node's resolv.conf.
pub fn dns_config(pod: &Pod, cluster: &ClusterDns, host: &api::DnsConfig) -> api::DnsConfig {
    let policy = pod.spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let in_cluster = match policy {
        "ClusterFirst" => !pod.host_network(),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut config = if policy == "None" {
        api::DnsConfig::default()
    } else if in_cluster && !cluster.servers.is_empty() {
        let domain = &cluster.domain;
        let mut searches = Vec::new();
        if !domain.is_empty() {
            searches = vec![format!("{}.svc.{domain}", pod.namespace()), format!("svc.{domain}"), domain.clone()];
        }
        searches.extend(host.searches.iter().cloned());
        api::DnsConfig { servers: cluster.servers.clone(), searches, options: vec!["ndots:5".into()] }
    } else {
        host.clone()
    };
    if let Some(extra) = &pod.spec.dns_config {
        config.servers.extend(extra.nameservers.iter().flatten().cloned());
        config.searches.extend(extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            config.options.retain(|o| o.split(':').next() != Some(name.as_str()));
            config.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name,
            });
        }
    }
    unique(&mut config.servers, MAX_SERVERS);
    unique(&mut config.searches, MAX_SEARCHES);
    config
}

fn unique(list: &mut Vec<String>, max: usize) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
    list.truncate(max);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::types::tests::pod;
    use serde_json::json;

    #[test]
    fn names() {
        let plain = pod(json!({"metadata": {"name": "web-1", "namespace": "n"}, "spec": {"containers": []}}));
        assert_eq!(host_name(&plain, "c.l"), ("web-1".into(), None));
        let sub = pod(json!({"metadata": {"name": "web-1", "namespace": "n"},
            "spec": {"containers": [], "hostname": "h", "subdomain": "s",
                "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}}));
        assert_eq!(host_name(&sub, "c.l"), ("h".into(), Some("s.n.svc.c.l".into())));
        let text = hosts_file(&sub, "c.l", &["10.0.0.2".into()], "");
        assert!(text.contains("\n10.0.0.2\th.s.n.svc.c.l\th\n"));
        assert!(text.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
    }

    #[test]
    fn dns_policies() {
        let host = parse_resolv_conf("# c\nnameserver 8.8.8.8\nsearch corp.example\noptions timeout:1\n");
        let cluster = ClusterDns { servers: vec!["10.0.0.10".into()], domain: "cluster.local".into() };
        let config = |spec: serde_json::Value| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            dns_config(&pod(json!({"metadata": {"namespace": "n"}, "spec": spec})), &cluster, &host)
        };
        let first = config(json!({}));
        assert_eq!(first.servers, ["10.0.0.10"]);
        assert_eq!(first.searches, ["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]);
        assert_eq!(first.options, ["ndots:5"]);
        assert_eq!(config(json!({"hostNetwork": true})).servers, ["8.8.8.8"]);
        assert_eq!(config(json!({"dnsPolicy": "Default"})).options, ["timeout:1"]);
        let own = config(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}));
        assert_eq!((own.servers, own.options), (vec!["1.1.1.1".to_owned()], vec!["ndots:2".into(), "edns0".into()]));
    }
}

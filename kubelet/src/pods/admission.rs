//! Pod admission on the node: the last look before a pod is started. Pure.
//!
//! The scheduler decided with its picture of the cluster; here the node decides with its own. Reasons are upstream's, so
//! that controllers recognise them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Toleration};

use super::resources::{Amounts, pod_requests, qos_class};
use super::sandbox::sysctl_name;
use super::types::Pod;
use crate::node::manager::Pressure;

/// What the node offers.
#[derive(Debug, Clone, Default)]
pub struct NodeView {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub allocatable: Amounts,
    /// Unsafe sysctls that pods may set; a trailing `*` matches the rest.
    pub unsafe_sysctls: Vec<String>,
}

/// Sysctls that are confined to the pod's namespaces and harm nobody else.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
];

/// A sysctl that the pod may not set: an unsafe one, or one of a namespace that the pod shares with the node.
fn forbidden_sysctl(pod: &Pod, allowed: &[String]) -> Option<String> {
    let wanted = pod.spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten());
    let fits = |name: &str, pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    let forbidden = |name: &String| {
        let shared = (name.starts_with("net.") && pod.host_network())
            || (name.starts_with("kernel.") && pod.spec.host_ipc == Some(true));
        let safe = SAFE_SYSCTLS.contains(&name.as_str()) || allowed.iter().any(|p| fits(name, p));
        shared || !safe
    };
    wanted.map(|s| sysctl_name(&s.name)).find(forbidden)
}

/// A refusal: (reason, message) of the Failed pod.
pub type Refusal = (String, String);

/// Whether the pod may start beside the others; `node` is none until the API has told of it.
///
/// # Errors
/// Why not.
pub fn admit<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod> + Clone,
    node: &NodeView,
    labels_known: bool,
) -> Result<(), Refusal> {
    let refuse = |reason: &str, message: String| Err((reason.to_owned(), format!("Pod was rejected: {message}")));
    if let Some(os) = pod.spec.os.as_ref().map(|os| os.name.as_str()).filter(|os| *os != "linux") {
        return refuse(
            "PodOSNotSupported",
            format!("Failed to admit pod as the OS field doesn't match node OS (pod: {os}, node: linux)"),
        );
    }
    if let Some(os) = pod.spec.node_selector.iter().flatten().find(|(k, v)| *k == "kubernetes.io/os" && *v != "linux") {
        let message =
            format!("Failed to admit pod as the `kubernetes.io/os` label doesn't match node label ({})", os.1);
        return refuse("PodOSSelectorNodeLabelDoesNotMatch", message);
    }
    if let Some(what) = unsupported(pod) {
        return refuse("UnexpectedAdmissionError", format!("{what} are not supported by this kubelet"));
    }
    if labels_known && !node_matches(pod, node) {
        let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return refuse("NodeAffinity", message.to_owned());
    }
    if let Some(name) = forbidden_sysctl(pod, &node.unsafe_sysctls) {
        return refuse("SysctlForbidden", format!("forbidden sysctl: \"{name}\" not allowlisted"));
    }
    if let Some(port) = taken_port(pod, others.clone()) {
        let message = format!("Predicate NodePorts failed: host port {port} is in use");
        return refuse("NodePorts", message);
    }
    match lacking(pod, others, &node.allocatable) {
        Some((name, message)) => refuse(&format!("OutOf{name}"), message),
        None => Ok(()),
    }
}

/// Whether the pod may start while the node is short of something: critical ones always, others only while it is memory
/// and they asked for some of it (or tolerate the pressure).
///
/// # Errors
/// `Evicted` and the node's conditions.
pub fn under_pressure(pod: &Pod, pressure: Pressure) -> Result<(), Refusal> {
    let only_memory = !pressure.disk && !pressure.pid;
    let tolerates = || {
        let fits = |t: &Toleration| {
            let key = t.key.as_deref().is_none_or(|k| k.is_empty() || k == "node.kubernetes.io/memory-pressure");
            key && t.effect.as_deref().is_none_or(|e| e.is_empty() || e == "NoSchedule")
        };
        pod.spec.tolerations.iter().flatten().any(fits)
    };
    if pod.is_critical() || (only_memory && (!pressure.memory || qos_class(&pod.spec) != "BestEffort" || tolerates())) {
        return Ok(());
    }
    let all = [("MemoryPressure", pressure.memory), ("DiskPressure", pressure.disk), ("PIDPressure", pressure.pid)];
    let on: Vec<&str> = all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
    Err(("Evicted".to_owned(), format!("Pod was rejected: The node had condition: [{}]. ", on.join(" "))))
}

/// A resource that the pod would not find.
struct Need {
    name: String,
    wanted: i64,
    used: i64,
    capacity: i64,
}

/// The resources that the pod would not find beside the others; places for pods first.
fn needs<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod>, allocatable: &Amounts) -> Vec<Need> {
    let mut used = Amounts::new();
    for other in others {
        *used.entry("pods".to_owned()).or_default() += 1;
        for (name, amount) in pod_requests(&other.spec) {
            *used.entry(name).or_default() += amount;
        }
    }
    let need = |(name, wanted): (String, i64)| {
        let used = used.get(&name).copied().unwrap_or(0);
        // A resource that the node does not list is the scheduler's business, except the node's own.
        let otherwise = (!name.contains('/')).then_some(if name == "pods" { i64::MAX } else { 0 });
        let capacity = allocatable.get(&name).copied().or(otherwise)?;
        (wanted > 0 && used + wanted > capacity).then_some(Need { name, wanted, used, capacity })
    };
    let place = std::iter::once(("pods".to_owned(), 1));
    place.chain(pod_requests(&pod.spec)).filter_map(need).collect()
}

/// The first resource that the pod would not find beside the others, and a message about it.
pub fn lacking<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod>,
    allocatable: &Amounts,
) -> Option<(String, String)> {
    needs(pod, others, allocatable).into_iter().next().map(|Need { name, wanted, used, capacity }| {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
        );
        (name, message)
    })
}

/// How much of each resource the pod would not find beside the others.
pub fn shortage<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod>, allocatable: &Amounts) -> Amounts {
    needs(pod, others, allocatable).into_iter().map(|n| (n.name, n.used + n.wanted - n.capacity)).collect()
}

/// What the pod asks for that this kubelet cannot give, where running it without would be less than was asked for.
fn unsupported(pod: &Pod) -> Option<&'static str> {
    if pod.spec.host_users == Some(false) && !pod.host_network() {
        return Some("user namespaces (hostUsers: false)");
    }
    if pod.spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) {
        return Some("resource claims");
    }
    None
}

/// A host port that the pod wants and another has.
fn taken_port<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod>) -> Option<i32> {
    let ports = |p: &Pod| -> Vec<(String, i32, String)> {
        let all = p.containers().flat_map(|(_, c)| c.ports.iter().flatten());
        let used = all.filter(|c| c.host_port.is_some_and(|h| h > 0));
        used.map(|c| {
            let ip = c.host_ip.clone().filter(|i| !i.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            (c.protocol.clone().unwrap_or_else(|| "TCP".into()), c.host_port.unwrap_or(0), ip)
        })
        .collect()
    };
    let wanted = ports(pod);
    if wanted.is_empty() {
        return None;
    }
    let taken: Vec<_> = others.flat_map(ports).collect();
    let clash = |a: &(String, i32, String), b: &(String, i32, String)| {
        a.0 == b.0 && a.1 == b.1 && (a.2 == b.2 || a.2 == "0.0.0.0" || b.2 == "0.0.0.0")
    };
    wanted.iter().find(|w| taken.iter().any(|t| clash(w, t))).map(|w| w.1)
}

fn node_matches(pod: &Pod, node: &NodeView) -> bool {
    let selected = pod.spec.node_selector.iter().flatten().all(|(k, v)| node.labels.get(k) == Some(v));
    let affinity = pod.spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term_matches(t, node)))
}

fn term_matches(term: &NodeSelectorTerm, node: &NodeView) -> bool {
    let labels = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let empty = labels.clone().next().is_none() && fields.clone().next().is_none();
    !empty
        && labels.into_iter().all(|r| requirement_holds(r, node.labels.get(&r.key)))
        && fields.into_iter().all(|r| r.key == "metadata.name" && requirement_holds(r, Some(&node.name)))
}

fn requirement_holds(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let compare = |wanted: std::cmp::Ordering| {
        let number = |s: Option<&String>| s.and_then(|v| v.parse::<i64>().ok());
        match (number(value), number(values.first())) {
            (Some(a), Some(b)) => a.cmp(&b) == wanted,
            _ => false,
        }
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => value.is_none_or(|v| !values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(std::cmp::Ordering::Greater),
        "Lt" => compare(std::cmp::Ordering::Less),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::types::tests::pod;
    use serde_json::json;

    #[test]
    fn refusals() {
        let node = NodeView {
            name: "n1".into(),
            labels: BTreeMap::from([("zone".into(), "a".into())]),
            allocatable: Amounts::from([("cpu".into(), 1000), ("pods".into(), 2)]),
            unsafe_sysctls: vec!["net.core.*".into()],
        };
        let with = |spec: serde_json::Value| {
            let mut spec = spec;
            if spec.get("containers").is_none() {
                spec["containers"] = json!([]);
            }
            pod(json!({"spec": spec}))
        };
        let cpu = |amount: &str| {
            with(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}},
            "ports": [{"containerPort": 1, "hostPort": 80}]}]}))
        };
        let reason = |pod: &Pod, others: &[Pod]| admit(pod, others.iter(), &node, true).err().map(|r| r.0);
        assert_eq!(reason(&cpu("1"), &[]), None);
        assert_eq!(reason(&cpu("1001m"), &[]), Some("OutOfcpu".into()));
        assert_eq!(reason(&cpu("1"), &[cpu("1m")]), Some("NodePorts".into()));
        assert_eq!(reason(&with(json!({})), &[cpu("0"), with(json!({}))]), Some("OutOfpods".into()));
        assert_eq!(reason(&with(json!({"nodeSelector": {"zone": "b"}})), &[]), Some("NodeAffinity".into()));
        let affinity = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}}});
        assert_eq!(reason(&with(affinity), &[]), None);
        assert_eq!(reason(&with(json!({"hostUsers": false})), &[]), Some("UnexpectedAdmissionError".into()));
        let short = |memory, disk| Pressure { memory, disk, pid: false };
        assert!(
            under_pressure(&cpu("1"), short(true, false)).is_ok()
                && under_pressure(&cpu("1"), short(true, true)).is_err()
        );
        let error = under_pressure(&with(json!({})), short(true, false)).unwrap_err();
        assert_eq!(error.1, "Pod was rejected: The node had condition: [MemoryPressure]. ");
        assert!(under_pressure(&with(json!({"tolerations": [{"operator": "Exists"}]})), short(true, false)).is_ok());
        let sysctl = |name: &str| with(json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}}));
        assert_eq!(reason(&sysctl("net.core.somaxconn"), &[]), None);
        assert_eq!(reason(&sysctl("kernel/shm_rmid_forced"), &[]), None);
        assert_eq!(reason(&sysctl("kernel.msgmax"), &[]), Some("SysctlForbidden".into()));
        assert_eq!(reason(&with(json!({"os": {"name": "windows"}})), &[]), Some("PodOSNotSupported".into()));
    }
}

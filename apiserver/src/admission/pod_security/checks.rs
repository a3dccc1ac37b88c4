//! The Pod Security Standards: what the baseline and restricted profiles refuse, by version.
//!
//! Pure functions from a pod's spec and annotations to the list of violations, each a reason with its detail, in upstream's
//! order. A profile pinned to an older version is judged as that version judged.

use serde_json::{Map, Value};

use crate::admission::{ALL_CONTAINERS, containers};

/// A profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything goes.
    Privileged,
    /// No known way to take over the host.
    Baseline,
    /// Hardened.
    Restricted,
}

impl Level {
    /// From a label's value.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }

    /// As a label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// Minor version of a profile; [`LATEST`] is newer than all.
pub type Minor = u32;
/// The profile as this server knows it.
pub const LATEST: Minor = u32::MAX;

/// What is judged.
pub struct Pod<'a> {
    /// `metadata.annotations`, of the pod or the template.
    pub annotations: Option<&'a Map<String, Value>>,
    /// `spec`.
    pub spec: &'a Value,
    /// Version of the profile.
    pub version: Minor,
}

type Verdict = Option<(&'static str, String)>;

struct Check {
    level: Level,
    since: Minor,
    judge: fn(&Pod<'_>) -> Verdict,
}

const fn baseline(since: Minor, judge: fn(&Pod<'_>) -> Verdict) -> Check {
    Check { level: Level::Baseline, since, judge }
}

const fn restricted(since: Minor, judge: fn(&Pod<'_>) -> Verdict) -> Check {
    Check { level: Level::Restricted, since, judge }
}

const CHECKS: &[Check] = &[
    restricted(8, privilege_escalation),
    baseline(0, app_armor),
    baseline(0, capabilities_baseline),
    restricted(22, capabilities_restricted),
    baseline(0, host_namespaces),
    baseline(0, host_path),
    baseline(0, host_ports),
    baseline(34, probe_hosts),
    baseline(0, privileged),
    baseline(0, proc_mount),
    restricted(0, volumes),
    restricted(0, run_as_non_root),
    restricted(23, run_as_user),
    baseline(0, se_linux),
    baseline(0, seccomp_baseline),
    restricted(19, seccomp_restricted),
    baseline(0, sysctls),
    baseline(0, windows_host_process),
];

/// What the profile has against the pod; empty when nothing.
pub fn violations(level: Level, pod: &Pod<'_>) -> Vec<(&'static str, String)> {
    CHECKS
        .iter()
        .filter(|check| check.level <= level && check.since <= pod.version)
        .filter_map(|check| (check.judge)(pod))
        .collect()
}

fn is_windows(pod: &Pod<'_>) -> bool {
    pod.version >= 25 && pod.spec["os"]["name"] == "windows"
}

fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

/// Names of the containers that fail a test.
fn bad<'a>(pod: &Pod<'a>, test: impl Fn(&'a Value) -> bool) -> Vec<&'a str> {
    let spec: &'a Value = pod.spec;
    containers(spec, ALL_CONTAINERS).filter(|container| test(container)).map(name).collect()
}

fn listed(names: &[&str]) -> String {
    let quoted = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if names.len() == 1 { format!("container {quoted}") } else { format!("containers {quoted}") }
}

fn when(names: &[&str], reason: &'static str, must: &str) -> Verdict {
    (!names.is_empty()).then(|| (reason, format!("{} {must}", listed(names))))
}

fn privilege_escalation(pod: &Pod<'_>) -> Verdict {
    if is_windows(pod) {
        return None;
    }
    let names = bad(pod, |c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    when(&names, "allowPrivilegeEscalation != false", "must set securityContext.allowPrivilegeEscalation=false")
}

fn app_armor(pod: &Pod<'_>) -> Verdict {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut found: Vec<String> = Vec::new();
    let unconfined = |context: &Value| {
        let kind = context["appArmorProfile"]["type"].as_str();
        kind.is_some_and(|kind| !matches!(kind, "RuntimeDefault" | "Localhost"))
    };
    if unconfined(&pod.spec["securityContext"]) {
        found.push("pod must not set AppArmor profile type to \"Unconfined\"".to_owned());
    }
    let names = bad(pod, |c| unconfined(&c["securityContext"]));
    if !names.is_empty() {
        found.push(format!("{} must not set AppArmor profile type to \"Unconfined\"", listed(&names)));
    }
    for (key, value) in pod.annotations.into_iter().flatten().filter(|(key, _)| key.starts_with(PREFIX)) {
        let value = value.as_str().unwrap_or_default();
        if !(value.is_empty() || value == "runtime/default" || value.starts_with("localhost/")) {
            found.push(format!("annotation {key}={value:?}"));
        }
    }
    let reason = if found.len() == 1 { "forbidden AppArmor profile" } else { "forbidden AppArmor profiles" };
    (!found.is_empty()).then(|| (reason, found.join(", ")))
}

fn added(container: &Value) -> impl Iterator<Item = &str> {
    container["securityContext"]["capabilities"]["add"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn capabilities_baseline(pod: &Pod<'_>) -> Verdict {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
        "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    ];
    let names = bad(pod, |c| added(c).any(|capability| !ALLOWED.contains(&capability)));
    let extra = extra_capabilities(pod, &ALLOWED);
    when(&names, "non-default capabilities", &format!("must not include {extra} in securityContext.capabilities.add"))
}

fn extra_capabilities(pod: &Pod<'_>, allowed: &[&str]) -> String {
    let mut extra: Vec<&str> = containers(pod.spec, ALL_CONTAINERS)
        .flat_map(added)
        .filter(|capability| !allowed.contains(capability))
        .collect();
    extra.sort_unstable();
    extra.dedup();
    extra.iter().map(|capability| format!("{capability:?}")).collect::<Vec<_>>().join(", ")
}

fn capabilities_restricted(pod: &Pod<'_>) -> Verdict {
    if is_windows(pod) {
        return None;
    }
    let drops_all = |c: &Value| {
        c["securityContext"]["capabilities"]["drop"].as_array().is_some_and(|drop| drop.iter().any(|d| d == "ALL"))
    };
    let undropped = bad(pod, |c| !drops_all(c));
    let adding = bad(pod, |c| added(c).any(|capability| capability != "NET_BIND_SERVICE"));
    let mut found = Vec::new();
    if !undropped.is_empty() {
        found.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", listed(&undropped)));
    }
    if !adding.is_empty() {
        let extra = extra_capabilities(pod, &["NET_BIND_SERVICE"]);
        found.push(format!("{} must not include {extra} in securityContext.capabilities.add", listed(&adding)));
    }
    (!found.is_empty()).then(|| ("unrestricted capabilities", found.join("; ")))
}

fn host_namespaces(pod: &Pod<'_>) -> Verdict {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| pod.spec[**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    (!set.is_empty()).then(|| ("host namespaces", set.join(", ")))
}

fn volumes_where<'a>(pod: &Pod<'a>, test: impl Fn(&Value) -> bool) -> Vec<&'a str> {
    let spec: &'a Value = pod.spec;
    spec["volumes"].as_array().into_iter().flatten().filter(|volume| test(volume)).map(name).collect()
}

fn volume_list(names: &[&str]) -> String {
    let quoted = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if names.len() == 1 { format!("volume {quoted}") } else { format!("volumes {quoted}") }
}

fn host_path(pod: &Pod<'_>) -> Verdict {
    let names = volumes_where(pod, |volume| !volume["hostPath"].is_null());
    (!names.is_empty()).then(|| ("hostPath volumes", volume_list(&names)))
}

fn host_ports(pod: &Pod<'_>) -> Verdict {
    let ports = |c: &Value| -> Vec<i64> {
        let all = c["ports"].as_array().into_iter().flatten();
        all.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0).collect()
    };
    let names = bad(pod, |c| !ports(c).is_empty());
    let mut used: Vec<i64> = containers(pod.spec, ALL_CONTAINERS).flat_map(ports).collect();
    used.sort_unstable();
    used.dedup();
    let used = used.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    when(&names, "hostPort", &format!("uses hostPorts {used}"))
}

fn probe_hosts(pod: &Pod<'_>) -> Verdict {
    let names_host = |handler: &Value| {
        ["httpGet", "tcpSocket"].iter().any(|kind| handler[*kind]["host"].as_str().is_some_and(|host| !host.is_empty()))
    };
    let names = bad(pod, |c| {
        let lifecycle = &c["lifecycle"];
        [&c["livenessProbe"], &c["readinessProbe"], &c["startupProbe"], &lifecycle["postStart"], &lifecycle["preStop"]]
            .into_iter()
            .any(names_host)
    });
    when(&names, "probe or lifecycle host", "must not set host in probes or lifecycle handlers")
}

fn privileged(pod: &Pod<'_>) -> Verdict {
    let names = bad(pod, |c| c["securityContext"]["privileged"] == true);
    when(&names, "privileged", "must not set securityContext.privileged=true")
}

fn proc_mount(pod: &Pod<'_>) -> Verdict {
    if pod.version >= 34 && in_user_namespace(pod) {
        return None;
    }
    let names = bad(pod, |c| c["securityContext"]["procMount"].as_str().is_some_and(|mount| mount != "Default"));
    when(&names, "procMount", "must not set securityContext.procMount to \"Unmasked\"")
}

fn volumes(pod: &Pod<'_>) -> Verdict {
    const ALLOWED: [&str; 8] =
        ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    let kind = |volume: &Value| -> Option<String> {
        volume.as_object()?.iter().find(|(key, value)| *key != "name" && !value.is_null()).map(|(key, _)| key.clone())
    };
    let names = volumes_where(pod, |volume| kind(volume).is_none_or(|kind| !ALLOWED.contains(&kind.as_str())));
    let all = pod.spec["volumes"].as_array().into_iter().flatten();
    let mut kinds: Vec<String> = all.filter_map(kind).filter(|kind| !ALLOWED.contains(&kind.as_str())).collect();
    kinds.sort();
    kinds.dedup();
    let kinds = kinds.iter().map(|kind| format!("{kind:?}")).collect::<Vec<_>>().join(", ");
    let verb = if names.len() == 1 { "uses restricted volume type" } else { "use restricted volume types" };
    (!names.is_empty()).then(|| ("restricted volume types", format!("{} {verb} {kinds}", volume_list(&names))))
}

/// In a user namespace of its own, root in the pod is nobody on the host.
fn in_user_namespace(pod: &Pod<'_>) -> bool {
    pod.spec["hostUsers"] == false
}

fn run_as_non_root(pod: &Pod<'_>) -> Verdict {
    const REASON: &str = "runAsNonRoot != true";
    if in_user_namespace(pod) {
        return None;
    }
    let general = pod.spec["securityContext"]["runAsNonRoot"].as_bool();
    let explicit = bad(pod, |c| c["securityContext"]["runAsNonRoot"] == false);
    let mut setters: Vec<String> = Vec::new();
    if general == Some(false) {
        setters.push("pod".to_owned());
    }
    if !explicit.is_empty() {
        setters.push(listed(&explicit));
    }
    if !setters.is_empty() {
        return Some((REASON, format!("{} must not set securityContext.runAsNonRoot=false", setters.join(" and "))));
    }
    let unset = bad(pod, |c| general.is_none() && c["securityContext"]["runAsNonRoot"].is_null());
    (!unset.is_empty())
        .then(|| (REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", listed(&unset))))
}

fn run_as_user(pod: &Pod<'_>) -> Verdict {
    if in_user_namespace(pod) {
        return None;
    }
    let mut found = Vec::new();
    if pod.spec["securityContext"]["runAsUser"] == 0 {
        found.push("pod must not set runAsUser=0".to_owned());
    }
    let names = bad(pod, |c| c["securityContext"]["runAsUser"] == 0);
    if !names.is_empty() {
        found.push(format!("{} must not set runAsUser=0", listed(&names)));
    }
    (!found.is_empty()).then(|| ("runAsUser=0", found.join(", ")))
}

fn se_linux(pod: &Pod<'_>) -> Verdict {
    let bad_options = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let kind = options["type"].as_str().unwrap_or_default();
        let engine = pod.version >= 31 && kind == "container_engine_t";
        let allowed = engine || ["", "container_t", "container_init_t", "container_kvm_t"].contains(&kind);
        let given = |field: &str| options[field].as_str().is_some_and(|text| !text.is_empty());
        !allowed || given("user") || given("role")
    };
    let mut found = Vec::new();
    if bad_options(&pod.spec["securityContext"]) {
        found.push("pod set forbidden securityContext.seLinuxOptions".to_owned());
    }
    let names = bad(pod, |c| bad_options(&c["securityContext"]));
    if !names.is_empty() {
        found.push(format!("{} set forbidden securityContext.seLinuxOptions", listed(&names)));
    }
    (!found.is_empty()).then(|| ("seLinuxOptions", found.join("; ")))
}

fn profile(context: &Value) -> Option<&str> {
    context["seccompProfile"]["type"].as_str()
}

fn seccomp_baseline(pod: &Pod<'_>) -> Verdict {
    if pod.version < 19 {
        let key = |key: &str| {
            key == "seccomp.security.alpha.kubernetes.io/pod"
                || key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        };
        let allowed =
            |value: &str| value == "runtime/default" || value == "docker/default" || value.starts_with("localhost/");
        let mut annotations = pod.annotations.into_iter().flatten();
        let found = annotations.find(|(k, v)| key(k) && !allowed(v.as_str().unwrap_or_default()));
        return found.map(|(key, value)| ("seccompProfile", format!("forbidden annotation {key}={value}")));
    }
    let forbidden =
        |context: &Value| profile(context).is_some_and(|kind| !matches!(kind, "RuntimeDefault" | "Localhost"));
    let mut found = Vec::new();
    if forbidden(&pod.spec["securityContext"]) {
        found.push("pod must not set securityContext.seccompProfile.type to \"Unconfined\"".to_owned());
    }
    let names = bad(pod, |c| forbidden(&c["securityContext"]));
    if !names.is_empty() {
        found.push(format!("{} must not set securityContext.seccompProfile.type to \"Unconfined\"", listed(&names)));
    }
    (!found.is_empty()).then(|| ("seccompProfile", found.join(", ")))
}

fn seccomp_restricted(pod: &Pod<'_>) -> Verdict {
    if is_windows(pod) {
        return None;
    }
    let good = |kind: Option<&str>| matches!(kind, Some("RuntimeDefault" | "Localhost"));
    let general = profile(&pod.spec["securityContext"]);
    let explicit = bad(pod, |c| profile(&c["securityContext"]).is_some_and(|kind| !good(Some(kind))));
    let unset = bad(pod, |c| profile(&c["securityContext"]).is_none());
    let mut found = Vec::new();
    if general.is_some() && !good(general) {
        found.push("pod must not set securityContext.seccompProfile.type to \"Unconfined\"".to_owned());
    }
    if !explicit.is_empty() {
        found.push(format!("{} must not set securityContext.seccompProfile.type to \"Unconfined\"", listed(&explicit)));
    }
    if found.is_empty() && general.is_none() && !unset.is_empty() {
        let list = listed(&unset);
        found.push(format!(
            "pod or {list} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        ));
    }
    (!found.is_empty()).then(|| ("seccompProfile", found.join("; ")))
}

fn sysctls(pod: &Pod<'_>) -> Verdict {
    const SAFE: [(&str, Minor); 12] = [
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_wmem", 32),
    ];
    let all = pod.spec["securityContext"]["sysctls"].as_array().into_iter().flatten();
    let unsafe_ones: Vec<&str> = all
        .map(name)
        .filter(|sysctl| !SAFE.iter().any(|(safe, since)| safe == sysctl && *since <= pod.version))
        .collect();
    (!unsafe_ones.is_empty()).then(|| ("forbidden sysctls", unsafe_ones.join(", ")))
}

fn windows_host_process(pod: &Pod<'_>) -> Verdict {
    let host = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let mut found = Vec::new();
    if host(&pod.spec["securityContext"]) {
        found.push("pod must not set securityContext.windowsOptions.hostProcess=true".to_owned());
    }
    let names = bad(pod, |c| host(&c["securityContext"]));
    if !names.is_empty() {
        found.push(format!("{} must not set securityContext.windowsOptions.hostProcess=true", listed(&names)));
    }
    (!found.is_empty()).then(|| ("hostProcess", found.join(" and ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn count(level: Level, version: Minor, spec: &Value) -> usize {
        violations(level, &Pod { annotations: None, spec, version }).len()
    }

    #[test]
    fn table() {
        let good = json!({"containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}}]});
        assert_eq!(count(Level::Restricted, LATEST, &good), 0);
        let plain = json!({"containers": [{"name": "c"}]});
        assert_eq!((count(Level::Baseline, LATEST, &plain), count(Level::Restricted, LATEST, &plain)), (0, 4));
        assert_eq!((count(Level::Restricted, 18, &plain), count(Level::Restricted, 7, &plain)), (2, 1));
        let with = |extra: Value| {
            let mut spec = good.clone();
            spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            spec
        };
        let cases = [
            (with(json!({"hostNetwork": true, "hostPID": true})), 1),
            (with(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})), 1),
            (with(json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}]})), 1),
            (with(json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]})), 1),
            (with(json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 0}]}]})), 0),
            (
                with(
                    json!({"containers": [{"name": "c", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]}),
                ),
                1,
            ),
            (with(json!({"containers": [{"name": "c", "securityContext": {"capabilities": {"add": ["CHOWN"]}}}]})), 0),
            (with(json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}})), 1),
            (with(json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}})), 0),
            (with(json!({"securityContext": {"seLinuxOptions": {"user": "u"}}})), 1),
            (with(json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}})), 1),
            (with(json!({"initContainers": [{"name": "i", "securityContext": {"procMount": "Unmasked"}}]})), 1),
        ];
        for (spec, expected) in cases {
            assert_eq!(count(Level::Baseline, LATEST, &spec), expected, "{spec}");
        }
    }

    #[test]
    fn pod_context_stands_for_its_containers() {
        let spec = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "Localhost"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
        assert_eq!(count(Level::Restricted, LATEST, &spec), 0);
    }
}

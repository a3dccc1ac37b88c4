//! The Pod Security Standards: what the baseline and restricted profiles refuse, by version.
//!
//! Pure functions from a pod's spec and annotations to the list of violations, each a reason with its detail, in upstream's
//! order. A profile pinned to an older version is judged as that version judged.

use std::collections::BTreeSet;

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

/// Why not, and the details of it.
type Verdict = Option<(&'static str, String)>;

struct Check {
    level: Level,
    since: Minor,
    /// From here on a stricter check of the restricted profile stands in for it there.
    replaced: Minor,
    judge: fn(&Pod<'_>) -> Verdict,
}

const fn baseline(since: Minor, judge: fn(&Pod<'_>) -> Verdict) -> Check {
    replaced(since, LATEST, judge)
}

const fn replaced(since: Minor, replaced: Minor, judge: fn(&Pod<'_>) -> Verdict) -> Check {
    Check { level: Level::Baseline, since, replaced, judge }
}

const fn restricted(since: Minor, judge: fn(&Pod<'_>) -> Verdict) -> Check {
    Check { level: Level::Restricted, since, replaced: LATEST, judge }
}

/// In upstream's order: those of the baseline profile first, each group by the names that upstream gives them.
const CHECKS: &[Check] = &[
    baseline(0, app_armor),
    replaced(0, 22, capabilities_baseline),
    baseline(0, host_namespaces),
    replaced(0, 0, host_path),
    baseline(0, host_ports),
    baseline(34, probe_hosts),
    baseline(0, privileged),
    replaced(0, 35, |pod| if in_user_namespace(pod) { None } else { proc_mount(pod) }),
    baseline(0, se_linux),
    replaced(0, 19, seccomp_baseline),
    baseline(0, sysctls),
    baseline(0, windows_host_process),
    restricted(8, privilege_escalation),
    restricted(22, capabilities_restricted),
    restricted(35, proc_mount),
    restricted(0, volumes),
    restricted(0, run_as_non_root),
    restricted(23, run_as_user),
    restricted(19, seccomp_restricted),
];

/// What the profile has against the pod; empty when nothing.
pub fn violations(level: Level, pod: &Pod<'_>) -> Vec<(&'static str, String)> {
    let applies = |check: &&Check| {
        // The latest version is newer than every replacement.
        let is_replaced = level == Level::Restricted && check.replaced != LATEST && check.replaced <= pod.version;
        check.level <= level && check.since <= pod.version && !is_replaced
    };
    CHECKS.iter().filter(applies).filter_map(|check| (check.judge)(pod)).collect()
}

fn is_windows(pod: &Pod<'_>) -> bool {
    pod.version >= 25 && pod.spec["os"]["name"] == "windows"
}

/// In a user namespace of its own, root in the pod is nobody on the host.
fn in_user_namespace(pod: &Pod<'_>) -> bool {
    pod.version >= 35 && pod.spec["hostUsers"] == false
}

fn name(object: &Value) -> &str {
    object["name"].as_str().unwrap_or_default()
}

fn all<'a>(pod: &Pod<'a>) -> impl Iterator<Item = &'a Value> {
    containers(pod.spec, ALL_CONTAINERS)
}

/// Names of the containers that fail a test.
fn bad<'a>(pod: &Pod<'a>, test: impl Fn(&'a Value) -> bool) -> Vec<&'a str> {
    all(pod).filter(|container| test(container)).map(name).collect()
}

fn plural(count: usize, one: &'static str, more: &'static str) -> &'static str {
    if count == 1 { one } else { more }
}

fn quoted<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<&str> = items.into_iter().collect();
    if items.is_empty() { String::new() } else { format!("\"{}\"", items.join("\", \"")) }
}

fn listed(names: &[&str]) -> String {
    format!("{} {}", plural(names.len(), "container", "containers"), quoted(names.iter().copied()))
}

fn when(names: &[&str], reason: &'static str, must: &str) -> Verdict {
    (!names.is_empty()).then(|| (reason, format!("{} {must}", listed(names))))
}

/// The pod and the containers whose security context fails a test, as the subject of a sentence.
fn setters<'a>(pod: &Pod<'a>, test: impl Fn(&'a Value) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    if test(&pod.spec["securityContext"]) {
        found.push("pod".to_owned());
    }
    let names = bad(pod, |c| test(&c["securityContext"]));
    if !names.is_empty() {
        found.push(listed(&names));
    }
    found
}

/// The same, as what a check says of them.
fn forbidden<'a>(pod: &Pod<'a>, test: impl Fn(&'a Value) -> bool, reason: &'static str, must_not: &str) -> Verdict {
    let found = setters(pod, test);
    (!found.is_empty()).then(|| (reason, format!("{} must not {must_not}", found.join(" and "))))
}

/// The type of a profile in a security context, empty when it has none; `None` without a profile.
fn profile<'a>(context: &'a Value, field: &str) -> Option<&'a str> {
    context[field].as_object().map(|profile| profile.get("type").and_then(Value::as_str).unwrap_or_default())
}

fn bad_profile<'a>(context: &'a Value, field: &str) -> Option<&'a str> {
    profile(context, field).filter(|kind| !matches!(*kind, "RuntimeDefault" | "Localhost"))
}

fn bad_profiles<'a>(pod: &Pod<'a>, field: &str) -> BTreeSet<&'a str> {
    let contexts = all(pod).map(|container| &container["securityContext"]);
    std::iter::once(&pod.spec["securityContext"]).chain(contexts).filter_map(|c| bad_profile(c, field)).collect()
}

fn annotations<'a>(pod: &Pod<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    pod.annotations.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
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
    let allowed = |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let noted: Vec<String> = annotations(pod)
        .filter(|(key, value)| key.starts_with(PREFIX) && !allowed(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    let mut found = setters(pod, |context| bad_profile(context, "appArmorProfile").is_some());
    if !noted.is_empty() {
        found.push(plural(noted.len(), "annotation", "annotations").to_owned());
    }
    let mut values: Vec<&str> = bad_profiles(pod, "appArmorProfile").into_iter().collect();
    values.extend(noted.iter().map(String::as_str));
    let reason = plural(values.len(), "forbidden AppArmor profile", "forbidden AppArmor profiles");
    let detail = || format!("{} must not set AppArmor profile type to {}", found.join(" and "), quoted(values.clone()));
    (!found.is_empty()).then(|| (reason, detail()))
}

fn added(container: &Value) -> impl Iterator<Item = &str> {
    container["securityContext"]["capabilities"]["add"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Who adds capabilities beyond the allowed ones.
fn adding(pod: &Pod<'_>, allowed: &[&str]) -> Option<String> {
    let extra = |c| added(c).filter(|capability| !allowed.contains(capability));
    let names = bad(pod, |c| extra(c).next().is_some());
    let capabilities: BTreeSet<&str> = all(pod).flat_map(extra).collect();
    let must = format!("must not include {} in securityContext.capabilities.add", quoted(capabilities));
    (!names.is_empty()).then(|| format!("{} {must}", listed(&names)))
}

fn capabilities_baseline(pod: &Pod<'_>) -> Verdict {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
        "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    ];
    adding(pod, &ALLOWED).map(|detail| ("non-default capabilities", detail))
}

fn capabilities_restricted(pod: &Pod<'_>) -> Verdict {
    if is_windows(pod) {
        return None;
    }
    let drops_all = |c: &Value| {
        c["securityContext"]["capabilities"]["drop"].as_array().is_some_and(|drop| drop.iter().any(|d| d == "ALL"))
    };
    let undropped = bad(pod, |c| !drops_all(c));
    let must_drop = format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", listed(&undropped));
    let found: Vec<String> =
        (!undropped.is_empty()).then_some(must_drop).into_iter().chain(adding(pod, &["NET_BIND_SERVICE"])).collect();
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
    pod.spec["volumes"].as_array().into_iter().flatten().filter(|volume| test(volume)).map(name).collect()
}

fn volume_list(names: Vec<&str>) -> String {
    format!("{} {}", plural(names.len(), "volume", "volumes"), quoted(names))
}

fn host_path(pod: &Pod<'_>) -> Verdict {
    let names = volumes_where(pod, |volume| !volume["hostPath"].is_null());
    (!names.is_empty()).then(|| ("hostPath volumes", volume_list(names)))
}

/// Who uses something of the host: `one` or `more` of it, `used`.
fn uses(names: &[&str], reason: &'static str, things: &str, used: &str) -> Verdict {
    when(names, reason, &format!("{} {things} {used}", plural(names.len(), "uses", "use")))
}

fn host_ports(pod: &Pod<'_>) -> Verdict {
    let ports = |c: &Value| -> Vec<String> {
        let all = c["ports"].as_array().into_iter().flatten();
        all.filter_map(|port| port["hostPort"].as_i64())
            .filter(|port| *port != 0)
            .map(|port| port.to_string())
            .collect()
    };
    let names = bad(pod, |c| !ports(c).is_empty());
    let used: BTreeSet<String> = all(pod).flat_map(ports).collect();
    let things = plural(used.len(), "hostPort", "hostPorts");
    uses(&names, "hostPort", things, &used.into_iter().collect::<Vec<_>>().join(", "))
}

fn probe_hosts(pod: &Pod<'_>) -> Verdict {
    const REASON: &str = "probe or lifecycle host";
    fn hosts(c: &Value) -> impl Iterator<Item = &str> {
        let lifecycle = &c["lifecycle"];
        let handlers = [
            &c["livenessProbe"], &c["readinessProbe"], &c["startupProbe"], &lifecycle["postStart"],
            &lifecycle["preStop"],
        ];
        let hosts =
            handlers.into_iter().flat_map(|handler| [&handler["httpGet"]["host"], &handler["tcpSocket"]["host"]]);
        hosts.filter_map(Value::as_str).filter(|host| !host.is_empty())
    }
    let mut names = bad(pod, |c| hosts(c).next().is_some());
    names.sort_unstable();
    names.dedup();
    let used: BTreeSet<&str> = all(pod).flat_map(hosts).collect();
    let things = plural(used.len(), REASON, "probe or lifecycle hosts");
    uses(&names, REASON, things, &quoted(used))
}

fn privileged(pod: &Pod<'_>) -> Verdict {
    let names = bad(pod, |c| c["securityContext"]["privileged"] == true);
    when(&names, "privileged", "must not set securityContext.privileged=true")
}

fn proc_mount(pod: &Pod<'_>) -> Verdict {
    fn mount(c: &Value) -> Option<&str> {
        c["securityContext"]["procMount"].as_str().filter(|mount| *mount != "Default")
    }
    let names = bad(pod, |c| mount(c).is_some());
    let mounts: BTreeSet<&str> = all(pod).filter_map(mount).collect();
    when(&names, "procMount", &format!("must not set securityContext.procMount to {}", quoted(mounts)))
}

fn volumes(pod: &Pod<'_>) -> Verdict {
    const ALLOWED: [&str; 9] = [
        "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected",
        "secret",
    ];
    const REFUSED: [&str; 21] = [
        "hostPath", "gcePersistentDisk", "awsElasticBlockStore", "gitRepo", "nfs", "iscsi", "glusterfs", "rbd",
        "flexVolume", "cinder", "cephfs", "flocker", "fc", "azureFile", "vsphereVolume", "quobyte", "azureDisk",
        "photonPersistentDisk", "portworxVolume", "scaleIO", "storageos",
    ];
    let has = |volume: &Value, kind: &&str| !volume[*kind].is_null();
    let is_refused = |volume: &Value| !ALLOWED.iter().any(|kind| has(volume, kind));
    let names = volumes_where(pod, is_refused);
    let refused = pod.spec["volumes"].as_array().into_iter().flatten().filter(|volume| is_refused(volume));
    let kinds: BTreeSet<&str> =
        refused.map(|volume| REFUSED.into_iter().find(|kind| has(volume, kind)).unwrap_or("unknown")).collect();
    let verb = plural(names.len(), "uses", "use");
    let things = plural(kinds.len(), "restricted volume type", "restricted volume types");
    (!names.is_empty())
        .then(|| ("restricted volume types", format!("{} {verb} {things} {}", volume_list(names), quoted(kinds))))
}

fn run_as_non_root(pod: &Pod<'_>) -> Verdict {
    const REASON: &str = "runAsNonRoot != true";
    if in_user_namespace(pod) {
        return None;
    }
    let set_false = |context: &Value| context["runAsNonRoot"] == false;
    forbidden(pod, set_false, REASON, "set securityContext.runAsNonRoot=false").or_else(|| {
        let general = pod.spec["securityContext"]["runAsNonRoot"] == true;
        let unset = bad(pod, |c| !general && c["securityContext"]["runAsNonRoot"].is_null());
        (!unset.is_empty())
            .then(|| (REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", listed(&unset))))
    })
}

fn run_as_user(pod: &Pod<'_>) -> Verdict {
    if in_user_namespace(pod) {
        return None;
    }
    forbidden(pod, |context| context["runAsUser"] == 0, "runAsUser=0", "set runAsUser=0")
}

fn se_linux(pod: &Pod<'_>) -> Verdict {
    let contexts = || std::iter::once(&pod.spec["securityContext"]).chain(all(pod).map(|c| &c["securityContext"]));
    fn given<'a>(context: &'a Value, field: &str) -> Option<&'a str> {
        context["seLinuxOptions"][field].as_str().filter(|text| !text.is_empty())
    }
    let bad_type = |context| {
        let allowed = |kind: &str| {
            matches!(kind, "container_t" | "container_init_t" | "container_kvm_t")
                || pod.version >= 31 && kind == "container_engine_t"
        };
        given(context, "type").filter(|kind| !allowed(kind))
    };
    let found = setters(pod, |context| {
        bad_type(context).is_some() || given(context, "user").is_some() || given(context, "role").is_some()
    });
    let types: BTreeSet<&str> = contexts().filter_map(bad_type).collect();
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural(types.len(), "type", "types"), quoted(types)));
    }
    for field in ["user", "role"] {
        if contexts().any(|context| given(context, field).is_some()) {
            data.push(format!("{field} may not be set"));
        }
    }
    let set = || format!("{} set forbidden securityContext.seLinuxOptions: {}", found.join(" and "), data.join("; "));
    (!found.is_empty()).then(|| ("seLinuxOptions", set()))
}

fn seccomp_baseline(pod: &Pod<'_>) -> Verdict {
    if pod.version >= 19 {
        return seccomp_set(pod);
    }
    let of_container = |key: &str| {
        let named = key.strip_prefix("container.seccomp.security.alpha.kubernetes.io/");
        named.is_some_and(|wanted| all(pod).any(|container| name(container) == wanted))
    };
    let allowed =
        |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let noted: Vec<String> = annotations(pod)
        .filter(|(key, _)| *key == "seccomp.security.alpha.kubernetes.io/pod" || of_container(key))
        .filter(|(_, value)| !allowed(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    let things = plural(noted.len(), "annotation", "annotations");
    (!noted.is_empty()).then(|| ("seccompProfile", format!("forbidden {things} {}", noted.join(", "))))
}

/// A profile that is given must be a good one.
fn seccomp_set(pod: &Pod<'_>) -> Verdict {
    let must_not =
        format!("set securityContext.seccompProfile.type to {}", quoted(bad_profiles(pod, "seccompProfile")));
    forbidden(pod, |context| bad_profile(context, "seccompProfile").is_some(), "seccompProfile", &must_not)
}

fn seccomp_restricted(pod: &Pod<'_>) -> Verdict {
    if is_windows(pod) {
        return None;
    }
    seccomp_set(pod).or_else(|| {
        let is_set = |context: &Value| profile(context, "seccompProfile").is_some();
        let general = is_set(&pod.spec["securityContext"]);
        let unset = bad(pod, |c| !general && !is_set(&c["securityContext"]));
        let must = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
        (!unset.is_empty()).then(|| ("seccompProfile", format!("pod or {} {must}", listed(&unset))))
    })
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
    forbidden(pod, host, "hostProcess", "set securityContext.windowsOptions.hostProcess=true")
}

#[cfg(test)]
mod tests;

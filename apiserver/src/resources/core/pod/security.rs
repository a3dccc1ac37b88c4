//! Security contexts of pods and containers, their profiles, sysctls and Windows options. Follows upstream's
//! `validatePodSpecSecurityContext` and `ValidateSecurityContext`.

use std::sync::LazyLock;

use apimachinery::validation as names;
use regex::Regex;

use super::PodRules;
use super::volumes::descending_path;
use crate::resources::check::{At, Check};

/// A container's context.
pub fn container(check: &mut Check, at: &At, host_users: bool, rules: &PodRules) {
    if !at.is_set() {
        return;
    }
    if at.get("privileged").flag() && !rules.allow_privileged {
        check.forbidden(&at.get("privileged"), "disallowed by cluster policy");
    }
    check.id(&at.get("runAsUser"));
    check.id(&at.get("runAsGroup"));
    let proc_mount = at.get("procMount");
    check.one_of(&proc_mount, &["Default", "Unmasked"]);
    if host_users && proc_mount.str() == "Unmasked" {
        check.invalid(&proc_mount, "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp(check, &at.get("seccompProfile"));
    if at.get("allowPrivilegeEscalation").value.as_bool() == Some(false) {
        if at.get("privileged").flag() {
            check.invalid(at, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        for _ in at.get("capabilities.add").strings().filter(|c| *c == "CAP_SYS_ADMIN") {
            check.invalid(at, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    windows(check, &at.get("windowsOptions"));
    app_armor(check, &at.get("appArmorProfile"));
}

/// The context of a pod spec.
pub fn pod(check: &mut Check, spec: &At) {
    let at = spec.get("securityContext");
    if !at.is_set() {
        return;
    }
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        check.id(&at.get(field));
    }
    for group in at.get("supplementalGroups").items() {
        check.id(&group);
    }
    if spec.get("shareProcessNamespace").flag() && spec.get("hostPID").flag() {
        let share = spec.get("shareProcessNamespace").under(at.path.child("shareProcessNamespace"));
        check.invalid(&share, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    sysctls(check, spec, &at.get("sysctls"));
    check.one_of(&at.get("fsGroupChangePolicy"), &["Always", "OnRootMismatch"]);
    seccomp(check, &at.get("seccompProfile"));
    windows(check, &at.get("windowsOptions"));
    app_armor(check, &at.get("appArmorProfile"));
    check.one_of(&at.get("supplementalGroupsPolicy"), &["Merge", "Strict"]);
    check.one_of(&at.get("seLinuxChangePolicy"), &["MountOption", "Recursive"]);
}

fn sysctls(check: &mut Check, spec: &At, at: &At) {
    static NAME: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$").ok());
    const IPC: [&str; 4] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
    let mut seen: Vec<&str> = Vec::new();
    for sysctl in at.items() {
        let name = sysctl.get("name");
        if check.present(&name) {
            if name.len() > 253 || !NAME.as_ref().is_some_and(|re| re.is_match(name.str())) {
                check.invalid(&name, "must have at most 253 characters and be a sysctl name");
            } else if seen.contains(&name.str()) {
                check.duplicate(&name);
            }
        }
        seen.push(name.str());
        let dotted = name.str().replace('/', ".");
        if spec.get("hostNetwork").flag() && dotted.starts_with("net.") {
            check.invalid(&name, "may not be specified when 'hostNetwork' is true");
        } else if spec.get("hostIPC").flag() && IPC.iter().any(|prefix| dotted.starts_with(prefix)) {
            check.invalid(&name, "may not be specified when 'hostIPC' is true");
        }
    }
}

const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(check: &mut Check, at: &At) {
    if !at.is_set() {
        return;
    }
    check.present_one_of(&at.get("type"), &PROFILE_TYPES);
    let profile = at.get("localhostProfile");
    match (at.get("type").str() == "Localhost", profile.is_set()) {
        (true, false) => check.required(&profile, "must be set when seccomp type is Localhost"),
        (true, true) => descending_path(check, &profile),
        (false, true) => check.invalid(&profile, "can only be set when seccomp type is Localhost"),
        (false, false) => {}
    }
}

fn app_armor(check: &mut Check, at: &At) {
    if !at.is_set() {
        return;
    }
    let profile = at.get("localhostProfile");
    match at.get("type").str() {
        "Localhost" => {
            if profile.str().trim() != profile.str() {
                check.invalid(&profile, "must not be padded with whitespace");
            } else if profile.is_empty() {
                check.required(&profile, "must be set when AppArmor type is Localhost");
            }
            if profile.len() > 4095 {
                check.too_long(&profile, 4095);
            }
        }
        "RuntimeDefault" | "Unconfined" if profile.is_set() => {
            check.invalid(&profile, "can only be set when AppArmor type is Localhost");
        }
        _ => check.present_one_of(&at.get("type"), &PROFILE_TYPES),
    }
}

fn windows(check: &mut Check, at: &At) {
    let (name, spec, user) = (at.get("gmsaCredentialSpecName"), at.get("gmsaCredentialSpec"), at.get("runAsUserName"));
    if name.is_set() {
        check.format(&name, names::dns1123_subdomain);
    }
    if spec.is_set() && (spec.is_empty() || spec.len() > 64 * 1024) {
        check.invalid(&spec, "gmsaCredentialSpec must have between 1 byte and 64 KiB");
    }
    if user.is_set() {
        windows_user(check, &user);
    }
}

fn windows_user(check: &mut Check, at: &At) {
    let text = at.str();
    if text.is_empty() || text.chars().any(char::is_control) || text.matches('\\').count() > 1 {
        return check.invalid(at, "runAsUserName must be USER or DOMAIN\\USER without control characters");
    }
    let (domain, user) = text.split_once('\\').map_or((None, text), |(domain, user)| (Some(domain), user));
    if let Some(domain) = domain {
        let net_bios = (1..=15).contains(&domain.chars().count())
            && !domain.starts_with('.')
            && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|']);
        let dns = domain.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
        if domain.len() >= 256 {
            check.invalid(at, "runAsUserName's Domain length must be under 256 characters");
        }
        if !net_bios && !dns {
            check.invalid(at, "runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() || user.len() > 104 {
        check.invalid(at, "runAsUserName's User must have 1 to 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        check.invalid(at, "runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        check.invalid(at, "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
}

/// A Windows pod whose containers run as host processes needs the host's network, all of them, and the cluster's leave.
pub fn host_process(check: &mut Check, spec: &At, rules: &PodRules) {
    let of_pod = spec.get("securityContext.windowsOptions.hostProcess");
    let (mut total, mut host) = (0, 0);
    for container in super::all_containers(spec) {
        total += 1;
        let own = container.get("securityContext.windowsOptions.hostProcess");
        if of_pod.is_set() && own.is_set() && of_pod.flag() != own.flag() {
            check.invalid(&own, "pod hostProcess value must be identical if both are specified");
        }
        host += usize::from(if own.is_set() { own.flag() } else { of_pod.flag() });
    }
    if host == 0 {
        return;
    }
    if host != total {
        check.invalid(
            spec,
            "If pod contains any hostProcess containers then all containers must be HostProcess containers",
        );
    }
    if !spec.get("hostNetwork").flag() {
        check.invalid(&spec.get("hostNetwork"), "hostNetwork must be true if pod contains any hostProcess containers");
    }
    if !rules.allow_privileged {
        check.forbidden(spec, "hostProcess containers are disallowed by cluster policy");
    }
}

/// Settings of the other operating system.
pub fn operating_system(check: &mut Check, spec: &At) {
    const POD: [&str; 10] = [
        "appArmorProfile", "seLinuxOptions", "seccompProfile", "fsGroup", "fsGroupChangePolicy", "runAsUser",
        "runAsGroup", "supplementalGroups", "supplementalGroupsPolicy", "seLinuxChangePolicy",
    ];
    const CONTAINER: [&str; 10] = [
        "appArmorProfile", "seLinuxOptions", "seccompProfile", "capabilities", "readOnlyRootFilesystem", "privileged",
        "allowPrivilegeEscalation", "procMount", "runAsUser", "runAsGroup",
    ];
    let os = spec.get("os");
    if !os.is_set() {
        return;
    }
    let context = spec.get("securityContext");
    let mut refused: Vec<At> = Vec::new();
    match os.get("name").str() {
        "" => check.required(&os.get("name"), "cannot be empty"),
        "linux" => {
            refused.push(context.get("windowsOptions"));
            refused.extend(super::all_containers(spec).map(|c| c.get("securityContext.windowsOptions")));
        }
        "windows" => {
            refused.extend(POD.map(|f| context.get(f)));
            refused.extend(["hostUsers", "shareProcessNamespace"].map(|f| spec.get(f)));
            refused.extend(["hostPID", "hostIPC"].map(|f| spec.get(f)).into_iter().filter(At::flag));
            refused.extend(Some(context.get("sysctls")).filter(|s| !s.is_empty()));
            refused
                .extend(super::all_containers(spec).flat_map(|c| CONTAINER.map(|f| c.get("securityContext").get(f))));
        }
        _ => check.not_supported(&os.get("name").under(os.path.clone()), &["linux", "windows"]),
    }
    for field in refused.iter().filter(|f| f.is_set()) {
        check.forbidden(field, "cannot be set for a pod of this operating system");
    }
}

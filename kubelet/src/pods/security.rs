//! Security contexts: the pod's and the container's settings merged into what the runtime is told. Pure.

use k8s_openapi::api::core::v1 as core;

use super::types::Pod;
use crate::cri::api;

/// What a container must not see below /proc and /sys.
const MASKED: [&str; 12] = [
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What a container must not change below /proc.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Node settings that matter here.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// `RuntimeDefault` instead of no seccomp for pods that say nothing.
    pub seccomp_default: bool,
    /// Directory of localhost seccomp profiles.
    pub seccomp_dir: String,
}

fn int(value: Option<i64>) -> Option<api::Int64Value> {
    value.map(|value| api::Int64Value { value })
}

/// Namespaces of the sandbox and its containers; `target` is the container whose processes an ephemeral one shares.
pub fn namespaces(pod: &Pod, target: Option<&str>) -> api::NamespaceOption {
    use api::NamespaceMode::{Container, Node, Pod as InPod, Target};
    let mode = |node: Option<bool>, other| if node == Some(true) { Node as i32 } else { other as i32 };
    let pid = if pod.spec.share_process_namespace == Some(true) { InPod } else { Container };
    let mut options = api::NamespaceOption {
        network: mode(pod.spec.host_network, InPod),
        pid: mode(pod.spec.host_pid, pid),
        ipc: mode(pod.spec.host_ipc, InPod),
        ..Default::default()
    };
    if let (Some(target), true) = (target, options.pid == Container as i32) {
        options.pid = Target as i32;
        options.target_id = target.to_owned();
    }
    options
}

fn selinux(options: Option<&core::SELinuxOptions>) -> Option<api::SeLinuxOption> {
    options.map(|o| api::SeLinuxOption {
        user: o.user.clone().unwrap_or_default(),
        role: o.role.clone().unwrap_or_default(),
        r#type: o.type_.clone().unwrap_or_default(),
        level: o.level.clone().unwrap_or_default(),
    })
}

fn profile(type_: &str, localhost: String) -> api::SecurityProfile {
    use api::security_profile::ProfileType;
    let profile_type = match type_ {
        "RuntimeDefault" => ProfileType::RuntimeDefault,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    api::SecurityProfile { profile_type: profile_type as i32, localhost_ref: localhost }
}

fn seccomp(profiles: [Option<&core::SeccompProfile>; 2], defaults: &Defaults) -> api::SecurityProfile {
    match profiles.into_iter().flatten().next() {
        Some(p) => {
            let file = p.localhost_profile.as_ref().map(|f| format!("{}/{f}", defaults.seccomp_dir));
            profile(&p.type_, file.unwrap_or_default())
        }
        None if defaults.seccomp_default => profile("RuntimeDefault", String::new()),
        None => profile("Unconfined", String::new()),
    }
}

fn groups(pod: &core::PodSecurityContext) -> Vec<i64> {
    let mut groups = pod.supplemental_groups.clone().unwrap_or_default();
    groups.extend(pod.fs_group);
    groups.dedup();
    groups
}

fn groups_policy(pod: &core::PodSecurityContext) -> i32 {
    let strict = pod.supplemental_groups_policy.as_deref() == Some("Strict");
    i32::from(if strict { api::SupplementalGroupsPolicy::Strict } else { api::SupplementalGroupsPolicy::Merge })
}

/// The sandbox's security context.
pub fn sandbox(pod: &Pod) -> api::LinuxSandboxSecurityContext {
    let context = pod.spec.security_context.clone().unwrap_or_default();
    let privileged =
        pod.containers().any(|(_, c)| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true));
    api::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        selinux_options: selinux(context.se_linux_options.as_ref()),
        run_as_user: int(context.run_as_user),
        run_as_group: int(context.run_as_group).filter(|_| context.run_as_user.is_some()),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context),
        privileged,
        seccomp: Some(profile("RuntimeDefault", String::new())),
        ..Default::default()
    }
}

/// A container's security context; its own settings win over the pod's.
pub fn container(
    pod: &Pod,
    spec: &core::Container,
    target: Option<&str>,
    defaults: &Defaults,
) -> api::LinuxContainerSecurityContext {
    let outer = pod.spec.security_context.clone().unwrap_or_default();
    let own = spec.security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let user = own.run_as_user.or(outer.run_as_user);
    api::LinuxContainerSecurityContext {
        capabilities: own.capabilities.map(|c| api::Capability {
            add_capabilities: c.add.unwrap_or_default(),
            drop_capabilities: c.drop.unwrap_or_default(),
            ..Default::default()
        }),
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        selinux_options: selinux(own.se_linux_options.as_ref().or(outer.se_linux_options.as_ref())),
        run_as_user: int(user),
        run_as_group: int(own.run_as_group.or(outer.run_as_group)),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&outer),
        supplemental_groups_policy: groups_policy(&outer),
        no_new_privs: own.allow_privilege_escalation == Some(false) && !privileged,
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(if privileged {
            profile("Unconfined", String::new())
        } else {
            seccomp([own.seccomp_profile.as_ref(), outer.seccomp_profile.as_ref()], defaults)
        }),
        apparmor: own
            .app_armor_profile
            .as_ref()
            .or(outer.app_armor_profile.as_ref())
            .map(|p| profile(&p.type_, p.localhost_profile.clone().unwrap_or_default())),
        ..Default::default()
    }
}

/// Whether a container that must not run as root would: the message of the refusal.
///
/// `image_user` is the image's numeric user, `image_user_name` its named one.
pub fn check_non_root(
    pod: &Pod,
    spec: &core::Container,
    image_user: Option<i64>,
    image_user_name: &str,
) -> Result<(), String> {
    let outer = pod.spec.security_context.as_ref();
    let own = spec.security_context.as_ref();
    let demanded = own.and_then(|s| s.run_as_non_root).or(outer.and_then(|s| s.run_as_non_root)) == Some(true);
    if !demanded {
        return Ok(());
    }
    let place = format!("(pod: \"{}\", container: {})", pod.full_name(), spec.name);
    match own.and_then(|s| s.run_as_user).or(outer.and_then(|s| s.run_as_user)) {
        Some(0) => Err(format!("container's runAsUser breaks non-root policy {place}")),
        Some(_) => Ok(()),
        // An image that names no user runs as root.
        None if image_user.unwrap_or(0) == 0 && (image_user.is_some() || image_user_name.is_empty()) => {
            Err(format!("container has runAsNonRoot and image will run as root {place}"))
        }
        None if image_user.is_none() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({image_user_name}), cannot verify user is non-root {place}"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::types::tests::pod;
    use serde_json::json;

    #[test]
    fn container_wins_over_pod() {
        let pod = pod(json!({"spec": {"securityContext": {"runAsUser": 1, "fsGroup": 5, "supplementalGroups": [4],
            "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"runAsUser": 2, "allowPrivilegeEscalation": false}},
                {"name": "b", "securityContext": {"privileged": true}}]}}));
        let defaults = Defaults { seccomp_default: false, seccomp_dir: "/s".into() };
        let a = container(&pod, &pod.spec.containers[0], None, &defaults);
        assert_eq!(a.run_as_user.unwrap().value, 2);
        assert_eq!(a.supplemental_groups, [4, 5]);
        assert!(a.no_new_privs && !a.masked_paths.is_empty());
        assert_eq!(a.seccomp.unwrap().profile_type, 0);
        let b = container(&pod, &pod.spec.containers[1], None, &defaults);
        assert!(b.privileged && b.masked_paths.is_empty());
        assert!(sandbox(&pod).privileged);
    }

    #[test]
    fn non_root() {
        let pod = pod(json!({"spec": {"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]}}));
        let spec = &pod.spec.containers[0];
        assert!(check_non_root(&pod, spec, Some(0), "").is_err());
        assert!(check_non_root(&pod, spec, None, "nginx").unwrap_err().contains("non-numeric user (nginx)"));
        assert!(check_non_root(&pod, spec, None, "").unwrap_err().contains("will run as root"));
        assert!(check_non_root(&pod, spec, Some(7), "").is_ok());
    }
}

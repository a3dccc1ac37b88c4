//! Containers of all three lists, their ports, mounts, probes and hooks. Follows upstream's `validateContainerCommon`
//! and what it adds per list; the quirks of its paths (mount rules without an index) are kept.

use apimachinery::field::FieldError;
use apimachinery::validation as names;
use serde_json::Value;

use super::super::quantities;
use super::{PodRules, env, security, volumes};
use crate::resources::check::{At, Check};

/// What containers need to know about their pod.
pub struct Surroundings<'a> {
    /// The volumes that may be mounted.
    pub volumes: Vec<(&'a str, &'a Value)>,
    /// Names of the pod's resource claims.
    pub claims: Vec<&'a str>,
    /// The pod's grace period in seconds.
    pub grace_seconds: Option<i64>,
    /// The pod's restart policy.
    pub restart_policy: &'a str,
    /// Does the pod use the host's user namespace?
    pub host_users: bool,
}

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// The three lists of a pod spec.
pub fn validate(check: &mut Check, spec: &At, around: &Surroundings, rules: &PodRules) {
    let (regular, init) = (spec.get("containers"), spec.get("initContainers"));
    if check.present(&regular) {
        let mut seen: Vec<&str> = Vec::new();
        for container in regular.items() {
            common(check, &container, around, rules);
            // Here two without a name are of the same name.
            let name = container.get("name");
            unique(check, &name, &mut seen);
            seen.extend(name.is_empty().then_some(""));
            running(check, &container, around);
            restart_rules(check, &container);
        }
        host_ports(check, regular.items());
    }
    let mut seen: Vec<&str> = regular.items().map(|c| c.get("name").str()).collect();
    for container in init.items() {
        common(check, &container, around, rules);
        if container.get("restartPolicy").is_set() {
            restart_rules(check, &container);
        } else if !container.get("restartPolicyRules").is_empty() {
            check.required(&container.get("restartPolicy"), "must specify restartPolicy when restart rules are used");
        }
        unique(check, &container.get("name"), &mut seen);
        host_ports(check, std::iter::once(container.clone()));
        if container.get("restartPolicy").str() == "Always" {
            running(check, &container, around);
        } else {
            for field in ["lifecycle"].iter().chain(&PROBES).map(|f| container.get(f)).filter(At::is_set) {
                check.forbidden(&field, "may not be set for init containers without restartPolicy=Always");
            }
        }
    }
    ephemeral(check, spec, around, rules, seen);
}

fn unique<'a>(check: &mut Check, name: &At<'a>, seen: &mut Vec<&'a str>) {
    if seen.contains(&name.str()) {
        check.duplicate(name);
    } else if !name.is_empty() {
        seen.push(name.str());
    }
}

fn common(check: &mut Check, container: &At, around: &Surroundings, rules: &PodRules) {
    check.present_format(&container.get("name"), names::dns1123_label);
    check.present(&container.get("image"));
    check.present_one_of(&container.get("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"]);
    ports(check, &container.get("ports"));
    env::validate(check, container);
    mounts(check, container, around);
    devices(check, container, around);
    check.present_one_of(&container.get("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    quantities::requirements(check, &container.get("resources"), quantities::container_resource_name, &around.claims);
    resize_policy(check, &container.get("resizePolicy"), around.restart_policy);
    security::container(check, &container.get("securityContext"), around.host_users, rules);
}

fn ports(check: &mut Check, at: &At) {
    let mut seen: Vec<&str> = Vec::new();
    for port in at.items() {
        let name = port.get("name");
        if !name.is_empty() {
            let complaints = names::port_name(name.str());
            if complaints.is_empty() {
                unique(check, &name, &mut seen);
            }
            for complaint in complaints {
                check.invalid(&name, complaint);
            }
        }
        if port.get("containerPort").number() == 0 {
            check.required(&port.get("containerPort"), "");
        } else {
            check.port_number(&port.get("containerPort"));
        }
        if port.get("hostPort").number() != 0 {
            check.port_number(&port.get("hostPort"));
        }
        check.present_one_of(&port.get("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

fn host_ports<'a>(check: &mut Check, containers: impl Iterator<Item = At<'a>>) {
    let mut seen: Vec<(&str, &str, i64)> = Vec::new();
    for container in containers {
        for port in container.get("ports").items().filter(|p| p.get("hostPort").number() != 0) {
            let key = (port.get("protocol").str(), port.get("hostIP").str(), port.get("hostPort").number());
            if seen.contains(&key) {
                check.duplicate(&port.get("hostPort"));
            } else {
                seen.push(key);
            }
        }
    }
}

fn mounts(check: &mut Check, container: &At, around: &Surroundings) {
    let at = container.get("volumeMounts");
    let devices = container.get("volumeDevices");
    let mut paths: Vec<&str> = Vec::new();
    for mount in at.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        let (sub, expr) = (mount.get("subPath"), mount.get("subPathExpr"));
        check.present(&name);
        let volume = around.volumes.iter().find(|(n, _)| *n == name.str());
        if volume.is_none() {
            check.not_found(&name);
        }
        check.present(&path);
        if paths.contains(&path.str()) {
            check.invalid(&path, "must be unique");
        }
        paths.push(path.str());
        if devices.items().any(|d| d.get("name").str() == name.str()) {
            check.invalid(&name, "must not already exist in volumeDevices");
        }
        if devices.items().any(|d| d.get("devicePath").str() == path.str()) {
            check.invalid(&path, "must not already exist as a path in volumeDevices");
        }
        if volume.is_some_and(|(_, v)| v.get("image").is_some()) {
            for field in [&sub, &expr].into_iter().filter(|f| !f.is_empty()) {
                check.invalid(field, "not allowed in image volume sources");
            }
        }
        if !sub.is_empty() {
            volumes::descending_path(check, &sub.under(at.path.child("subPath")));
        }
        if !expr.is_empty() {
            if !sub.is_empty() {
                check.invalid(&expr, "subPathExpr and subPath are mutually exclusive");
            }
            volumes::descending_path(check, &expr.under(at.path.child("subPathExpr")));
        }
        propagation(check, &mount, &at, container.get("securityContext.privileged").flag());
    }
}

fn propagation(check: &mut Check, mount: &At, list: &At, privileged: bool) {
    let propagation = mount.get("mountPropagation").under(list.path.child("mountPropagation"));
    check.one_of(&propagation, &["Bidirectional", "HostToContainer", "None"]);
    if propagation.str() == "Bidirectional" && !privileged {
        check.forbidden(&propagation, "Bidirectional mount propagation is available only to privileged containers");
    }
    let recursive = mount.get("recursiveReadOnly").under(list.path.child("recursiveReadOnly"));
    if ["Enabled", "IfPossible"].contains(&recursive.str()) {
        if !mount.get("readOnly").flag() {
            check.forbidden(&recursive, "may only be specified when readOnly is true");
        }
        if propagation.is_set() && propagation.str() != "None" {
            check.forbidden(&recursive, "may only be specified when mountPropagation is None or not specified");
        }
    }
    check.one_of(&recursive, &["Disabled", "Enabled", "IfPossible"]);
}

fn devices(check: &mut Check, container: &At, around: &Surroundings) {
    let mounts = container.get("volumeMounts");
    let (mut seen_names, mut seen_paths): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for device in container.get("volumeDevices").items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        check.present(&name);
        if seen_names.contains(&name.str()) {
            check.invalid(&name, "must be unique");
        }
        match around.volumes.iter().find(|(n, _)| *n == name.str()) {
            None => check.not_found(&name),
            Some((_, v)) if v.get("persistentVolumeClaim").is_none() && v.get("ephemeral").is_none() => {
                check.invalid(
                    &name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                );
            }
            Some(_) => {}
        }
        check.present(&path);
        if seen_paths.contains(&path.str()) {
            check.invalid(&path, "must be unique");
        }
        if path.str().split('/').any(|part| part == "..") {
            check.invalid(&path, "can not contain backsteps ('..')");
        } else {
            seen_paths.push(path.str());
        }
        if mounts.items().any(|m| m.get("name").str() == name.str()) {
            check.invalid(&name, "must not already exist in volumeMounts");
        }
        if mounts.items().any(|m| m.get("mountPath").str() == path.str()) {
            check.invalid(&path, "must not already exist as a path in volumeMounts");
        }
        seen_names.extend(Some(name.str()).filter(|n| !n.is_empty()));
    }
}

fn resize_policy(check: &mut Check, at: &At, pod_restart_policy: &str) {
    let mut seen: Vec<&str> = Vec::new();
    for policy in at.items() {
        let resource = policy.get("resourceName").under(at.path.clone());
        let restart = policy.get("restartPolicy").under(at.path.clone());
        if seen.contains(&resource.str()) {
            check.duplicate(&policy);
        }
        seen.push(resource.str());
        check.present_one_of(&resource, &["cpu", "memory"]);
        check.present_one_of(&restart, &["NotRequired", "RestartContainer"]);
        if pod_restart_policy == "Never" && restart.str() != "NotRequired" {
            check.invalid(&restart, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}

/// A container's own restart policy and its rules by exit code.
fn restart_rules(check: &mut Check, container: &At) {
    let (policy, rules) = (container.get("restartPolicy"), container.get("restartPolicyRules"));
    check.one_of(&policy, &["Always", "Never", "OnFailure"]);
    if rules.is_empty() {
        return;
    }
    if !policy.is_set() {
        check.required(&policy, "must specify restartPolicy when restart rules are used");
    }
    check.at_most(&rules, 20);
    for rule in rules.items() {
        let codes = rule.get("exitCodes");
        check.always_one_of(&rule.get("action"), &["Restart", "RestartAllContainers"]);
        if !codes.is_set() {
            check.required(&codes, "must be specified");
            continue;
        }
        check.always_one_of(&codes.get("operator"), &["In", "NotIn"]);
        check.at_most(&codes.get("values"), 255);
    }
}

/// What only containers have that keep running: hooks and probes.
fn running(check: &mut Check, container: &At, around: &Surroundings) {
    for hook in ["postStart", "preStop"].map(|h| container.get("lifecycle").get(h)) {
        if hook.is_set() {
            handler(check, &hook, &["exec", "httpGet", "tcpSocket", "sleep"], around.grace_seconds);
        }
    }
    let stop_signal = container.get("lifecycle.stopSignal");
    if stop_signal.is_set() {
        check.present(&stop_signal);
    }
    for kind in PROBES {
        let probe = container.get(kind);
        if probe.is_set() {
            validate_probe(check, &probe, kind, around.grace_seconds);
        }
    }
}

fn validate_probe(check: &mut Check, probe: &At, kind: &str, grace_seconds: Option<i64>) {
    handler(check, probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace_seconds);
    check.non_negative_all(
        probe,
        &["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"],
    );
    let own_grace = probe.get("terminationGracePeriodSeconds");
    if own_grace.int().is_some_and(|seconds| seconds <= 0) {
        check.invalid(&own_grace, "must be greater than 0");
    }
    if kind == "readinessProbe" {
        if own_grace.is_set() {
            check.invalid(&own_grace, "must not be set for readinessProbes");
        }
    } else if probe.get("successThreshold").number() != 1 {
        check.invalid(&probe.get("successThreshold"), "must be 1");
    }
}

fn handler(check: &mut Check, at: &At, kinds: &[&str], grace_seconds: Option<i64>) {
    let mut found = false;
    for kind in kinds {
        let action = at.get(kind);
        if !action.is_set() {
            continue;
        }
        if found {
            check.forbidden(&action, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match *kind {
            "exec" => {
                check.present(&action.get("command"));
            }
            "httpGet" => {
                check.present(&action.get("path"));
                check.port_number_or_name(&action.get("port"));
                check.one_of(&action.get("scheme"), &["HTTP", "HTTPS"]);
                for header in action.get("httpHeaders").items() {
                    check.format(&header.get("name").under(action.path.child("httpHeaders")), names::http_header_name);
                }
            }
            "sleep" => {
                let seconds = action.get("seconds").under(action.path.clone());
                if grace_seconds.is_some_and(|grace| !(0..=grace).contains(&seconds.number())) {
                    check.invalid(&seconds, "must be non-negative and less than terminationGracePeriodSeconds");
                }
            }
            _ => check.port_number_or_name(&action.get("port")),
        }
    }
    if !found {
        check.required(at, "must specify a handler type");
    }
}

fn ephemeral<'a>(check: &mut Check, spec: &At<'a>, around: &Surroundings, rules: &PodRules, mut seen: Vec<&'a str>) {
    const FORBIDDEN: [&str; 9] = [
        "ports", "resources", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy",
        "restartPolicy", "restartPolicyRules",
    ];
    let others = seen.clone();
    for container in spec.get("ephemeralContainers").items() {
        common(check, &container, around, rules);
        image_padding(check, &container);
        unique(check, &container.get("name"), &mut seen);
        let target = container.get("targetContainerName");
        if !target.is_empty() && !others.contains(&target.str()) {
            check.not_found(&target);
        }
        for field in FORBIDDEN.map(|f| container.get(f)).into_iter().filter(|f| !f.is_empty()) {
            check.forbidden(&field, "cannot be set for an Ephemeral Container");
        }
        for mount in container.get("volumeMounts").items() {
            for sub in ["subPath", "subPathExpr"].map(|f| mount.get(f)).into_iter().filter(|f| !f.is_empty()) {
                check.forbidden(&sub, "cannot be set for an Ephemeral Container");
            }
        }
    }
}

/// Pods (not templates) refuse image names with blanks around them.
pub fn image_padding(check: &mut Check, container: &At) {
    let image = container.get("image");
    if image.str().trim().len() != image.len() {
        check.errors.push(FieldError::invalid(
            image.path.clone(),
            image.value.clone(),
            "must not have leading or trailing whitespace",
        ));
    }
}

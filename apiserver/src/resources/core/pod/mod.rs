//! Pods and pod templates: the rules of a pod spec, wherever it stands.
//!
//! `template` and `spec` serve every kind that makes pods; `strategy` is the pod resource itself. Follows upstream's
//! `ValidatePodSpec` and `ValidatePodTemplateSpec`.

pub mod cells;
mod containers;
pub mod defaults;
mod env;
pub mod qos;
mod resize;
pub mod scheduling;
mod security;
pub mod strategy;
mod update;
pub mod volumes;
pub mod warnings;

use std::cmp::Ordering;

use apimachinery::quantity::Quantity;
use apimachinery::validation as names;

use super::quantities;
use crate::resources::HookContext;
use crate::resources::check::{At, Check};

/// What the rules of a spec depend on besides the spec.
#[derive(Clone, Copy, Default)]
pub struct PodRules<'a> {
    /// A pod, not a template.
    pub is_pod: bool,
    /// `--allow-privileged`.
    pub allow_privileged: bool,
    /// The pod's name, which names of generated claims come from.
    pub pod_name: Option<&'a str>,
}

impl PodRules<'_> {
    /// The rules for a template.
    pub fn template(cx: &HookContext) -> Self {
        Self { is_pod: false, allow_privileged: cx.options.allow_privileged, pod_name: None }
    }
}

/// Every container of a spec: init, regular, ephemeral.
pub fn all_containers<'a>(spec: &At<'a>) -> impl Iterator<Item = At<'a>> + use<'a> {
    let lists = ["initContainers", "containers", "ephemeralContainers"].map(|list| spec.get(list));
    lists.into_iter().flat_map(|list| list.items().collect::<Vec<_>>())
}

/// A pod template at `at` (its labels are reported there, not below `metadata`).
pub fn template(check: &mut Check, at: &At, cx: &HookContext) {
    let rules = PodRules::template(cx);
    let (meta, pod_spec) = (at.get("metadata"), at.get("spec"));
    let annotations = meta.get("annotations").under(at.path.child("annotations"));
    check.labels(&meta.get("labels").under(at.path.child("labels")));
    check.annotations(&annotations);
    pod_annotations(check, &annotations, &pod_spec);
    spec(check, &pod_spec, &rules);
    if !pod_spec.get("ephemeralContainers").is_empty() {
        check.forbidden(&pod_spec.get("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// Annotations with a meaning of their own.
pub fn pod_annotations(check: &mut Check, at: &At, spec: &At) {
    const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    let mirror = at.entry("kubernetes.io/config.mirror");
    if mirror.is_set() && spec.get("nodeName").is_empty() {
        check.invalid(&mirror, "must set spec.nodeName if mirror pod annotation is set");
    }
    let cost = at.entry(COST);
    let padded =
        cost.str().len() > 1 && cost.str().trim_start_matches('-').starts_with('0') || cost.str().starts_with('+');
    if cost.is_set() && (padded || cost.str().parse::<i32>().is_err()) {
        check.invalid(&cost, "must be a 32bit integer");
    }
    for (key, profile) in at.entries() {
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            if !all_containers(spec).any(|c| c.get("name").str() == container) {
                check.invalid(&profile, "container not found");
            }
            let known = ["", "runtime/default", "unconfined"].contains(&profile.str());
            if !known && !profile.str().starts_with("localhost/") {
                check.invalid(&profile, "invalid AppArmor profile name");
            }
        } else if key == "seccomp.security.alpha.kubernetes.io/pod"
            || key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        {
            let profile = profile.under(at.path.child(key));
            if let Some(path) = profile.str().strip_prefix("localhost/") {
                let value = serde_json::Value::from(path);
                volumes::descending_path(check, &At { value: &value, path: profile.path.clone() });
            } else if !["runtime/default", "docker/default", "unconfined"].contains(&profile.str()) {
                check.invalid(&profile, "must be a valid seccomp profile");
            }
        }
    }
}

/// A pod spec.
pub fn spec(check: &mut Check, at: &At, rules: &PodRules) {
    let grace = at.get("terminationGracePeriodSeconds");
    if !grace.is_set() {
        check.required(&grace, "");
    }
    let around = containers::Surroundings {
        volumes: volumes::validate(check, &at.get("volumes"), rules),
        claims: at.get("resourceClaims").items().map(|c| c.get("name").str()).filter(|n| !n.is_empty()).collect(),
        grace_seconds: grace.int(),
        restart_policy: at.get("restartPolicy").str(),
        host_users: at.get("hostUsers").value.as_bool() != Some(false),
    };
    resource_claims(check, &at.get("resourceClaims"));
    containers::validate(check, at, &around, rules);
    env::file_key_volumes(check, at);
    pod_resources(check, at, &around.claims);
    host_network_ports(check, at, rules);
    check.present_one_of(&at.get("restartPolicy"), &["Always", "OnFailure", "Never"]);
    check.present_one_of(&at.get("dnsPolicy"), &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    check.labels(&at.get("nodeSelector"));
    security::pod(check, at);
    scheduling::affinity(check, &at.get("affinity"));
    dns_config(check, at);
    for gate in at.get("readinessGates").items() {
        check.format(&gate.get("conditionType"), names::qualified_name);
    }
    scheduling_gates(check, &at.get("schedulingGates"));
    scheduling::topology_spread(check, &at.get("topologySpreadConstraints"));
    security::host_process(check, at, rules);
    host_users(check, at);
    simple_fields(check, at);
    scheduling::tolerations(check, &at.get("tolerations"));
    let overhead = serde_json::json!({"limits": at.get("overhead").value});
    let overhead = At { value: &overhead, path: at.path.child("overhead") };
    quantities::requirements(check, &overhead, quantities::container_resource_name, &[]);
    security::operating_system(check, at);
}

/// Fields with a format and nothing else.
fn simple_fields(check: &mut Check, at: &At) {
    check.format_if_set(&at.get("serviceAccountName"), names::dns1123_subdomain);
    check.format_if_set(&at.get("nodeName"), names::dns1123_subdomain);
    let deadline = at.get("activeDeadlineSeconds");
    if deadline.is_set() {
        check.range(&deadline, 1, i64::from(i32::MAX));
    }
    check.format_if_set(&at.get("hostname"), names::dns1123_label);
    check.format_if_set(&at.get("subdomain"), names::dns1123_label);
    hostname_override(check, at);
    for alias in at.get("hostAliases").items() {
        check.ip(&alias.get("ip"));
        for hostname in alias.get("hostnames").items() {
            check.format(&hostname, names::dns1123_subdomain);
        }
    }
    check.format_if_set(&at.get("priorityClassName"), names::dns1123_subdomain);
    let runtime_class = at.get("runtimeClassName");
    if runtime_class.is_set() {
        check.format(&runtime_class, names::dns1123_subdomain);
    }
    let preemption = at.get("preemptionPolicy");
    if preemption.is_set() {
        check.present_one_of(&preemption, &["PreemptLowerPriority", "Never"]);
    }
}

fn hostname_override(check: &mut Check, at: &At) {
    let name = at.get("hostnameOverride");
    if !name.is_set() {
        return;
    }
    if at.get("hostNetwork").flag() {
        check.forbidden(&name, "may not be specified when hostNetwork is true");
    }
    if at.get("setHostnameAsFQDN").flag() {
        check.forbidden(&name, "may not be specified when setHostnameAsFQDN is true");
    }
    if name.len() > 64 {
        check.too_long(&name, 64);
    }
    check.format(&name, names::dns1123_subdomain);
}

fn resource_claims(check: &mut Check, at: &At) {
    let mut seen: Vec<&str> = Vec::new();
    for claim in at.items() {
        let name = claim.get("name");
        if seen.contains(&name.str()) && !name.is_empty() {
            check.duplicate(&name);
        } else if check.present(&name) {
            check.format(&name, names::dns1123_label);
            seen.push(name.str());
        }
        let (direct, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        if direct.is_set() == template.is_set() {
            check.invalid(&claim, "must specify exactly one of: `resourceClaimName`, `resourceClaimTemplateName`");
        }
        for reference in [direct, template].iter().filter(|r| r.is_set()) {
            check.format(reference, names::dns1123_subdomain);
        }
    }
}

/// Resources of the pod as a whole: not below the sum of its containers' requests nor any container's limit.
fn pod_resources(check: &mut Check, spec: &At, claims: &[&str]) {
    let at = spec.get("resources");
    if !at.is_set() {
        return;
    }
    if !at.get("claims").is_empty() {
        check.forbidden(&at.get("claims"), "claims cannot be set for Resources at pod-level");
    }
    quantities::requirements(check, &at, quantities::pod_resource_name, claims);
    for (name, total) in qos::container_requests(spec) {
        let of_pod = at.get("requests").entry(&name);
        if of_pod.is_set() && total > of_pod.quantity() {
            check.invalid(&of_pod, format!("must be greater than or equal to aggregate container requests of {total}"));
        }
    }
    for (i, container) in spec.get("containers").items().enumerate() {
        for (name, limit) in container.get("resources.limits").entries() {
            let of_pod = at.get("limits").entry(name);
            if of_pod.is_set() && limit.quantity().cmp(&of_pod.quantity()) == Ordering::Greater {
                let path = at.path.child("containers").index(i).key(name).child("limits");
                check.invalid(&limit.under(path), "must be less than or equal to pod limits");
            }
        }
    }
}

fn host_network_ports(check: &mut Check, at: &At, rules: &PodRules) {
    if !at.get("hostNetwork").flag() {
        return;
    }
    for port in at.get("containers").items().flat_map(|c| c.get("ports").items().collect::<Vec<_>>()) {
        let (host, inside) = (port.get("hostPort"), port.get("containerPort"));
        if (rules.is_pod || host.number() != 0) && host.number() != inside.number() {
            check.invalid(&host, "must match `containerPort` when `hostNetwork` is true");
        }
    }
}

fn dns_config(check: &mut Check, spec: &At) {
    let at = spec.get("dnsConfig");
    let (servers, searches) = (at.get("nameservers"), at.get("searches"));
    if spec.get("dnsPolicy").str() == "None" {
        if !at.is_set() {
            return check.required(&at, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            return check.required(&servers, "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    if servers.len() > 3 {
        check.invalid(&servers, "must not have more than 3 nameservers");
    }
    for server in servers.items() {
        check.ip(&server);
    }
    if searches.len() > 32 {
        check.invalid(&searches, "must not have more than 32 search paths");
    }
    if searches.strings().map(|s| s.len() + 1).sum::<usize>() > 2049 {
        check.invalid(&searches, "must not have more than 2048 characters (including spaces) in the search list");
    }
    for search in searches.items().filter(|s| s.str() != ".") {
        // Underscores are allowed at any place where a letter would be.
        let relaxed = search.str().strip_suffix('.').unwrap_or(search.str()).replace('_', "a");
        for complaint in names::dns1123_subdomain(&relaxed) {
            check.invalid(&search, complaint);
        }
    }
    for option in at.get("options").items().filter(|o| o.get("name").is_empty()) {
        check.required(&option, "must not be empty");
    }
}

fn scheduling_gates(check: &mut Check, at: &At) {
    let mut seen: Vec<&str> = Vec::new();
    for gate in at.items() {
        let name = gate.get("name");
        check.format(&name.under(gate.path.clone()), names::qualified_name);
        if seen.contains(&name.str()) {
            check.duplicate(&gate);
        }
        seen.push(name.str());
    }
}

fn host_users(check: &mut Check, at: &At) {
    if at.get("hostUsers").value.as_bool() != Some(false) {
        return;
    }
    for (field, reported_as) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if at.get(field).flag() {
            check.forbidden(&at.get(field).under(at.path.child(reported_as)), "when `pod.Spec.HostUsers` is false");
        }
    }
}

/// The requests of a list of resources as quantities, by name.
pub type Amounts = std::collections::BTreeMap<String, Quantity>;

//! Resource names and amounts: which names mean something, which count in whole units, and what a request may be
//! relative to its limit. Follows upstream's core helper and `ValidateResourceRequirements`.

use apimachinery::quantity::Quantity;
use apimachinery::validation as names;

use crate::resources::check::{At, Check};

const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const STANDARD: [&str; 11] = [
    "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage",
    "limits.cpu", "limits.memory", "limits.ephemeral-storage", "pods", "storage",
];
const OBJECT_COUNTS: [&str; 9] = [
    "pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps", "persistentvolumeclaims",
    "services.nodeports", "services.loadbalancers",
];
const QUOTA_ONLY: [&str; 1] = ["requests.storage"];

/// A hugepages size?
pub fn is_hugepages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A name of Kubernetes itself: without a domain, or in one of its domains.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A vendor's countable resource (`example.com/gpu`).
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Counted in whole units?
pub fn is_integer(name: &str) -> bool {
    OBJECT_COUNTS.contains(&name) || is_extended(name)
}

/// May a request be lower than the limit?
pub fn overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_hugepages(name)
}

/// Known to resource quotas.
pub fn is_quota_standard(name: &str) -> bool {
    STANDARD.contains(&name) && name != "storage"
        || OBJECT_COUNTS.contains(&name)
        || QUOTA_ONLY.contains(&name)
        || is_hugepages(name)
        || name.starts_with("requests.hugepages-")
}

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name)
        || OBJECT_COUNTS.contains(&name)
        || QUOTA_ONLY.contains(&name)
        || is_hugepages(name)
        || name.starts_with("requests.hugepages-")
}

fn complain(check: &mut Check, at: &At, name: &str, complaint: &str) {
    let value = serde_json::Value::from(name);
    check.invalid(&At { value: &value, path: at.path.clone() }, complaint);
}

/// Any resource name; says whether it passed.
pub fn resource_name(check: &mut Check, name: &str, at: &At) -> bool {
    let complaints = names::qualified_name(name);
    for complaint in &complaints {
        complain(check, at, name, complaint);
    }
    if !complaints.is_empty() {
        return false;
    }
    let ok = name.contains('/') || is_standard(name);
    if !ok {
        complain(check, at, name, "must be a standard resource type or fully qualified");
    }
    ok
}

/// A name that a container may ask for.
pub fn container_resource_name(check: &mut Check, name: &str, at: &At) {
    resource_name(check, name, at);
    if !name.contains('/') {
        if !COMPUTE.contains(&name) && !is_hugepages(name) {
            complain(check, at, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        complain(check, at, name, "doesn't follow extended resource name standard");
    }
}

/// A name that a whole pod may ask for.
pub fn pod_resource_name(check: &mut Check, name: &str, at: &At) {
    if resource_name(check, name, at) && !["cpu", "memory"].contains(&name) && !is_hugepages(name) {
        let value = serde_json::Value::from(name);
        check.not_supported(&At { value: &value, path: at.path.clone() }, &["cpu", "hugepages-", "memory"]);
    }
}

/// A name that a quota may limit.
pub fn quota_resource_name(check: &mut Check, name: &str, at: &At) {
    resource_name(check, name, at);
    if !name.contains('/') && !is_quota_standard(name) {
        complain(check, at, name, "must be a standard resource for quota");
    }
}

fn hugepages_divisible(name: &str, amount: Quantity) -> bool {
    let size: Quantity = name.trim_start_matches("hugepages-").parse().unwrap_or_default();
    size.value() > 0 && amount.value() % size.value() == 0
}

/// `limits`, `requests` and `claims` of a container or pod; `claims` are the pod's claim names.
pub fn requirements(check: &mut Check, at: &At, name_rule: fn(&mut Check, &str, &At), claims: &[&str]) {
    let (limits, requests) = (at.get("limits"), at.get("requests"));
    for (list, is_request) in [(&limits, false), (&requests, true)] {
        for (name, amount) in list.entries() {
            name_rule(check, name, &amount);
            check.resource_quantity(name, &amount);
            if is_request {
                request_within_limit(check, name, &amount, &requests, &limits);
            }
            if is_hugepages(name) && !hugepages_divisible(name, amount.quantity()) {
                check.invalid(&amount, format!("is not positive integer multiple of {name}"));
            }
        }
    }
    let any = |rule: fn(&str) -> bool| limits.entries().chain(requests.entries()).any(|(name, _)| rule(name));
    if any(is_hugepages) && !any(|name| name == "cpu" || name == "memory") {
        check.forbidden(at, "HugePages require cpu or memory");
    }
    claim_names(check, &at.get("claims"), claims);
}

fn request_within_limit(check: &mut Check, name: &str, amount: &At, requests: &At, limits: &At) {
    let limit = limits.entry(name);
    if !limit.is_set() {
        if !overcommit_allowed(name) {
            check.required(limits, "Limit must be set for non overcommitable resources");
        }
    } else if amount.quantity() > limit.quantity()
        || (!overcommit_allowed(name) && amount.quantity() != limit.quantity())
    {
        check.invalid(
            &amount.under(requests.path.clone()),
            format!("must be less than or equal to {name} limit of {}", limit.str()),
        );
    }
}

fn claim_names(check: &mut Check, at: &At, claims: &[&str]) {
    let mut seen: Vec<String> = Vec::new();
    for claim in at.items() {
        let (name, request) = (claim.get("name").str(), claim.get("request"));
        if name.is_empty() {
            check.required(&claim, "");
            continue;
        }
        if seen.iter().any(|s| s == name) {
            check.duplicate(&claim);
        } else {
            check.format_if_set(&request, names::dns1123_label);
            let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{}", request.str()) };
            if seen.contains(&key) || (request.is_empty() && seen.iter().any(|s| s.split('/').next() == Some(name))) {
                check.duplicate(&claim);
            }
            seen.push(key);
        }
        if !claims.contains(&name) {
            check.not_found(&claim);
        }
    }
}

//! What may change in a pod, by each of its endpoints. Follows upstream's `ValidatePodUpdate`,
//! `ValidatePodStatusUpdate` and `ValidatePodEphemeralContainersUpdate`; `resize` has its own file.

use apimachinery::field::Path;
use apimachinery::validation as names;
use serde_json::{Value, json};

use super::scheduling;
use crate::resources::check::{At, Check, dual_stack, parse_ip, same};

/// Annotations that may not come, go or change.
pub fn annotations(check: &mut Check, new: &At, old: &At) {
    let frozen = |key: &str| {
        key == "kubernetes.io/config.mirror" || key.starts_with("container.apparmor.security.beta.kubernetes.io/")
    };
    for (key, value) in old.entries().filter(|(key, _)| frozen(key)) {
        if new.entry(key).value != value.value {
            check.forbidden(&new.entry(key), "may not remove or update this annotation");
        }
    }
    for (_, value) in new.entries().filter(|(key, _)| frozen(key) && !old.entry(key).is_set()) {
        check.forbidden(&value, "may not add this annotation");
    }
}

/// A whole pod: images, a shorter deadline, more tolerations, fewer gates; for a gated pod also narrower node choices.
pub fn pod(check: &mut Check, new: &At, old: &At) {
    let (spec, old_spec) = (new.get("spec"), old.get("spec"));
    for list in ["containers", "initContainers"] {
        let (now, before) = (spec.get(list), old_spec.get(list));
        if now.len() != before.len() {
            return check.forbidden(&now, "pod updates may not add or remove containers");
        }
        for container in now.items() {
            check.present(&container.get("image"));
            super::containers::image_padding(check, &container);
        }
    }
    let (deadline, old_deadline) = (spec.get("activeDeadlineSeconds"), old_spec.get("activeDeadlineSeconds"));
    match (deadline.int(), old_deadline.int()) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            return check.invalid(&deadline, "must be between 0 and 2147483647, inclusive");
        }
        (Some(now), Some(before)) if before < now => {
            return check.invalid(&deadline, "must be less than or equal to previous value");
        }
        (None, Some(_)) => check.invalid(&deadline, "must not update from a positive integer to nil value"),
        _ => {}
    }
    tolerations(check, &spec.get("tolerations"), &old_spec.get("tolerations"));
    let gates = spec.get("schedulingGates");
    for gate in gates.items() {
        if !old_spec.get("schedulingGates").items().any(|o| o.get("name").str() == gate.get("name").str()) {
            check.forbidden(&gate.get("name"), "only deletion is allowed, but found new scheduling gate");
        }
    }
    if same(spec.value, old_spec.value) {
        return;
    }
    let mut munged = spec.value.clone();
    munge(&mut munged, old_spec.value);
    if !old_spec.get("schedulingGates").is_empty() {
        gated(check, &mut munged, &spec, &old_spec);
    }
    if !same(&munged, old_spec.value) {
        check.forbidden(&spec, "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations), `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)");
    }
}

fn tolerations(check: &mut Check, new: &At, old: &At) {
    let but_seconds = |t: &Value| {
        let mut t = t.clone();
        t.as_object_mut().map(|t| t.remove("tolerationSeconds"));
        t
    };
    if old.items().any(|o| !new.items().any(|n| but_seconds(n.value) == but_seconds(o.value))) {
        return check.forbidden(new, "existing toleration can not be modified except its tolerationSeconds");
    }
    scheduling::tolerations(check, new);
}

/// Makes what may change equal to the old spec, so that the rest can be compared.
fn munge(spec: &mut Value, old: &Value) {
    for list in ["containers", "initContainers"] {
        let images = old[list].as_array().cloned().unwrap_or_default();
        for (container, before) in spec[list].as_array_mut().into_iter().flatten().zip(images) {
            restore(container, &before, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        restore(spec, old, field);
    }
    let grace = "terminationGracePeriodSeconds";
    if old[grace].as_i64().is_some_and(|seconds| seconds < 0) && spec[grace] == 1 {
        restore(spec, old, grace);
    }
}

fn restore(object: &mut Value, old: &Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        match old.get(field) {
            Some(value) => map.insert(field.to_owned(), value.clone()),
            None => map.remove(field),
        };
    }
}

/// A gated pod may narrow its node selector and its required node affinity.
fn gated(check: &mut Check, munged: &mut Value, spec: &At, old: &At) {
    const REQUIRED: &str = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (selector, old_selector) = (spec.get("nodeSelector"), old.get("nodeSelector"));
    if old_selector.entries().any(|(key, value)| selector.entry(key).value != value.value) {
        check.invalid(&selector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)");
    }
    restore(munged, old.value, "nodeSelector");
    let (terms, old_terms) = (spec.get(REQUIRED), old.get(REQUIRED));
    if !old_terms.is_empty() && terms.len() != old_terms.len() {
        check.invalid(&terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed");
    } else {
        for (term, _) in terms.items().zip(old_terms.items()).filter(|(t, b)| !only_additions(t, b)) {
            check.invalid(&term, "only additions are allowed (no mutations or deletions)");
        }
    }
    let old_affinity = old.get("affinity.nodeAffinity").value.clone();
    let mut affinity = munged.get("affinity").cloned().unwrap_or_else(|| json!({}));
    affinity["nodeAffinity"] = old_affinity;
    munged["affinity"] = affinity;
    let empty = |v: &Value| v.as_object().is_none_or(|o| o.values().all(Value::is_null));
    if empty(&munged["affinity"]) && !old.get("affinity").is_set() {
        munged["affinity"] = Value::Null;
    }
}

fn only_additions(term: &At, old: &At) -> bool {
    let hollow = |t: &At| t.get("matchExpressions").is_empty() && t.get("matchFields").is_empty();
    if hollow(old) && !hollow(term) {
        return false;
    }
    ["matchExpressions", "matchFields"].iter().all(|list| {
        let (now, before) = (term.get(list), old.get(list));
        now.len() >= before.len() && now.items().zip(before.items()).all(|(n, b)| same(n.value, b.value))
    })
}

/// The `ephemeralcontainers` endpoint: only additions.
pub fn ephemeral_containers(check: &mut Check, new: &At, old: &At) {
    if old.get("metadata.annotations").entry("kubernetes.io/config.mirror").is_set() {
        check.errors.clear();
        return check.forbidden(&new.under(Path::root()), "static pods do not support ephemeral containers");
    }
    let now = new.get("spec.ephemeralContainers");
    for before in old.get("spec.ephemeralContainers").items() {
        match now.items().find(|c| c.get("name").str() == before.get("name").str()) {
            None => check.forbidden(&now, "existing ephemeral containers may not be removed"),
            Some(c) if !same(c.value, before.value) => {
                check.forbidden(&now, "existing ephemeral containers may not be changed");
            }
            Some(_) => {}
        }
    }
}

/// The `status` endpoint.
pub fn status(check: &mut Check, new: &At, old: &At) {
    let (status, before, spec) = (new.get("status"), old.get("status"), old.get("spec"));
    for condition in status.get("conditions").items() {
        let ty = condition.get("type");
        if !["PodScheduled", "Ready", "Initialized"].contains(&ty.str()) {
            check.format(&ty.under(condition.path.child("Type")), names::qualified_name);
        }
    }
    let nominated = status.get("nominatedNodeName");
    if nominated.str() != before.get("nominatedNodeName").str() {
        check.format_if_set(&nominated, names::dns1123_subdomain);
    }
    check.non_negative(&status.get("observedGeneration"));
    let extended = status.get("extendedResourceClaimStatus");
    if extended.is_set() {
        check.present_all(&extended, &["requestMappings", "resourceClaimName"]);
    }
    check.immutable(&status.get("qosClass"), &before.get("qosClass"));
    let policy = spec.get("restartPolicy").str();
    for (statuses, containers) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        let own = |name: &str, code: i64| {
            spec.get(containers).items().any(|c| c.get("name").str() == name && restarts_by_itself(&c, code))
        };
        if !may_restart_all(&spec) {
            no_resurrection(check, &status.get(statuses), &before.get(statuses), policy, own);
        }
    }
    let ephemeral = status.get("ephemeralContainerStatuses");
    no_resurrection(check, &ephemeral, &before.get("ephemeralContainerStatuses"), "Never", |_, _| false);
    claim_statuses(check, &status.get("resourceClaimStatuses"), &new.get("spec.resourceClaims"));
    ips(check, &status.get("podIPs"), None);
    ips(check, &status.get("hostIPs"), Some(&status.get("hostIP")));
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        for container in status.get(list).items() {
            let linux = container.get("user.linux").under(container.path.child("linux"));
            check.id(&linux.get("uid"));
            check.id(&linux.get("gid"));
            for group in linux.get("supplementalGroups").items() {
                check.id(&group);
            }
        }
    }
    for container in ephemeral.items().filter(|c| !c.get("allocatedResourcesStatus").is_empty()) {
        check.forbidden(&container.get("allocatedResourcesStatus"), "must not be specified in container status");
    }
}

/// Whether a container's own rules or policy start it again after an exit code.
fn restarts_by_itself(container: &At, code: i64) -> bool {
    let fits = |rule: &At| {
        let codes = rule.get("exitCodes");
        codes.get("values").items().any(|v| v.number() == code) == (codes.get("operator").str() == "In")
    };
    let by_rule = container.get("restartPolicyRules").items().any(|rule| fits(&rule));
    match container.get("restartPolicy").str() {
        "Always" => true,
        "OnFailure" => by_rule || code != 0,
        _ => by_rule,
    }
}

/// Whether a rule of some container can make the whole pod begin anew.
fn may_restart_all(spec: &At) -> bool {
    let of = |container: At| {
        container.get("restartPolicyRules").items().any(|r| r.get("action").str() == "RestartAllContainers")
    };
    ["containers", "initContainers"].iter().any(|list| spec.get(list).items().any(of))
}

/// A container that may not restart does not leave its terminated state.
fn no_resurrection(check: &mut Check, new: &At, old: &At, policy: &str, exempt: impl Fn(&str, i64) -> bool) {
    if policy == "Always" {
        return;
    }
    for before in old.items() {
        let (name, ended) = (before.get("name").str(), before.get("state.terminated"));
        let code = ended.get("exitCode").number();
        let may_restart = policy == "OnFailure" && code != 0;
        if !ended.is_set() || may_restart || exempt(name, code) {
            continue;
        }
        for _ in new.items().filter(|n| n.get("name").str() == name && !n.get("state.terminated").is_set()) {
            let at = before.get("state");
            check.forbidden(&at, "may not be transitioned to non-terminated state");
        }
    }
}

fn claim_statuses(check: &mut Check, at: &At, claims: &At) {
    let mut seen: Vec<&str> = Vec::new();
    for status in at.items() {
        let (name, claim) = (status.get("name"), status.get("resourceClaimName"));
        if !claims.items().any(|c| c.get("name").str() == name.str()) {
            check.invalid(&name, "must match the name of an entry in `spec.resourceClaims`");
        }
        if seen.contains(&name.str()) {
            check.duplicate(&name);
        }
        seen.push(name.str());
        if claim.is_set() {
            check.format(&claim.under(name.path.clone()), names::dns1123_subdomain);
        }
    }
}

/// At most one address of each family, without repetition; the first equals the old single field if there is one.
fn ips(check: &mut Check, at: &At, single: Option<&At>) {
    if let (Some(single), Some(first)) = (single, at.items().next())
        && single.str() != first.get("ip").str()
    {
        check.invalid(&first.get("ip"), "must be equal to `hostIP`");
    }
    let mut seen: Vec<&str> = Vec::new();
    for entry in at.items() {
        let ip = entry.get("ip");
        check.ip(&ip.under(entry.path.clone()));
        if seen.contains(&ip.str()) {
            check.duplicate(&entry);
        }
        seen.push(ip.str());
    }
    let parsed: Vec<_> = seen.iter().filter_map(|ip| parse_ip(ip)).collect();
    if seen.len() > 1 && (!dual_stack(&parsed) || seen.len() > 2) {
        check.invalid(at, "may specify no more than one IP for each IP family");
    }
}

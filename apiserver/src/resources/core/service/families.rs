//! Addresses and families before allocation: what the client left out is kept from the old object, both forms of the
//! cluster IP agree, and the policy is one that this cluster can fulfil. Pure; the allocator acts on the result.
//!
//! Follows upstream's `normalizeClusterIPs`, `patchAllocatedValues`, `dropTypeDependentFields` and `initIPFamilyFields`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use apimachinery::field::{ErrorList, FieldError};
use serde_json::{Value, json};

use super::needs_health_check;
use crate::resources::check::{At, Check, parse_ip};
use crate::resources::edit::{array_mut, copy, remove, set};

/// An address family by its API name.
pub fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn ty(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or_default()
}

fn has_cluster_ip(service: &Value) -> bool {
    ty(service) != "ExternalName"
}

/// Does the type use node ports at all?
pub fn has_node_ports(service: &Value) -> bool {
    ["NodePort", "LoadBalancer"].contains(&ty(service))
}

fn equal(a: &Value, b: &Value, field: &str) -> bool {
    crate::resources::check::same(&a["spec"][field], &b["spec"][field])
}

/// Keeps allocated values that the client did not send, then makes `clusterIP` and `clusterIPs` agree.
pub fn prepare(service: &mut Value, old: Option<&Value>) {
    let Some(old) = old else {
        let single = service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
        if !single.is_empty() && At::root(service).get("spec.clusterIPs").is_empty() {
            set(&mut service["spec"], "clusterIPs", json!([single]));
        }
        return;
    };
    keep_allocated(service, old);
    let (single, old_single) = (text(service, "clusterIP"), text(old, "clusterIP"));
    let cleared = At::root(service).get("spec.clusterIPs").is_empty();
    if cleared && single == old_single {
        copy(&mut service["spec"], &old["spec"], "clusterIPs");
    }
    let unnamed = cleared && !single.is_empty();
    if single != old_single && (unnamed || equal(service, old, "clusterIPs")) {
        if single.is_empty() {
            remove(&mut service["spec"], "clusterIPs");
        } else {
            set(&mut service["spec"], "clusterIPs", json!([single]));
        }
    }
}

fn text(service: &Value, field: &str) -> String {
    service["spec"][field].as_str().unwrap_or_default().to_owned()
}

fn keep_allocated(service: &mut Value, old: &Value) {
    if has_cluster_ip(service) && has_cluster_ip(old) {
        if text(service, "clusterIP").is_empty() {
            copy(&mut service["spec"], &old["spec"], "clusterIP");
        }
        if At::root(service).get("spec.clusterIPs").is_empty() && text(service, "clusterIP") == text(old, "clusterIP") {
            copy(&mut service["spec"], &old["spec"], "clusterIPs");
        }
    }
    if has_node_ports(service) && has_node_ports(old) {
        let number = |port: &Value| port["nodePort"].as_i64().unwrap_or_default();
        let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
        let before = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let by_name: BTreeMap<String, i64> = before.iter().map(|p| (name(p), number(p))).collect();
        let mut used: Vec<i64> =
            array_mut(&mut service["spec"], "ports").iter().map(number).filter(|n| *n != 0).collect();
        for port in array_mut(&mut service["spec"], "ports").iter_mut().filter(|p| number(p) == 0) {
            if let Some(kept) = by_name.get(&name(port)).copied().filter(|n| *n != 0 && !used.contains(n)) {
                set(port, "nodePort", kept);
                used.push(kept);
            }
        }
    }
    if needs_health_check(&At::root(service)) && needs_health_check(&At::root(old)) {
        let unset = service["spec"]["healthCheckNodePort"].as_i64().unwrap_or_default() == 0;
        if unset {
            copy(&mut service["spec"], &old["spec"], "healthCheckNodePort");
        }
    }
}

/// After a change of type: fields that the new type does not have and that the client did not touch go away.
pub fn drop_what_the_type_no_longer_has(service: &mut Value, old: &Value) {
    let mut gone: Vec<&str> = Vec::new();
    if has_cluster_ip(old) && !has_cluster_ip(service) {
        if equal(service, old, "clusterIPs") {
            gone.extend(["clusterIP", "clusterIPs"]);
        }
        gone.extend(["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|f| equal(service, old, f)));
    }
    let ports = |s: &Value| {
        s["spec"]["ports"].as_array().into_iter().flatten().map(|p| p["nodePort"].clone()).collect::<Vec<_>>()
    };
    if has_node_ports(old) && !has_node_ports(service) && ports(service) == ports(old) {
        for port in array_mut(&mut service["spec"], "ports") {
            remove(port, "nodePort");
        }
    }
    let mut untouched = |applied: bool, applies: bool, field: &'static str| {
        if applied && !applies && equal(service, old, field) {
            gone.push(field);
        }
    };
    untouched(needs_health_check(&At::root(old)), needs_health_check(&At::root(service)), "healthCheckNodePort");
    let balanced = |s: &Value| ty(s) == "LoadBalancer";
    untouched(balanced(old), balanced(service), "allocateLoadBalancerNodePorts");
    untouched(balanced(old), balanced(service), "loadBalancerClass");
    let open = |s: &Value| super::externally_accessible(&At::root(s));
    untouched(open(old), open(service), "externalTrafficPolicy");
    untouched(has_cluster_ip(old), has_cluster_ip(service), "internalTrafficPolicy");
    for field in gone {
        remove(&mut service["spec"], field);
    }
}

/// A PreferDualStack service is neither up- nor downgraded because the cluster changed: only when the client changes
/// policy, families or addresses.
pub fn keeps_its_stack(service: &Value, old: Option<&Value>) -> bool {
    let Some(old) = old else { return false };
    let prefers = |s: &Value| s["spec"]["ipFamilyPolicy"] == "PreferDualStack";
    has_cluster_ip(old)
        && has_cluster_ip(service)
        && prefers(service)
        && prefers(old)
        && equal(service, old, "clusterIPs")
        && equal(service, old, "ipFamilies")
}

/// Fills in policy and families for this cluster, whose families are `configured` (the first is the default).
///
/// # Errors
/// The fields that ask for what this cluster does not have.
pub fn settle(service: &mut Value, old: Option<&Value>, configured: &[&str]) -> Result<(), ErrorList> {
    if ty(service) == "ExternalName" || keeps_its_stack(service, old) {
        return Ok(());
    }
    let selectorless_headless =
        service["spec"]["clusterIP"] == "None" && At::root(service).get("spec.selector").is_empty();
    if !At::root(service).get("spec.ipFamilyPolicy").is_set() {
        let kept = old.map(|o| o["spec"]["ipFamilyPolicy"].clone()).filter(|p| !p.is_null());
        let inferred = if selectorless_headless { "RequireDualStack" } else { "SingleStack" };
        set(&mut service["spec"], "ipFamilyPolicy", kept.unwrap_or_else(|| inferred.into()));
    }
    let mut check = Check::new();
    super::cluster_ips(&mut check, &At::root(service));
    fail_if_any(check.errors)?;
    let mut errors = policy_fits(service, old);
    errors.append(&mut infer_families(service, configured));
    fail_if_any(errors)?;
    if !selectorless_headless {
        fail_if_any(cluster_fits(&At::root(service), configured))?;
    }
    let mut families: Vec<String> = strings(service, "ipFamilies");
    if families.is_empty() {
        families.extend(configured.first().map(|f| (*f).to_owned()));
    }
    let wants_both = service["spec"]["ipFamilyPolicy"] != "SingleStack";
    if families.len() == 1 && wants_both && (selectorless_headless || configured.len() == 2) {
        families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.to_owned());
    }
    set(&mut service["spec"], "ipFamilies", families);
    Ok(())
}

fn fail_if_any(errors: ErrorList) -> Result<(), ErrorList> {
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn strings(service: &Value, field: &str) -> Vec<String> {
    At::root(service).get("spec").get(field).strings().map(str::to_owned).collect()
}

/// The policy against the number of addresses and families; becoming single-stack drops the second of each.
fn policy_fits(service: &mut Value, old: Option<&Value>) -> ErrorList {
    let single = service["spec"]["ipFamilyPolicy"] == "SingleStack";
    let mut errors = ErrorList::new();
    for field in ["clusterIPs", "ipFamilies"] {
        let mut list = strings(service, field);
        if let Some(old) = old {
            let before = strings(old, field);
            if single && list == before && list.len() > 1 {
                list.truncate(1);
                set(&mut service["spec"], field, list.clone());
            } else if !single && !list.is_empty() && list.len() < before.len() {
                errors.push(policy_error(service, "must be 'SingleStack' to release the secondary one"));
            }
        }
        if single && list.len() == 2 {
            errors.push(policy_error(
                service,
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple are specified",
            ));
        }
    }
    errors
}

fn policy_error(service: &Value, detail: &str) -> FieldError {
    let policy = At::root(service).get("spec.ipFamilyPolicy");
    FieldError::invalid(policy.path, policy.value.clone(), detail)
}

/// Families follow from the addresses that were given.
fn infer_families(service: &mut Value, configured: &[&str]) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut families = strings(service, "ipFamilies");
    let given = families.len();
    for (i, ip) in strings(service, "clusterIPs").iter().enumerate().skip(given) {
        let Some(ip) = parse_ip(ip) else { break };
        if configured.contains(&family(ip)) {
            families.push(family(ip).to_owned());
        } else {
            let ips = At::root(service).get("spec.clusterIPs");
            let detail = format!("{} is not configured on this cluster", family(ip));
            errors.push(FieldError::invalid(ips.path.index(i), ips.value.clone(), detail));
        }
    }
    if families.len() > given {
        set(&mut service["spec"], "ipFamilies", families);
    }
    errors
}

fn cluster_fits(service: &At, configured: &[&str]) -> ErrorList {
    let mut check = Check::new();
    let policy = service.get("spec.ipFamilyPolicy");
    if policy.str() == "RequireDualStack" && configured.len() < 2 {
        check.invalid(&policy, "this cluster is not configured for dual-stack services");
    }
    for family in service.get("spec.ipFamilies").items().filter(|f| !configured.contains(&f.str())) {
        check.invalid(&family, "not configured on this cluster");
    }
    check.errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_stack_is_the_default_and_second_family_is_refused() {
        let mut service = json!({"spec": {"type": "ClusterIP", "selector": {"a": "b"}}});
        settle(&mut service, None, &["IPv4"]).unwrap();
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4"]));
        assert_eq!(service["spec"]["ipFamilyPolicy"], "SingleStack");
        let mut service = json!({"spec": {"type": "ClusterIP", "selector": {"a": "b"}, "ipFamilies": ["IPv6"]}});
        assert_eq!(settle(&mut service, None, &["IPv4"]).unwrap_err()[0].path.to_string(), "spec.ipFamilies[0]");
    }

    #[test]
    fn headless_without_selector_gets_both_families() {
        let mut service = json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}});
        settle(&mut service, None, &["IPv4"]).unwrap();
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    }

    #[test]
    fn a_put_without_allocated_values_keeps_them() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"],
            "ports": [{"name": "a", "port": 80, "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"name": "a", "port": 81}]}});
        prepare(&mut new, Some(&old));
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.9"]));
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
    }
}

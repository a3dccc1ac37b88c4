//! What may change in a service. Follows upstream's `ValidateServiceUpdate`: the first address and family stay for the
//! life of the service unless it becomes, or was, an ExternalName.

use serde_json::Value;

use super::{is_headless, load_balancer_class, needs_health_check};
use crate::resources::check::{At, Check};

/// Rules that compare.
pub fn rules(check: &mut Check, new: &At, old: &At) {
    let (spec, old_spec) = (new.get("spec"), old.get("spec"));
    let external = |spec: &At| spec.get("type").str() == "ExternalName";
    if !external(&spec) && !external(&old_spec) {
        let (headless, was_headless) = (is_headless(new), is_headless(old));
        if !(headless && was_headless) {
            cluster_ips(check, &spec, &old_spec);
        }
        if !headless && !was_headless {
            families(check, &spec, &old_spec);
        }
    }
    let balanced = |spec: &At| spec.get("type").str() == "LoadBalancer";
    let class = spec.get("loadBalancerClass");
    if balanced(&spec) && balanced(&old_spec) && class.value != old_spec.get("loadBalancerClass").value {
        check.invalid(&class, "may not change once set");
    }
    load_balancer_class(check, &spec);
    let health = spec.get("healthCheckNodePort");
    if needs_health_check(new)
        && needs_health_check(old)
        && health.number() != old_spec.get("healthCheckNodePort").number()
    {
        check.forbidden(&health, "field is immutable");
    }
}

fn element<'a>(list: &At<'a>, i: usize) -> At<'a> {
    static NULL: Value = Value::Null;
    At { value: list.value.get(i).unwrap_or(&NULL), path: list.path.index(i) }
}

fn releases_without_policy(check: &mut Check, spec: &At) {
    if spec.get("ipFamilyPolicy").str() != "SingleStack" {
        check.invalid(&spec.get("ipFamilyPolicy"), "must be set to 'SingleStack' when releasing the secondary one");
    }
}

fn cluster_ips(check: &mut Check, spec: &At, old_spec: &At) {
    let (now, before) = (spec.get("clusterIPs"), old_spec.get("clusterIPs"));
    if now.len() == before.len() {
        for i in (0..now.len()).filter(|i| element(&now, *i).value != element(&before, *i).value) {
            check.invalid(&element(&now, i), "may not change once set");
        }
        return;
    }
    if before.len() > now.len() && now.is_empty() {
        return check.invalid(&element(&now, 0), "primary clusterIP can not be unset");
    }
    if !before.is_empty() && element(&now, 0).value != element(&before, 0).value {
        check.invalid(&element(&now, 0), "may not change once set");
    }
    if before.len() > now.len() && now.len() == 1 {
        releases_without_policy(check, spec);
    }
}

fn families(check: &mut Check, spec: &At, old_spec: &At) {
    let (now, before) = (spec.get("ipFamilies"), old_spec.get("ipFamilies"));
    if now.len() == before.len() {
        for _ in now.strings().zip(before.strings()).filter(|(n, b)| n != b) {
            check.invalid(&element(&now, 0), "may not change once set");
        }
        return;
    }
    if before.len() > now.len() && spec.get("clusterIPs").is_empty() {
        check.invalid(&element(&now, 0), "primary ipFamily can not be unset");
    }
    if !now.is_empty() && !before.is_empty() && element(&now, 0).value != element(&before, 0).value {
        check.invalid(&element(&now, 0), "may not change once set");
    }
    if before.len() > now.len() && now.len() == 1 {
        releases_without_policy(check, spec);
    }
}

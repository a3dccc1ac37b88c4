//! Nodes. Follows upstream's `ValidateNode`, `ValidateNodeUpdate` and `printNode`.

use apimachinery::field::{ErrorList, ErrorType, FieldError, Path};
use apimachinery::validation as names;
use serde_json::{Value, json};

use super::pod::scheduling;
use crate::resources::check::{At, Check, dual_stack, odd_cidr, parse_cidr};
use crate::resources::edit::{at_mut, copy, set};
use crate::resources::printing::{NONE, UNKNOWN, age, name, or_none};
use crate::resources::{HookContext, NameRule, Strategy, meta};

/// The nodes resource.
pub const STRATEGY: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: defaults,
    prepare_create: |node, _| drop_config_source(node, None),
    prepare_update: |node, old, _| drop_config_source(node, Some(old)),
    validate: |node, cx| {
        let mut check = meta::checked(node, cx);
        check.errors.extend(validate(node));
        check.errors
    },
    validate_update: |node, old, cx| {
        let mut check = Check::new();
        let new = At::root(node);
        meta::create(&mut check, &new, cx);
        check.errors.extend(validate(node));
        update(&mut check, &new, &At::root(old));
        check.errors
    },
    warnings,
    cells: Some(cells),
    ..Strategy::DEFAULT
};

/// `nodes/status`.
pub const STATUS: Strategy = Strategy {
    default: defaults,
    validate_update: |node, old, _| {
        let mut check = Check::new();
        update(&mut check, &At::root(node), &At::root(old));
        check.errors
    },
    ..Strategy::DEFAULT
};

/// What is allocatable is the capacity unless the node says otherwise; both forms of the pod range carry one value.
fn defaults(node: &mut Value, cx: &HookContext) {
    (Strategy::DEFAULT.default)(node, cx);
    at_mut(node, "status", |status| {
        if status["allocatable"].is_null() && !status["capacity"].is_null() {
            let capacity = status["capacity"].clone();
            set(status, "allocatable", capacity);
        }
    });
    at_mut(node, "spec", |spec| {
        let single = spec["podCIDR"].as_str().unwrap_or_default().to_owned();
        let first = spec.pointer("/podCIDRs/0").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !single.is_empty() && single != first {
            set(spec, "podCIDRs", json!([single]));
        } else if single.is_empty() && !first.is_empty() {
            set(spec, "podCIDR", first);
        }
    });
}

/// Dynamic kubelet configuration is gone: the field survives only where it already was.
fn drop_config_source(node: &mut Value, old: Option<&Value>) {
    at_mut(node, "spec", |spec| copy(spec, old.map_or(&Value::Null, |old| &old["spec"]), "configSource"));
}

fn resources(check: &mut Check, node: &At) {
    for list in ["capacity", "allocatable"].map(|l| node.get("status").get(l)) {
        for (resource, amount) in list.entries() {
            check.resource_quantity(resource, &amount.under(list.path.child(resource)));
        }
    }
}

fn validate(node: &Value) -> ErrorList {
    let mut check = Check::new();
    let at = At::root(node);
    scheduling::taints(&mut check, &at.get("spec.taints").under(Path::new("metadata").child("taints")));
    resources(&mut check, &at);
    declared_features(&mut check, &at.get("status.declaredFeatures"));
    let ranges = at.get("spec.podCIDRs");
    for range in ranges.items() {
        check.cidr(&range);
    }
    if ranges.len() > 1 {
        let parsed: Vec<_> = ranges.items().filter_map(|range| parse_cidr(range.str())).map(|(ip, _)| ip).collect();
        let all_parsed = parsed.len() == ranges.len();
        if !all_parsed {
            let why = FieldError::invalid(ranges.path.clone(), ranges.value.clone(), "failed to parse the ranges");
            check.errors.push(FieldError { ty: ErrorType::Internal, ..why });
        }
        if !all_parsed || !dual_stack(&parsed) || ranges.len() > 2 {
            check.invalid(&ranges, "may specify no more than one CIDR for each IP family");
        }
    }
    check.errors
}

/// Sorted names of features: camel-case segments with slashes between them.
fn declared_features(check: &mut Check, at: &At) {
    let well_formed = |name: &str| {
        name.len() <= 253
            && name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.split('/').all(|part| {
                part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
            })
    };
    let features: Vec<At> = at.items().collect();
    for (i, feature) in features.iter().enumerate() {
        if !well_formed(feature.str()) {
            check.invalid(
                feature,
                "must be segments of letters and digits with '/' between them, the first UpperCamelCase",
            );
        }
        match features.get(i + 1) {
            Some(next) if next.str() == feature.str() => check.duplicate(next),
            Some(next) if next.str() < feature.str() => check.invalid(next, "list must be sorted alphabetically"),
            _ => {}
        }
    }
}

fn update(check: &mut Check, new: &At, old: &At) {
    meta::update(check, new, old);
    resources(check, new);
    declared_features(check, &new.get("status.declaredFeatures"));
    let mut seen: Vec<&Value> = Vec::new();
    for address in new.get("status.addresses").items() {
        if seen.contains(&address.value) {
            check.duplicate(&address);
        }
        seen.push(address.value);
    }
    let (ranges, old_ranges) = (new.get("spec.podCIDRs"), old.get("spec.podCIDRs"));
    if !old_ranges.is_empty() {
        let changed = if ranges.len() == old_ranges.len() {
            ranges.strings().zip(old_ranges.strings()).filter(|(a, b)| a != b).count()
        } else {
            1
        };
        for _ in 0..changed {
            check.forbidden(&ranges, "node updates may not change podCIDR except from \"\" to valid");
        }
    }
    let (provider, old_provider) = (new.get("spec.providerID"), old.get("spec.providerID"));
    if !old_provider.is_empty() && provider.str() != old_provider.str() {
        check.forbidden(&provider, "node updates may not change providerID except from \"\" to valid");
    }
    scheduling::taints(check, &new.get("spec.taints").under(Path::new("metadata").child("taints")));
    let external = new.get("spec.externalID");
    if external.str() != old.get("spec.externalID").str() {
        check.forbidden(&external, "may not be updated");
    }
}

fn warnings(node: &Value, _: Option<&Value>) -> Vec<String> {
    let spec = At::root(node).get("spec");
    let mut out = Vec::new();
    if spec.get("configSource").is_set() {
        out.push("spec.configSource: the feature is no longer supported".to_owned());
    }
    if !spec.get("externalID").is_empty() {
        out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    for (i, range) in spec.get("podCIDRs").strings().enumerate() {
        out.extend(odd_cidr(&format!("spec.podCIDRs[{i}]"), range));
    }
    out
}

fn cells(node: &Value, cx: &HookContext) -> Vec<Value> {
    let node = At::root(node);
    let info = node.get("status.nodeInfo");
    let unknown = |field: &str| match info.get(field).str() {
        "" => Value::from(UNKNOWN),
        text => text.into(),
    };
    let address = |ty: &str| {
        let found = node.get("status.addresses").items().find(|a| a.get("type").str() == ty);
        or_none(found.map_or("", |a| a.get("address").str()))
    };
    vec![
        name(&node),
        status(&node).into(),
        roles(&node).into(),
        age(&node, cx.request.now),
        info.get("kubeletVersion").str().into(),
        address("InternalIP"),
        address("ExternalIP"),
        unknown("osImage"),
        unknown("kernelVersion"),
        unknown("containerRuntimeVersion"),
    ]
}

fn status(node: &At) -> String {
    let ready = node.get("status.conditions").items().find(|c| c.get("type").str() == "Ready");
    let mut words = vec![match ready.map(|c| c.get("status").str()) {
        None => "Unknown",
        Some("True") => "Ready",
        Some(_) => "NotReady",
    }];
    if node.get("spec.unschedulable").flag() {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(node: &At) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in node.get("metadata.labels").entries() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.push(role),
            None if key == "kubernetes.io/role" && !value.is_empty() => roles.push(value.str()),
            _ => {}
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { NONE.to_owned() } else { roles.join(",") }
}

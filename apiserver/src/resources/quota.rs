//! Limit ranges and resource quotas. Follows upstream's `ValidateLimitRange`, `ValidateResourceQuota*` and printers.

use apimachinery::quantity::{Format, Quantity};
use apimachinery::validation as names;
use serde_json::Value;

use super::check::{At, Check};
use super::core::quantities;
use super::edit::{array_mut, at_mut, edit_map, set_default};
use super::printing::{age, name};
use super::{HookContext, NameRule, Strategy, meta};
use crate::registry::metadata::new_uid;

/// The limitranges resource. For containers a missing default is the maximum, a missing default request the default,
/// then the minimum.
pub const LIMIT_RANGE: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |range, cx| {
        (Strategy::DEFAULT.default)(range, cx);
        at_mut(range, "spec", |spec| {
            for limit in array_mut(spec, "limits").iter_mut().filter(|limit| limit["type"] == "Container") {
                for (into, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
                    let source = limit[from].as_object().cloned().unwrap_or_default();
                    edit_map(limit, into, |target| {
                        for (resource, amount) in source {
                            target.entry(resource).or_insert(amount);
                        }
                    });
                }
            }
        });
    },
    prepare_create: |range, _| {
        at_mut(range, "metadata", |meta| set_default(meta, "name", new_uid()));
    },
    validate: |range, cx| {
        let mut check = meta::checked(range, cx);
        limits(&mut check, &At::root(range));
        check.errors
    },
    validate_update: |range, _, cx| {
        let mut check = meta::checked(range, cx);
        limits(&mut check, &At::root(range));
        check.errors
    },
    ..Strategy::DEFAULT
};

fn limits(check: &mut Check, range: &At) {
    const TYPES: [&str; 3] = ["Container", "PersistentVolumeClaim", "Pod"];
    let mut seen: Vec<&str> = Vec::new();
    for limit in range.get("spec.limits").items() {
        let ty = limit.get("type");
        let complaints = names::qualified_name(ty.str());
        for complaint in &complaints {
            check.invalid(&ty, complaint.clone());
        }
        if complaints.is_empty() && !ty.str().contains('/') && !TYPES.contains(&ty.str()) {
            check.invalid(&ty, "must be a standard limit type or fully qualified");
        }
        if seen.contains(&ty.str()) {
            check.duplicate(&ty);
        }
        seen.push(ty.str());
        limit_item(check, &limit, ty.str());
    }
}

fn limit_item(check: &mut Check, limit: &At, ty: &str) {
    let name_rule = |check: &mut Check, resource: &str, at: &At| match ty {
        "Pod" | "Container" => quantities::container_resource_name(check, resource, at),
        _ => drop(quantities::resource_name(check, resource, at)),
    };
    for name in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let list = limit.get(name);
        let forbidden = ty == "Pod" && name.starts_with("default");
        if forbidden && !list.is_empty() {
            check.forbidden(&list, "may not be specified when `type` is 'Pod'");
            continue;
        }
        for (resource, amount) in list.entries() {
            name_rule(check, resource, &amount);
        }
    }
    let storage = |list: &str| limit.get(list).entry("storage").is_set();
    if ty == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        check.required(
            &limit.get("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    let mut resources: Vec<&str> = Vec::new();
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        resources.extend(limit.get(list).entries().map(|(resource, _)| resource));
    }
    resources.sort_unstable();
    resources.dedup();
    for resource in resources {
        compare(check, limit, ty, resource);
    }
}

/// The amounts of one resource among each other.
fn compare(check: &mut Check, limit: &At, ty: &str, resource: &str) {
    let of = |list: &str| limit.get(list).entry(resource);
    let (min, max, ratio) = (of("min"), of("max"), of("maxLimitRequestRatio"));
    let unset = |list: &str| if ty == "Pod" { limit.get("absent").entry(resource) } else { of(list) };
    let (default, request) = (unset("default"), unset("defaultRequest"));
    let above = |a: &At, b: &At| a.is_set() && b.is_set() && a.quantity() > b.quantity();
    for (wrong, at) in [
        (above(&min, &max), &min),
        (above(&min, &request), &request),
        (above(&request, &max), &request),
        (above(&request, &default), &request),
        (above(&min, &default), &default),
        (above(&default, &max), &default),
    ] {
        if wrong {
            check.invalid(at, "does not fit between the other limits");
        }
    }
    if ratio.is_set() && ratio.quantity() < Quantity::from_value(1, Format::DecimalSi) {
        check.invalid(&ratio, "ratio is less than 1");
    }
    if ratio.is_set() && min.is_set() && max.is_set() {
        // ratio > max / min, without dividing.
        let (r, low, high) = (ratio.quantity().milli(), min.quantity().milli(), max.quantity().milli());
        let beyond = (i128::from(r) * i128::from(low)).cmp(&(i128::from(high) * 1000));
        let wrong = match low.signum() {
            1 => beyond.is_gt(),
            0 => high < 0,
            _ => beyond.is_lt(),
        };
        if wrong {
            check.invalid(&ratio, "ratio is greater than max/min");
        }
    }
    let differ = default.is_set() && request.is_set() && default.quantity() != request.quantity();
    if !quantities::overcommit_allowed(resource) && differ {
        check.invalid(&request, "default value must equal to defaultRequest value");
    }
}

/// The resourcequotas resource.
pub const QUOTA: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |quota, cx| {
        let mut check = meta::checked(quota, cx);
        quota_spec(&mut check, &At::root(quota).get("spec"));
        check.errors
    },
    validate_update: |quota, old, _| {
        let mut check = Check::new();
        let (new, old) = (At::root(quota), At::root(old));
        meta::update(&mut check, &new, &old);
        quota_spec(&mut check, &new.get("spec"));
        let scopes = |quota: &At| {
            quota.get("spec.scopes").strings().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
        };
        if scopes(&new) != scopes(&old) {
            check.invalid(&new.get("spec.scopes"), "field is immutable");
        }
        check.errors
    },
    cells: Some(quota_cells),
    ..Strategy::DEFAULT
};

/// `resourcequotas/status`.
pub const QUOTA_STATUS: Strategy = Strategy {
    validate_update: |quota, old, _| {
        let mut check = Check::new();
        let new = At::root(quota);
        meta::update(&mut check, &new, &At::root(old));
        for list in ["hard", "used"] {
            amounts(&mut check, &new.get("status").get(list));
        }
        check.errors
    },
    ..Strategy::DEFAULT
};

fn amounts(check: &mut Check, list: &At) {
    for (resource, amount) in list.entries() {
        quantities::quota_resource_name(check, resource, &amount);
        check.resource_quantity(resource, &amount);
    }
}

const SCOPES: [&str; 7] = [
    "Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass", "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// May a quota with this scope limit this resource?
fn scope_fits(scope: &str, resource: &str) -> bool {
    const COMPUTE: [&str; 10] = [
        "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage",
        "limits.cpu", "limits.memory", "limits.ephemeral-storage", "pods",
    ];
    match scope {
        scope if !SCOPES.contains(&scope) => true,
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            resource == "persistentvolumeclaims"
                || resource == "requests.storage"
                || resource.contains(".storageclass.")
        }
        _ => COMPUTE.contains(&resource) || quantities::is_hugepages(resource.trim_start_matches("requests.")),
    }
}

fn quota_spec(check: &mut Check, spec: &At) {
    let hard = spec.get("hard");
    amounts(check, &hard);
    let misfits =
        |scope: &str| hard.entries().filter(|(r, _)| quantities::is_quota_standard(r) && !scope_fits(scope, r)).count();
    let scopes = spec.get("scopes");
    let mut given: Vec<&str> = scopes.strings().collect();
    for scope in &given {
        if !SCOPES.contains(scope) {
            check.invalid(&scopes, "unsupported scope");
        }
        for _ in 0..misfits(scope) {
            check.invalid(&scopes, "unsupported scope applied to resource");
        }
    }
    conflicting(check, &scopes, &given);
    let expressions =
        spec.get("scopeSelector.matchExpressions").under(spec.path.child("scopeSelector").child("matchExpressions"));
    given.clear();
    for expression in expressions.items() {
        let below = |field: &str| expression.get(field).under(expressions.path.child(field));
        let (scope, operator, values) = (below("scopeName"), below("operator"), below("values"));
        if !SCOPES.contains(&scope.str()) {
            check.invalid(&scope, "unsupported scope");
        }
        for _ in 0..misfits(scope.str()) {
            check.invalid(&expressions, "unsupported scope applied to resource");
        }
        if !["PriorityClass", "VolumeAttributesClass"].contains(&scope.str())
            && SCOPES.contains(&scope.str())
            && operator.str() != "Exists"
        {
            check.invalid(&operator, "must be 'Exists' for this scope");
        }
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => {
                check.required(&values, "must be at least one value when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                check.invalid(&values, "must be no value when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => check.invalid(&operator, "not a valid selector operator"),
        }
        given.push(scope.str());
    }
    conflicting(check, &scopes.under(expressions.path.clone()), &given);
}

fn conflicting(check: &mut Check, at: &At, given: &[&str]) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| given.contains(scope)) {
            check.invalid(at, "conflicting scopes");
        }
    }
}

fn quota_cells(quota: &Value, cx: &HookContext) -> Vec<Value> {
    let quota = At::root(quota);
    let (hard, used) = (quota.get("status.hard"), quota.get("status.used"));
    let mut columns = [Vec::new(), Vec::new()];
    for (resource, amount) in hard.entries() {
        let of = used.entry(resource);
        let is_limit = resource.starts_with("limits.");
        let shown = if of.is_set() { of.str() } else { "0" };
        columns[usize::from(is_limit)].push(format!("{resource}: {shown}/{}", amount.str()));
    }
    let [requests, limits] = columns;
    vec![name(&quota), requests.join(", ").into(), limits.join(", ").into(), age(&quota, cx.request.now)]
}

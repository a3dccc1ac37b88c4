//! Horizontal pod autoscalers: stored as v2, served as v1 as well. What v1 cannot say travels in annotations. Follows
//! upstream's autoscaling conversion, defaults, validation and printer.

use apimachinery::quantity::Quantity;
use apimachinery::validation as names;
use serde_json::{Value, json};

use super::check::{At, Check};
use super::core::quantities;
use super::edit::{at_mut, edit_map, remove, set, set_absent};
use super::printing::{UNKNOWN, UNSET, age, name, number, shown_or};
use super::{HookContext, NameRule, Strategy, meta};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// The horizontalpodautoscalers resource.
pub const STRATEGY: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |scaler, cx| {
        (Strategy::DEFAULT.default)(scaler, cx);
        at_mut(scaler, "spec.behavior", default_behavior);
    },
    validate: |scaler, cx| {
        let mut check = meta::checked(scaler, cx);
        spec(&mut check, &At::root(scaler).get("spec"));
        check.errors
    },
    validate_update: |scaler, old, _| {
        let mut check = Check::new();
        let new = At::root(scaler);
        meta::update(&mut check, &new, &At::root(old));
        spec(&mut check, &new.get("spec"));
        check.errors
    },
    cells: Some(cells),
    ..Strategy::DEFAULT
};

/// `horizontalpodautoscalers/status`.
pub const STATUS: Strategy = Strategy {
    default: STRATEGY.default,
    validate_update: |scaler, old, _| {
        let mut check = Check::new();
        let new = At::root(scaler);
        meta::update(&mut check, &new, &At::root(old));
        check.non_negative_all(&new.get("status"), &["currentReplicas", "desiredReplicas"]);
        check.errors
    },
    ..Strategy::DEFAULT
};

fn default_behavior(behavior: &mut Value) {
    let up = json!([
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15}
    ]);
    let down = json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]);
    for (direction, policies) in [("scaleUp", up), ("scaleDown", down)] {
        set_absent(behavior, direction, json!({}));
        at_mut(behavior, direction, |rules| {
            if direction == "scaleUp" {
                set_absent(rules, "stabilizationWindowSeconds", 0);
            }
            set_absent(rules, "selectPolicy", "Max");
            set_absent(rules, "policies", policies);
        });
    }
}

/// From what is stored (v2) to v1.
pub fn to_v1(scaler: &mut Value) {
    set(scaler, "apiVersion", "autoscaling/v1");
    let mut kept = Vec::new();
    at_mut(scaler, "spec", |spec| {
        let mut others = remove(spec, "metrics").and_then(|m| m.as_array().cloned()).unwrap_or_default();
        if let Some(i) = others.iter().position(is_cpu_utilization) {
            let metric = others.remove(i);
            let percent = metric["resource"]["target"]["averageUtilization"].clone();
            set(spec, "targetCPUUtilizationPercentage", percent);
        }
        if !others.is_empty() {
            kept.push((METRICS, Value::from(others.into_iter().map(metric_v1).collect::<Vec<_>>())));
        }
        kept.extend(remove(spec, "behavior").map(|behavior| (BEHAVIOR, capitalised(&behavior))));
    });
    at_mut(scaler, "status", |status| {
        // Required in v1 only.
        set_absent(status, "currentReplicas", 0);
        set_absent(status, "desiredReplicas", 0);
        let metrics = remove(status, "currentMetrics").and_then(|m| m.as_array().cloned()).unwrap_or_default();
        let cpu = metrics.iter().find(|m| m["type"] == "Resource" && m["resource"]["name"] == "cpu");
        if let Some(percent) =
            cpu.map(|m| m["resource"]["current"]["averageUtilization"].clone()).filter(|p| !p.is_null())
        {
            set(status, "currentCPUUtilizationPercentage", percent);
        }
        if !metrics.is_empty() {
            kept.push((CURRENT_METRICS, metrics.into()));
        }
        kept.extend(remove(status, "conditions").map(|conditions| (CONDITIONS, conditions)));
    });
    at_mut(scaler, "metadata", |meta| {
        edit_map(meta, "annotations", |annotations| {
            for (key, value) in kept {
                annotations.insert(key.to_owned(), value.to_string().into());
            }
        });
    });
}

/// From v1 to what is stored (v2).
pub fn from_v1(scaler: &mut Value) {
    set(scaler, "apiVersion", "autoscaling/v2");
    let mut kept: [Option<Value>; 4] = Default::default();
    at_mut(scaler, "metadata", |meta| {
        edit_map(meta, "annotations", |annotations| {
            for (slot, key) in kept.iter_mut().zip([METRICS, BEHAVIOR, CURRENT_METRICS, CONDITIONS]) {
                *slot = annotations.remove(key).and_then(|text| serde_json::from_str(text.as_str()?).ok());
            }
        });
    });
    let [metrics, behavior, current, conditions] = kept;
    at_mut(scaler, "spec", |spec| {
        let mut all: Vec<Value> = Vec::new();
        if let Some(Value::Array(metrics)) = metrics {
            all.extend(metrics.into_iter().map(metric_v2));
        }
        if let Some(percent) = remove(spec, "targetCPUUtilizationPercentage").filter(|p| !p.is_null()) {
            let cpu = json!({"type": "Resource", "resource":
                {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}});
            all.insert(0, cpu);
        }
        if all.is_empty() {
            all.push(json!({"type": "Resource", "resource":
                {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}));
        }
        set(spec, "metrics", all);
        behavior.into_iter().for_each(|b| set(spec, "behavior", lower(&b)));
    });
    at_mut(scaler, "status", |status| {
        let percent = remove(status, "currentCPUUtilizationPercentage").filter(|percent| !percent.is_null());
        // What the annotation says is more exact.
        let told = percent.map(|percent| {
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}])
        });
        current.or(told).into_iter().for_each(|metrics| set(status, "currentMetrics", metrics));
        conditions.into_iter().for_each(|conditions| set(status, "conditions", conditions));
    });
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && !metric["resource"]["target"]["averageUtilization"].is_null()
}

/// A metric as the v1 annotation has it: targets are flat.
fn metric_v1(mut metric: Value) -> Value {
    for kind in ["resource", "containerResource"] {
        at_mut(&mut metric, kind, |source| {
            let target = remove(source, "target").unwrap_or_default();
            for (from, to) in
                [("averageUtilization", "targetAverageUtilization"), ("averageValue", "targetAverageValue")]
            {
                if let Some(value) = target.get(from) {
                    set(source, to, value.clone());
                }
            }
        });
    }
    metric
}

fn metric_v2(mut metric: Value) -> Value {
    for kind in ["resource", "containerResource"] {
        at_mut(&mut metric, kind, |source| {
            let (utilization, value) =
                (remove(source, "targetAverageUtilization"), remove(source, "targetAverageValue"));
            match (utilization, value) {
                (Some(percent), _) => {
                    set(source, "target", json!({"type": "Utilization", "averageUtilization": percent}));
                }
                (None, Some(value)) => set(source, "target", json!({"type": "AverageValue", "averageValue": value})),
                (None, None) => {}
            }
        });
    }
    metric
}

/// The annotation carries the behavior with Go's field names.
fn capitalised(value: &Value) -> Value {
    rename_keys(value, &|key| key[..1].to_uppercase() + &key[1..])
}

fn lower(value: &Value) -> Value {
    rename_keys(value, &|key| key[..1].to_lowercase() + &key[1..])
}

fn rename_keys(value: &Value, rename: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(k, _)| !k.is_empty()).map(|(k, v)| (rename(k), rename_keys(v, rename))).collect()
        }
        Value::Array(list) => list.iter().map(|v| rename_keys(v, rename)).collect(),
        other => other.clone(),
    }
}

fn spec(check: &mut Check, at: &At) {
    let (min, max, metrics) = (at.get("minReplicas"), at.get("maxReplicas"), at.get("metrics"));
    if min.is_set() && min.number() < 1 {
        check.invalid(&min, "must be greater than or equal to 1");
    }
    if max.number() == 0 {
        check.required(&max, "must be set and greater than 0");
    } else if max.number() < 0 {
        check.invalid(&max, "must be greater than or equal to 1");
    }
    if min.is_set() && max.number() < min.number() {
        check.invalid(&max, "must be greater than or equal to `minReplicas`");
    }
    object_reference(check, &at.get("scaleTargetRef"), false);
    for metric in metrics.items() {
        validate_metric(check, &metric);
    }
    let wakes = |metric: At| ["Object", "External"].contains(&metric.get("type").str());
    if min.int() == Some(0) && !metrics.items().any(wakes) {
        check.forbidden(
            &metrics,
            "must specify at least one Object or External metric to support scaling to zero replicas",
        );
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = at.get("behavior").get(direction);
        if rules.is_set() {
            scaling_rules(check, &rules);
        }
    }
}

/// What is scaled or measured; what is measured may be an object of the core group.
fn object_reference(check: &mut Check, at: &At, core: bool) {
    check.present_format(&at.get("kind"), names::path_segment_name);
    check.present_format(&at.get("name"), names::path_segment_name);
    let version = at.get("apiVersion");
    match version.str().split('/').count() {
        2 if !version.str().starts_with('/') => {}
        1 | 2 if core => {}
        1 | 2 => check.invalid(&version, "apiVersion must specify API group"),
        _ => check.invalid(&version, "must be group/version"),
    }
}

fn scaling_rules(check: &mut Check, rules: &At) {
    const MAX_WINDOW_SECONDS: i64 = 3600;
    const MAX_PERIOD_SECONDS: i64 = 1800;
    let (window, policies, tolerance) =
        (rules.get("stabilizationWindowSeconds"), rules.get("policies"), rules.get("tolerance"));
    if window.is_set() {
        check.range(&window, 0, MAX_WINDOW_SECONDS);
    }
    check.one_of(&rules.get("selectPolicy"), &["Disabled", "Max", "Min"]);
    if policies.is_empty() {
        check.required(&policies, "must specify at least one Policy");
    }
    for policy in policies.items() {
        check.always_one_of(&policy.get("type"), &["Percent", "Pods"]);
        check.positive(&policy.get("value"));
        check.range(&policy.get("periodSeconds"), 1, MAX_PERIOD_SECONDS);
    }
    if tolerance.is_set() && tolerance.quantity() < Quantity::default() {
        check.invalid(&tolerance, "must be greater than or equal to 0");
    }
}

/// The kinds of metric and the field of each, in the order in which upstream looks for the one to check.
const METRIC_KINDS: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

fn validate_metric(check: &mut Check, metric: &At) {
    const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    let ty = metric.get("type");
    check.present(&ty);
    check.always_one_of(&ty, &TYPES);
    let given: Vec<_> = METRIC_KINDS.iter().filter(|(_, field)| metric.get(field).is_set()).collect();
    if let Some((_, field)) = METRIC_KINDS.iter().find(|(_, field)| metric.get(field).is_set()) {
        metric_source(check, &metric.get(field), field);
    }
    let expected = METRIC_KINDS.iter().find(|(t, _)| *t == ty.str()).map(|(_, field)| metric.get(field));
    match &expected {
        None => check.always_one_of(&ty, &TYPES),
        Some(source) if !source.is_set() => {
            check.required(source, "must populate information for the given metric source");
        }
        Some(_) => {}
    }
    if given.len() > 1 {
        for (_, field) in given.iter().filter(|(t, _)| *t != ty.str()) {
            check.forbidden(&metric.get(field), "must populate the given metric source only");
        }
    }
}

fn metric_source(check: &mut Check, at: &At, field: &str) {
    let target = at.get("target");
    let (utilization, average, value) =
        (target.get("averageUtilization"), target.get("averageValue"), target.get("value"));
    match field {
        "resource" => {
            check.present(&at.get("name"));
        }
        "containerResource" => {
            let name = at.get("name");
            if check.present(&name) {
                quantities::container_resource_name(check, name.str(), &name);
            }
            check.present_format(&at.get("container"), names::dns1123_label);
        }
        _ => {
            if field == "object" {
                object_reference(check, &at.get("describedObject"), true);
            }
            check.present_format(&at.get("metric.name"), names::path_segment_name);
        }
    }
    metric_target(check, &target);
    match field {
        "resource" | "containerResource" if !utilization.is_set() && !average.is_set() => {
            check.required(&utilization, "must set either a target raw value or a target utilization");
        }
        "resource" | "containerResource" if utilization.is_set() && average.is_set() => {
            check.forbidden(&average, "may not set both a target raw value and a target utilization");
        }
        "pods" if !average.is_set() => check.required(&average, "must specify a positive target averageValue"),
        "object" | "external" if !average.is_set() && !value.is_set() => {
            check.required(&average, "must set either a target value for metric or a per-pod target");
        }
        "external" if average.is_set() && value.is_set() => {
            check.forbidden(&value, "may not set both a target value for metric and a per-pod target");
        }
        _ => {}
    }
}

fn metric_target(check: &mut Check, at: &At) {
    let (ty, utilization) = (at.get("type"), at.get("averageUtilization"));
    check.present(&ty);
    if !["AverageValue", "Utilization", "Value"].contains(&ty.str()) {
        check.invalid(&ty, "must be either Utilization, Value, or AverageValue");
    }
    for amount in ["value", "averageValue"].map(|f| at.get(f)).into_iter().filter(At::is_set) {
        if amount.quantity() <= Quantity::default() {
            check.invalid(&amount, "must be positive");
        }
    }
    if utilization.is_set() {
        check.positive(&utilization);
    }
}

fn cells(scaler: &Value, cx: &HookContext) -> Vec<Value> {
    let mut scaler = scaler.clone();
    if scaler["apiVersion"] == "autoscaling/v1" {
        from_v1(&mut scaler);
    }
    let at = At::root(&scaler);
    let (spec, status) = (at.get("spec"), at.get("status"));
    let target = spec.get("scaleTargetRef");
    vec![
        name(&at),
        format!("{}/{}", target.get("kind").str(), target.get("name").str()).into(),
        targets(&spec.get("metrics"), &status.get("currentMetrics")).into(),
        shown_or(&spec.get("minReplicas"), UNSET),
        number(&spec.get("maxReplicas")),
        number(&status.get("currentReplicas")),
        age(&at, cx.request.now),
    ]
}

/// `cpu: 12%/80%, …`, at most two and how many more.
fn targets(specs: &At, current: &At) -> String {
    const SHOWN: usize = 2;
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let now: Vec<At> = current.items().collect();
    let mut list: Vec<String> = Vec::new();
    for (i, metric) in specs.items().enumerate() {
        let field = match metric.get("type").str() {
            "ContainerResource" => "containerResource",
            "External" => "external",
            "Object" => "object",
            "Pods" => "pods",
            _ => "resource",
        };
        let source = metric.get(field);
        let measured = |value: &str| now.get(i).map(|m| m.get(field).get("current").get(value)).filter(At::is_set);
        let shown = |value: &str| measured(value).map_or(UNKNOWN.to_owned(), |v| v.str().to_owned());
        let prefix = if field.to_lowercase().ends_with("resource") {
            format!("{}: ", source.get("name").str())
        } else {
            String::new()
        };
        let target = source.get("target");
        list.push(if target.get("averageUtilization").is_set() {
            let percent = measured("averageUtilization").map_or(UNKNOWN.to_owned(), |v| format!("{}%", v.number()));
            format!("{prefix}{percent}/{}%", target.get("averageUtilization").number())
        } else if target.get("averageValue").is_set() {
            let per_pod = if prefix.is_empty() && field != "pods" { " (avg)" } else { "" };
            format!("{prefix}{}/{}{per_pod}", shown("averageValue"), target.get("averageValue").str())
        } else {
            format!("{prefix}{}/{}", shown("value"), target.get("value").str())
        });
    }
    let more = list.len().saturating_sub(SHOWN);
    list.truncate(SHOWN);
    if more > 0 { format!("{} + {more} more...", list.join(", ")) } else { list.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: what a client of v1 said of the measured percentage was dropped.
    #[test]
    fn the_measured_percentage_of_v1_is_kept() {
        let mut scaler = json!({"metadata": {}, "spec": {}, "status": {"currentCPUUtilizationPercentage": 7}});
        from_v1(&mut scaler);
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7}}});
        assert_eq!(scaler["status"], json!({"currentMetrics": [metric]}));
        to_v1(&mut scaler);
        assert_eq!(scaler["status"]["currentCPUUtilizationPercentage"], 7);
        scaler["status"]["currentCPUUtilizationPercentage"] = 8.into();
        from_v1(&mut scaler);
        assert_eq!(scaler["status"]["currentMetrics"][0]["resource"]["current"]["averageUtilization"], 7);
    }
}

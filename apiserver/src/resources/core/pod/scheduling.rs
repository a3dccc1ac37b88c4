//! Where a pod may run: node selectors, affinities, tolerations and spreading. Follows upstream's `validateAffinity`,
//! `ValidateTolerations` and `validateTopologySpreadConstraints`. Node selectors are shared with PersistentVolumes.

use apimachinery::field::{FieldError, Path};
use apimachinery::validation as names;

use crate::resources::check::{At, Check};

/// `spec.affinity`.
pub fn affinity(check: &mut Check, at: &At) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = at.get("nodeAffinity");
    if node.get(REQUIRED).is_set() {
        node_selector(check, &node.get(REQUIRED));
    }
    for term in node.get(PREFERRED).items() {
        weight(check, &term);
        node_selector_term(check, &term.get("preference"), false);
    }
    for pods in ["podAffinity", "podAntiAffinity"].map(|f| at.get(f)) {
        for term in pods.get(REQUIRED).items() {
            pod_affinity_term(check, &term);
        }
        for term in pods.get(PREFERRED).items() {
            weight(check, &term);
            pod_affinity_term(check, &term.get("podAffinityTerm"));
        }
    }
}

fn weight(check: &mut Check, term: &At) {
    check.range(&term.get("weight"), 1, 100);
}

/// A `NodeSelector`: at least one term.
pub fn node_selector(check: &mut Check, at: &At) {
    let terms = at.get("nodeSelectorTerms");
    if terms.is_empty() {
        return check.required(&terms, "must have at least one node selector term");
    }
    for term in terms.items() {
        node_selector_term(check, &term, true);
    }
}

fn node_selector_term(check: &mut Check, term: &At, check_values: bool) {
    for expression in term.get("matchExpressions").items() {
        let values = expression.get("values");
        match expression.get("operator").str() {
            "In" | "NotIn" if values.is_empty() => {
                check.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                check.forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if values.len() != 1 => {
                check.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => check.invalid(&expression.get("operator"), "not a valid selector operator"),
        }
        check.format(&expression.get("key"), names::qualified_name);
        for value in values.items().filter(|_| check_values) {
            check.format(&value, names::label_value);
        }
    }
    for expression in term.get("matchFields").items() {
        let (key, values) = (expression.get("key"), expression.get("values"));
        match expression.get("operator").str() {
            "In" | "NotIn" if values.len() == 1 => {}
            "In" | "NotIn" => check.required(&values, "must be only one value when `operator` is 'In' or 'NotIn'"),
            _ => check.invalid(&expression.get("operator"), "not a valid selector operator"),
        }
        if key.str() != "metadata.name" {
            check.invalid(&key, "not a valid field selector key");
            continue;
        }
        for value in values.items() {
            check.format(&value, names::dns1123_subdomain);
        }
    }
}

fn pod_affinity_term(check: &mut Check, at: &At) {
    let selector = at.get("labelSelector");
    check.label_selector(&selector);
    check.label_selector(&at.get("namespaceSelector"));
    for namespace in at.get("namespaces").items() {
        check.format(&namespace.under(at.path.child("namespace")), names::dns1123_label);
    }
    let (matching, mismatching) = (at.get("matchLabelKeys"), at.get("mismatchLabelKeys"));
    for keys in [&matching, &mismatching] {
        if !keys.is_empty() && !selector.is_set() {
            check.forbidden(keys, "must not be specified when labelSelector is not set");
            continue;
        }
        for key in keys.items() {
            check.format(&key, names::qualified_name);
        }
    }
    keys_given_twice(check, &matching, &selector, &at.path);
    for key in matching.items().filter(|k| mismatching.strings().any(|m| m == k.str())) {
        check.invalid(&key, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
    let topology = at.get("topologyKey");
    check.present(&topology);
    check.format(&topology, names::qualified_name);
}

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `spec.tolerations`.
pub fn tolerations(check: &mut Check, at: &At) {
    for toleration in at.items() {
        let (key, operator, effect) = (toleration.get("key"), toleration.get("operator"), toleration.get("effect"));
        let value = toleration.get("value").under(operator.path.clone());
        check.format_if_set(&key, names::qualified_name);
        if key.is_empty() && operator.str() != "Exists" {
            check.invalid(&operator, "operator must be Exists when `key` is empty");
        }
        if toleration.get("tolerationSeconds").is_set() && effect.str() != "NoExecute" {
            check.invalid(&effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.str() {
            "" | "Equal" => {
                if !names::label_value(value.str()).is_empty() {
                    check.invalid(&value, "must be a label value");
                }
            }
            "Exists" if !value.is_empty() => check.invalid(&value, "value must be empty when `operator` is 'Exists'"),
            "Exists" => {}
            _ => check.not_supported(&operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            check.one_of(&effect, &EFFECTS);
        }
    }
}

/// A node's taints, unique by key and effect.
pub fn taints(check: &mut Check, at: &At) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for taint in at.items() {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        check.format(&key, names::qualified_name);
        if !names::label_value(value.str()).is_empty() {
            check.invalid(&value, "must be a label value");
        }
        check.present_one_of(&effect, &EFFECTS);
        if seen.contains(&(key.str(), effect.str())) {
            check.duplicate(&taint);
        } else {
            seen.push((key.str(), effect.str()));
        }
    }
}

/// `spec.topologySpreadConstraints`.
pub fn topology_spread(check: &mut Check, at: &At) {
    let kind = |c: &At| (c.get("topologyKey").value.clone(), c.get("whenUnsatisfiable").value.clone());
    for (i, constraint) in at.items().enumerate() {
        check.positive(&constraint.get("maxSkew"));
        check.present(&constraint.get("topologyKey"));
        let unsatisfiable = constraint.get("whenUnsatisfiable");
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&unsatisfiable.str()) {
            check.not_supported(&unsatisfiable, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        if at.items().skip(i + 1).any(|other| kind(&other) == kind(&constraint)) {
            check.duplicate(&constraint.under(constraint.path.child("{topologyKey, whenUnsatisfiable}")));
        }
        let min_domains = constraint.get("minDomains");
        if min_domains.is_set() {
            check.positive(&min_domains);
            if unsatisfiable.str() != "DoNotSchedule" {
                check.invalid(&min_domains, "can only use minDomains if whenUnsatisfiable=DoNotSchedule");
            }
        }
        check.one_of(&constraint.get("nodeAffinityPolicy"), &["Honor", "Ignore"]);
        check.one_of(&constraint.get("nodeTaintsPolicy"), &["Honor", "Ignore"]);
        spread_label_keys(check, &constraint);
        check.label_selector(&constraint.get("labelSelector"));
    }
}

fn spread_label_keys(check: &mut Check, constraint: &At) {
    let (keys, selector) = (constraint.get("matchLabelKeys"), constraint.get("labelSelector"));
    if keys.is_empty() {
        return;
    }
    if !selector.is_set() {
        check.forbidden(&keys, "must not be specified when labelSelector is not set");
    }
    for key in keys.items() {
        check.format(&key, names::qualified_name);
    }
    keys_given_twice(check, &keys, &selector, &keys.path);
}

/// The server has made the keys expressions of the selector by now: one that is there twice was also given by hand.
fn keys_given_twice(check: &mut Check, keys: &At, selector: &At, reported_at: &Path) {
    let mut seen: Vec<&str> = selector.get("matchLabels").entries().map(|(key, _)| key).collect();
    for expression in selector.get("matchExpressions").items() {
        let key = expression.get("key").str();
        if let (Some(i), true) = (keys.strings().position(|k| k == key), seen.contains(&key)) {
            check.errors.push(FieldError::invalid(
                reported_at.index(i),
                key,
                "exists in both matchLabelKeys and labelSelector",
            ));
        }
        seen.push(key);
    }
}

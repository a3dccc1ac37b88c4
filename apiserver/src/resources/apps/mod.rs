//! What deployments, replica sets, stateful sets, daemon sets and replication controllers share: a selector that matches
//! its template, counts in the status, rolling updates, and warnings about the template.

pub mod daemon_set;
pub mod deployment;
pub mod replica_set;
pub mod replication_controller;
pub mod revision;
pub mod stateful_set;

use apimachinery::field::ErrorList;
use apimachinery::selector::LabelSelector;
use serde_json::Value;

use crate::resources::check::{At, Check};
use crate::resources::core::pod;
use crate::resources::edit::{at_mut, remove};
use crate::resources::{HookContext, Strategy, meta};

/// Defaults of a kind whose pods come from `spec.template` and whose rolling update lies in `spec.<strategy>`: the
/// parameters of a rolling update are only filled in for that type.
pub fn defaults(object: &mut Value, strategy: &str, cx: &HookContext) {
    at_mut(object, "spec.template.spec", pod::defaults::spec);
    let before = At::root(object).get("spec").get(strategy);
    let rolling = ["", "RollingUpdate"].contains(&before.get("type").str());
    let given = before.get("rollingUpdate").is_set();
    (Strategy::DEFAULT.default)(object, cx);
    if !rolling && !given {
        at_mut(object, &format!("spec.{strategy}"), |strategy| drop(remove(strategy, "rollingUpdate")));
    }
}

/// Does the selector match the labels? An absent selector matches nothing; `None` when it is malformed.
pub fn selects(selector: &At, labels: &At) -> Option<bool> {
    if !selector.is_set() {
        return Some(false);
    }
    let parsed = LabelSelector::from_value(selector.value).ok()?;
    Some(parsed.matches(&labels.value.as_object().cloned().unwrap_or_default()))
}

/// `spec.selector` of apps kinds: given, well-formed, not empty. False when it cannot be used.
pub fn selector(check: &mut Check, spec: &At) -> bool {
    let at = spec.get("selector");
    if !at.is_set() {
        check.required(&at, "");
        return true;
    }
    check.label_selector(&at);
    if at.is_empty() || (at.get("matchLabels").is_empty() && at.get("matchExpressions").is_empty()) {
        check.invalid(&at, "empty selector is invalid");
    }
    let usable = LabelSelector::from_value(at.value).is_ok();
    if !usable {
        check.invalid(&at, "invalid label selector");
    }
    usable
}

/// The template's labels match, and its pods run until they are stopped.
pub fn template_matches(check: &mut Check, spec: &At) {
    let labels = spec.get("template.metadata.labels");
    if selects(&spec.get("selector"), &labels) == Some(false) {
        check.invalid(&labels, "`selector` does not match template `labels`");
    }
}

/// Pods of these kinds always restart and have no deadline.
pub fn runs_forever(check: &mut Check, spec: &At) {
    let pod_spec = spec.get("template.spec");
    let policy = pod_spec.get("restartPolicy");
    if policy.str() != "Always" {
        check.not_supported(&policy, &["Always"]);
    }
    let deadline = pod_spec.get("activeDeadlineSeconds");
    if deadline.is_set() {
        check.forbidden(&deadline, "activeDeadlineSeconds is not supported here");
    }
}

/// Counts of a status: none negative, and those in `within` not above `total`.
pub fn counts(check: &mut Check, status: &At, all: &[&str], total: &str, within: &[&str]) {
    check.non_negative_all(status, all);
    check.non_negative(&status.get("collisionCount"));
    for field in within.iter().filter(|f| status.get(f).number() > status.get(total).number()) {
        check.invalid(&status.get(field), format!("cannot be greater than status.{total}"));
    }
    let (available, ready) = (status.get("availableReplicas"), status.get("readyReplicas"));
    if within.contains(&"availableReplicas") && available.number() > ready.number() {
        check.invalid(&available, "cannot be greater than readyReplicas");
    }
}

/// A collision count does not go back.
pub fn collisions(check: &mut Check, new: &At, old: &At) {
    let (now, before) = (new.get("status.collisionCount"), old.get("status.collisionCount"));
    if before.is_set() && (!now.is_set() || now.number() < before.number()) {
        check.invalid(&now, "cannot be decremented");
    }
}

/// An int or percentage: its value is zero?
pub fn is_zero(at: &At) -> bool {
    match at.value {
        // A number as text counts, whether it is allowed or not; what is neither counts as nothing.
        Value::String(s) => {
            s.strip_suffix('%').map_or_else(|| s.parse(), |digits| digits.parse::<u32>().map(i64::from)).unwrap_or(0)
                == 0
        }
        _ => at.number() == 0,
    }
}

/// At most 100 %.
pub fn at_most_all(check: &mut Check, at: &At) {
    if at.str().strip_suffix('%').and_then(|p| p.parse::<i64>().ok()).is_some_and(|percent| percent > 100) {
        check.invalid(at, "must not be greater than 100%");
    }
}

/// Update rules of a kind: metadata once more, the rules of a new spec, and a selector that stays.
pub fn update(
    object: &Value,
    old: &Value,
    spec_rules: impl FnOnce(&mut Check, &At),
    fixed_selector: bool,
) -> ErrorList {
    let mut check = Check::new();
    let (new, old) = (At::root(object), At::root(old));
    meta::update(&mut check, &new, &old);
    spec_rules(&mut check, &new.get("spec"));
    if fixed_selector {
        check.immutable(&new.get("spec.selector"), &old.get("spec.selector"));
    }
    check.errors
}

/// Status rules of a kind.
pub fn status(object: &Value, old: &Value, rules: impl FnOnce(&mut Check, &At)) -> ErrorList {
    let mut check = Check::new();
    let (new, old) = (At::root(object), At::root(old));
    meta::update(&mut check, &new, &old);
    rules(&mut check, &new.get("status"));
    collisions(&mut check, &new, &old);
    check.errors
}

/// Whether a write left the generation alone.
pub fn same_generation(object: &Value, old: &Value) -> bool {
    object["metadata"]["generation"] == old["metadata"]["generation"]
}

/// Warnings about `spec.template`, when the object is new or has a new generation.
pub fn template_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let unchanged = old.is_some_and(|old| match object["kind"].as_str() {
        Some("DaemonSet") => old["spec"]["template"] == object["spec"]["template"],
        _ => same_generation(object, old),
    });
    let mut out = pod::warnings::template(&At::root(object).get("spec.template"), unchanged);
    if old.is_none() && object["kind"] != "DaemonSet" {
        out.extend(pod::warnings::dotted_name(object));
    }
    let limit = At::root(object).get("spec.revisionHistoryLimit");
    if limit.number() < 0 {
        out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions".to_owned());
    }
    out
}

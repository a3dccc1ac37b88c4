//! The roles, bindings and other objects that a fresh server makes, as data, and how an existing one is brought up to date.
//!
//! Reconciling is pure. It follows upstream: rules and subjects that are missing are added, additional ones stay, objects
//! whose autoupdate annotation is `false` are left alone, and a binding to another role is made anew.

use std::sync::OnceLock;

use serde_json::Value;

use crate::authz::rules::{PolicyRule, rules_of, uncovered};

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

macro_rules! embedded {
    ($($(#[$doc:meta])* $name:ident, $file:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name() -> &'static [Value] {
            static PARSED: OnceLock<Vec<Value>> = OnceLock::new();
            PARSED.get_or_init(|| parse(include_str!(concat!("../../bootstrap/", $file, ".jsonl"))))
        }
    )*};
}

embedded! {
    /// Default cluster roles.
    cluster_roles, "clusterroles";
    /// Default cluster role bindings.
    cluster_role_bindings, "clusterrolebindings";
    /// Default roles of kube-system and kube-public.
    roles, "roles";
    /// Default role bindings of kube-system and kube-public.
    role_bindings, "rolebindings";
    /// Default flow schemas.
    flow_schemas, "flowschemas";
    /// Default priority levels.
    priority_levels, "prioritylevelconfigurations";
    /// The two system priority classes.
    priority_classes, "priorityclasses";
    /// One entry per served group and version.
    api_services, "apiservices";
}

fn parse(lines: &str) -> Vec<Value> {
    lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// A default cluster role by name.
pub fn cluster_role(name: &str) -> Option<&'static Value> {
    cluster_roles().iter().find(|role| role["metadata"]["name"] == name)
}

/// What an existing object needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It is as it should be, or nobody may touch it.
    Keep,
    /// Store this instead.
    Update(Box<Value>),
    /// Delete it and make the default anew (what a binding points to cannot change).
    Recreate,
}

fn is_protected(existing: &Value) -> bool {
    existing["metadata"]["annotations"][AUTOUPDATE] == "false"
}

/// Adds the default's labels and annotations that are absent.
fn merge_metadata(target: &mut Value, default: &Value) {
    for field in ["labels", "annotations"] {
        for (key, value) in default["metadata"][field].as_object().into_iter().flatten() {
            let present = target["metadata"][field][key].is_string();
            if !present
                && let Some(metadata) = target.get_mut("metadata")
                && let Some(map) = crate::admission::map_mut(metadata, field)
            {
                map.insert(key.clone(), value.clone());
            }
        }
    }
}

fn finish(existing: &Value, updated: Value) -> Step {
    if updated == *existing { Step::Keep } else { Step::Update(Box::new(updated)) }
}

/// Brings a role or cluster role up to date.
pub fn reconcile_role(existing: &Value, default: &Value) -> Step {
    if is_protected(existing) {
        return Step::Keep;
    }
    let mut updated = existing.clone();
    merge_metadata(&mut updated, default);
    if default["aggregationRule"].is_null() {
        let missing: Vec<PolicyRule> = uncovered(&rules_of(existing), &rules_of(default));
        if !missing.is_empty() {
            add_rules(&mut updated, default, &missing);
        }
    } else if updated["aggregationRule"].is_null() {
        crate::admission::set(&mut updated, "aggregationRule", default["aggregationRule"].clone());
    } else {
        let wanted = default["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten();
        if let Some(selectors) = crate::admission::list_mut(&mut updated["aggregationRule"], "clusterRoleSelectors") {
            for selector in wanted {
                if !selectors.contains(selector) {
                    selectors.push(selector.clone());
                }
            }
        }
    }
    finish(existing, updated)
}

/// Whole default rules of which any part is missing: keeps the object readable.
fn add_rules(updated: &mut Value, default: &Value, missing: &[PolicyRule]) {
    let wanted: Vec<Value> = default["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|rule| {
            let one = rules_of(&serde_json::json!({"rules": [rule]}));
            missing.iter().any(|part| uncovered(&one, std::slice::from_ref(part)).is_empty())
        })
        .cloned()
        .collect();
    if let Some(rules) = crate::admission::list_mut(updated, "rules") {
        rules.extend(wanted);
    }
}

/// Brings a binding up to date.
pub fn reconcile_binding(existing: &Value, default: &Value) -> Step {
    if is_protected(existing) {
        return Step::Keep;
    }
    if existing["roleRef"] != default["roleRef"] {
        return Step::Recreate;
    }
    let mut updated = existing.clone();
    merge_metadata(&mut updated, default);
    let same = |a: &Value, b: &Value| ["kind", "name", "namespace"].iter().all(|field| a[*field] == b[*field]);
    for subject in default["subjects"].as_array().into_iter().flatten() {
        let present = existing["subjects"].as_array().is_some_and(|all| all.iter().any(|s| same(s, subject)));
        if !present && let Some(subjects) = crate::admission::list_mut(&mut updated, "subjects") {
            subjects.push(subject.clone());
        }
    }
    finish(existing, updated)
}

/// Brings a flow schema or priority level up to date: the spec follows the release while its annotation says so.
pub fn reconcile_flow_control(existing: &Value, default: &Value) -> Step {
    if existing["metadata"]["annotations"]["apf.kubernetes.io/autoupdate-spec"] != "true"
        || existing["spec"] == default["spec"]
    {
        return Step::Keep;
    }
    let mut updated = existing.clone();
    crate::admission::set(&mut updated, "spec", default["spec"].clone());
    Step::Update(Box::new(updated))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_line_parses() {
        let counts = [
            (cluster_roles().len(), 69),
            (cluster_role_bindings().len(), 50),
            (roles().len(), 7),
            (role_bindings().len(), 7),
            (flow_schemas().len(), 11),
            (priority_levels().len(), 8),
            (priority_classes().len(), 2),
            (api_services().len(), 21),
        ];
        for (found, expected) in counts {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn roles_gain_what_is_missing() {
        let default = json!({"metadata": {"name": "r", "labels": {"a": "b"}}, "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]});
        assert_eq!(reconcile_role(&default, &default), Step::Keep);
        let own = json!({"apiGroups": ["x"], "resources": ["y"], "verbs": ["z"]});
        let old = json!({"metadata": {"name": "r"}, "rules": [default["rules"][1], own]});
        let Step::Update(updated) = reconcile_role(&old, &default) else { panic!() };
        assert_eq!(updated["rules"], json!([default["rules"][1], own, default["rules"][0]]));
        assert_eq!(updated["metadata"]["labels"]["a"], "b");
        let mut protected = old;
        protected["metadata"]["annotations"] = json!({AUTOUPDATE: "false"});
        assert_eq!(reconcile_role(&protected, &default), Step::Keep);
    }

    #[test]
    fn bindings() {
        let default =
            json!({"metadata": {"name": "b"}, "roleRef": {"name": "r"}, "subjects": [{"kind": "Group", "name": "g"}]});
        let Step::Update(updated) =
            reconcile_binding(&json!({"metadata": {"name": "b"}, "roleRef": {"name": "r"}}), &default)
        else {
            panic!()
        };
        assert_eq!(updated["subjects"], default["subjects"]);
        let other = json!({"metadata": {"name": "b"}, "roleRef": {"name": "q"}, "subjects": []});
        assert_eq!(reconcile_binding(&other, &default), Step::Recreate);
    }
}

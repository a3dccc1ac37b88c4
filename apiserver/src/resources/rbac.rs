//! Roles and bindings. Follows upstream's `ValidateRole*`, `ValidateRoleBinding*` and their printers. Escalation is
//! admission's question, not validation's.

use apimachinery::validation as names;
use serde_json::Value;

use super::check::{At, Check};
use super::edit::{array_mut, set_default};
use super::printing::{age, name};
use super::{HookContext, NameRule, Strategy, meta};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles and cluster roles.
pub const ROLE: Strategy = Strategy {
    names: NameRule(names::path_segment_name),
    validate: |role, cx| {
        let mut check = meta::checked(role, cx);
        rules(&mut check, &At::root(role), cx);
        check.errors
    },
    validate_update: |role, old, cx| {
        let mut check = meta::checked(role, cx);
        let new = At::root(role);
        rules(&mut check, &new, cx);
        meta::update(&mut check, &new, &At::root(old));
        check.errors
    },
    ..Strategy::DEFAULT
};

fn rules(check: &mut Check, role: &At, cx: &HookContext) {
    for rule in role.get("rules").items() {
        let urls = rule.get("nonResourceURLs");
        check.present(&rule.get("verbs"));
        if urls.is_empty() {
            check.present_all(&rule, &["apiGroups", "resources"]);
            continue;
        }
        if cx.resource.namespaced {
            check.invalid(&urls, "namespaced rules cannot apply to non-resource URLs");
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|f| !rule.get(f).is_empty()) {
            check.invalid(&urls, "rules cannot apply to both regular resources and non-resource URLs");
        }
    }
    let aggregation = role.get("aggregationRule");
    if aggregation.is_set() {
        let selectors = aggregation.get("clusterRoleSelectors");
        check.present(&selectors);
        for selector in selectors.items() {
            let before = check.errors.len();
            check.label_selector(&selector);
            if check.errors.len() > before {
                check.invalid(&selector, "invalid label selector");
            }
        }
    }
}

/// Role bindings and cluster role bindings.
pub const BINDING: Strategy = Strategy {
    names: NameRule(names::path_segment_name),
    default: |binding, cx| {
        (Strategy::DEFAULT.default)(binding, cx);
        for subject in array_mut(binding, "subjects") {
            if ["User", "Group"].iter().any(|kind| subject["kind"] == *kind) {
                set_default(subject, "apiGroup", GROUP);
            }
        }
    },
    validate: |binding, cx| {
        let mut check = meta::checked(binding, cx);
        binding_rules(&mut check, &At::root(binding), cx);
        check.errors
    },
    validate_update: |binding, old, cx| {
        let mut check = meta::checked(binding, cx);
        let (new, old) = (At::root(binding), At::root(old));
        binding_rules(&mut check, &new, cx);
        meta::update(&mut check, &new, &old);
        if new.get("roleRef").value != old.get("roleRef").value {
            check.invalid(&new.get("roleRef"), "cannot change roleRef");
        }
        check.errors
    },
    cells: Some(cells),
    ..Strategy::DEFAULT
};

fn binding_rules(check: &mut Check, binding: &At, cx: &HookContext) {
    let role = binding.get("roleRef");
    check.one_of(&role.get("apiGroup"), &[GROUP]);
    let kinds: &[&str] = if cx.resource.namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.get("kind").str()) {
        check.not_supported(&role.get("kind"), kinds);
    }
    check.present_format(&role.get("name"), names::path_segment_name);
    for subject in binding.get("subjects").items() {
        let (name, group) = (subject.get("name"), subject.get("apiGroup"));
        check.present(&name);
        match subject.get("kind").str() {
            "ServiceAccount" => {
                check.format_if_set(&name, names::dns1123_subdomain);
                if !group.is_empty() {
                    check.not_supported(&group, &[""]);
                }
                if !cx.resource.namespaced {
                    check.present(&subject.get("namespace"));
                }
            }
            "User" | "Group" if group.str() != GROUP => check.not_supported(&group, &[GROUP]),
            "User" | "Group" => {}
            _ => check.not_supported(&subject.get("kind"), &["ServiceAccount", "User", "Group"]),
        }
    }
}

fn cells(binding: &Value, cx: &HookContext) -> Vec<Value> {
    let binding = At::root(binding);
    let role = binding.get("roleRef");
    let of_kind = |kind: &str| {
        let subjects = binding.get("subjects").items().filter(|s| s.get("kind").str() == kind);
        let names: Vec<String> = subjects
            .map(|s| match kind {
                "ServiceAccount" => format!("{}/{}", s.get("namespace").str(), s.get("name").str()),
                _ => s.get("name").str().to_owned(),
            })
            .collect();
        Value::from(names.join(", "))
    };
    let role = format!("{}/{}", role.get("kind").str(), role.get("name").str());
    vec![
        name(&binding),
        role.into(),
        age(&binding, cx.request.now),
        of_kind("User"),
        of_kind("Group"),
        of_kind("ServiceAccount"),
    ]
}

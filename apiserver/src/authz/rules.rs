//! RBAC policy rules: what one rule allows and whether rules cover other rules.
//!
//! Pure. Follows upstream's rule evaluation: `*` in verbs, groups and resources, `*/sub` for one subresource of everything,
//! resource names as an exact list (empty: all), non-resource paths with a trailing `*`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Attributes;

/// One rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups (empty string: core), or `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Resources (`pods`, `pods/log`, `*`, `*/scale`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Object names; empty means any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// URL paths outside the resources.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// The rules of a role or cluster role object; malformed ones are left out (a rule that cannot be read grants nothing).
pub fn rules_of(role: &Value) -> Vec<PolicyRule> {
    role["rules"]
        .as_array()
        .map_or_else(Vec::new, |rules| rules.iter().filter_map(|rule| PolicyRule::deserialize(rule).ok()).collect())
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == wanted)
}

fn has_or_all(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == wanted)
}

impl PolicyRule {
    /// Whether this rule allows the request.
    pub fn allows(&self, request: &Attributes) -> bool {
        if !has_or_all(&self.verbs, &request.verb) {
            return false;
        }
        if !request.resource_request {
            return self.non_resource_urls.iter().any(|url| path_matches(url, &request.path));
        }
        has_or_all(&self.api_groups, &request.group)
            && self.resources.iter().any(|entry| resource_matches(entry, &request.resource, &request.subresource))
            && (self.resource_names.is_empty() || has(&self.resource_names, &request.name))
    }

    /// Splits into rules of one verb, group, resource and name each, so that each part can be covered by another owner rule.
    fn parts(&self) -> Vec<PolicyRule> {
        let mut parts = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let single = PolicyRule {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..PolicyRule::default()
                    };
                    if self.resource_names.is_empty() {
                        parts.push(single);
                        continue;
                    }
                    parts.extend(
                        self.resource_names
                            .iter()
                            .map(|name| PolicyRule { resource_names: vec![name.clone()], ..single.clone() }),
                    );
                }
            }
        }
        for url in &self.non_resource_urls {
            parts.extend(self.verbs.iter().map(|verb| PolicyRule {
                verbs: vec![verb.clone()],
                non_resource_urls: vec![url.clone()],
                ..PolicyRule::default()
            }));
        }
        parts
    }

    fn covers(&self, part: &PolicyRule) -> bool {
        let all = |own: &[String], other: &[String]| has(own, "*") || other.iter().all(|entry| has(own, entry));
        let names = if part.resource_names.is_empty() {
            self.resource_names.is_empty()
        } else {
            self.resource_names.is_empty() || part.resource_names.iter().all(|name| has(&self.resource_names, name))
        };
        all(&self.verbs, &part.verbs)
            && all(&self.api_groups, &part.api_groups)
            && part.resources.iter().all(|resource| resource_covers(&self.resources, resource))
            && part.non_resource_urls.iter().all(|url| self.non_resource_urls.iter().any(|own| path_matches(own, url)))
            && names
    }
}

fn resource_matches(entry: &str, resource: &str, subresource: &str) -> bool {
    if entry == "*" {
        return true;
    }
    if subresource.is_empty() {
        return entry == resource;
    }
    match entry.split_once('/') {
        Some((prefix, sub)) => sub == subresource && (prefix == "*" || prefix == resource),
        None => false,
    }
}

fn resource_covers(own: &[String], resource: &str) -> bool {
    has_or_all(own, resource)
        || resource.split_once('/').is_some_and(|(_, sub)| own.iter().any(|o| o.strip_prefix("*/") == Some(sub)))
}

fn path_matches(entry: &str, path: &str) -> bool {
    entry == "*" || entry == path || (entry.ends_with('*') && path.starts_with(entry.trim_end_matches('*')))
}

/// The parts of `wanted` that `held` does not cover; empty means that the holder may hand `wanted` out.
pub fn uncovered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted.iter().flat_map(PolicyRule::parts).filter(|part| !held.iter().any(|rule| rule.covers(part))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::authz::tests::resource;

    fn rule(groups: &[&str], resources: &[&str], verbs: &[&str], names: &[&str]) -> PolicyRule {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        PolicyRule {
            api_groups: own(groups),
            resources: own(resources),
            verbs: own(verbs),
            resource_names: own(names),
            ..PolicyRule::default()
        }
    }

    #[test]
    fn resource_requests() {
        let cases = [
            (rule(&[""], &["pods"], &["get"], &[]), "get", "", "pods", "", "x", true),
            (rule(&[""], &["pods"], &["get"], &[]), "get", "", "pods", "log", "x", false),
            (rule(&[""], &["pods/log"], &["get"], &[]), "get", "", "pods", "log", "x", true),
            (rule(&["*"], &["*/scale"], &["get"], &[]), "get", "apps", "deployments", "scale", "x", true),
            (rule(&["*"], &["*/scale"], &["get"], &[]), "get", "apps", "deployments", "", "x", false),
            (rule(&["apps"], &["*"], &["*"], &[]), "delete", "apps", "deployments", "status", "x", true),
            (rule(&["apps"], &["*"], &["*"], &[]), "delete", "batch", "jobs", "", "x", false),
            (rule(&[""], &["pods"], &["get"], &["a"]), "get", "", "pods", "", "a", true),
            (rule(&[""], &["pods"], &["list"], &["a"]), "list", "", "pods", "", "", false),
        ];
        for (rule, verb, group, res, sub, name, allowed) in cases {
            let request = resource("alice", verb, "ns", group, res, sub, name);
            assert_eq!(rule.allows(&request), allowed, "{rule:?} {request:?}");
        }
    }

    #[test]
    fn paths() {
        let rule = PolicyRule {
            verbs: vec!["get".into()],
            non_resource_urls: vec!["/healthz/*".into(), "/version".into()],
            ..PolicyRule::default()
        };
        for (path, allowed) in [("/version", true), ("/version/", false), ("/healthz", false), ("/healthz/etcd", true)]
        {
            let request =
                Attributes { user: Arc::default(), verb: "get".into(), path: path.into(), ..Attributes::default() };
            assert_eq!(rule.allows(&request), allowed, "{path}");
        }
    }

    #[test]
    fn covering() {
        let held =
            [rule(&[""], &["pods", "*/status"], &["get", "list"], &[]), rule(&["apps"], &["*"], &["*"], &["one"])];
        let cases = [
            (rule(&[""], &["pods"], &["get"], &[]), true),
            (rule(&[""], &["pods"], &["get", "delete"], &[]), false),
            (rule(&[""], &["pods"], &["get"], &["x"]), true),
            (rule(&[""], &["nodes/status"], &["get"], &[]), true),
            (rule(&["apps"], &["deployments"], &["get"], &["one"]), true),
            (rule(&["apps"], &["deployments"], &["get"], &[]), false),
            (rule(&["", "apps"], &["pods"], &["list"], &["one"]), true),
            (rule(&["*"], &["pods"], &["get"], &[]), false),
        ];
        for (wanted, covered) in cases {
            assert_eq!(uncovered(&held, std::slice::from_ref(&wanted)).is_empty(), covered, "{wanted:?}");
        }
    }
}

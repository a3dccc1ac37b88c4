//! Nobody hands out rights that they do not hold: the checks on writing roles and bindings.
//!
//! Follows upstream: a role may be written by who holds all its rules in that scope, or the `escalate` verb on it; a binding
//! by who holds all the rules of the role it names, or the `bind` verb on that role. `system:masters` is always allowed.

use std::sync::Arc;

use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use serde_json::Value;

use super::rbac::{MASTERS, RoleRef};
use super::rules::{PolicyRule, rules_of, uncovered};
use super::{Attributes, Authorizer, Union};
use crate::http::request::UserInfo;

const GROUP: &str = "rbac.authorization.k8s.io";

/// The write that is checked.
#[derive(Clone, Debug)]
pub struct Write<'a> {
    /// Who writes.
    pub user: &'a Arc<UserInfo>,
    /// `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`.
    pub resource: &'a str,
    /// Namespace; empty for cluster-wide kinds.
    pub namespace: &'a str,
    /// Name of the role or binding.
    pub name: &'a str,
    /// The new object.
    pub object: &'a Value,
    /// The old object on update.
    pub old: Option<&'a Value>,
}

/// Checks a create or an update of one of the four RBAC resources.
///
/// # Errors
/// 403 naming the rules that the user lacks; 404 when a binding names a role that does not exist.
pub async fn check(authz: &Union, write: &Write<'_>) -> Result<(), Status> {
    if !authz.rbac_enabled() || write.user.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    match write.resource {
        "roles" | "clusterroles" => check_role(authz, write).await,
        _ => check_binding(authz, write).await,
    }
}

async fn check_role(authz: &Union, write: &Write<'_>) -> Result<(), Status> {
    let exempt = only_collector_fields_change(write);
    if exempt || may(authz, write, "escalate", write.resource, write.namespace, write.name).await {
        return Ok(());
    }
    let mut wanted = rules_of(write.object);
    // A role that collects others can come to hold anything, and ending that takes away what others gave.
    let aggregates = |object: &Value| !object["aggregationRule"].is_null();
    if aggregates(write.object) || write.old.is_some_and(aggregates) {
        let all = || vec!["*".to_owned()];
        let everything = PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..PolicyRule::default() };
        let paths = PolicyRule { verbs: all(), non_resource_urls: all(), ..PolicyRule::default() };
        wanted.extend([everything, paths]);
    }
    refuse(authz, write, &wanted)
}

async fn check_binding(authz: &Union, write: &Write<'_>) -> Result<(), Status> {
    if only_collector_fields_change(write) {
        return Ok(());
    }
    // A malformed reference is validation's to refuse, and grants nothing.
    let Some(role) = RoleRef::of(write.object) else { return Ok(()) };
    let resource = if role.cluster { "clusterroles" } else { "roles" };
    if may(authz, write, "bind", resource, write.namespace, &role.name).await {
        return Ok(());
    }
    let rules = authz.rbac.read(|index| index.rules(write.namespace, &role).cloned());
    let Some(rules) = rules else {
        // Named by the resource that is written, as upstream.
        return Err(Status::not_found(&GroupResource::new(GROUP, write.resource), &role.name));
    };
    refuse(authz, write, &rules)
}

/// The garbage collector must be able to finish an object whose rights it does not hold. Anything else, labels included
/// (they decide which roles an aggregated role collects), is a change that is checked.
fn only_collector_fields_change(write: &Write<'_>) -> bool {
    let Some(old) = write.old else { return false };
    let rest = |object: &Value| {
        let mut rest = object.clone();
        if let Some(metadata) = rest.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                metadata.remove(field);
            }
        }
        rest
    };
    rest(old) == rest(write.object)
}

async fn may(authz: &Union, write: &Write<'_>, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let request = Attributes {
        user: Arc::clone(write.user),
        verb: verb.to_owned(),
        namespace: namespace.to_owned(),
        group: GROUP.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        resource_request: true,
        ..Attributes::default()
    };
    authz.authorize(&request).await.is_allowed()
}

fn refuse(authz: &Union, write: &Write<'_>, wanted: &[PolicyRule]) -> Result<(), Status> {
    let held = authz.rbac.read(|index| index.rules_for(write.user, write.namespace));
    let missing = uncovered(&held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.iter().take(20).map(describe).collect::<Vec<_>>().join("\n");
    let why = format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{list}",
        write.user.name, write.user.groups
    );
    Err(Status::forbidden(&GroupResource::new(GROUP, write.resource), write.name, &why))
}

fn describe(rule: &PolicyRule) -> String {
    if rule.non_resource_urls.is_empty() {
        let (groups, resources) = (&rule.api_groups, &rule.resources);
        format!(
            "{{APIGroups:{groups:?}, Resources:{resources:?}, ResourceNames:{:?}, Verbs:{:?}}}",
            rule.resource_names, rule.verbs
        )
    } else {
        format!("{{NonResourceURLs:{:?}, Verbs:{:?}}}", rule.non_resource_urls, rule.verbs)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authz::rbac::RbacKind;
    use crate::authz::{AuthzConfig, build};

    fn union() -> Union {
        let union = build(&AuthzConfig { modes: vec!["RBAC".into()], ..AuthzConfig::default() }).unwrap();
        let role = json!({"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]});
        union.rbac.apply(RbacKind::Role, "ns", "held", Some(&role));
        let big = json!({"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["*"]}]});
        union.rbac.apply(RbacKind::ClusterRole, "", "big", Some(&big));
        let bind = json!({"rules": [{"apiGroups": [GROUP], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["big"]}]});
        union.rbac.apply(RbacKind::ClusterRole, "", "binder", Some(&bind));
        let to = |role: &str, kind: &str, user: &str| {
            json!({"roleRef": {"apiGroup": GROUP, "kind": kind, "name": role},
            "subjects": [{"kind": "User", "name": user}]})
        };
        union.rbac.apply(RbacKind::RoleBinding, "ns", "a", Some(&to("held", "Role", "alice")));
        union.rbac.apply(RbacKind::ClusterRoleBinding, "", "b", Some(&to("binder", "ClusterRole", "bob")));
        union
    }

    #[tokio::test]
    async fn roles_and_bindings() {
        let union = union();
        let role =
            |verbs: &[&str]| json!({"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}]});
        let binding = |kind: &str, name: &str| json!({"roleRef": {"apiGroup": GROUP, "kind": kind, "name": name}, "subjects": []});
        let cases = [
            ("alice", "roles", role(&["get"]), 0),
            ("alice", "roles", role(&["get", "delete"]), 403),
            ("alice", "clusterroles", json!({"rules": null, "aggregationRule": {"clusterRoleSelectors": []}}), 403),
            ("alice", "rolebindings", binding("Role", "held"), 0),
            ("alice", "rolebindings", binding("ClusterRole", "big"), 403),
            ("alice", "rolebindings", binding("Role", "absent"), 404),
            ("bob", "rolebindings", binding("ClusterRole", "big"), 0),
            ("bob", "roles", role(&["get"]), 403),
        ];
        for (user, resource, object, code) in cases {
            let user = Arc::new(UserInfo { name: user.into(), ..UserInfo::default() });
            let write = Write { user: &user, resource, namespace: "ns", name: "x", object: &object, old: None };
            let got = check(&union, &write).await.map_or_else(|status| status.code, |()| 0);
            assert_eq!(got, code, "{} {resource} {object}", user.name);
        }
    }
}

//! RBAC: an index from subject to rules, kept current by cache events, and the authorizer that reads it.
//!
//! A request looks only at the bindings of its own user and groups, cluster-wide and in its namespace; nothing is decoded
//! per request. Roles are resolved by name at evaluation, so bindings and roles may arrive in any order. Guarantees: a
//! binding that names a missing role grants nothing.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures::future::BoxFuture;
use serde_json::Value;

use super::rules::{PolicyRule, rules_of};
use super::{Attributes, Authorizer, Decision};
use crate::http::request::UserInfo;

/// The group whose members may do everything, whatever the roles say.
pub const MASTERS: &str = "system:masters";

/// Which of the four RBAC resources an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RbacKind {
    /// `roles`
    Role,
    /// `clusterroles`
    ClusterRole,
    /// `rolebindings`
    RoleBinding,
    /// `clusterrolebindings`
    ClusterRoleBinding,
}

/// What a binding points to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoleRef {
    /// A ClusterRole (else a Role in the binding's namespace).
    pub cluster: bool,
    /// Name of the role.
    pub name: String,
}

impl RoleRef {
    /// Reads `roleRef` of a binding; `None` when it names another group or kind.
    pub fn of(binding: &Value) -> Option<Self> {
        let reference = &binding["roleRef"];
        if reference["apiGroup"].as_str().unwrap_or_default() != "rbac.authorization.k8s.io" {
            return None;
        }
        let cluster = match reference["kind"].as_str()? {
            "ClusterRole" => true,
            "Role" => false,
            _ => return None,
        };
        Some(Self { cluster, name: reference["name"].as_str()?.to_owned() })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

fn subjects_of(binding: &Value, namespace: &str) -> Vec<Subject> {
    let Some(subjects) = binding["subjects"].as_array() else { return Vec::new() };
    subjects
        .iter()
        .filter_map(|subject| {
            let name = subject["name"].as_str()?;
            match subject["kind"].as_str()? {
                "User" => Some(Subject::User(name.to_owned())),
                "Group" => Some(Subject::Group(name.to_owned())),
                "ServiceAccount" => {
                    let ns = subject["namespace"].as_str().filter(|ns| !ns.is_empty()).unwrap_or(namespace);
                    (!ns.is_empty()).then(|| Subject::User(format!("system:serviceaccount:{ns}:{name}")))
                }
                _ => None,
            }
        })
        .collect()
}

#[derive(Debug, Clone)]
struct Grant {
    binding: Arc<str>,
    role: RoleRef,
}

#[derive(Debug, Default)]
struct Grants {
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

impl Grants {
    fn of(&mut self, subject: &Subject) -> &mut Vec<Grant> {
        match subject {
            Subject::User(name) => self.users.entry(name.clone()).or_default(),
            Subject::Group(name) => self.groups.entry(name.clone()).or_default(),
        }
    }

    fn remove(&mut self, subject: &Subject, binding: &str) {
        let (map, name) = match subject {
            Subject::User(name) => (&mut self.users, name),
            Subject::Group(name) => (&mut self.groups, name),
        };
        if let Some(grants) = map.get_mut(name) {
            grants.retain(|grant| &*grant.binding != binding);
            if grants.is_empty() {
                map.remove(name);
            }
        }
    }
}

/// Rules by role, roles by subject. Namespace "" holds what is cluster-wide.
#[derive(Debug, Default)]
pub struct RbacIndex {
    roles: HashMap<String, HashMap<String, Arc<[PolicyRule]>>>,
    grants: HashMap<String, Grants>,
    subjects: HashMap<(String, String), Vec<Subject>>,
}

impl RbacIndex {
    /// Takes in one object, or its absence. `namespace` is empty for cluster-wide kinds.
    pub fn apply(&mut self, kind: RbacKind, namespace: &str, name: &str, object: Option<&Value>) {
        match kind {
            RbacKind::Role | RbacKind::ClusterRole => {
                let roles = self.roles.entry(namespace.to_owned()).or_default();
                match object {
                    Some(role) => roles.insert(name.to_owned(), rules_of(role).into()),
                    None => roles.remove(name),
                };
            }
            RbacKind::RoleBinding | RbacKind::ClusterRoleBinding => self.apply_binding(namespace, name, object),
        }
    }

    fn apply_binding(&mut self, namespace: &str, name: &str, binding: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        let grants = self.grants.entry(namespace.to_owned()).or_default();
        for subject in self.subjects.remove(&key).unwrap_or_default() {
            grants.remove(&subject, name);
        }
        let Some(binding) = binding else { return };
        let Some(role) = RoleRef::of(binding) else { return };
        let subjects = subjects_of(binding, namespace);
        for subject in &subjects {
            let list = grants.of(subject);
            if !list.iter().any(|grant| &*grant.binding == name) {
                list.push(Grant { binding: name.into(), role: role.clone() });
            }
        }
        self.subjects.insert(key, subjects);
    }

    /// The rules of a role, `None` when there is no such role.
    pub fn rules(&self, namespace: &str, role: &RoleRef) -> Option<&Arc<[PolicyRule]>> {
        self.roles.get(if role.cluster { "" } else { namespace })?.get(&role.name)
    }

    /// Calls `visit(rule, binding, role, namespace)` for each rule the user holds in the namespace, until it returns true.
    fn visit(
        &self,
        user: &UserInfo,
        namespace: &str,
        visit: &mut dyn FnMut(&PolicyRule, &Grant, &str) -> bool,
    ) -> bool {
        let scopes: &[&str] = if namespace.is_empty() { &[""] } else { &["", namespace] };
        for scope in scopes {
            let Some(grants) = self.grants.get(*scope) else { continue };
            let own = grants.users.get(&user.name).into_iter();
            let lists = own.chain(user.groups.iter().filter_map(|group| grants.groups.get(group)));
            for grant in lists.flatten() {
                let Some(rules) = self.rules(scope, &grant.role) else { continue };
                if rules.iter().any(|rule| visit(rule, grant, scope)) {
                    return true;
                }
            }
        }
        false
    }

    /// All rules that the user holds in the namespace ("" for cluster-wide ones only).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        let mut found = Vec::new();
        self.visit(user, namespace, &mut |rule, _, _| {
            found.push(rule.clone());
            false
        });
        found
    }

    /// Why the request is allowed, or `None`.
    pub fn allows(&self, request: &Attributes) -> Option<String> {
        let mut reason = None;
        let namespace = if request.resource_request { &*request.namespace } else { "" };
        self.visit(&request.user, namespace, &mut |rule, grant, scope| {
            if !rule.allows(request) {
                return false;
            }
            let role_kind = if grant.role.cluster { "ClusterRole" } else { "Role" };
            reason = Some(if scope.is_empty() {
                format!(
                    "RBAC: allowed by ClusterRoleBinding \"{}\" of {role_kind} \"{}\"",
                    grant.binding, grant.role.name
                )
            } else {
                let (binding, role) = (&grant.binding, &grant.role.name);
                format!("RBAC: allowed by RoleBinding \"{binding}/{scope}\" of {role_kind} \"{role}\"")
            });
            true
        });
        reason
    }
}

/// The index behind a lock: written by the feeder of cache events, read by requests for microseconds.
#[derive(Debug, Default)]
pub struct Rbac {
    index: RwLock<RbacIndex>,
}

impl Rbac {
    /// Takes in one object, or its absence (see [`RbacIndex::apply`]).
    pub fn apply(&self, kind: RbacKind, namespace: &str, name: &str, object: Option<&Value>) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).apply(kind, namespace, name, object);
    }

    /// Reads the index.
    pub fn read<R>(&self, read: impl FnOnce(&RbacIndex) -> R) -> R {
        read(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Authorizer for Rbac {
    fn authorize<'a>(&'a self, request: &'a Attributes) -> BoxFuture<'a, Decision> {
        let decision = match self.read(|index| index.allows(request)) {
            Some(reason) => Decision::Allow { reason },
            None => Decision::NoOpinion { reason: String::new() },
        };
        Box::pin(std::future::ready(decision))
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        self.read(|index| index.rules_for(user, namespace))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authz::tests::resource;

    fn binding(kind: &str, role: &str, subjects: &Value) -> Value {
        json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}, "subjects": subjects})
    }

    fn index() -> RbacIndex {
        let mut index = RbacIndex::default();
        let view = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]});
        index.apply(RbacKind::ClusterRole, "", "view", Some(&view));
        let edit = json!({"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]});
        index.apply(RbacKind::Role, "a", "edit", Some(&edit));
        let subjects =
            json!([{"kind": "Group", "name": "viewers"}, {"kind": "ServiceAccount", "name": "bot", "namespace": "b"}]);
        index.apply(RbacKind::ClusterRoleBinding, "", "viewers", Some(&binding("ClusterRole", "view", &subjects)));
        let subjects = json!([{"kind": "User", "name": "alice"}, {"kind": "ServiceAccount", "name": "bot"}]);
        index.apply(RbacKind::RoleBinding, "a", "editors", Some(&binding("Role", "edit", &subjects)));
        index.apply(RbacKind::RoleBinding, "b", "dangling", Some(&binding("Role", "edit", &subjects)));
        index
    }

    #[test]
    fn table() {
        let index = index();
        let cases = [
            ("alice", "get", "a", "configmaps", true),
            ("alice", "get", "b", "configmaps", false),
            ("alice", "get", "", "configmaps", false),
            ("alice", "get", "a", "pods", false),
            ("system:serviceaccount:a:bot", "create", "a", "configmaps", true),
            ("system:serviceaccount:b:bot", "list", "z", "pods", true),
            ("system:serviceaccount:b:bot", "delete", "z", "pods", false),
        ];
        for (user, verb, ns, res, allowed) in cases {
            let request = resource(user, verb, ns, "", res, "", "");
            assert_eq!(index.allows(&request).is_some(), allowed, "{user} {verb} {ns} {res}");
        }
        let mut request = resource("carol", "get", "q", "", "pods", "", "");
        request.user =
            Arc::new(UserInfo { name: "carol".into(), groups: vec!["viewers".into()], ..UserInfo::default() });
        assert!(index.allows(&request).is_some());
    }

    #[test]
    fn removal_and_change() {
        let mut index = index();
        let request = resource("alice", "get", "a", "", "configmaps", "", "");
        index.apply(RbacKind::RoleBinding, "a", "editors", Some(&binding("Role", "edit", &json!([]))));
        assert!(index.allows(&request).is_none());
        index.apply(
            RbacKind::RoleBinding,
            "a",
            "editors",
            Some(&binding("Role", "edit", &json!([{"kind": "User", "name": "alice"}]))),
        );
        assert!(index.allows(&request).is_some());
        index.apply(RbacKind::Role, "a", "edit", None);
        assert!(index.allows(&request).is_none());
    }
}

//! Acting as somebody else: what the `Impersonate-*` headers ask, what must be allowed for it, and who results.
//!
//! The plan is pure; [`Impersonation::apply`] asks the authorizer for each part. Follows upstream's constrained impersonation:
//! the modes are tried in order, the one that worked last for a requester first. A constrained mode asks whether the request
//! itself may be made under it (`impersonate-on:MODE:VERB`) and whether the user may be taken (`impersonate:MODE`); the last
//! mode is the old one, whose verb is plainly `impersonate`. Users, groups, uids, extras, nodes and service accounts are
//! each asked for; groups of nodes and service accounts follow from their names.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use http::HeaderMap;

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED};
use crate::authz::rbac::MASTERS;
use crate::authz::{Attributes, Union};
use crate::http::request::{RequestInfo, UserInfo, percent_decode};
use crate::remembered::Remembered;
use crate::tokens::claims;

const EXTRA_PREFIX: &str = "impersonate-extra-";
const MAX_PARTS: usize = 256;
const AUTHENTICATION: &str = "authentication.k8s.io";
const NODE_PREFIX: &str = "system:node:";
const NODES: &str = "system:nodes";
/// `extra` of a service account's token: the node that its pod runs on.
const NODE_NAME_KEY: &str = "authentication.kubernetes.io/node-name";
/// Requesters whose last mode is remembered, and for how long.
const MAX_REMEMBERED: usize = 10_000;
const REMEMBER: Duration = Duration::from_secs(24 * 3600);

/// The user that the headers ask for, before any group is added; `None` without the headers.
///
/// # Errors
/// Groups, uid or extras without a user, or far too many of them.
pub fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let values = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    let first = |name: &str| values(name).into_iter().next().unwrap_or_default();
    let mut user = UserInfo {
        name: first("impersonate-user"),
        uid: first("impersonate-uid"),
        groups: values("impersonate-group"),
        ..UserInfo::default()
    };
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA_PREFIX) {
            user.extra.entry(percent_decode(key)).or_default().extend(values(header.as_str()));
        }
    }
    let parts = user.groups.len() + user.extra.values().map(Vec::len).sum::<usize>();
    if parts > MAX_PARTS {
        return Err(Status::bad_request(format!("impersonation with more than {MAX_PARTS} groups and extras")));
    }
    if user.name.is_empty() {
        return if user.groups.is_empty() && user.uid.is_empty() && user.extra.is_empty() {
            Ok(None)
        } else {
            Err(Status::bad_request("groups, uid or extras are impersonated without a user; send Impersonate-User too"))
        };
    }
    Ok(Some(user))
}

/// A way to become somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A service account becomes the node that its pod runs on.
    AssociatedNode,
    /// Any node.
    ArbitraryNode,
    ServiceAccount,
    /// Anybody who is neither a node nor a service account.
    UserInfo,
    /// The old way.
    Legacy,
}

const MODES: [Mode; 5] =
    [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

/// The name of a node, out of its user name.
fn node_name(user: &str) -> Option<&str> {
    user.strip_prefix(NODE_PREFIX).filter(|name| apimachinery::validation::dns1123_subdomain(name).is_empty())
}

/// One step of becoming somebody else.
#[derive(Clone, Debug)]
enum Check {
    /// This must be allowed.
    Ask(Attributes),
    /// Nobody may, for this reason.
    Never(Attributes, String),
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    fn is_constrained(self) -> bool {
        self != Self::Legacy
    }

    /// The verb with which parts of the user are asked for.
    fn verb(self) -> String {
        if self.is_constrained() { format!("impersonate:{}", self.name()) } else { "impersonate".to_owned() }
    }

    /// Whether this requester can become this user in this way at all.
    fn applies(self, requester: &UserInfo, wanted: &UserInfo) -> bool {
        let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node_name(&wanted.name), claims::split_user_name(&wanted.name));
        match self {
            Self::AssociatedNode => {
                let bound = requester.extra.get(NODE_NAME_KEY).and_then(|names| match names.as_slice() {
                    [name] => Some(name.as_str()),
                    _ => None,
                });
                only_name && node.is_some() && node == bound && claims::split_user_name(&requester.name).is_some()
            }
            Self::ArbitraryNode => only_name && node.is_some(),
            Self::ServiceAccount => only_name && account.is_some(),
            Self::UserInfo => node.is_none() && account.is_none(),
            Self::Legacy => true,
        }
    }

    /// What must be allowed, in order, so that the requester may make the request as `wanted`.
    fn checks(self, request: &Attributes, wanted: &UserInfo) -> Vec<Check> {
        let mut request = request.clone();
        if self == Self::AssociatedNode {
            // The same question for every node, so that it depends on the account alone.
            let keys = request.user.extra.keys().cloned().collect();
            let extra = [("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)].into();
            request.user = Arc::new(UserInfo { extra, ..UserInfo::clone(&request.user) });
        }
        let mut checks = Vec::new();
        let parts = Parts { requester: Arc::clone(&request.user), mode: self };
        if self.is_constrained() {
            let verb = format!("impersonate-on:{}:{}", self.name(), request.verb);
            checks.push(Check::Ask(Attributes { verb, ..request }));
        }
        checks.push(Check::Ask(parts.name(&wanted.name)));
        if !wanted.uid.is_empty() {
            checks.push(Check::Ask(parts.ask(AUTHENTICATION, "uids", &wanted.uid)));
        }
        checks.extend(parts.groups(&wanted.groups));
        checks.extend(parts.extra(wanted));
        checks
    }

    /// The user, with the groups that follow from the name.
    fn complete(self, mut user: UserInfo) -> UserInfo {
        if user.groups.is_empty() {
            if let Some((namespace, _)) = claims::split_user_name(&user.name) {
                user.groups = claims::groups(namespace);
            } else if self.is_constrained() && node_name(&user.name).is_some() {
                user.groups = vec![NODES.to_owned()];
            }
        }
        let has = |wanted: &str| user.groups.iter().any(|group| group == wanted);
        if user.name == ANONYMOUS {
            if !has(UNAUTHENTICATED) {
                user.groups.push(UNAUTHENTICATED.to_owned());
            }
        } else if !has(AUTHENTICATED) && !has(UNAUTHENTICATED) {
            user.groups.push(AUTHENTICATED.to_owned());
        }
        user
    }
}

/// Asks for the parts of a user.
struct Parts {
    requester: Arc<UserInfo>,
    mode: Mode,
}

impl Parts {
    fn ask(&self, group: &str, resource: &str, name: &str) -> Attributes {
        Attributes {
            user: Arc::clone(&self.requester),
            verb: self.mode.verb(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            resource_request: true,
            ..Attributes::default()
        }
    }

    /// Names and groups were asked for in the core group once.
    fn group(&self) -> &'static str {
        if self.mode.is_constrained() { AUTHENTICATION } else { "" }
    }

    fn name(&self, user: &str) -> Attributes {
        if let Some((namespace, name)) = claims::split_user_name(user) {
            return Attributes { namespace: namespace.to_owned(), ..self.ask(self.group(), "serviceaccounts", name) };
        }
        match node_name(user).filter(|_| self.mode.is_constrained()) {
            Some(_) if self.mode == Mode::AssociatedNode => self.ask(self.group(), "nodes", "*"),
            Some(node) => self.ask(self.group(), "nodes", node),
            None => self.ask(self.group(), "users", user),
        }
    }

    fn groups(&self, groups: &[String]) -> Vec<Check> {
        let ask = |group: &str| self.ask(self.group(), "groups", group);
        if self.mode.is_constrained() {
            if groups.iter().any(String::is_empty) {
                return vec![Check::Never(ask(""), "impersonating the empty string group is not allowed".to_owned())];
            }
            if groups.iter().any(|group| group == MASTERS) {
                let why = format!("impersonating the {MASTERS} group is not allowed");
                return vec![Check::Never(ask(MASTERS), why)];
            }
        }
        groups.iter().map(|group| Check::Ask(ask(group))).collect()
    }

    fn extra(&self, wanted: &UserInfo) -> Vec<Check> {
        let ask = |key: &str, value: &str| Attributes {
            subresource: key.to_owned(),
            ..self.ask(AUTHENTICATION, "userextras", value)
        };
        if self.mode.is_constrained()
            && let Some(why) = wanted.extra.iter().find_map(|(key, values)| wrong_extra(key, values))
        {
            return vec![Check::Never(ask("", ""), why)];
        }
        let pairs = wanted.extra.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
        pairs.map(|(key, value)| Check::Ask(ask(key, value))).collect()
    }
}

/// Why an extra cannot be taken in a constrained mode.
fn wrong_extra(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".to_owned());
    }
    let (domain, path) = key.split_once('/').unwrap_or((key, ""));
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&byte);
    if !apimachinery::validation::dns1123_subdomain(domain).is_empty() || path.is_empty() || !path.bytes().all(legal) {
        let form = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        return Some(format!(
            "impersonating an invalid key in extra is not allowed: extra[key]: Invalid value: {key:?}: {form}"
        ));
    }
    if key != key.to_lowercase() {
        return Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
    }
    if values.is_empty() {
        return Some("impersonating empty values in extra is not allowed".to_owned());
    }
    let empty = values.iter().any(String::is_empty);
    empty.then(|| "impersonating the empty string value in extra is not allowed".to_owned())
}

/// Who a request acts as.
#[derive(Debug)]
pub struct Acting {
    /// The user.
    pub user: Arc<UserInfo>,
    /// By which verb somebody else became it; `None` when nobody did or in the old way.
    pub constraint: Option<String>,
}

/// Lets requesters act as somebody else.
pub struct Impersonation {
    /// Place among [`MODES`] of what worked last, by the requester's name.
    last: Remembered<String, usize>,
}

impl Default for Impersonation {
    fn default() -> Self {
        Self { last: Remembered::new(MAX_REMEMBERED) }
    }
}

impl Impersonation {
    /// The user that the request acts as: another one when headers ask for it and all of it is allowed, else the requester.
    ///
    /// # Errors
    /// The 403 of the first mode that was tried; malformed headers.
    pub async fn apply(
        &self,
        authz: &Union,
        requester: Arc<UserInfo>,
        info: &RequestInfo,
        headers: &HeaderMap,
    ) -> Result<Acting, Status> {
        let Some(wanted) = wanted(headers)? else { return Ok(Acting { user: requester, constraint: None }) };
        let request = Attributes::of(Arc::clone(&requester), info);
        let last = self.last.get(&requester.name);
        let others = (0..MODES.len()).filter(|at| Some(*at) != last);
        let mut first_refusal = None;
        for at in last.into_iter().chain(others) {
            let mode = MODES[at];
            if !mode.applies(&requester, &wanted) {
                continue;
            }
            match allowed(authz, mode.checks(&request, &wanted)).await {
                Ok(()) => {
                    self.last.insert(requester.name.clone(), at, REMEMBER);
                    let constraint = mode.is_constrained().then(|| mode.verb());
                    return Ok(Acting { user: Arc::new(mode.complete(wanted)), constraint });
                }
                Err(refusal) => first_refusal = first_refusal.or(Some(refusal)),
            }
        }
        Err(first_refusal.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
    }
}

async fn allowed(authz: &Union, checks: Vec<Check>) -> Result<(), Status> {
    for check in checks {
        match check {
            Check::Ask(attributes) => authz.require(&attributes).await?,
            Check::Never(attributes, why) => return Err(attributes.forbidden(&why)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authz::rbac::RbacKind;
    use crate::authz::{AuthzConfig, build};
    use crate::http::request::Query;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        headers
    }

    fn user(name: &str) -> UserInfo {
        UserInfo { name: name.into(), ..UserInfo::default() }
    }

    fn asked(mode: Mode, wanted: &UserInfo) -> Vec<String> {
        let request = crate::authz::tests::resource("boss", "list", "ns", "", "pods", "", "");
        let word = |check: Check| match check {
            Check::Ask(a) => {
                format!("{} {}/{}/{}/{}/{}", a.verb, a.group, a.namespace, a.resource, a.subresource, a.name)
            }
            Check::Never(_, why) => why,
        };
        mode.checks(&request, wanted).into_iter().map(word).collect()
    }

    #[test]
    fn plans() {
        assert_eq!(wanted(&headers(&[])).unwrap(), None);
        assert!(wanted(&headers(&[("impersonate-group", "a")])).is_err());
        let account = wanted(&headers(&[
            ("impersonate-user", "system:serviceaccount:ns:sa"),
            ("impersonate-extra-example.com%2fscopes", "view"),
            ("impersonate-uid", "u1"),
        ]));
        let account = account.unwrap().unwrap();
        assert_eq!(
            asked(Mode::Legacy, &account),
            [
                "impersonate /ns/serviceaccounts//sa",
                "impersonate authentication.k8s.io//uids//u1",
                "impersonate authentication.k8s.io//userextras/example.com/scopes/view",
            ]
        );
        assert!(!Mode::ServiceAccount.applies(&user("boss"), &account), "more than a name");
        let groups = Mode::Legacy.complete(account).groups;
        assert_eq!(groups, ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED]);
        let mut carol = user("carol");
        carol.groups = vec!["devs".into()];
        assert_eq!(
            asked(Mode::UserInfo, &carol),
            [
                "impersonate-on:user-info:list /ns/pods//",
                "impersonate:user-info authentication.k8s.io//users//carol",
                "impersonate:user-info authentication.k8s.io//groups//devs",
            ]
        );
        carol.groups.push(MASTERS.into());
        assert!(asked(Mode::UserInfo, &carol)[2].contains("not allowed"));
        let node = user("system:node:n1");
        assert_eq!(asked(Mode::ArbitraryNode, &node)[1], "impersonate:arbitrary-node authentication.k8s.io//nodes//n1");
        assert_eq!(Mode::ArbitraryNode.complete(node.clone()).groups, [NODES, AUTHENTICATED]);
        assert_eq!(Mode::Legacy.complete(node).groups, [AUTHENTICATED]);
        assert_eq!(Mode::Legacy.complete(user(ANONYMOUS)).groups, [UNAUTHENTICATED]);
    }

    #[test]
    fn who_can_become_a_node() {
        let node = user("system:node:n1");
        let mut agent = user("system:serviceaccount:ns:agent");
        assert!(!Mode::AssociatedNode.applies(&agent, &node));
        agent.extra.insert(NODE_NAME_KEY.to_owned(), vec!["n1".to_owned()]);
        assert!(Mode::AssociatedNode.applies(&agent, &node));
        assert!(!Mode::AssociatedNode.applies(&agent, &user("system:node:n2")));
        assert!(!Mode::UserInfo.applies(&agent, &node) && Mode::UserInfo.applies(&agent, &user("system:node:N?")));
        let mut request = crate::authz::tests::resource("x", "get", "", "", "nodes", "", "n1");
        request.user = Arc::new(agent);
        let checks = Mode::AssociatedNode.checks(&request, &node);
        let [Check::Ask(on), Check::Ask(name)] = checks.as_slice() else { panic!("{checks:?}") };
        assert_eq!((on.verb.as_str(), on.name.as_str()), ("impersonate-on:associated-node:get", "n1"));
        assert_eq!((name.verb.as_str(), name.name.as_str()), ("impersonate:associated-node", "*"));
        assert_eq!(name.user.extra.values().next().unwrap(), &[NODE_NAME_KEY]);
    }

    #[test]
    fn extras_that_nobody_may_take() {
        let values = vec!["v".to_owned()];
        assert_eq!(wrong_extra("example.com/scopes", &values), None);
        for (key, values) in
            [("", &values), ("scopes", &values), ("example.com/Scopes", &values), ("a.b/c", &vec![String::new()])]
        {
            assert!(wrong_extra(key, values).is_some(), "{key:?} {values:?}");
        }
    }

    #[tokio::test]
    async fn modes_in_order_and_the_last_one_first() {
        let authz = build(&AuthzConfig { modes: vec!["RBAC".into()], ..AuthzConfig::default() }).unwrap();
        let role = |rules: serde_json::Value| {
            authz.rbac.apply(RbacKind::ClusterRole, "", "r", Some(&json!({"metadata": {"name": "r"}, "rules": rules})));
        };
        let subject = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "boss"});
        let binding = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"}, "subjects": [subject]});
        authz.rbac.apply(RbacKind::ClusterRoleBinding, "", "b", Some(&binding));
        let impersonation = Impersonation::default();
        let info = RequestInfo::parse(&http::Method::GET, "/api/v1/namespaces/ns/pods", &Query::default());
        let ask = |name: &'static str| {
            let headers = headers(&[("impersonate-user", name)]);
            let (impersonation, authz, info) = (&impersonation, &authz, &info);
            async move { impersonation.apply(authz, Arc::new(user("boss")), info, &headers).await }
        };
        let refused = ask("carol").await.unwrap_err();
        assert!(
            refused.message.contains("cannot impersonate-on:user-info:list resource \"pods\""),
            "{}",
            refused.message
        );
        role(
            json!([{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["carol"]}]),
        );
        assert_eq!(ask("carol").await.unwrap().constraint, None);
        // The old way worked, so its words come first now.
        let refused = ask("dave").await.unwrap_err();
        assert!(refused.message.contains("cannot impersonate resource \"users\""), "{}", refused.message);
        role(json!([
            {"verbs": ["impersonate:user-info"], "apiGroups": [AUTHENTICATION], "resources": ["users"], "resourceNames": ["dave"]},
            {"verbs": ["impersonate-on:user-info:list"], "apiGroups": [""], "resources": ["pods"]},
        ]));
        let dave = ask("dave").await.unwrap();
        assert_eq!((dave.user.name.as_str(), dave.constraint.as_deref()), ("dave", Some("impersonate:user-info")));
        assert!(ask("erin").await.is_err());
    }
}

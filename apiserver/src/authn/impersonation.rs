//! Acting as somebody else: what the `Impersonate-*` headers ask, what must be allowed for it, and who results.
//!
//! The plan is pure; [`apply`] asks the authorizer for each part. Follows upstream: users, groups, uids, extras and service
//! accounts are each authorised with the verb `impersonate`; groups of a service account follow from its name when none are
//! given.

use std::sync::Arc;

use apimachinery::status::Status;
use http::HeaderMap;

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED};
use crate::authz::{Attributes, Union};
use crate::http::request::{UserInfo, percent_decode};
use crate::tokens::claims;

const EXTRA_PREFIX: &str = "impersonate-extra-";
const MAX_PARTS: usize = 256;

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

/// What the requester must be allowed to do so as to become `wanted`.
pub fn checks(requester: &Arc<UserInfo>, wanted: &UserInfo) -> Vec<Attributes> {
    let ask = |group: &str, version: &str, resource: &str, subresource: &str, namespace: &str, name: &str| Attributes {
        user: Arc::clone(requester),
        verb: "impersonate".to_owned(),
        namespace: namespace.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        name: name.to_owned(),
        resource_request: true,
        ..Attributes::default()
    };
    const AUTHENTICATION: &str = "authentication.k8s.io";
    let mut checks = vec![match claims::split_user_name(&wanted.name) {
        Some((namespace, name)) => ask("", "v1", "serviceaccounts", "", namespace, name),
        None => ask("", "v1", "users", "", "", &wanted.name),
    }];
    checks.extend(wanted.groups.iter().map(|group| ask("", "v1", "groups", "", "", group)));
    for (key, values) in &wanted.extra {
        checks.extend(values.iter().map(|value| ask(AUTHENTICATION, "v1", "userextras", key, "", value)));
    }
    if !wanted.uid.is_empty() {
        checks.push(ask(AUTHENTICATION, "v1", "uids", "", "", &wanted.uid));
    }
    checks
}

/// Adds the groups that follow from the name.
fn complete(mut user: UserInfo) -> UserInfo {
    if user.groups.is_empty()
        && let Some((namespace, _)) = claims::split_user_name(&user.name)
    {
        user.groups = claims::groups(namespace);
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

/// The user that the request acts as: another one when headers ask for it and all of it is allowed, else the requester.
///
/// # Errors
/// The 403 of the first part that is not allowed; malformed headers.
pub async fn apply(authz: &Union, requester: Arc<UserInfo>, headers: &HeaderMap) -> Result<Arc<UserInfo>, Status> {
    let Some(wanted) = wanted(headers)? else { return Ok(requester) };
    for check in checks(&requester, &wanted) {
        authz.require(&check).await?;
    }
    Ok(Arc::new(complete(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn plans() {
        assert_eq!(wanted(&headers(&[])).unwrap(), None);
        assert!(wanted(&headers(&[("impersonate-group", "a")])).is_err());
        let user = wanted(&headers(&[
            ("impersonate-user", "system:serviceaccount:ns:sa"),
            ("impersonate-extra-example.com%2fscopes", "view"),
            ("impersonate-uid", "u1"),
        ]))
        .unwrap()
        .unwrap();
        let asked: Vec<_> = checks(&Arc::default(), &user)
            .into_iter()
            .map(|a| format!("{}/{}/{}/{}", a.namespace, a.resource, a.subresource, a.name))
            .collect();
        assert_eq!(asked, ["ns/serviceaccounts//sa", "/userextras/example.com/scopes/view", "/uids//u1"]);
        assert_eq!(complete(user).groups, ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED]);
    }

    #[test]
    fn anonymous_is_not_authenticated() {
        let user = UserInfo { name: ANONYMOUS.into(), ..UserInfo::default() };
        assert_eq!(complete(user).groups, [UNAUTHENTICATED]);
    }
}

//! Whether a URL has the form of something that is served, and takes the method. Pure.
//!
//! As upstream's router: an unknown form is 404, a known one with another method 405, both told before anything is read.

use apimachinery::status::{Details, Status};
use http::Method;

use crate::http::request::RequestInfo;
use crate::resources::Resource;

/// 405 of a form that takes other methods.
pub fn method_not_allowed() -> Status {
    let message = "the server does not allow this method on the requested resource";
    let mut status = Status::failure(405, "MethodNotAllowed", message);
    status.details = Some(Box::new(Details::default()));
    status
}

fn knows(verbs: &[String], wanted: &[&str]) -> bool {
    verbs.iter().any(|verb| wanted.contains(&verb.as_str()))
}

/// The verbs any one of which makes a method good for the form.
fn verbs(method: &Method, collection: bool) -> &'static [&'static str] {
    match (method.as_str(), collection) {
        ("GET", true) => &["list", "watch"],
        ("GET", false) => &["get"],
        ("POST", _) => &["create"],
        ("PUT", false) => &["update"],
        ("PATCH", false) => &["patch"],
        ("DELETE", true) => &["deletecollection"],
        ("DELETE", false) => &["delete"],
        _ => &[],
    }
}

/// Checks a request on a resource.
///
/// # Errors
/// 404, 405, or 400 for a name that no object can have.
pub fn check(info: &RequestInfo, method: &Method, resource: &Resource) -> Result<(), Status> {
    let in_namespace = !info.namespace.is_empty() && info.resource != "namespaces";
    if !resource.namespaced && in_namespace {
        return Err(Status::no_such_path());
    }
    let allowed = match info.parts.len() {
        0 | 1 if resource.namespaced && !in_namespace => {
            method == Method::GET && knows(&resource.verbs, verbs(method, true))
        }
        0 | 1 => knows(&resource.verbs, verbs(method, true)),
        _ if resource.namespaced && !in_namespace => return Err(Status::no_such_path()),
        2 => method != Method::POST && knows(&resource.verbs, verbs(method, false)),
        3 => match resource.subresources_of(&info.api_version).find(|sub| sub.name == info.subresource) {
            None if resource.custom.is_some() => return Err(Status::not_found(&resource.group_resource(), &info.name)),
            Some(subresource) => knows(&subresource.verbs, verbs(method, false)),
            None => return Err(Status::no_such_path()),
        },
        _ => return Err(Status::no_such_path()),
    };
    if !allowed {
        return Err(method_not_allowed());
    }
    match info.parts.get(1).map(String::as_str) {
        Some(name @ ("." | "..")) => Err(Status::bad_request(format!("{name:?} is not a name"))),
        Some(name) if name.contains('%') => {
            Err(Status::bad_request(format!("{name:?} is not a name: it contains '%'")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::Query;
    use crate::resources;

    #[test]
    fn forms_and_methods() {
        let table = resources::table();
        let cases = [
            ("GET", "/api/v1/configmaps", 0),
            ("POST", "/api/v1/configmaps", 405),
            ("GET", "/api/v1/configmaps/t", 404),
            ("POST", "/api/v1/namespaces/a/configmaps", 0),
            ("PUT", "/api/v1/namespaces/a/configmaps", 405),
            ("DELETE", "/api/v1/namespaces/a/configmaps", 0),
            ("POST", "/api/v1/namespaces/a/configmaps/t", 405),
            ("HEAD", "/api/v1/namespaces/a/configmaps/t", 405),
            ("FOO", "/api/v1/namespaces/a/configmaps/t", 405),
            ("GET", "/api/v1/namespaces/a/configmaps/t/status", 404),
            ("GET", "/api/v1/namespaces/a/configmaps/..", 400),
            ("GET", "/api/v1/namespaces//configmaps", 0),
            ("DELETE", "/api/v1/namespaces", 405),
            ("GET", "/api/v1/namespaces/a", 0),
            ("GET", "/api/v1/namespaces/a/finalize", 405),
            ("PUT", "/api/v1/namespaces/a/finalize", 0),
            ("POST", "/api/v1/namespaces/a/nodes", 404),
            ("GET", "/api/v1/namespaces/a/pods/x/eviction", 405),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments/x/scale", 405),
            ("PATCH", "/apis/apps/v1/namespaces/a/deployments/x/scale", 0),
            ("GET", "/apis/apps/v1/namespaces/a/deployments/x/scale/y", 404),
            ("GET", "/apis/authorization.k8s.io/v1/subjectaccessreviews", 405),
        ];
        for (method, path, code) in cases {
            let method: Method = method.parse().unwrap();
            let info = RequestInfo::parse(&method, path, &Query::default());
            let resource = table.get(&info.api_group, &info.api_version, &info.resource).unwrap();
            let got = check(&info, &method, resource).map_or_else(|status| status.code, |()| 0);
            assert_eq!(got, code, "{method} {path}");
        }
    }
}

//! What is known of a request once its URL and its credentials were looked at. Later layers read it and never go back to
//! the URL. [`RequestInfo::parse`] is pure and follows upstream's `RequestInfoFactory`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// Unique name among active users.
    pub name: String,
    /// Unique over time; often empty.
    pub uid: String,
    /// Group names.
    pub groups: Vec<String>,
    /// Further attributes of the authenticator.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// The server itself, for what it writes on its own behalf.
    pub fn system() -> Self {
        Self {
            name: "system:apiserver".to_owned(),
            groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
            ..Self::default()
        }
    }
}

/// What is asked, as far as the URL and the method say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// About an API object or collection (else about `path` only).
    pub is_resource_request: bool,
    /// The URL's path.
    pub path: String,
    /// `get list watch create update patch delete deletecollection`, or the lower-case method for other paths.
    pub verb: String,
    /// `api` or `apis`.
    pub api_prefix: String,
    /// API group; empty for core.
    pub api_group: String,
    /// API version.
    pub api_version: String,
    /// Namespace; empty for cluster-wide requests. For the namespaces resource it is the name.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Subresource; empty for none.
    pub subresource: String,
    /// Object name; empty for collections.
    pub name: String,
    /// Path segments from the resource on.
    pub parts: Vec<String>,
    /// Label selector of the query, as given.
    pub label_selector: String,
    /// Field selector of the query, as given.
    pub field_selector: String,
}

/// Subresources of a namespace; anything else below `/namespaces/NAME/` is a resource in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads method, path (percent-decoded) and query.
    pub fn parse(method: &http::Method, path: &str, query: &Query) -> Self {
        let mut info = Self { path: path.to_owned(), verb: method.as_str().to_ascii_lowercase(), ..Self::default() };
        // Empty segments stay: `namespaces//pods` is all namespaces, `v1//pods` is nothing.
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.api_version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.api_group = (*group).to_owned();
                info.api_version = (*version).to_owned();
                rest
            }
            _ => return info,
        };
        info.is_resource_request = true;
        info.api_prefix = segments[0].to_owned();
        info.verb = match info.verb.as_str() {
            "post" => "create".to_owned(),
            "get" | "head" => "get".to_owned(),
            "put" => "update".to_owned(),
            _ => info.verb,
        };
        let rest = info.take_special_verb(rest);
        info.locate(rest);
        info.refine_verb(query);
        info
    }

    /// `/watch/…` and `/proxy/…` prefixes of old clients.
    fn take_special_verb<'a>(&mut self, rest: &'a [&'a str]) -> &'a [&'a str] {
        match rest {
            ["watch", tail @ ..] if !tail.is_empty() => {
                self.verb = "watch".to_owned();
                tail
            }
            _ => rest,
        }
    }

    fn locate(&mut self, rest: &[&str]) {
        let rest = match rest {
            ["namespaces", namespace, tail @ ..] => {
                self.namespace = (*namespace).to_owned();
                let within = tail.first().is_some_and(|first| !NAMESPACE_SUBRESOURCES.contains(first));
                if within { tail } else { rest }
            }
            _ => rest,
        };
        self.parts = rest.iter().map(|&part| part.to_owned()).collect();
        let part = |index: usize| rest.get(index).map(|&part| part.to_owned()).unwrap_or_default();
        self.resource = part(0);
        self.name = part(1);
        self.subresource = part(2);
    }

    fn refine_verb(&mut self, query: &Query) {
        if self.name.is_empty() {
            match self.verb.as_str() {
                "get" => self.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned(),
                "delete" => self.verb = "deletecollection".to_owned(),
                _ => {}
            }
        }
        if matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            self.field_selector = query.get("fieldSelector").unwrap_or_default().to_owned();
            self.label_selector = query.get("labelSelector").unwrap_or_default().to_owned();
            let by_name = self.field_selector.split(',').find_map(|term| {
                let (field, value) = term.split_once('=')?;
                (field == "metadata.name").then(|| value.trim_start_matches('=').to_owned())
            });
            if let Some(name) = by_name.filter(|name| self.name.is_empty() && is_path_segment(name)) {
                self.name = name;
            }
        }
    }

    /// `resource` or `resource/subresource`.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

fn is_path_segment(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%'])
}

/// The decoded query string; repeated keys keep their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`.
    pub fn parse(query: &str) -> Self {
        let decode = |text: &str| percent_decode(&text.replace('+', " "));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// All values of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Every pair in order.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// A boolean as upstream converts query values: absent, `false` and `0` are no, anything else is yes.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }
}

/// Decodes `%XX`; malformed escapes and bytes that are not UTF-8 are kept or replaced, never refused.
pub fn percent_decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let escape = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match escape.filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Sentences that go to the client as `Warning` headers. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Adds a sentence; a repeated one is dropped.
    pub fn add(&self, text: impl Into<String>) {
        let text = text.into();
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !text.is_empty() && !list.contains(&text) {
            list.push(text);
        }
    }

    /// What was added so far.
    pub fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Notes for the audit log: `key` by `value`. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Annotations(Arc<Mutex<BTreeMap<String, String>>>);

impl Annotations {
    /// Adds a note; the first of a key stays.
    pub fn add(&self, key: impl Into<String>, value: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key.into()).or_insert_with(|| value.into());
    }

    /// What was noted so far.
    pub fn list(&self) -> BTreeMap<String, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Everything a layer below HTTP may know of the request.
#[derive(Clone, Debug, Default)]
pub struct RequestContext {
    /// Who asks (after impersonation).
    pub user: Arc<UserInfo>,
    /// What is asked.
    pub info: Arc<RequestInfo>,
    /// For the client.
    pub warnings: Warnings,
    /// For the audit log.
    pub annotations: Annotations,
    /// When the request arrived.
    pub now: Timestamp,
    /// Nothing may be stored.
    pub dry_run: bool,
    /// What is recorded of the request.
    pub audit: crate::audit::Record,
    /// Names the request in the audit log and in `Audit-Id`.
    pub audit_id: String,
    /// `fieldManager` of the query, or what the User-Agent says before its first slash.
    pub field_manager: String,
}

impl RequestContext {
    /// A request of the server's own.
    pub fn internal(now: Timestamp) -> Self {
        Self { user: Arc::new(UserInfo::system()), now, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &str, uri: &str) -> RequestInfo {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        RequestInfo::parse(&method.parse().unwrap(), path, &Query::parse(query))
    }

    #[test]
    fn reads_urls_as_upstream() {
        // method, URL, verb, group, namespace, resource, subresource, name
        let cases = [
            ("GET", "/api/v1/namespaces", "list", "", "", "namespaces", "", ""),
            ("GET", "/api/v1/namespaces/a", "get", "", "a", "namespaces", "", "a"),
            ("PUT", "/api/v1/namespaces/a/finalize", "update", "", "a", "namespaces", "finalize", "a"),
            ("GET", "/api/v1/namespaces/a/pods", "list", "", "a", "pods", "", ""),
            ("GET", "/api/v1/pods?watch=1", "watch", "", "", "pods", "", ""),
            ("GET", "/api/v1/pods?watch=false", "list", "", "", "pods", "", ""),
            ("GET", "/api/v1/watch/namespaces/a/pods/p", "watch", "", "a", "pods", "", "p"),
            ("POST", "/apis/apps/v1/namespaces/a/deployments", "create", "apps", "a", "deployments", "", ""),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "patch",
                "apps",
                "a",
                "deployments",
                "scale",
                "d",
            ),
            ("DELETE", "/api/v1/namespaces/a/pods", "deletecollection", "", "a", "pods", "", ""),
            ("GET", "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dp", "list", "", "a", "pods", "", "p"),
            ("GET", "/api/v1/nodes/n/proxy/metrics/x", "get", "", "", "nodes", "proxy", "n"),
        ];
        for (method, uri, verb, group, namespace, resource, subresource, name) in cases {
            let i = info(method, uri);
            assert!(i.is_resource_request, "{uri}");
            assert_eq!(
                (&*i.verb, &*i.api_group, &*i.namespace, &*i.resource, &*i.subresource, &*i.name),
                (verb, group, namespace, resource, subresource, name),
                "{method} {uri}"
            );
        }
        for uri in ["/", "/api", "/api/v1", "/apis/apps", "/apis/apps/v1", "/healthz", "/version"] {
            let i = info("GET", uri);
            assert!(!i.is_resource_request && i.verb == "get", "{uri}");
        }
    }

    #[test]
    fn decodes() {
        assert_eq!(percent_decode("a%2Fb%zz%"), "a/b%zz%");
        let query = Query::parse("labelSelector=a%3Db%2Cc&watch&x=1+2");
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert_eq!(query.get("x"), Some("1 2"));
        assert!(query.flag("watch") && !query.flag("y"));
    }
}

//! Naming a resource and an object, and the URL paths that follow.

use std::borrow::Cow;
use std::fmt;

use apimachinery::meta::ObjectMeta;

/// A resource as clients address it. Built-ins are constants in [`crate::resources`]; custom ones are made at run time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceRef {
    /// API group, empty for core.
    pub group: Cow<'static, str>,
    /// Version.
    pub version: Cow<'static, str>,
    /// Plural name as in URLs.
    pub plural: Cow<'static, str>,
    /// Kind.
    pub kind: Cow<'static, str>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
}

impl ResourceRef {
    /// A constant.
    pub const fn built_in(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        kind: &'static str,
        namespaced: bool,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
            kind: Cow::Borrowed(kind),
            namespaced,
        }
    }

    /// A resource known only at run time.
    pub fn custom(group: &str, version: &str, plural: &str, kind: &str, namespaced: bool) -> Self {
        Self {
            group: Cow::Owned(group.to_owned()),
            version: Cow::Owned(version.to_owned()),
            plural: Cow::Owned(plural.to_owned()),
            kind: Cow::Owned(kind.to_owned()),
            namespaced,
        }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// URL path of the collection, or of an object, or of its subresource.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>, subresource: Option<&str>) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let Some(namespace) = namespace.filter(|n| self.namespaced && !n.is_empty()) {
            path.push_str("/namespaces/");
            encode_into(&mut path, namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        for segment in [name, subresource].into_iter().flatten() {
            path.push('/');
            encode_into(&mut path, segment);
        }
        path
    }
}

impl fmt::Display for ResourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.plural)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// Percent-encodes what may not stand in a path segment or a query value.
pub fn encode_into(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => out.push(char::from(byte)),
            other => {
                use fmt::Write;
                // Writing to a String cannot fail.
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
}

/// Namespace and name of an object; the namespace is empty for cluster-scoped ones. Written `namespace/name` or `name`.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Of an object.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(&meta.namespace, &meta.name)
    }

    /// The namespace as requests take it.
    pub fn namespace(&self) -> Option<&str> {
        Some(self.namespace.as_str()).filter(|n| !n.is_empty())
    }
}

/// As [`fmt::Display`], in quotes: keys stand in log lines.
impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

#[cfg(test)]
mod tests {
    use crate::resources::{CLUSTER_ROLES, DEPLOYMENTS, NODES, PODS};

    #[test]
    fn paths() {
        assert_eq!(PODS.path(None, None, None), "/api/v1/pods");
        assert_eq!(PODS.path(Some("a"), Some("b"), Some("status")), "/api/v1/namespaces/a/pods/b/status");
        assert_eq!(NODES.path(Some("ignored"), Some("n"), None), "/api/v1/nodes/n");
        assert_eq!(DEPLOYMENTS.path(Some("x"), None, None), "/apis/apps/v1/namespaces/x/deployments");
        let path = CLUSTER_ROLES.path(None, Some("system:a b/c"), None);
        assert_eq!(path, "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:a%20b%2Fc");
    }
}

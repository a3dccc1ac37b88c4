//! What is audited, and how much of it: upstream's `audit.k8s.io/v1` Policy. Pure.

use std::path::Path;

use component_base::config_file::{self, ConfigError};
use serde::Deserialize;

use crate::http::request::{RequestInfo, UserInfo};

/// How much is recorded of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who, what, when.
    Metadata,
    /// And the request's object.
    Request,
    /// And the answer's object.
    RequestResponse,
}

impl Level {
    /// As upstream writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
    rules: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: Level,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What the policy says of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How much.
    pub level: Level,
    /// Stages that are left out.
    pub omit_stages: Vec<String>,
    /// Objects lose their `managedFields`.
    pub omit_managed_fields: bool,
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == wanted)
}

impl Resources {
    fn covers(&self, info: &RequestInfo) -> bool {
        if self.group != "*" && self.group != info.api_group {
            return false;
        }
        let named = self.resource_names.is_empty() || any(&self.resource_names, &info.name);
        let covers = |pattern: &String| match pattern.split_once('/') {
            _ if pattern == "*" => true,
            None => info.subresource.is_empty() && *pattern == info.resource,
            Some(("*", subresource)) => !info.subresource.is_empty() && subresource == info.subresource,
            Some((resource, "*")) => resource == info.resource,
            Some((resource, subresource)) => resource == info.resource && subresource == info.subresource,
        };
        self.resources.is_empty() || named && self.resources.iter().any(covers)
    }
}

impl Rule {
    fn covers(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        let says = |list: &[String], wanted: &str| list.is_empty() || any(list, wanted);
        let grouped = self.user_groups.is_empty() || user.groups.iter().any(|group| any(&self.user_groups, group));
        if !says(&self.users, &user.name) || !grouped || !says(&self.verbs, &info.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            let covered = self.resources.is_empty() || self.resources.iter().any(|r| r.covers(info));
            return info.is_resource_request && says(&self.namespaces, &info.namespace) && covered;
        }
        let covers = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => info.path.starts_with(start),
            None => *pattern == info.path,
        };
        let urls = &self.non_resource_urls;
        urls.is_empty() || !info.is_resource_request && urls.iter().any(covers)
    }
}

impl Policy {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, is of another kind, has unknown fields or no rule.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let policy: Self = config_file::load(path, "audit.k8s.io/v1", "Policy")?;
        if policy.rules.is_empty() {
            return Err(ConfigError::Value { path: path.to_owned(), reason: "it has no rules".to_owned() });
        }
        Ok(policy)
    }

    /// The first rule that covers the request decides.
    pub fn verdict(&self, user: &UserInfo, info: &RequestInfo) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.covers(user, info)) else { return Verdict::default() };
        Verdict {
            level: rule.level,
            omit_stages: self.omit_stages.iter().chain(&rule.omit_stages).cloned().collect(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::Query;

    #[test]
    fn the_first_rule_decides() {
        let yaml = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ["system:kube-proxy"], verbs: [watch], resources: [{group: "", resources: [endpoints]}]}
- {level: None, userGroups: ["system:authenticated"], nonResourceURLs: ["/api*", /version]}
- {level: Request, resources: [{group: "", resources: [configmaps], resourceNames: [x]}], namespaces: [kube-system], omitManagedFields: false}
- {level: Metadata, resources: [{group: "", resources: [secrets, "*/status", "pods/*"]}], omitStages: [ResponseStarted]}
- {level: RequestResponse, resources: [{group: apps}]}
"#;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.yaml");
        std::fs::write(&path, yaml).unwrap();
        let policy = Policy::load(&path).unwrap();
        let cases = [
            ("system:kube-proxy", "/api/v1/endpoints?watch=1", Level::None),
            ("u", "/version", Level::None),
            ("u", "/api/v1/namespaces/kube-system/configmaps/x", Level::Request),
            ("u", "/api/v1/namespaces/kube-system/configmaps/y", Level::None),
            ("u", "/api/v1/namespaces/default/configmaps/x", Level::None),
            ("u", "/api/v1/secrets", Level::Metadata),
            ("u", "/api/v1/nodes/n/status", Level::Metadata),
            ("u", "/api/v1/namespaces/a/pods/p/log", Level::Metadata),
            ("u", "/api/v1/namespaces/a/services/p", Level::None),
            ("u", "/api/v1/namespaces/a/pods/p", Level::Metadata),
            ("u", "/apis/apps/v1/deployments", Level::RequestResponse),
        ];
        for (user, uri, level) in cases {
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let info = RequestInfo::parse(&http::Method::GET, path, &Query::parse(query));
            let groups = vec!["system:authenticated".to_owned()];
            let user = UserInfo { name: user.to_owned(), groups, ..UserInfo::default() };
            assert_eq!(policy.verdict(&user, &info).level, level, "{uri}");
        }
        std::fs::write(&path, "apiVersion: audit.k8s.io/v1\nkind: Policy\n").unwrap();
        assert!(Policy::load(&path).is_err());
    }
}

//! Which flow schema a request belongs to. Pure.

use serde_json::Value;

use crate::http::request::{RequestInfo, UserInfo};

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

impl Subject {
    fn parse(subject: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match subject["kind"].as_str()? {
            "User" => Some(Self::User(text(&subject["user"]["name"]))),
            "Group" => Some(Self::Group(text(&subject["group"]["name"]))),
            "ServiceAccount" => {
                let account = &subject["serviceAccount"];
                Some(Self::ServiceAccount { namespace: text(&account["namespace"]), name: text(&account["name"]) })
            }
            _ => None,
        }
    }

    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(group) => group == "*" || user.groups.iter().any(|one| one == group),
            Self::ServiceAccount { namespace, name } => {
                let rest = user.name.strip_prefix("system:serviceaccount:");
                let account = rest.and_then(|rest| rest.strip_prefix(namespace.as_str())?.strip_prefix(':'));
                account.is_some_and(|account| name == "*" || account == name)
            }
        }
    }
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    /// Verbs and paths.
    urls: Vec<(Vec<String>, Vec<String>)>,
}

/// Who shares a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distinguisher {
    All,
    User,
    Namespace,
}

/// A FlowSchema.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) level: String,
    pub(super) precedence: i64,
    pub(super) by: Distinguisher,
    rules: Vec<Rule>,
}

impl Schema {
    pub(super) fn parse(object: &Value) -> Self {
        let spec = &object["spec"];
        let rules = spec["rules"].as_array().into_iter().flatten();
        Self {
            name: apimachinery::meta::name(object).to_owned(),
            uid: apimachinery::meta::uid(object).to_owned(),
            level: spec["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default().to_owned(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            by: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::All,
            },
            rules: rules.map(Rule::parse).collect(),
        }
    }

    pub(super) fn covers(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.subjects.iter().any(|subject| subject.is(user)) && rule.covers(info))
    }
}

impl Rule {
    fn parse(rule: &Value) -> Self {
        let list = |field: &str| rule[field].as_array().map_or(&[][..], Vec::as_slice);
        let resource = |rule: &Value| ResourceRule {
            verbs: strings(&rule["verbs"]),
            groups: strings(&rule["apiGroups"]),
            resources: strings(&rule["resources"]),
            namespaces: strings(&rule["namespaces"]),
            cluster_scope: rule["clusterScope"] == true,
        };
        Self {
            subjects: list("subjects").iter().filter_map(Subject::parse).collect(),
            resources: list("resourceRules").iter().map(resource).collect(),
            urls: list("nonResourceRules")
                .iter()
                .map(|rule| (strings(&rule["verbs"]), strings(&rule["nonResourceURLs"])))
                .collect(),
        }
    }

    fn covers(&self, info: &RequestInfo) -> bool {
        if info.is_resource_request {
            return self.resources.iter().any(|rule| rule.covers(info));
        }
        let path = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => info.path.starts_with(start),
            None => *pattern == info.path,
        };
        self.urls.iter().any(|(verbs, paths)| any(verbs, &info.verb) && paths.iter().any(path))
    }
}

impl ResourceRule {
    fn covers(&self, info: &RequestInfo) -> bool {
        let named = any(&self.resources, &info.resource) && info.subresource.is_empty()
            || !info.subresource.is_empty() && any(&self.resources, &info.full_resource());
        let scoped = match info.namespace.as_str() {
            "" => self.cluster_scope,
            namespace => any(&self.namespaces, namespace),
        };
        any(&self.verbs, &info.verb) && any(&self.groups, &info.api_group) && named && scoped
    }
}

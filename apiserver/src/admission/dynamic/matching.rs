//! Pure: whether a request is one that a rule means, and in which version of the resource.
//!
//! Follows upstream: a rule means a request as it came, or, with `matchPolicy: Equivalent`, as it would look in another
//! version or group of the same stored resource.

use apimachinery::selector::LabelSelector;
use apimachinery::status::Status;
use serde_json::Value;

use super::view::Subject;
use crate::admission::{Operation, Request};
use crate::objects::{Objects, find};
use crate::resources::{Resource, ResourceTable};

/// One rule.
#[derive(Clone, Debug, Default)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    scope: String,
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == "*" || item == text)
}

fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

impl Operation {
    /// As rules and reviews name it.
    pub fn as_str(self) -> &'static str {
        operation(self)
    }
}

impl Rule {
    fn of(value: &Value) -> Self {
        Self {
            operations: strings(&value["operations"]),
            groups: strings(&value["apiGroups"]),
            versions: strings(&value["apiVersions"]),
            resources: strings(&value["resources"]),
            names: strings(&value["resourceNames"]),
            scope: value["scope"].as_str().unwrap_or("*").to_owned(),
        }
    }

    fn matches(&self, request: &Request<'_>, group: &str, version: &str, plural: &str) -> bool {
        let namespaces = plural == "namespaces" && group.is_empty();
        let cluster_wide = request.namespace.is_empty() || namespaces;
        let in_scope = match self.scope.as_str() {
            "Namespaced" => !cluster_wide,
            "Cluster" => cluster_wide,
            _ => true,
        };
        let resource = |rule: &String| {
            let (name, sub) = rule.split_once('/').unwrap_or((rule, ""));
            (name == "*" || name == plural) && (sub == "*" || sub == request.subresource)
        };
        in_scope
            && has(&self.operations, request.operation.as_str())
            && has(&self.groups, group)
            && has(&self.versions, version)
            && self.resources.iter().any(resource)
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.name))
    }
}

/// Which requests a webhook, a policy or a binding means.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// None means every request (bindings).
    rules: Option<Vec<Rule>>,
    excluded: Vec<Rule>,
    namespaces: LabelSelector,
    objects: LabelSelector,
    equivalent: bool,
}

/// What a matching request is seen as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name.
    pub plural: String,
}

impl Matcher {
    /// Of a webhook (`rules`), or of `matchConstraints` and `matchResources`; an absent one matches everything.
    pub fn of(value: &Value) -> Self {
        let rules = |field: &str| value[field].as_array().map(|rules| rules.iter().map(Rule::of).collect::<Vec<_>>());
        let selector = |field: &str| match &value[field] {
            Value::Null => LabelSelector::everything(),
            given => LabelSelector::from_value(given).unwrap_or_else(|_| LabelSelector::nothing()),
        };
        Self {
            rules: rules("rules").or_else(|| rules("resourceRules")),
            excluded: rules("excludeResourceRules").unwrap_or_default(),
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            equivalent: value["matchPolicy"] != "Exact",
        }
    }

    fn seen(&self, rules: &[Rule], request: &Request<'_>, subject: &Subject, table: &ResourceTable) -> Option<Seen> {
        let matches = |group: &str, version: &str, plural: &str| {
            rules.iter().any(|rule| rule.matches(request, group, version, plural))
        };
        let own = Seen {
            group: request.group.to_owned(),
            version: subject.version.clone(),
            plural: request.resource.to_owned(),
        };
        if matches(&own.group, &own.version, &own.plural) {
            return Some(own);
        }
        if !self.equivalent || subject.converts_by_webhook() {
            return None;
        }
        let alike = table.iter().filter(|other| same_store(&subject.resource, other));
        for other in alike {
            for version in &other.versions {
                if matches(&other.group, &version.version, &other.plural) {
                    let (group, plural) = (other.group.clone(), other.plural.clone());
                    return Some(Seen { group, version: version.version.clone(), plural });
                }
            }
        }
        None
    }

    /// What the request is seen as, when it is meant. Selectors are asked first, as they are cheaper to fail.
    ///
    /// # Errors
    /// The request's namespace does not exist.
    pub async fn check(
        &self,
        request: &Request<'_>,
        object: Option<&Value>,
        subject: &Subject,
        table: &ResourceTable,
        objects: &dyn Objects,
    ) -> Result<Option<Seen>, Status> {
        let seen = match &self.rules {
            Some(rules) => self.seen(rules, request, subject, table),
            None => Some(Seen {
                group: request.group.to_owned(),
                version: subject.version.clone(),
                plural: request.resource.to_owned(),
            }),
        };
        let Some(seen) = seen else { return Ok(None) };
        if !self.excluded.is_empty() && self.seen(&self.excluded, request, subject, table).is_some() {
            return Ok(None);
        }
        if !self.objects.is_everything() {
            let labels = |object: &Value| self.objects.matches(&object["metadata"]["labels"]);
            if !object.is_some_and(labels) && !request.old.is_some_and(labels) {
                return Ok(None);
            }
        }
        Ok(self.namespace_matches(request, object, objects).await?.then_some(seen))
    }

    async fn namespace_matches(
        &self,
        request: &Request<'_>,
        object: Option<&Value>,
        objects: &dyn Objects,
    ) -> Result<bool, Status> {
        if self.namespaces.is_everything() {
            return Ok(true);
        }
        let itself = request.group.is_empty() && request.resource == "namespaces";
        if itself
            && request.subresource.is_empty()
            && let Some(object) = object
        {
            return Ok(self.namespaces.matches(&object["metadata"]["labels"]));
        }
        let name = if itself { request.name } else { request.namespace };
        if name.is_empty() {
            return Ok(true);
        }
        match find(objects, ("", "namespaces"), "", name).await? {
            Some(namespace) => Ok(self.namespaces.matches(&namespace["metadata"]["labels"])),
            None => Err(Status::not_found(&apimachinery::gvk::GroupResource::new("", "namespaces"), name)),
        }
    }
}

/// Whether both are views of the same stored objects.
fn same_store(one: &Resource, other: &Resource) -> bool {
    match (&one.storage, &other.storage) {
        (Some(a), Some(b)) => a.key_prefix == b.key_prefix,
        _ => one.group == other.group && one.plural == other.plural,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::tests::request;
    use crate::http::request::RequestContext;
    use crate::objects::fake::Fake;

    async fn seen(matcher: &Value, group: &str, plural: &str, sub: &str, labels: Value) -> Option<String> {
        let ctx = RequestContext::default();
        let mut asked = request(&ctx, Operation::Update, group, plural, "ns");
        asked.subresource = sub;
        let table = crate::resources::table();
        let subject = Subject::of(&asked, &table).unwrap();
        let object = json!({"metadata": {"labels": labels}});
        let cluster =
            Fake::default().with(("", "namespaces"), json!({"metadata": {"name": "ns", "labels": {"team": "a"}}}));
        let found = Matcher::of(matcher).check(&asked, Some(&object), &subject, &table, &cluster).await.unwrap();
        found.map(|seen| format!("{}/{}/{}", seen.group, seen.version, seen.plural))
    }

    fn rule(group: &str, version: &str, resource: &str) -> Value {
        json!({"operations": ["UPDATE"], "apiGroups": [group], "apiVersions": [version], "resources": [resource]})
    }

    #[tokio::test]
    async fn rules() {
        let none = json!({});
        for (rule, group, plural, sub, wanted) in [
            (rule("", "v1", "pods"), "", "pods", "", Some("/v1/pods")),
            (rule("*", "*", "*"), "", "pods", "", Some("/v1/pods")),
            (rule("*", "*", "*"), "", "pods", "status", None),
            (rule("*", "*", "*/*"), "", "pods", "status", Some("/v1/pods")),
            (rule("", "v1", "pods/status"), "", "pods", "status", Some("/v1/pods")),
            (rule("", "v1", "*/status"), "", "pods", "status", Some("/v1/pods")),
            (rule("apps", "v1", "pods"), "", "pods", "", None),
            (
                rule("autoscaling", "v1", "*"),
                "autoscaling",
                "horizontalpodautoscalers",
                "",
                Some("autoscaling/v1/horizontalpodautoscalers"),
            ),
            (rule("", "v1", "events"), "events.k8s.io", "events", "", Some("/v1/events")),
        ] {
            let found = seen(&json!({"rules": [rule]}), group, plural, sub, none.clone()).await;
            assert_eq!(found.as_deref(), wanted, "{rule} {plural}/{sub}");
        }
        let exact = json!({"rules": [rule("", "v1", "events")], "matchPolicy": "Exact"});
        assert_eq!(seen(&exact, "events.k8s.io", "events", "", none.clone()).await, None);
    }

    #[tokio::test]
    async fn selectors() {
        let base = rule("*", "*", "*");
        for (extra, labels, wanted) in [
            (json!({"namespaceSelector": {"matchLabels": {"team": "a"}}}), json!({}), true),
            (json!({"namespaceSelector": {"matchLabels": {"team": "b"}}}), json!({}), false),
            (json!({"objectSelector": {"matchLabels": {"x": "y"}}}), json!({"x": "y"}), true),
            (json!({"objectSelector": {"matchLabels": {"x": "y"}}}), json!({}), false),
            (json!({"excludeResourceRules": [base]}), json!({}), false),
        ] {
            let mut matcher = json!({"rules": [base]});
            matcher.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            assert_eq!(seen(&matcher, "", "pods", "", labels).await.is_some(), wanted, "{matcher}");
        }
    }
}

//! The kinds that are questions: may somebody do something, what may I do, who am I, whose token is this.
//!
//! Nothing is stored. Bodies come decoded and canonical, answers go out the same way. Follows upstream's validation (422 for
//! contradictory questions) and answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::field::{ErrorList, FieldError, Path};
use apimachinery::gvk::GroupKind;
use apimachinery::selector::{FieldSelector, LabelSelector};
use apimachinery::status::Status;
use serde_json::{Value, json};

use crate::admission::set;
use crate::authn;
use crate::authz::rules::PolicyRule;
use crate::authz::{Attributes, Authorizer, Decision, Union};
use crate::http::request::{RequestContext, UserInfo};

/// Who answers.
pub struct Reviews {
    /// Whose token is this.
    pub authn: Arc<authn::Union>,
    /// May somebody do something.
    pub authz: Arc<Union>,
}

impl Reviews {
    /// Whether a resource is one of these.
    pub fn serves(group: &str, resource: &str) -> bool {
        match group {
            "authorization.k8s.io" => matches!(
                resource,
                "subjectaccessreviews"
                    | "localsubjectaccessreviews"
                    | "selfsubjectaccessreviews"
                    | "selfsubjectrulesreviews"
            ),
            "authentication.k8s.io" => matches!(resource, "tokenreviews" | "selfsubjectreviews"),
            _ => false,
        }
    }

    /// Answers a question.
    ///
    /// # Errors
    /// 422 or 400 when it cannot be asked like this.
    pub async fn create(&self, ctx: &RequestContext, body: Value) -> Result<Value, Status> {
        match ctx.info.resource.as_str() {
            "subjectaccessreviews" | "localsubjectaccessreviews" | "selfsubjectaccessreviews" => {
                self.access(ctx, body).await
            }
            "selfsubjectrulesreviews" => self.rules(ctx, body),
            "selfsubjectreviews" => Ok(who_am_i(ctx, body)),
            "tokenreviews" => self.token(body).await,
            _ => Err(Status::no_such_path()),
        }
    }

    async fn access(&self, ctx: &RequestContext, mut body: Value) -> Result<Value, Status> {
        let resource = ctx.info.resource.as_str();
        let kind = match resource {
            "subjectaccessreviews" => Access::Anybody,
            "localsubjectaccessreviews" => Access::Local,
            _ => Access::Own,
        };
        let errors = validate_access(&body, kind, &ctx.info.namespace);
        if !errors.is_empty() {
            return Err(invalid(&errors));
        }
        apimachinery::meta::set_namespace(&mut body, &ctx.info.namespace);
        let user =
            if kind == Access::Own { Arc::clone(&ctx.user) } else { Arc::new(asked_user(&body["spec"], "user")) };
        let status = match self.authz.authorize(&asked_attributes(&body["spec"], user)).await {
            Decision::Allow { reason } => answer(true, false, &reason),
            Decision::Deny { reason } => answer(false, true, &reason),
            Decision::NoOpinion { reason } => answer(false, false, &reason),
        };
        set(&mut body, "status", status);
        if let Some(error) = unread_selectors(&body["spec"]["resourceAttributes"]) {
            set(&mut body["status"], "evaluationError", error);
        }
        Ok(body)
    }

    fn rules(&self, ctx: &RequestContext, mut body: Value) -> Result<Value, Status> {
        let Some(namespace) = body["spec"]["namespace"].as_str().filter(|namespace| !namespace.is_empty()) else {
            return Err(Status::bad_request("no namespace on request"));
        };
        let rules = self.authz.rules_for(&ctx.user, namespace);
        let (paths, resources): (Vec<PolicyRule>, Vec<PolicyRule>) =
            rules.into_iter().partition(|rule| rule.resources.is_empty() && !rule.non_resource_urls.is_empty());
        let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
        let missing = self.authz.rules_missing(&ctx.user);
        if !missing.is_empty() {
            let why = missing.join(", ");
            set(&mut status, "incomplete", true);
            set(&mut status, "evaluationError", if missing.len() > 1 { format!("[{why}]") } else { why });
        }
        // The question is not repeated.
        set(&mut body, "metadata", json!({}));
        set(&mut body, "spec", json!({}));
        set(&mut body, "status", status);
        Ok(body)
    }

    async fn token(&self, mut body: Value) -> Result<Value, Status> {
        let token = body["spec"]["token"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let asked = body["spec"]["audiences"].as_array().into_iter().flatten();
        let mut audiences: Vec<String> = asked.filter_map(|a| a.as_str().map(str::to_owned)).collect();
        if audiences.is_empty() {
            audiences.clone_from(&self.authn.api_audiences);
        }
        let status = match self.authn.token(&token, &audiences).await {
            Ok(Some(identity)) => json!({
                "authenticated": true, "user": user_value(&identity.user), "audiences": identity.audiences,
            }),
            Ok(None) => json!({"user": {}, "error": "invalid bearer token"}),
            Err(refused) => json!({"user": {}, "error": refused.to_string()}),
        };
        set(&mut body, "status", status);
        Ok(body)
    }
}

fn invalid(errors: &ErrorList) -> Status {
    Status::invalid(&GroupKind { group: "authorization.k8s.io".to_owned(), kind: String::new() }, "", errors)
}

fn answer(allowed: bool, denied: bool, reason: &str) -> Value {
    let mut status = json!({"allowed": allowed});
    if denied {
        set(&mut status, "denied", true);
    }
    if !reason.is_empty() {
        set(&mut status, "reason", reason);
    }
    status
}

/// What of the selectors is not understood, and therefore left out of the question.
fn unread_selectors(resource: &Value) -> Option<String> {
    let raw = |field: &str| resource[field]["rawSelector"].as_str().unwrap_or_default();
    let fields_known = |requirement: &Value| {
        let one = requirement["values"].as_array().is_some_and(|values| values.len() == 1);
        one && matches!(requirement["operator"].as_str(), Some("In" | "NotIn"))
    };
    let labels_known = |requirement: &Value| {
        matches!(requirement["operator"].as_str(), Some("In" | "NotIn" | "Exists" | "DoesNotExist"))
    };
    let all = |field: &str, known: &dyn Fn(&Value) -> bool| {
        resource[field]["requirements"].as_array().into_iter().flatten().all(known)
    };
    let fields = FieldSelector::parse(raw("fieldSelector")).is_ok() && all("fieldSelector", &fields_known);
    let labels = LabelSelector::parse(raw("labelSelector")).is_ok() && all("labelSelector", &labels_known);
    let unread = [("fieldSelector", fields), ("labelSelector", labels)].into_iter().filter(|(_, read)| !read);
    let sentences: Vec<String> =
        unread.map(|(field, _)| format!("spec.resourceAttributes.{field} ignored due to parse error")).collect();
    (!sentences.is_empty()).then(|| sentences.join(", "))
}

fn who_am_i(ctx: &RequestContext, mut body: Value) -> Value {
    set(&mut body, "metadata", json!({}));
    apimachinery::meta::set_creation_timestamp(&mut body, ctx.now);
    set(&mut body, "status", json!({"userInfo": user_value(&ctx.user)}));
    body
}

/// A user in the form of `authentication.k8s.io/v1`, empty parts left out.
pub fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({});
    if !user.name.is_empty() {
        set(&mut value, "username", user.name.clone());
    }
    if !user.uid.is_empty() {
        set(&mut value, "uid", user.uid.clone());
    }
    if !user.groups.is_empty() {
        set(&mut value, "groups", user.groups.clone());
    }
    if !user.extra.is_empty() {
        set(&mut value, "extra", json!(user.extra));
    }
    value
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Anybody,
    Local,
    Own,
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        _ => false,
    }
}

fn validate_access(body: &Value, kind: Access, namespace: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = &body["spec"];
    let path = Path::new("spec");
    if kind != Access::Own && is_empty(&spec["user"]) && is_empty(&spec["groups"]) {
        errors.push(FieldError::invalid(path.child("user"), "", "at least one of user or group must be specified"));
    }
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_null(), other.is_null()) {
        (false, false) => {
            let why = "cannot be specified in combination with resourceAttributes";
            errors.push(FieldError::invalid(path.child("nonResourceAttributes"), other.clone(), why));
        }
        (true, true) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(FieldError::invalid(path.child("resourceAttributes"), Value::Null, why));
        }
        _ => {}
    }
    for (field, fields) in [("fieldSelector", true), ("labelSelector", false)] {
        let selector_path = path.child("resourceAttributes").child(field);
        errors.extend(validate_selector(&resource[field], &selector_path, fields));
    }
    if kind == Access::Local {
        if !other.is_null() {
            let why = "disallowed on this kind of request";
            errors.push(FieldError::invalid(path.child("nonResourceAttributes"), other.clone(), why));
        }
        if !resource.is_null() && resource["namespace"].as_str().unwrap_or_default() != namespace {
            let at = path.child("resourceAttributes").child("namespace");
            errors.push(FieldError::invalid(at, resource["namespace"].clone(), "must match metadata.namespace"));
        }
    }
    let mut metadata = body["metadata"].clone();
    if let Some(map) = metadata.as_object_mut() {
        map.remove("managedFields");
        // Of the others it was never asked: their questions lie in no namespace.
        map.remove("namespace");
    }
    if !is_empty(&metadata) {
        let what = if kind == Access::Local { "must be empty except for namespace" } else { "must be empty" };
        errors.push(FieldError::invalid(Path::new("metadata"), metadata, what));
    }
    errors
}

fn validate_selector(selector: &Value, path: &Path, fields: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    if selector.is_null() {
        return errors;
    }
    let raw = !is_empty(&selector["rawSelector"]);
    let requirements = selector["requirements"].as_array().map_or(&[][..], Vec::as_slice);
    if raw && !requirements.is_empty() {
        let why = "may not specified at the same time as requirements";
        errors.push(FieldError::invalid(path.child("rawSelector"), selector["rawSelector"].clone(), why));
    }
    if !raw && requirements.is_empty() {
        let why = format!("when {path} is specified, requirements or rawSelector is required");
        errors.push(FieldError::required(path.child("requirements"), why));
    }
    for (index, requirement) in requirements.iter().enumerate() {
        errors.extend(validate_requirement(requirement, &path.child("requirements").index(index), fields));
    }
    errors
}

fn validate_requirement(requirement: &Value, path: &Path, fields: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let key = requirement["key"].as_str().unwrap_or_default();
    if fields {
        if key.is_empty() {
            errors.push(FieldError::required(path.child("key"), "must be specified"));
        }
    } else {
        for why in apimachinery::validation::qualified_name(key) {
            errors.push(FieldError::invalid(path.child("key"), key, why));
        }
    }
    let values = requirement["values"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, value) in values.iter().enumerate().filter(|_| !fields) {
        for why in apimachinery::validation::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(path.child("values").index(index), value.clone(), why));
        }
    }
    match requirement["operator"].as_str().unwrap_or_default() {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(FieldError::required(
                path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            ));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(path.child("values"), why));
        }
        // Operators of later releases must not fail the question.
        _ => {}
    }
    errors
}

/// A user as reviews spell it; `name` is the field of its name, which is not the same in all of them.
pub(crate) fn asked_user(spec: &Value, name: &str) -> UserInfo {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| -> Vec<String> { value.as_array().into_iter().flatten().map(text).collect() };
    let extra: BTreeMap<String, Vec<String>> =
        spec["extra"].as_object().into_iter().flatten().map(|(key, value)| (key.clone(), texts(value))).collect();
    UserInfo { name: text(&spec[name]), uid: text(&spec["uid"]), groups: texts(&spec["groups"]), extra }
}

fn asked_attributes(spec: &Value, user: Arc<UserInfo>) -> Attributes {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = &spec["resourceAttributes"];
    if resource.is_null() {
        let other = &spec["nonResourceAttributes"];
        return Attributes { user, verb: text(&other["verb"]), path: text(&other["path"]), ..Attributes::default() };
    }
    Attributes {
        user,
        verb: text(&resource["verb"]),
        namespace: text(&resource["namespace"]),
        group: text(&resource["group"]),
        version: text(&resource["version"]),
        resource: text(&resource["resource"]),
        subresource: text(&resource["subresource"]),
        name: text(&resource["name"]),
        resource_request: true,
        field_selector: asked_selector(&resource["fieldSelector"]),
        label_selector: asked_selector(&resource["labelSelector"]),
        ..Attributes::default()
    }
}

/// A selector in `key=value,…` form. Only equality is expressed: what cannot be said widens the question, which can only
/// make an answer that depends on selectors a no.
fn asked_selector(selector: &Value) -> String {
    if let Some(raw) = selector["rawSelector"].as_str().filter(|raw| !raw.is_empty()) {
        return raw.to_owned();
    }
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    let equalities = requirements.filter_map(|requirement| {
        let value = requirement["values"].as_array().filter(|values| values.len() == 1)?.first()?.as_str()?;
        (requirement["operator"] == "In")
            .then(|| format!("{}={value}", requirement["key"].as_str().unwrap_or_default()))
    });
    equalities.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictory_questions() {
        let resource = json!({"verb": "get", "resource": "pods", "namespace": "ns"});
        let cases = [
            (json!({"user": "u", "resourceAttributes": resource}), Access::Anybody, vec![]),
            (json!({"user": "u"}), Access::Anybody, vec!["spec.resourceAttributes"]),
            (json!({"resourceAttributes": resource}), Access::Anybody, vec!["spec.user"]),
            (json!({"resourceAttributes": resource}), Access::Own, vec![]),
            (
                json!({"user": "u", "resourceAttributes": resource, "nonResourceAttributes": {"path": "/"}}),
                Access::Anybody,
                vec!["spec.nonResourceAttributes"],
            ),
            (
                json!({"user": "u", "nonResourceAttributes": {"path": "/"}}),
                Access::Local,
                vec!["spec.nonResourceAttributes"],
            ),
            (
                json!({"user": "u", "resourceAttributes": {"namespace": "other"}}),
                Access::Local,
                vec!["spec.resourceAttributes.namespace"],
            ),
            (
                json!({"user": "u", "resourceAttributes": {"labelSelector": {"requirements": [{"key": "", "operator": "Nope"}]}}}),
                Access::Anybody,
                vec!["spec.resourceAttributes.labelSelector.requirements[0].key"; 2],
            ),
        ];
        for (spec, kind, expected) in cases {
            let errors = validate_access(&json!({"spec": spec}), kind, "ns");
            let paths: Vec<String> = errors.iter().map(|e| e.path.to_string()).collect();
            assert_eq!(paths, expected, "{spec}");
        }
        assert_eq!(
            validate_access(
                &json!({"metadata": {"name": "x"}, "spec": {"user": "u", "resourceAttributes": {}}}),
                Access::Anybody,
                ""
            )
            .len(),
            1
        );
    }
}

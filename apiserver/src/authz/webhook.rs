//! Mode Webhook: each question is put to a webhook in a SubjectAccessReview.
//!
//! Guarantees: answers are remembered, yes and no each for their own time, unless what the requester chose is very long; a
//! webhook that cannot be asked is `NoOpinion`, or a refusal where the configuration says so. Follows upstream.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::selector::{FieldOperator, FieldSelector, LabelSelector, Operator};
use component_base::reload::Reloading;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{Attributes, Authorizer, Decision};
use crate::http::request::UserInfo;
use crate::objects::Nothing;
use crate::remembered::Remembered;
use crate::webhook::{CallError, Client, ClientConfig};

const MAX_REMEMBERED: usize = 8192;
/// Questions in which the requester wrote more than this are not remembered.
const MAX_REMEMBERED_BYTES: usize = 10_000;

/// What flags or the configuration file say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A kubeconfig: where, and who we are there.
    pub file: PathBuf,
    /// Of the SubjectAccessReview: `v1` or `v1beta1`.
    pub version: String,
    /// How long a yes is remembered.
    pub authorized_ttl: Duration,
    /// How long anything else is.
    pub unauthorized_ttl: Duration,
    /// For one question.
    pub timeout: Duration,
    /// Refuse when the webhook cannot be asked, instead of leaving it to the next mode.
    pub deny_on_failure: bool,
}

/// Asks the webhook.
pub struct Webhook {
    place: Reloading<ClientConfig>,
    client: Client,
    config: Config,
    remembered: Remembered<String, Decision>,
}

impl Webhook {
    /// Reads the kubeconfig.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn new(config: Config) -> Result<Self, CallError> {
        let place = ClientConfig::from_kubeconfig(&config.file)?;
        let client = Client::new(Arc::new(Nothing));
        Ok(Self { place, client, config, remembered: Remembered::new(MAX_REMEMBERED) })
    }

    async fn ask(&self, request: &Attributes) -> Decision {
        let spec = spec(request);
        let key = spec.to_string();
        if let Some(decision) = self.remembered.get(&key) {
            return decision;
        }
        let review = json!({
            "kind": "SubjectAccessReview",
            "apiVersion": format!("authorization.k8s.io/{}", self.config.version),
            "metadata": {},
            "spec": spec,
            "status": {"allowed": false},
        });
        let answer = self.client.call_patiently(&self.place.get(), &review, self.config.timeout).await;
        let decision = match answer {
            Ok(answer) => judge(&answer["status"]),
            Err(error) => {
                tracing::error!(%error, "Cannot ask the authorization webhook");
                let reason = String::new();
                return if self.config.deny_on_failure {
                    Decision::Deny { reason }
                } else {
                    Decision::NoOpinion { reason }
                };
            }
        };
        if written_by_requester(request) < MAX_REMEMBERED_BYTES {
            let config = &self.config;
            let lasts = if decision.is_allowed() { config.authorized_ttl } else { config.unauthorized_ttl };
            self.remembered.insert(key, decision.clone(), lasts);
        }
        decision
    }
}

impl Authorizer for Webhook {
    fn authorize<'a>(&'a self, request: &'a Attributes) -> BoxFuture<'a, Decision> {
        Box::pin(self.ask(request))
    }

    fn rules_missing(&self, _: &UserInfo) -> Option<&'static str> {
        Some("webhook authorizer does not support user rule resolution")
    }
}

fn judge(status: &Value) -> Decision {
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    match (status["denied"] == true, status["allowed"] == true) {
        (true, _) => Decision::Deny { reason },
        (false, true) => Decision::Allow { reason },
        (false, false) => Decision::NoOpinion { reason },
    }
}

fn written_by_requester(request: &Attributes) -> usize {
    let Attributes { verb, namespace, group, version, resource, subresource, name, path, .. } = request;
    let selectors = request.field_selector.len() + request.label_selector.len();
    let parts = [verb, namespace, group, version, resource, subresource, name, path];
    parts.iter().map(|part| part.len()).sum::<usize>() + selectors
}

/// The question, without fields that say nothing.
fn spec(request: &Attributes) -> Value {
    let user = &request.user;
    let mut spec = json!({"user": user.name});
    if !user.groups.is_empty() {
        spec["groups"] = json!(user.groups);
    }
    if !user.uid.is_empty() {
        spec["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        spec["extra"] = json!(user.extra);
    }
    let texts = |pairs: &[(&str, &String)]| -> Value {
        pairs
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| ((*name).to_owned(), json!(text)))
            .collect()
    };
    if !request.resource_request {
        spec["nonResourceAttributes"] = texts(&[("path", &request.path), ("verb", &request.verb)]);
        return spec;
    }
    let mut resource = texts(&[
        ("namespace", &request.namespace),
        ("verb", &request.verb),
        ("group", &request.group),
        ("version", &request.version),
        ("resource", &request.resource),
        ("subresource", &request.subresource),
        ("name", &request.name),
    ]);
    for (field, requirements) in [
        ("fieldSelector", field_requirements(&request.field_selector)),
        ("labelSelector", label_requirements(&request.label_selector)),
    ] {
        if !requirements.is_empty() {
            resource[field] = json!({"requirements": requirements});
        }
    }
    spec["resourceAttributes"] = resource;
    spec
}

/// What cannot be read or said is left out, which only widens the question.
fn field_requirements(selector: &str) -> Vec<Value> {
    let parsed = FieldSelector::parse(selector).unwrap_or_default();
    let requirement = |r: &apimachinery::selector::FieldRequirement| {
        let operator = if r.operator == FieldOperator::Eq { "In" } else { "NotIn" };
        json!({"key": r.field, "operator": operator, "values": [r.value]})
    };
    parsed.requirements.iter().map(requirement).collect()
}

fn label_requirements(selector: &str) -> Vec<Value> {
    let parsed = LabelSelector::parse(selector).unwrap_or_default();
    let requirement = |r: &apimachinery::selector::Requirement| {
        Some(match &r.operator {
            Operator::In(values) => json!({"key": r.key, "operator": "In", "values": values}),
            Operator::NotIn(values) => json!({"key": r.key, "operator": "NotIn", "values": values}),
            Operator::Exists => json!({"key": r.key, "operator": "Exists"}),
            Operator::DoesNotExist => json!({"key": r.key, "operator": "DoesNotExist"}),
            Operator::Gt(_) | Operator::Lt(_) => return None,
        })
    };
    parsed.requirements.iter().filter_map(requirement).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::authz::tests::resource;
    use crate::webhook::tests::Server;

    #[test]
    fn questions() {
        let mut request = resource("alice", "list", "ns", "apps", "deployments", "", "");
        request.field_selector = "metadata.name!=a".to_owned();
        request.label_selector = "app in (x,y),!old".to_owned();
        let asked = spec(&request);
        assert_eq!(asked["user"], "alice");
        let attributes = &asked["resourceAttributes"];
        assert_eq!(
            (&attributes["verb"], &attributes["group"], &attributes["name"]),
            (&json!("list"), &json!("apps"), &Value::Null)
        );
        let fields = json!([{"key": "metadata.name", "operator": "NotIn", "values": ["a"]}]);
        assert_eq!(attributes["fieldSelector"]["requirements"], fields);
        let labels =
            json!([{"key": "app", "operator": "In", "values": ["x", "y"]}, {"key": "old", "operator": "DoesNotExist"}]);
        assert_eq!(attributes["labelSelector"]["requirements"], labels);
        let path = Attributes { verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
        assert_eq!(spec(&path)["nonResourceAttributes"], json!({"path": "/metrics", "verb": "get"}));
    }

    static ASKED: AtomicUsize = AtomicUsize::new(0);

    fn reviewer(_: &str, review: &Value) -> (u16, Value) {
        ASKED.fetch_add(1, Ordering::SeqCst);
        let status = match review["spec"]["user"].as_str().unwrap_or_default() {
            "yes" => json!({"allowed": true, "reason": "fine"}),
            "no" => json!({"allowed": false, "denied": true, "reason": "never"}),
            "both" => json!({"allowed": true, "denied": true}),
            "broken" => return (403, json!({})),
            _ => json!({"allowed": false, "reason": "unknown"}),
        };
        (200, json!({"status": status}))
    }

    #[tokio::test]
    async fn decisions_are_remembered_and_failures_are_not() {
        let server = Server::start(&["localhost"], reviewer, true).await;
        let dir = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3600);
        let config = Config {
            file: server.kubeconfig(dir.path(), "/authorize"),
            version: "v1".to_owned(),
            authorized_ttl: hour,
            unauthorized_ttl: Duration::ZERO,
            timeout: Duration::from_secs(10),
            deny_on_failure: false,
        };
        let webhook = Webhook::new(config.clone()).unwrap();
        let ask = |user: &str| resource(user, "get", "ns", "", "pods", "", "p");
        let reason = |text: &str| text.to_owned();
        assert_eq!(webhook.ask(&ask("yes")).await, Decision::Allow { reason: reason("fine") });
        assert_eq!(webhook.ask(&ask("yes")).await, Decision::Allow { reason: reason("fine") });
        assert_eq!(ASKED.load(Ordering::SeqCst), 1);
        assert_eq!(webhook.ask(&ask("no")).await, Decision::Deny { reason: reason("never") });
        assert_eq!(webhook.ask(&ask("both")).await, Decision::Deny { reason: String::new() });
        for _ in 0..2 {
            assert_eq!(webhook.ask(&ask("who")).await, Decision::NoOpinion { reason: reason("unknown") });
            assert_eq!(webhook.ask(&ask("broken")).await, Decision::NoOpinion { reason: String::new() });
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), 7);
        let mut long = ask("yes");
        long.name = "x".repeat(MAX_REMEMBERED_BYTES);
        for _ in 0..2 {
            assert!(webhook.ask(&long).await.is_allowed());
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), 9);
        let strict = Webhook::new(Config { deny_on_failure: true, ..config }).unwrap();
        assert_eq!(strict.ask(&ask("broken")).await, Decision::Deny { reason: String::new() });
    }
}

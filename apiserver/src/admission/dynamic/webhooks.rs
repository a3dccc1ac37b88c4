//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: asking others over HTTPS.
//!
//! Mutating webhooks are called one after the other, each with what the last one made; validating ones all at once.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::meta;
use apimachinery::patch;
use apimachinery::status::{Cause, Details, Status};
use base64::Engine as _;
use futures::future::{BoxFuture, join_all};
use serde_json::{Value, json};

use super::conditions::{Asks, Conditions, Facts, name};
use super::policy::Envs;
use super::round::{Caller, Round};
use super::view::{Subject, View};
use super::{GROUP, Matcher, Shared};
use crate::admission::{Plugin, Request};
use crate::webhook::{CallError, ClientConfig};
use cel::Type;

const DEFAULT_TIMEOUT_SECONDS: u64 = 10;

/// A configuration's webhooks.
pub(super) struct Configuration(Vec<Hook>);

/// One webhook.
struct Hook {
    configuration: String,
    name: String,
    /// Of this configuration's webhooks, for the second run.
    key: String,
    client: Result<ClientConfig, CallError>,
    matcher: Matcher,
    conditions: Conditions,
    broken: Option<String>,
    /// A failure to call refuses the request.
    fails: bool,
    /// May be called in a dry run.
    dry: bool,
    timeout: Duration,
    again_if_needed: bool,
    /// `AdmissionReview` in this version.
    version: &'static str,
}

impl From<&Value> for Configuration {
    fn from(object: &Value) -> Self {
        let hooks = object["webhooks"].as_array().into_iter().flatten();
        let configuration = meta::name(object);
        Self(hooks.enumerate().map(|(at, hook)| Hook::of(configuration, at, hook)).collect())
    }
}

impl Hook {
    fn of(configuration: &str, at: usize, hook: &Value) -> Self {
        let name = hook["name"].as_str().unwrap_or_default().to_owned();
        let env = Envs::new(false, &Type::Dyn).conditions;
        let (conditions, errors) = Conditions::compile(&hook["matchConditions"], &env);
        let versions = hook["admissionReviewVersions"].as_array().into_iter().flatten();
        let version = versions.filter_map(Value::as_str).find(|version| ["v1", "v1beta1"].contains(version));
        Self {
            configuration: configuration.to_owned(),
            key: format!("{configuration}/{name}/{at}"),
            name,
            client: ClientConfig::parse(&hook["clientConfig"]),
            matcher: Matcher::of(hook),
            conditions,
            broken: errors.first().map(|(path, error)| format!("{path}: {error}")),
            fails: hook["failurePolicy"] != "Ignore",
            dry: matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(DEFAULT_TIMEOUT_SECONDS)),
            again_if_needed: hook["reinvocationPolicy"] == "IfNeeded",
            version: if version == Some("v1beta1") { "v1beta1" } else { "v1" },
        }
    }
}

/// Why a webhook did not allow.
enum Refusal {
    /// It could not be asked; the failure policy decides.
    Failed(String),
    /// It, or we, said no.
    Denied(Box<Status>),
}

/// The document that is sent.
fn review(version: &str, uid: &str, request: &Value, view: &View) -> Value {
    let mut request = request.clone();
    request["uid"] = uid.into();
    request["object"] = view.object.clone();
    request["oldObject"] = view.old.clone();
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request})
}

/// What is answered, checked as upstream does.
fn verify<'a>(version: &str, uid: &str, mutating: bool, answer: &'a Value) -> Result<&'a Value, String> {
    let response = &answer["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    if version == "v1" {
        if answer["apiVersion"] != "admission.k8s.io/v1" || answer["kind"] != "AdmissionReview" {
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {}, Kind={}",
                meta::api_version(answer),
                meta::kind(answer)
            ));
        }
        if response["uid"] != uid {
            return Err(format!("expected response.uid={uid:?}, got {}", response["uid"]));
        }
        let (patch, kind) = (response["patch"].is_string(), response["patchType"].as_str());
        match (mutating, patch, kind) {
            (false, true, _) | (false, _, Some(_)) => {
                return Err("webhook returned response.patch from a validating webhook".to_owned());
            }
            (true, true, None) => return Err("webhook returned response.patch but not response.patchType".to_owned()),
            (true, false, Some(_)) => {
                return Err("webhook returned response.patchType but not response.patch".to_owned());
            }
            _ => {}
        }
    }
    Ok(response)
}

/// The refusal of a webhook as the client sees it.
fn denial(name: &str, result: &Value) -> Status {
    let denied = format!("admission webhook {name:?} denied the request");
    let text = |field: &str| result[field].as_str().filter(|text| !text.is_empty());
    let message = match (text("message"), text("reason")) {
        (Some(message), _) => format!("{denied}: {message}"),
        (None, Some(reason)) => format!("{denied}: {reason}"),
        (None, None) => format!("{denied} without explanation"),
    };
    let code = result["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 400);
    let mut status = Status::failure(code.unwrap_or(400), text("reason").unwrap_or_default(), message);
    status.details = serde_json::from_value::<Details>(result["details"].clone()).ok().map(Box::new);
    status
}

/// The failure to call, when it refuses.
fn failed(name: &str, why: &str) -> Status {
    let message = format!("failed calling webhook {name:?}: {why}");
    let mut status = Status::internal(&message);
    status.details.get_or_insert_default().causes = vec![Cause { message, ..Cause::default() }];
    status
}

/// One request on its way through the webhooks.
struct Pass<'a> {
    shared: &'a Shared,
    request: &'a Request<'a>,
    subject: Subject,
    mutating: bool,
}

impl Pass<'_> {
    /// The view in which the hook is to be called; `None` when it is not meant.
    async fn view(&self, hook: &Hook, object: Option<&Value>) -> Result<Option<View>, Status> {
        let table = self.shared.table.load();
        let check = hook.matcher.check(self.request, object, &self.subject, &table, &*self.shared.objects);
        let Some(seen) = check.await? else { return Ok(None) };
        let Some(view) = View::new(self.request, object, &seen, &table) else { return Ok(None) };
        if hook.conditions.is_empty() && hook.broken.is_none() {
            return Ok(Some(view));
        }
        let held = match &hook.broken {
            Some(why) => Err(why.clone()),
            None => {
                let namespace = self.shared.namespace(self.request).await?;
                let asks = Asks { authz: &self.shared.authz, request: self.request, object: name(object) };
                let request = view.request(self.request, &self.subject);
                let facts =
                    Facts { view: &view, request: &request, namespace: &namespace, params: &Value::Null, asks: &asks };
                hook.conditions.hold(&facts)
            }
        };
        match held {
            Ok(true) => Ok(Some(view)),
            Ok(false) => Ok(None),
            Err(_) if !hook.fails => Ok(None),
            Err(why) => Err(self.request.forbidden(object, &why)),
        }
    }

    /// Asks one webhook; gives its patch, if any.
    async fn ask(&self, hook: &Hook, view: &View) -> Result<Option<Value>, Refusal> {
        if self.request.ctx.dry_run && !hook.dry {
            let why = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Refusal::Denied(Box::new(Status::bad_request(why))));
        }
        let uid = crate::registry::metadata::new_uid();
        let request = view.request(self.request, &self.subject);
        let body = review(hook.version, &uid, &request, view);
        let client = hook.client.as_ref().map_err(|error| Refusal::Failed(error.to_string()))?;
        let answer = self.shared.client.call(client, &body, hook.timeout).await;
        let answer = answer.map_err(|error| Refusal::Failed(format!("failed to call webhook: {error}")))?;
        let response = verify(hook.version, &uid, self.mutating, &answer);
        let response = response.map_err(|why| Refusal::Failed(format!("received invalid webhook response: {why}")))?;
        for (key, value) in response["auditAnnotations"].as_object().into_iter().flatten() {
            self.request.ctx.annotations.add(format!("{}/{key}", hook.name), value.as_str().unwrap_or_default());
        }
        for warning in response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.request.ctx.warnings.add(warning);
        }
        if response["allowed"] != true {
            return Err(Refusal::Denied(Box::new(denial(&hook.name, &response["status"]))));
        }
        let Some(patch) = response["patch"].as_str().filter(|patch| !patch.is_empty()) else { return Ok(None) };
        if hook.version == "v1" && response["patchType"] != "JSONPatch" {
            return Err(Refusal::Failed(format!("unsupported patch type {}", response["patchType"])));
        }
        let undecodable =
            |why: String| Refusal::Failed(format!("received undecodable patch in webhook response: {why}"));
        let bytes = base64::engine::general_purpose::STANDARD.decode(patch).map_err(|e| undecodable(e.to_string()))?;
        serde_json::from_slice(&bytes).map(Some).map_err(|e| undecodable(e.to_string()))
    }

    fn outcome(&self, hook: &Hook, refusal: Refusal) -> Result<(), Status> {
        match refusal {
            Refusal::Denied(status) => Err(*status),
            Refusal::Failed(why) if hook.fails => Err(failed(&hook.name, &why)),
            Refusal::Failed(why) => {
                tracing::warn!(webhook = hook.name, why, "Failed calling webhook, failing open");
                let kind = if self.mutating { "mutation" } else { "validating" };
                let key = format!("failed-open.{kind}.webhook.admission.k8s.io/{}", hook.key);
                self.request.ctx.annotations.add(key, hook.name.clone());
                Ok(())
            }
        }
    }

    async fn mutate(
        &self,
        hook: &Hook,
        index: usize,
        object: &mut Option<&mut Value>,
        round: &Round,
    ) -> Result<(), Status> {
        let Some(mut view) = self.view(hook, object.as_deref()).await? else { return Ok(()) };
        if !round.invokes(Caller::Webhooks, &hook.key) {
            return Ok(());
        }
        let answer = self.ask(hook, &view).await;
        let mut changed = false;
        let result = match answer {
            Ok(None) => Ok(()),
            Ok(Some(operations)) if operations.as_array().is_some_and(Vec::is_empty) => Ok(()),
            Ok(Some(operations)) => match object.as_deref_mut() {
                Some(object) => {
                    let before = view.object.clone();
                    let bytes = serde_json::to_vec(&operations).map_err(Status::internal)?;
                    let patched =
                        patch::json_patch(&before, &bytes).map_err(|status| Status::internal(status.message))?;
                    let taken = view.change(self.request, patched, &self.shared.options);
                    taken.map_err(|status| Status::internal(status.message))?;
                    changed = view.object != before;
                    if changed {
                        *object = view.stored();
                    }
                    Ok(())
                }
                None => Err(Status::internal(format!(
                    "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                    hook.name
                ))),
            },
            Err(refusal) => self.outcome(hook, refusal),
        };
        let note = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
        let key = format!("mutation.webhook.admission.k8s.io/round_{}_index_{index}", round.number());
        self.request.ctx.annotations.add(key, note.to_string());
        round.invoked(Caller::Webhooks, &hook.key, changed, hook.again_if_needed);
        result
    }

    async fn validate(&self, hook: &Hook, view: &View) -> Result<(), Status> {
        match self.ask(hook, view).await {
            Ok(_) => Ok(()),
            Err(refusal) => self.outcome(hook, refusal),
        }
    }
}

/// One of the two plugins.
pub struct Webhooks {
    /// What it needs.
    pub shared: Arc<Shared>,
    /// Which one.
    pub mutating: bool,
}

impl Webhooks {
    fn feed(&self) -> &super::feed::Feed<Configuration> {
        let feeds = &self.shared.feeds;
        if self.mutating { &feeds.mutating_webhooks } else { &feeds.validating_webhooks }
    }

    fn pass<'a>(&'a self, request: &'a Request<'a>) -> Option<Pass<'a>> {
        let subject = Subject::of(request, &self.shared.table.load())?;
        Some(Pass { shared: &self.shared, request, subject, mutating: self.mutating })
    }
}

impl Plugin for Webhooks {
    fn name(&self) -> &'static str {
        if self.mutating { "MutatingAdmissionWebhook" } else { "ValidatingAdmissionWebhook" }
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.group != GROUP && !self.feed().is_empty()
    }

    fn mutate<'a>(
        &'a self,
        request: &'a Request<'_>,
        mut object: Option<&'a mut Value>,
        round: &'a Round,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if !self.mutating {
                return Ok(());
            }
            let Some(pass) = self.pass(request) else { return Ok(()) };
            round.begin(Caller::Webhooks, object.as_deref());
            let configurations = self.feed().load();
            let hooks = configurations.values().flat_map(|configuration| &configuration.get().0);
            for (index, hook) in hooks.enumerate() {
                pass.mutate(hook, index, &mut object, round).await?;
            }
            round.end(Caller::Webhooks, object.as_deref());
            Ok(())
        })
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if self.mutating {
                return Ok(());
            }
            let Some(pass) = self.pass(request) else { return Ok(()) };
            let configurations = self.feed().load();
            let mut meant = Vec::new();
            for hook in configurations.values().flat_map(|configuration| &configuration.get().0) {
                if let Some(view) = pass.view(hook, object).await? {
                    meant.push((hook, view));
                }
            }
            let asked = join_all(meant.iter().map(|(hook, view)| pass.validate(hook, view)));
            asked.await.into_iter().collect()
        })
    }
}

#[cfg(test)]
mod tests;

//! The audit log: who asked for what, when, and what came of it.
//!
//! A request gets a [`Record`] once it is known who asks. The policy decides how much goes into it; where nothing is audited
//! a record is empty and costs nothing. Stages are upstream's: `RequestReceived`, `ResponseStarted` (of long-running
//! requests and refused credentials) and `ResponseComplete`. A failing backend is counted and fails no request, but for the
//! log in mode `blocking-strict` at the first stage.

pub mod log;
pub mod policy;
mod webhook;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use apimachinery::status::Status;
use apimachinery::time::format_micro_time;
use component_base::metrics::{self, Counter, Family};
use component_base::serving::{Body, ConnInfo, full};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use self::log::{Log, LogConfig};
use self::policy::{Level, Policy, Verdict};
use self::webhook::Webhook;
pub use self::webhook::WebhookConfig;
use crate::http::request::{RequestContext, UserInfo};

/// What the flags say.
#[derive(Clone, Debug, Default)]
pub struct AuditConfig {
    /// `--audit-policy-file`; without it nothing is audited.
    pub policy_file: Option<PathBuf>,
    /// `--audit-log-path` and companions.
    pub log: Option<LogConfig>,
    /// `--audit-webhook-config-file` and companions.
    pub webhook: Option<WebhookConfig>,
}

/// Why auditing could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The policy.
    #[error("--audit-policy-file: {0}")]
    Policy(#[from] component_base::config_file::ConfigError),
    /// The log.
    #[error("--audit-log-path: {path}: {source}")]
    Log {
        /// The file.
        path: String,
        /// Why it cannot be opened.
        source: std::io::Error,
    },
    /// The webhook.
    #[error("--audit-webhook-config-file: {0}")]
    Webhook(String),
}

/// Policy and backends.
pub struct Audit {
    policy: Policy,
    log: Option<Log>,
    webhook: Option<Webhook>,
    /// Requests fail when the log does.
    strict: bool,
    max_log_bytes: Option<usize>,
    max_webhook_bytes: Option<usize>,
    events: Arc<Counter>,
    errors: Family<Counter>,
    levels: Family<Counter>,
    rejected: Arc<Counter>,
}

/// Sets auditing up; `None` when nothing is audited.
///
/// # Errors
/// A file that cannot be used.
pub fn build(config: &AuditConfig) -> Result<Option<Arc<Audit>>, ConfigError> {
    let Some(path) = config.policy_file.as_ref().filter(|_| config.log.is_some() || config.webhook.is_some()) else {
        if config.log.is_some() || config.webhook.is_some() {
            tracing::warn!("no --audit-policy-file: no audit events are recorded");
        }
        return Ok(None);
    };
    let log = match &config.log {
        Some(log) => Some(Log::open(log).map_err(|source| ConfigError::Log { path: log.path.clone(), source })?),
        None => None,
    };
    let webhook = config.webhook.as_ref().map(Webhook::start).transpose().map_err(ConfigError::Webhook)?;
    let events = metrics::counter("apiserver_audit_event_total", "Audit events that were recorded", &[]).one();
    let errors =
        metrics::counter("apiserver_audit_error_total", "Audit events that a backend did not take", &["plugin"]);
    let help = "Requests that failed because their events could not be recorded";
    Ok(Some(Arc::new(Audit {
        policy: Policy::load(path)?,
        strict: config.log.as_ref().is_some_and(|log| log.strict),
        max_log_bytes: config.log.as_ref().and_then(|log| log.max_event_bytes),
        max_webhook_bytes: config.webhook.as_ref().and_then(|webhook| webhook.max_event_bytes),
        levels: metrics::counter("apiserver_audit_level_total", "Requests by how much is recorded", &["level"]),
        rejected: metrics::counter("apiserver_audit_requests_rejected_total", help, &[]).one(),
        log,
        webhook,
        events,
        errors,
    })))
}

impl Audit {
    /// Whether the log took it; a backend that fails is counted.
    fn emit(&self, event: &Value) -> bool {
        self.events.inc();
        let mut logged = true;
        if let Some(log) = &self.log {
            let written = match fitting(event, self.max_log_bytes) {
                Some(event) => log.write(&event).map_err(|err| err.to_string()),
                None => Err("event is too large even after truncating".to_owned()),
            };
            if let Err(err) = written {
                logged = false;
                self.errors.with(&["log"]).inc();
                tracing::error!(err, "Cannot write an audit event");
            }
        }
        if let Some(webhook) = &self.webhook
            && !fitting(event, self.max_webhook_bytes).is_some_and(|event| webhook.send(&event))
        {
            self.errors.with(&["webhook"]).inc();
        }
        logged
    }

    /// The record of a request.
    pub fn record(self: &Arc<Self>, user: &UserInfo, ctx: &RequestContext, parts: &Parts) -> Record {
        let verdict = self.policy.verdict(user, &ctx.info);
        self.levels.with(&[verdict.level.name()]).inc();
        if verdict.level == Level::None {
            return Record::default();
        }
        let event = first(user, ctx, parts, verdict.level);
        Record(Some(Arc::new(Pending { audit: Arc::clone(self), verdict, event: Mutex::new(event) })))
    }
}

fn user_value(user: &UserInfo) -> Value {
    let mut value = Map::new();
    let fields = [
        ("username", json!(user.name)),
        ("uid", json!(user.uid)),
        ("groups", json!(user.groups)),
        ("extra", json!(user.extra)),
    ];
    let said = |value: &Value| {
        value != "" && value.as_array().is_none_or(|a| !a.is_empty()) && value.as_object().is_none_or(|o| !o.is_empty())
    };
    value.extend(fields.into_iter().filter(|(_, value)| said(value)).map(|(name, value)| (name.to_owned(), value)));
    value.into()
}

/// Where a request came from: the proxies' word first, then the peer.
fn source_addresses(headers: &HeaderMap, peer: Option<String>) -> Vec<String> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (forwarded, real) = (header("x-forwarded-for"), header("x-real-ip"));
    let said = forwarded
        .split(',')
        .chain([real.as_str()])
        .map(str::trim)
        .filter(|one| one.parse::<std::net::IpAddr>().is_ok());
    let mut list: Vec<String> = said.map(str::to_owned).collect();
    list.extend(peer.filter(|peer| list.last() != Some(peer)));
    list
}

fn first(user: &UserInfo, ctx: &RequestContext, parts: &Parts, level: Level) -> Value {
    let (info, audit_id, now) = (&ctx.info, &ctx.audit_id, ctx.now);
    let peer = parts.extensions.get::<ConnInfo>().map(|conn| conn.peer.ip().to_string());
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": level.name(), "auditID": audit_id, "stage": "",
        "requestURI": parts.uri.path_and_query().map_or("", |uri| uri.as_str()), "verb": info.verb,
        "user": user_value(user), "sourceIPs": source_addresses(&parts.headers, peer),
    });
    let fields = event.as_object_mut();
    let Some(fields) = fields else { return event };
    if let Some(agent) = parts.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()) {
        fields.insert("userAgent".to_owned(), agent.into());
    }
    if info.is_resource_request {
        let parts = [
            ("resource", &info.resource),
            ("namespace", &info.namespace),
            ("name", &info.name),
            ("apiGroup", &info.api_group),
            ("apiVersion", &info.api_version),
            ("subresource", &info.subresource),
        ];
        let said = parts.into_iter().filter(|(_, text)| !text.is_empty());
        let object: Map<String, Value> = said.map(|(name, text)| (name.to_owned(), text.as_str().into())).collect();
        fields.insert("objectRef".to_owned(), object.into());
    }
    fields.insert("requestReceivedTimestamp".to_owned(), format_micro_time(now).into());
    event
}

struct Pending {
    audit: Arc<Audit>,
    verdict: Verdict,
    /// The event so far.
    event: Mutex<Value>,
}

/// What is recorded of one request; clones are the same record. Empty when the request is not audited.
#[derive(Clone, Default)]
pub struct Record(Option<Arc<Pending>>);

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Record").field(&self.level()).finish()
    }
}

impl Record {
    /// How much is recorded.
    pub fn level(&self) -> Level {
        self.0.as_ref().map_or(Level::None, |pending| pending.verdict.level)
    }

    fn change(&self, change: impl FnOnce(&Pending, &mut Map<String, Value>)) {
        if let Some(pending) = &self.0
            && let Some(event) = pending.event.lock().unwrap_or_else(PoisonError::into_inner).as_object_mut()
        {
            change(pending, event);
        }
    }

    /// Adds an annotation; the first value of a key stays.
    pub fn annotate(&self, key: &str, value: &str) {
        self.change(|_, event| {
            let annotations = event.entry("annotations").or_insert_with(|| json!({}));
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.entry(key).or_insert_with(|| value.into());
            }
        });
    }

    /// It was authenticated.
    ///
    /// # Errors
    /// It must be recorded and cannot be.
    pub fn received(&self) -> Result<(), Status> {
        let logged = self.stage("RequestReceived");
        match &self.0 {
            Some(pending) if !logged && pending.audit.strict => {
                pending.audit.rejected.inc();
                Err(Status::internal("failed to store audit event"))
            }
            _ => Ok(()),
        }
    }

    /// What authorization said, and why.
    pub fn authorized(&self, allowed: bool, reason: &str) {
        self.annotate("authorization.k8s.io/decision", if allowed { "allow" } else { "forbid" });
        self.annotate("authorization.k8s.io/reason", reason);
    }

    /// As whom the request is made, when that is not who made it, and the verb that allowed it if it was a constrained one.
    pub fn impersonated(&self, user: &UserInfo, constraint: Option<&str>) {
        self.change(|_, event| {
            event.insert("impersonatedUser".to_owned(), user_value(user));
            if let Some(constraint) = constraint {
                event.insert("authenticationMetadata".to_owned(), json!({"impersonationConstraint": constraint}));
            }
        });
    }

    /// The object, patch or options of the request.
    pub fn request_object(&self, object: &Value) {
        self.change(|pending, event| {
            if let Some(about) = event.get_mut("objectRef").and_then(Value::as_object_mut) {
                for field in ["name", "namespace", "uid", "resourceVersion"] {
                    if let Some(value) = object["metadata"][field].as_str().filter(|value| !value.is_empty()) {
                        about.entry(field).or_insert_with(|| value.into());
                    }
                }
            }
            if pending.verdict.level >= Level::Request {
                event.insert("requestObject".to_owned(), shown(object, pending.verdict.omit_managed_fields));
            }
        });
    }

    /// Records the present state as an event of a stage; whether the log took it.
    fn stage(&self, stage: &str) -> bool {
        let mut logged = true;
        self.change(|pending, event| {
            if pending.verdict.omit_stages.iter().any(|omitted| omitted == stage) {
                return;
            }
            event.insert("stage".to_owned(), stage.into());
            event.insert("stageTimestamp".to_owned(), format_micro_time(Timestamp::now()).into());
            logged = pending.audit.emit(&Value::Object(event.clone()));
        });
        logged
    }

    /// Compressed answers cannot be recorded.
    pub fn prepare(&self, parts: &mut Parts) {
        if self.level() == Level::RequestResponse {
            parts.headers.remove(ACCEPT_ENCODING);
        }
    }

    /// Records the answer. `lasting`: its body may last as long as the client wants. `refused`: the credentials were.
    pub async fn answered(self, response: Response<Body>, lasting: bool, refused: bool) -> Response<Body> {
        if self.0.is_none() {
            return response;
        }
        let code = response.status().as_u16();
        let mut status = json!({"metadata": {}, "code": code});
        let lasting = lasting && response.status().is_success();
        let wanted = !lasting && (code >= 400 || self.level() == Level::RequestResponse);
        let json = response.headers().get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
        let mut response = response;
        if wanted && json && !response.headers().contains_key(CONTENT_ENCODING) {
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            if let Ok(object) = serde_json::from_slice::<Value>(&bytes) {
                if object["kind"] == "Status" {
                    let said = ["status", "message", "reason", "details"].into_iter();
                    status.as_object_mut().into_iter().for_each(|status| {
                        status.extend(said.clone().filter_map(|f| Some((f.to_owned(), object.get(f)?.clone()))));
                    });
                }
                self.change(|pending, event| {
                    if pending.verdict.level == Level::RequestResponse {
                        event.insert("responseObject".to_owned(), shown(&object, pending.verdict.omit_managed_fields));
                    }
                });
            }
            response = Response::from_parts(parts, full(bytes));
        }
        self.change(|_, event| {
            event.insert("responseStatus".to_owned(), status);
        });
        if refused {
            self.stage("ResponseStarted");
            return response;
        }
        if !lasting {
            self.stage("ResponseComplete");
            return response;
        }
        self.stage("ResponseStarted");
        let end = End(self);
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _until_the_end = &end;
                frame
            }))
        })
    }
}

/// Records the end of a long answer when its body is dropped.
struct End(Record);

impl Drop for End {
    fn drop(&mut self) {
        self.0.stage("ResponseComplete");
    }
}

/// The event, without its objects if it is too large; `None` when it still is.
fn fitting(event: &Value, max_bytes: Option<usize>) -> Option<Cow<'_, Value>> {
    let Some(max_bytes) = max_bytes else { return Some(Cow::Borrowed(event)) };
    if event.to_string().len() <= max_bytes {
        return Some(Cow::Borrowed(event));
    }
    let mut event = event.clone();
    let fields = event.as_object_mut()?;
    fields.remove("requestObject");
    fields.remove("responseObject");
    let annotations = fields.entry("annotations").or_insert_with(|| json!({}));
    annotations.as_object_mut()?.insert("audit.k8s.io/truncated".to_owned(), "true".into());
    (event.to_string().len() <= max_bytes).then_some(Cow::Owned(event))
}

/// An object as it is recorded.
fn shown(object: &Value, omit_managed_fields: bool) -> Value {
    let mut object = object.clone();
    if omit_managed_fields {
        let strip = |object: &mut Value| {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        };
        strip(&mut object);
        object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn from_request_to_answer() {
        let dir = tempfile::tempdir().unwrap();
        let (policy, path) = (dir.path().join("p.yaml"), dir.path().join("audit.log"));
        let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitManagedFields: true\nrules:\n\
            - {level: RequestResponse, resources: [{group: \"\", resources: [pods]}]}\n- {level: None}\n";
        std::fs::write(&policy, rules).unwrap();
        let log = LogConfig { path: path.display().to_string(), ..LogConfig::default() };
        let config = AuditConfig { policy_file: Some(policy), log: Some(log), webhook: None };
        let audit = build(&config).unwrap().unwrap();
        let request = http::Request::post("/api/v1/namespaces/a/pods?x=1").header("user-agent", "t").body(()).unwrap();
        let (parts, ()) = request.into_parts();
        let info = crate::http::request::RequestInfo::parse(
            &parts.method,
            parts.uri.path(),
            &crate::http::request::Query::default(),
        );
        let user = UserInfo { name: "u".into(), ..UserInfo::default() };
        let ctx = RequestContext { info: Arc::new(info), ..RequestContext::default() };
        let record = audit.record(&user, &ctx, &parts);
        record.received().unwrap();
        record.authorized(true, "because");
        record.request_object(&json!({"metadata": {"name": "p", "managedFields": [1]}}));
        let answer = json!({"kind": "Pod", "metadata": {"name": "p", "managedFields": [1]}});
        let response = crate::http::respond::json(http::StatusCode::CREATED, &answer);
        let response = record.answered(response, false, false).await;
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), format!("{answer}\n"));
        let text = std::fs::read_to_string(&path).unwrap();
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            events.iter().map(|e| e["stage"].as_str().unwrap()).collect::<Vec<_>>(),
            ["RequestReceived", "ResponseComplete"]
        );
        let last = &events[1];
        assert_eq!(last["objectRef"], json!({"resource": "pods", "namespace": "a", "name": "p", "apiVersion": "v1"}));
        assert_eq!(
            (&last["responseStatus"]["code"], &last["requestURI"]),
            (&json!(201), &json!("/api/v1/namespaces/a/pods?x=1"))
        );
        assert_eq!(last["requestObject"], json!({"metadata": {"name": "p"}}));
        assert_eq!(last["responseObject"], json!({"kind": "Pod", "metadata": {"name": "p"}}));
        assert_eq!(last["annotations"]["authorization.k8s.io/reason"], "because");

        let info = crate::http::request::RequestInfo::parse(
            &parts.method,
            "/api/v1/nodes",
            &crate::http::request::Query::default(),
        );
        let ctx = RequestContext { info: Arc::new(info), ..RequestContext::default() };
        assert_eq!(audit.record(&user, &ctx, &parts).level(), Level::None);
    }

    #[test]
    fn large_events_lose_their_objects() {
        let event = json!({"auditID": "a", "requestObject": "x".repeat(500), "annotations": {"k": "v"}});
        assert_eq!(fitting(&event, None).unwrap().as_ref(), &event);
        assert_eq!(fitting(&event, Some(1000)).unwrap().as_ref(), &event);
        let cut = json!({"auditID": "a", "annotations": {"k": "v", "audit.k8s.io/truncated": "true"}});
        assert_eq!(fitting(&event, Some(200)).unwrap().as_ref(), &cut);
        assert_eq!(fitting(&event, Some(20)), None);
    }

    #[test]
    fn a_strict_log_that_cannot_be_written_fails_the_request() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("p.yaml");
        std::fs::write(&policy, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n").unwrap();
        let received = |strict: bool| {
            // Nothing is as full as this.
            let log = LogConfig { path: "/dev/full".to_owned(), strict, ..LogConfig::default() };
            let config = AuditConfig { policy_file: Some(policy.clone()), log: Some(log), webhook: None };
            let (parts, ()) = http::Request::get("/api").body(()).unwrap().into_parts();
            let audit = build(&config).unwrap().unwrap();
            audit.record(&UserInfo::default(), &RequestContext::default(), &parts).received()
        };
        assert!(received(false).is_ok());
        assert_eq!(received(true).unwrap_err().code, 500);
    }
}

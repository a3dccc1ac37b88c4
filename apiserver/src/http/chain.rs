//! The filters that every request passes, in order. A request moves down and never back up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::status::Status;
use component_base::serving::{Body, ConnInfo};
use futures::future::BoxFuture;
use http::header::ACCEPT;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;

use super::closing::Closing;
use super::health::Health;
use super::limits::{InFlight, is_long_running};
use super::metrics::RequestMetrics;
use super::request::{Annotations, Query, RequestContext, RequestInfo, UserInfo, Warnings, percent_decode};
use super::respond;
use crate::audit::{Audit, Record};
use crate::authn::Authenticator;
use crate::authn::impersonation::Impersonation;
use crate::authz::{self, Attributes, Authorizer as _, Decision};
use crate::flowcontrol::Fairness;

/// What is below the filters: everything that is served.
pub trait Route: Send + Sync {
    /// Answers a request that may be made by the user of the context.
    fn route<'a>(&'a self, context: RequestContext, request: Request<Incoming>) -> BoxFuture<'a, Response<Body>>;
}

/// Everything that the filters need.
pub struct Chain {
    /// Who asks.
    pub authn: Arc<dyn Authenticator>,
    /// May they.
    pub authz: Arc<authz::Union>,
    /// Is there room.
    pub room: Room,
    /// What is recorded; nothing when absent.
    pub audit: Option<Arc<Audit>>,
    /// Health endpoints.
    pub health: Health,
    /// Counters.
    pub metrics: RequestMetrics,
    /// For a request that is not long-running.
    pub timeout: Duration,
    /// What is served.
    pub route: Arc<dyn Route>,
    /// How it ends.
    pub closing: Arc<Closing>,
    /// Who may act as somebody else.
    pub impersonation: Impersonation,
}

/// How much is done at once.
pub enum Room {
    /// Two bounds for all.
    Bounds(InFlight),
    /// Priority levels.
    Levels(Arc<Fairness>),
}

/// What a request leaves on its way down.
#[derive(Default)]
struct Traces {
    record: Record,
    headers: HeaderMap,
    /// Its credentials were refused.
    refused: bool,
}

impl Chain {
    /// Answers a request.
    pub async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let begun = Instant::now();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let path = percent_decode(request.uri().path());
        let info = Arc::new(RequestInfo::parse(request.method(), &path, &query));
        if self.closing.refuses(&path) {
            return respond::shutting_down();
        }
        let _under_way = (!is_long_running(&info)).then(|| self.closing.request());
        let (warnings, annotations) = (Warnings::default(), Annotations::default());
        let audit_id = audit_id(request.headers());
        let dry_run = query.all("dryRun").any(|v| v == "All");
        let _counted = self.metrics.begin(&info.verb);
        let context = RequestContext {
            user: Arc::default(),
            info: Arc::clone(&info),
            warnings: warnings.clone(),
            annotations: annotations.clone(),
            now: Timestamp::now(),
            dry_run,
            audit: Record::default(),
            audit_id: audit_id.clone(),
            field_manager: field_manager(&query, request.headers()),
        };
        let accept: HeaderMap = request.headers().get_all(ACCEPT).iter().map(|v| (ACCEPT, v.clone())).collect();
        let mut traces = Traces::default();
        let outcome = self.pass(context, request, &mut traces).await;
        let response = respond::in_form(outcome.unwrap_or_else(|refusal| respond::status(&refusal)), &accept);
        for (key, note) in annotations.list() {
            traces.record.annotate(&key, &note);
        }
        let mut response = traces.record.answered(response, is_long_running(&info), traces.refused).await;
        response.headers_mut().extend(traces.headers);
        respond::finish(&mut response, &audit_id, &warnings);
        self.metrics.end(&info, dry_run, response.status().as_u16(), begun.elapsed());
        response
    }

    async fn pass(
        &self,
        mut context: RequestContext,
        request: Request<Incoming>,
        traces: &mut Traces,
    ) -> Result<Response<Body>, Status> {
        let (mut parts, body) = request.into_parts();
        let authenticated = self.authenticate(&parts).await;
        traces.refused = authenticated.is_err();
        if let Some(audit) = &self.audit {
            let nobody = UserInfo::default();
            traces.record = audit.record(authenticated.as_ref().unwrap_or(&nobody), &context, &parts);
            traces.record.prepare(&mut parts);
            context.audit = traces.record.clone();
        }
        let requester = Arc::new(authenticated?);
        traces.record.received()?;
        let acting =
            self.impersonation.apply(&self.authz, Arc::clone(&requester), &context.info, &parts.headers).await?;
        context.user = acting.user;
        if !Arc::ptr_eq(&requester, &context.user) {
            traces.record.impersonated(&context.user, acting.constraint.as_deref());
        }
        let (user, info) = (&context.user, &context.info);
        let place = match &self.room {
            Room::Bounds(bounds) => bounds.enter(user, info).map(|place| (place, None)),
            Room::Levels(levels) => levels.enter(user, info, &mut traces.headers).await.map(|seat| (None, seat)),
        };
        let Ok(_place) = place else { return Ok(respond::too_many_requests()) };
        let attributes = Attributes::of(Arc::clone(user), info);
        let asked = Instant::now();
        let decision = self.authz.authorize(&attributes).await;
        authz::measure::attempt(&decision, asked.elapsed());
        let (Decision::Allow { reason } | Decision::Deny { reason } | Decision::NoOpinion { reason }) = &decision;
        traces.record.authorized(decision.is_allowed(), reason);
        if !decision.is_allowed() {
            return Err(attributes.forbidden(reason));
        }
        if let Some(response) = self.own(&parts) {
            return Ok(response);
        }
        let long_running = is_long_running(&context.info);
        let work = self.route.route(context, Request::from_parts(parts, body));
        if long_running {
            return Ok(work.await);
        }
        tokio::time::timeout(self.timeout, work).await.map_err(|_| {
            let seconds = self.timeout.as_secs();
            Status::timeout(format!(
                "the request was not completed within {seconds} s; it may or may not have happened"
            ))
        })
    }

    async fn authenticate(&self, parts: &Parts) -> Result<UserInfo, Status> {
        let Some(connection) = parts.extensions.get::<ConnInfo>() else {
            return Err(Status::internal("the listener did not say who is connected"));
        };
        self.authn.authenticate(parts, connection).await
    }

    /// Endpoints of the server itself.
    fn own(&self, parts: &Parts) -> Option<Response<Body>> {
        let path = parts.uri.path();
        if let Some(response) = self.health.respond(path, parts.uri.query().unwrap_or_default()) {
            return Some(response);
        }
        match path {
            "/metrics" => {
                if let Room::Levels(levels) = &self.room {
                    levels.measure();
                }
                let mut response = respond::text(StatusCode::OK, component_base::metrics::render());
                let content_type = http::HeaderValue::from_static(component_base::metrics::CONTENT_TYPE);
                response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
                Some(response)
            }
            "/version" | "/version/" if parts.method != http::Method::GET => {
                Some(respond::status(&crate::endpoints::shape::method_not_allowed()))
            }
            "/version" | "/version/" if !crate::endpoints::negotiate::accepts_json(&parts.headers) => {
                Some(respond::status(&apimachinery::status::Status::not_acceptable("only application/json is served")))
            }
            "/version" | "/version/" => {
                let version = serde_json::to_value(component_base::version::info()).unwrap_or_default();
                Some(respond::json(StatusCode::OK, &version))
            }
            _ => None,
        }
    }
}

/// The client's own audit id, or a new one.
fn audit_id(headers: &HeaderMap) -> String {
    const MAX_BYTES: usize = 64;
    let given = headers.get("audit-id").and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty() && v.len() <= MAX_BYTES);
    given.map_or_else(new_uuid, str::to_owned)
}

/// A random UUID (version 4).
pub fn new_uuid() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// `fieldManager` of the query, or what the User-Agent says before its first slash.
fn field_manager(query: &Query, headers: &HeaderMap) -> String {
    if let Some(manager) = query.get("fieldManager").filter(|m| !m.is_empty()) {
        return manager.to_owned();
    }
    let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(128).collect()
}

//! What others may ask kube-proxy: `/healthz` and `/livez` (10256), `/metrics` (10249), and per Service with local traffic
//! policy whether this node has endpoints (health check node ports).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use component_base::metrics::{Counter, Family};
use component_base::serving::{Body, Server, full, service_fn};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::core::Desired;
use crate::metrics;

/// Freshness of the rules: healthy unless a change has been waiting for longer than twice the sync period.
#[derive(Clone, Debug)]
pub struct Freshness(Arc<RwLock<State>>, Duration);

#[derive(Debug)]
struct State {
    last_updated: jiff::Timestamp,
    /// Since when the oldest change waits to be written.
    pending: Option<Instant>,
    node_leaving: bool,
}

impl Freshness {
    /// Fresh now.
    pub fn new(sync_period: Duration) -> Self {
        let state = State { last_updated: jiff::Timestamp::now(), pending: None, node_leaving: false };
        Self(Arc::new(RwLock::new(state)), 2 * sync_period)
    }

    fn write(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// A change waits to be written.
    pub fn queued(&self) {
        self.write(|state| {
            state.pending.get_or_insert_with(Instant::now);
        });
    }

    /// Everything is written.
    pub fn updated(&self) {
        self.write(|state| (state.last_updated, state.pending) = (jiff::Timestamp::now(), None));
    }

    /// Whether the Node is about to go: load balancers should not send new connections.
    pub fn node_leaving(&self, deleted: bool) {
        self.write(|state| state.node_leaving = deleted);
    }

    /// The answer to `/healthz` (with the node's eligibility) or `/livez`.
    fn respond(&self, with_eligibility: bool) -> Response<Body> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let now = jiff::Timestamp::now();
        let live = state.pending.is_none_or(|since| since.elapsed() < self.1);
        // while nothing waits, the rules are as good as just written
        let last = if state.pending.is_none() { now } else { state.last_updated };
        let mut body = json!({"lastUpdated": last.to_string(), "currentTime": now.to_string()});
        if with_eligibility {
            body["nodeEligible"] = (!state.node_leaving).into();
        }
        answer(live && !(with_eligibility && state.node_leaving), "application/json", body.to_string())
    }
}

fn answer(good: bool, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response.headers_mut().insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    response
}

fn not_found() -> Response<Body> {
    let mut response = answer(false, "text/plain; charset=utf-8", "404 page not found\n".to_owned());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn counted(total: &Family<Counter>, response: Response<Body>) -> Response<Body> {
    total.with(&[response.status().as_str()]).inc();
    response
}

/// Serves `/healthz` and `/livez` until shutdown.
pub async fn serve_health(server: Server, freshness: Freshness, shutdown: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = match request.uri().path() {
            "/healthz" => counted(&metrics::HEALTHZ, freshness.respond(true)),
            "/livez" => counted(&metrics::LIVEZ, freshness.respond(false)),
            _ => not_found(),
        };
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    server.serve(None, service, shutdown).await;
}

/// Serves `/metrics`, `/proxyMode` and `/healthz` until shutdown.
pub async fn serve_metrics(server: Server, shutdown: CancellationToken) {
    let service = service_fn(|request: Request<Incoming>| {
        let text = |body: String| answer(true, "text/plain; version=0.0.4; charset=utf-8", body);
        let response = match request.uri().path() {
            "/metrics" => text(component_base::metrics::render()),
            "/proxyMode" => text("iptables".to_owned()),
            "/healthz" => text("ok".to_owned()),
            _ => not_found(),
        };
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    server.serve(None, service, shutdown).await;
}

/// The servers of health check node ports; each exists as long as its Service wants it.
#[derive(Debug, Default)]
pub struct ServiceHealth {
    servers: BTreeMap<u16, Checked>,
}

#[derive(Debug)]
struct Checked {
    state: tokio::sync::watch::Sender<LocalEndpoints>,
    stop: CancellationToken,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LocalEndpoints {
    service: (String, String),
    count: usize,
}

/// Which health check ports there must be, and what they answer. Pure.
fn wanted(desired: &Desired) -> BTreeMap<u16, LocalEndpoints> {
    let mut out: BTreeMap<u16, LocalEndpoints> = BTreeMap::new();
    for port in desired.ports.iter().filter(|p| p.health_check_node_port != 0 && p.external_local) {
        let entry = out.entry(port.health_check_node_port).or_default();
        entry.service.clone_from(&port.service);
        let local: std::collections::BTreeSet<IpAddr> =
            port.local_endpoints.iter().filter(|e| e.local).map(|e| e.ip).collect();
        entry.count = entry.count.max(local.len());
    }
    out
}

impl ServiceHealth {
    /// Starts, changes and stops servers so that they are what the desired state wants.
    pub fn update(&mut self, desired: &Desired, freshness: &Freshness) {
        let wanted = wanted(desired);
        self.servers.retain(|port, server| {
            let keep = wanted.contains_key(port);
            if !keep {
                server.stop.cancel();
            }
            keep
        });
        for (port, endpoints) in wanted {
            if let Some(server) = self.servers.get(&port) {
                server.state.send_replace(endpoints);
            } else if let Some(server) = start(port, endpoints, freshness.clone()) {
                self.servers.insert(port, server);
            }
        }
    }
}

fn start(port: u16, endpoints: LocalEndpoints, freshness: Freshness) -> Option<Checked> {
    let server = match Server::bind(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port) {
        Ok(server) => server,
        Err(error) => {
            let (namespace, name) = &endpoints.service;
            tracing::error!("health check node port of Service {namespace}/{name}: {error}");
            return None;
        }
    };
    let (state, reader) = tokio::sync::watch::channel(endpoints);
    let stop = CancellationToken::new();
    let service = service_fn(move |_: Request<Incoming>| {
        let response = health_answer(&reader.borrow(), &freshness);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    tokio::spawn(server.serve(None, service, stop.clone()));
    Some(Checked { state, stop })
}

fn health_answer(endpoints: &LocalEndpoints, freshness: &Freshness) -> Response<Body> {
    let healthy = freshness.respond(false).status() == StatusCode::OK;
    let (namespace, name) = &endpoints.service;
    let body = json!({"service": {"namespace": namespace, "name": name}, "localEndpoints": endpoints.count,
        "serviceProxyHealthy": healthy});
    let mut response = answer(healthy && endpoints.count > 0, "application/json", body.to_string());
    if let Ok(weight) = http::HeaderValue::from_str(&endpoints.count.to_string()) {
        response.headers_mut().insert("x-load-balancing-endpoint-weight", weight);
    }
    response
}

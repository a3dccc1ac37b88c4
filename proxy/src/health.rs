//! What others may ask kube-proxy: `/healthz` and `/livez` (10256), `/metrics` (10249), and per Service with local traffic
//! policy whether this node has endpoints (health check node ports).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use component_base::metrics::{Counter, Family as Metrics};
use component_base::serving::{Body, Server, full, service_fn};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::core::{Change, Family, Ports, ServiceKey};
use crate::metrics;
use crate::settings::{NodePortAddresses, Settings};

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

fn counted(total: &Metrics<Counter>, response: Response<Body>) -> Response<Body> {
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
pub async fn serve_metrics(server: Server, mode: &'static str, shutdown: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let text = |body: String| answer(true, "text/plain; version=0.0.4; charset=utf-8", body);
        let response = match request.uri().path() {
            "/metrics" => text(component_base::metrics::render()),
            "/proxyMode" => text(mode.to_owned()),
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
    wanted: BTreeMap<(ServiceKey, Family), LocalEndpoints>,
    servers: BTreeMap<(IpAddr, u16), Checked>,
}

#[derive(Debug)]
struct Checked {
    state: tokio::sync::watch::Sender<LocalEndpoints>,
    stop: CancellationToken,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LocalEndpoints {
    service: ServiceKey,
    port: u16,
    count: usize,
}

/// The health check port of a Service and what it answers. Pure.
fn wanted(ports: &Ports) -> Option<LocalEndpoints> {
    let checked = || ports.iter().filter(|p| p.health_check_node_port != 0 && p.external_local);
    let first = checked().next()?;
    let count = checked().flat_map(|port| &port.ready_here).collect::<BTreeSet<_>>().len();
    Some(LocalEndpoints { service: first.service.clone(), port: first.health_check_node_port, count })
}

/// Where the servers listen: where node ports answer. Everywhere means both families by one socket, if there are both.
pub fn listen_addresses(families: &[Settings]) -> Vec<IpAddr> {
    let mut out = BTreeSet::new();
    for settings in families {
        match &settings.node_port_addresses {
            NodePortAddresses::Only(ips) => out.extend(ips.iter().copied()),
            NodePortAddresses::All if settings.family == Family::V4 => drop(out.insert(Ipv4Addr::UNSPECIFIED.into())),
            NodePortAddresses::All => drop(out.insert(Ipv6Addr::UNSPECIFIED.into())),
        }
    }
    if out.contains(&Ipv6Addr::UNSPECIFIED.into()) {
        out.retain(|ip| *ip == IpAddr::from(Ipv6Addr::UNSPECIFIED));
    }
    out.into_iter().collect()
}

impl ServiceHealth {
    /// Takes over what changed in one family.
    pub fn change(&mut self, family: Family, changes: &[Change]) {
        for change in changes {
            if let Some(old) = wanted(&change.old) {
                self.wanted.remove(&(old.service, family));
            }
            if let Some(new) = wanted(&change.new) {
                self.wanted.insert((new.service.clone(), family), new);
            }
        }
    }

    /// Starts, changes and stops servers at these addresses so that they are what Services want.
    pub fn serve(&mut self, addresses: &[IpAddr], freshness: &Freshness) {
        let mut ports: BTreeMap<u16, &LocalEndpoints> = BTreeMap::new();
        for endpoints in self.wanted.values() {
            let entry = ports.entry(endpoints.port).or_insert(endpoints);
            if endpoints.count > entry.count {
                *entry = endpoints;
            }
        }
        let wanted: BTreeMap<(IpAddr, u16), &LocalEndpoints> =
            ports.into_iter().flat_map(|(port, e)| addresses.iter().map(move |ip| ((*ip, port), e))).collect();
        self.servers.retain(|at, server| {
            let keep = wanted.contains_key(at);
            if !keep {
                server.stop.cancel();
            }
            keep
        });
        for (at, endpoints) in wanted {
            if let Some(server) = self.servers.get(&at) {
                server.state.send_replace(endpoints.clone());
            } else if let Some(server) = start(at, endpoints.clone(), freshness.clone()) {
                self.servers.insert(at, server);
            }
        }
    }
}

fn start((ip, port): (IpAddr, u16), endpoints: LocalEndpoints, freshness: Freshness) -> Option<Checked> {
    let server = match Server::bind(ip, port) {
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

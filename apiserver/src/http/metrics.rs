//! What is counted of requests, with upstream's names and labels.

use std::time::Duration;

use component_base::metrics::{self, Counter, Family, Gauge, Histogram};

use super::limits::is_mutating;
use super::request::RequestInfo;

const SECONDS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

/// The families of one server.
pub struct RequestMetrics {
    total: Family<Counter>,
    duration: Family<Histogram>,
    in_flight: Family<Gauge>,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        Self {
            total: metrics::counter(
                "apiserver_request_total",
                "Requests by verb, resource, scope and status",
                &["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "code"],
            ),
            duration: metrics::histogram(
                "apiserver_request_duration_seconds",
                "Time from the request's head to the answer's head",
                &["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"],
                SECONDS,
            ),
            in_flight: metrics::gauge(
                "apiserver_current_inflight_requests",
                "Requests that are being worked on",
                &["request_kind"],
            ),
        }
    }
}

/// How much a request is about.
pub fn scope(info: &RequestInfo) -> &'static str {
    match (info.name.is_empty(), info.namespace.is_empty()) {
        (false, _) => "resource",
        (true, false) => "namespace",
        (true, true) => "cluster",
    }
}

/// Counts a request as in flight until dropped.
pub struct InFlightGuard(std::sync::Arc<Gauge>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl RequestMetrics {
    /// A request began.
    pub fn begin(&self, verb: &str) -> InFlightGuard {
        let gauge = self.in_flight.with(&[if is_mutating(verb) { "mutating" } else { "readOnly" }]);
        gauge.inc();
        InFlightGuard(gauge)
    }

    /// A request was answered.
    pub fn end(&self, info: &RequestInfo, dry_run: bool, code: u16, took: Duration) {
        if !info.is_resource_request {
            return;
        }
        let verb = match info.verb.as_str() {
            "get" if info.subresource == "log" => "CONNECT".to_owned(),
            "create" => "POST".to_owned(),
            "update" => "PUT".to_owned(),
            verb => verb.to_ascii_uppercase(),
        };
        let dry = if dry_run { "All" } else { "" };
        let labels = [
            verb.as_str(),
            dry,
            info.api_group.as_str(),
            info.api_version.as_str(),
            info.resource.as_str(),
            info.subresource.as_str(),
            scope(info),
            "apiserver",
        ];
        self.duration.with(&labels).observe_duration(took);
        let code = code.to_string();
        self.total.with(&[&labels[..], &[code.as_str()]].concat()).inc();
    }
}

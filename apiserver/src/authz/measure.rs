//! What is counted of authorization, with upstream's names and labels.

use std::sync::LazyLock;
use std::time::Duration;

use component_base::metrics::{self, Counter, Family, Histogram};

use super::Decision;
use crate::authn::SECONDS;

static ATTEMPTS: LazyLock<Family<Counter>> =
    LazyLock::new(|| metrics::counter("authorization_attempts_total", "Requests by what was decided", &["result"]));
static DURATION: LazyLock<Family<Histogram>> = LazyLock::new(|| {
    metrics::histogram(
        "authorization_duration_seconds",
        "Time to tell whether a request may be made",
        &["result"],
        SECONDS,
    )
});

/// Decisions by authorizer.
pub(super) fn decisions() -> Family<Counter> {
    let help = "Final decisions by authorizer";
    metrics::counter("apiserver_authorization_decisions_total", help, &["decision", "name", "type"])
}

/// A request was decided on.
pub(crate) fn attempt(decision: &Decision, took: Duration) {
    let result = match decision {
        Decision::Allow { .. } => "allowed",
        Decision::Deny { .. } => "denied",
        Decision::NoOpinion { .. } => "no-opinion",
    };
    ATTEMPTS.with(&[result]).inc();
    DURATION.with(&[result]).observe_duration(took);
}

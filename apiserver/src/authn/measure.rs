//! What is counted of authentication, with upstream's names and labels.

use std::sync::LazyLock;
use std::time::Duration;

use component_base::metrics::{self, Counter, Family, Histogram};

use super::Refused;
use crate::http::request::UserInfo;

/// From a millisecond on, each twice the one before.
pub(crate) const SECONDS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;
const REMAINING_SECONDS: &[f64] = &[
    0.0,
    HOUR / 2.0,
    HOUR,
    2.0 * HOUR,
    6.0 * HOUR,
    12.0 * HOUR,
    DAY,
    2.0 * DAY,
    4.0 * DAY,
    7.0 * DAY,
    30.0 * DAY,
    90.0 * DAY,
    180.0 * DAY,
    360.0 * DAY,
];

static USERS: LazyLock<Family<Counter>> =
    LazyLock::new(|| metrics::counter("authenticated_user_requests", "Requests by kind of user name", &["username"]));
static ATTEMPTS: LazyLock<Family<Counter>> = LazyLock::new(|| {
    metrics::counter("authentication_attempts", "Requests by what their credentials led to", &["result"])
});
static DURATION: LazyLock<Family<Histogram>> = LazyLock::new(|| {
    metrics::histogram("authentication_duration_seconds", "Time to tell who asks", &["result"], SECONDS)
});
static REMAINING: LazyLock<Family<Histogram>> = LazyLock::new(|| {
    let help = "Remaining life of client certificates when they are verified";
    metrics::histogram("apiserver_client_certificate_expiration_seconds", help, &[], REMAINING_SECONDS)
});

/// User names are too many to be labels.
fn kind_of(name: &str) -> &str {
    match name {
        "admin" | "client" | "kube_proxy" | "kubelet" | "system:serviceaccount:kube-system:default" => name,
        _ if name.contains('@') => "email_id",
        _ => "other",
    }
}

/// A request's credentials, or their absence, were judged.
pub(super) fn attempt(outcome: &Result<Option<UserInfo>, Refused>, took: Duration) {
    let result = match outcome {
        Ok(Some(user)) => {
            USERS.with(&[kind_of(&user.name)]).inc();
            "success"
        }
        Ok(None) => "failure",
        Err(_) => "error",
    };
    ATTEMPTS.with(&[result]).inc();
    DURATION.with(&[result]).observe_duration(took);
}

/// A client certificate was verified.
pub(super) fn certificate(remaining: Duration) {
    REMAINING.one().observe_duration(remaining);
}

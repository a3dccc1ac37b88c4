//! What is counted of calls to etcd, with upstream's names and labels.

use std::sync::LazyLock;
use std::time::Instant;

use component_base::metrics::{self, Counter, Family, Histogram};

const SECONDS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
const LABELS: &[&str] = &["group", "operation", "resource"];

static DURATION: LazyLock<Family<Histogram>> = LazyLock::new(|| {
    metrics::histogram("etcd_request_duration_seconds", "Time of calls to etcd by what they are about", LABELS, SECONDS)
});
static REQUESTS: LazyLock<Family<Counter>> =
    LazyLock::new(|| metrics::counter("etcd_requests_total", "Calls to etcd by what they are about", LABELS));
static ERRORS: LazyLock<Family<Counter>> =
    LazyLock::new(|| metrics::counter("etcd_request_errors_total", "Calls to etcd that failed", LABELS));

/// Times a call about a resource (group and plural; both empty for keys that are no objects).
pub(super) async fn call<T, E>(
    operation: &str,
    (group, resource): (&str, &str),
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let begun = Instant::now();
    let outcome = call.await;
    let labels = [group, operation, resource];
    DURATION.with(&labels).observe_duration(begun.elapsed());
    REQUESTS.with(&labels).inc();
    if outcome.is_err() {
        ERRORS.with(&labels).inc();
    }
    outcome
}

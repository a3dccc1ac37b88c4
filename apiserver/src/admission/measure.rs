//! What is counted of admission, with upstream's names and labels.

use std::sync::LazyLock;
use std::time::Instant;

use apimachinery::status::Status;
use component_base::metrics::{self, Family, Histogram};

use super::Operation;

const SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5];

static STEPS: LazyLock<Family<Histogram>> = LazyLock::new(|| {
    let name = "apiserver_admission_step_admission_duration_seconds";
    metrics::histogram(name, "Time of all plugins of a kind", &["operation", "rejected", "type"], SECONDS)
});

/// Times one of the two rounds, `admit` or `validate`.
pub(super) async fn step(
    kind: &str,
    operation: Operation,
    round: impl Future<Output = Result<(), Status>>,
) -> Result<(), Status> {
    let begun = Instant::now();
    let outcome = round.await;
    let rejected = if outcome.is_err() { "true" } else { "false" };
    STEPS.with(&[operation.as_str(), rejected, kind]).observe_duration(begun.elapsed());
    outcome
}

//! `ttl-after-finished-controller`: removes finished jobs (and their pods) when their time is up.

use std::time::Duration;

use jiff::Timestamp;

use crate::framework::backoff::remaining;
use crate::framework::{Action, Controller, Executor, Key, Setup, Store, SyncResult, View};
use crate::views::batch::JobView;
use crate::views::meta::is_deleting;

/// Registers `ttl-after-finished-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("ttl_jobs_to_delete");
    let jobs = setup.stores.of::<JobView>();
    let wake = queue.clone();
    jobs.on(move |delta| {
        if time_left(delta.object(), Timestamp::now()).is_some() {
            wake.add(Key::of(&delta.object().metadata));
        }
    });
    let executor = setup.executor("ttl-after-finished-controller");
    let workers = setup.config.concurrent.ttl_after_finished;
    setup.workers(queue, workers, TtlAfterFinished { jobs, executor });
}

/// How long a finished job may stay; None when it has no such limit, has not finished, or is going already.
pub fn time_left(job: &JobView, now: Timestamp) -> Option<Duration> {
    let seconds = job.spec.ttl_seconds_after_finished?;
    if is_deleting(&job.metadata) {
        return None;
    }
    let finished = job
        .status
        .conditions
        .iter()
        .find(|condition| matches!(condition.kind.as_str(), "Complete" | "Failed") && condition.status == "True")?;
    Some(remaining(finished.last_transition_time.0?, seconds, now))
}

struct TtlAfterFinished {
    jobs: Store<JobView>,
    executor: Executor,
}

impl Controller for TtlAfterFinished {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(job) = self.jobs.get(&key.namespace, &key.name) else { return Ok(None) };
        let Some(left) = time_left(&job, Timestamp::now()) else { return Ok(None) };
        if !left.is_zero() {
            return Ok(Some(left));
        }
        // The time may have been changed a moment ago: the server knows best.
        let fresh: JobView = self.executor.get(&key.namespace, &key.name).await?;
        match time_left(&fresh, Timestamp::now()) {
            Some(left) if left.is_zero() => {
                let target = fresh.target();
                let uid = fresh.metadata.uid.clone();
                let propagation = Some("Foreground");
                self.executor.apply(Action::Delete { target, uid, grace_period_seconds: None, propagation }).await?;
                Ok(None)
            }
            left => Ok(left),
        }
    }
}

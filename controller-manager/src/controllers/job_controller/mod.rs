//! `job-controller`: pods that run to their end, as often as a job wants.

pub mod assess;
pub mod indexes;
pub mod manage;
pub mod policy;
pub mod status;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use component_base::metrics::{self, Counter, Family};
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::json;

use self::assess::{Assessment, FINALIZER, Finish, Snapshot, assess, completed, decided};
use self::manage::{Manage, manage, pod_for};
use super::wake::{selecting, watch_dependents, watch_owners};
use crate::framework::backoff::remaining;
use crate::framework::claim::claim;
use crate::framework::plan::{PatchBody, controller_of};
use crate::framework::{
    Action, Controller, EventKind, Executor, Expectations, Key, Plan, Setup, Store, Subject, SyncError, SyncResult,
    Target, View,
};
use crate::views::batch::{JobStatus, JobView};
use crate::views::meta::{count, is_deleting};
use crate::views::orphans_of;
use crate::views::pod::{self, PodView};

const OURS: &str = "kubernetes.io/job-controller";
const FIRST_BACKOFF_SECONDS: i64 = 10;
const LAST_BACKOFF_SECONDS: i64 = 600;

static FINISHED: LazyLock<Family<Counter>> = LazyLock::new(|| {
    metrics::counter("job_controller_jobs_finished_total", "Jobs that ended.", &["completion_mode", "reason", "result"])
});
static PODS_FINISHED: LazyLock<Family<Counter>> = LazyLock::new(|| {
    metrics::counter(
        "job_controller_job_pods_finished_total",
        "Pods that were counted.",
        &["completion_mode", "result"],
    )
});

/// Registers `job-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("job");
    let jobs = setup.stores.of::<JobView>();
    let pods = setup.stores.of::<PodView>();
    let expectations = Arc::new(Expectations::default());
    watch_owners(&jobs, &queue, &expectations);
    let selects = selecting(&jobs, |job| &job.spec.selector);
    watch_dependents(&pods, JobView::RESOURCE.kind.as_ref(), &queue, &expectations, selects);
    let executor = setup.executor("job-controller");
    let workers = setup.config.concurrent.job;
    let orphans = setup.queue("job_orphan_pod");
    let wake = orphans.clone();
    pods.on(move |delta| {
        let pod = delta.object();
        if holds_finalizer(pod) && controller_of(&pod.metadata).is_none() {
            wake.add(Key::of(&pod.metadata));
        }
    });
    setup.workers(orphans, 1, Orphans { pods: pods.clone(), executor: executor.clone() });
    setup.workers(queue, workers, Jobs { jobs, pods, expectations, executor, memory: Mutex::default() });
}

/// What this process remembers of a job.
#[derive(Debug, Default)]
struct Memory {
    /// Pods let go, that the cache still shows with the finalizer.
    released: HashSet<String>,
    /// Failures since the last success.
    failures: u32,
    last_failure: Option<Timestamp>,
}

struct Jobs {
    jobs: Store<JobView>,
    pods: Store<PodView>,
    expectations: Arc<Expectations>,
    executor: Executor,
    memory: Mutex<HashMap<Key, Memory>>,
}

impl Controller for Jobs {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.step(key))
    }
}

fn holds_finalizer(pod: &PodView) -> bool {
    pod.metadata.finalizers.iter().any(|name| name == FINALIZER)
}

fn release(pod: &PodView) -> Action {
    Action::Patch {
        target: Target::of(&PodView::RESOURCE, &pod.metadata),
        subresource: None,
        patch: PatchBody::Strategic(json!({"metadata": {
            "uid": pod.metadata.uid,
            "$deleteFromPrimitiveList/finalizers": [FINALIZER],
        }})),
    }
}

/// Pods that lost their job with the finalizer still on.
struct Orphans {
    pods: Store<PodView>,
    executor: Executor,
}

impl Controller for Orphans {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(async move {
            let pod = self.pods.get(&key.namespace, &key.name);
            if let Some(pod) = pod.filter(|pod| holds_finalizer(pod) && controller_of(&pod.metadata).is_none()) {
                self.executor.apply(release(&pod)).await?;
            }
            Ok(None)
        })
    }
}

impl Jobs {
    fn memory(&self) -> MutexGuard<'_, HashMap<Key, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn step(&self, key: &Key) -> SyncResult {
        let Some(job) = self.jobs.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            self.memory().remove(key);
            return self.let_go_of_orphans(key).await.map(|()| None);
        };
        let foreign = job.spec.managed_by.as_deref().is_some_and(|by| by != OURS);
        if foreign || job.is_finished() {
            return Ok(None);
        }
        let now = Timestamp::now();
        let subject = Subject::of(&JobView::RESOURCE, &job.metadata);
        let settled = self.expectations.satisfied(key);
        let pods = self.claim(&job, &subject).await?;
        let released = self.still_released(key, &pods);
        let mut a = assess(&Snapshot { job: &job, pods: &pods, released: &released, now });
        if a.finish.is_some() && decided(&job).is_none() {
            // The decision is written before anything follows from it: otherwise the pods that it ends would be judged.
            let status = status::written_down(&job, &a, count(a.active.len()), now);
            self.write(&job, &job.status, &status, true).await?;
            return Ok(None);
        }
        self.remember_ends(key, &job, &a, now);
        let (active, failure) = self.act(&job, &subject, &mut a, settled, now).await;
        let status = self.write_status(&job, &subject, &a, active, settled, now).await?;
        match failure {
            Some(error) => Err(error),
            None if status => Ok(None),
            None => Ok(a.again),
        }
    }

    /// Pods of a job that is gone are not counted any more.
    async fn let_go_of_orphans(&self, key: &Key) -> Result<(), SyncError> {
        for pod in self.pods.by_index(pod::BY_NAMESPACE, &key.namespace) {
            let of_job = controller_of(&pod.metadata)
                .is_some_and(|owner| owner.kind == JobView::RESOURCE.kind && owner.name == key.name);
            if of_job && holds_finalizer(&pod) {
                match self.executor.apply(release(&pod)).await {
                    Err(error) if error.is_not_found() => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }

    async fn claim(&self, job: &JobView, subject: &Subject) -> Result<Vec<Arc<PodView>>, SyncError> {
        let mut candidates = self.pods.by_index(pod::BY_OWNER, &subject.uid);
        candidates.extend(self.pods.by_index(pod::BY_OWNER, &orphans_of(&subject.key.namespace)));
        let claims = claim(subject, &job.metadata, &job.spec.selector, candidates, |_| true);
        let adopted: Vec<String> = claims
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Adopt { uid, .. } => Some(uid.clone()),
                _ => None,
            })
            .collect();
        self.executor.run(Plan { actions: claims.actions, again_after: None }).await?;
        for pod in claims.owned.iter().filter(|pod| adopted.contains(&pod.metadata.uid) && !holds_finalizer(pod)) {
            let patch = json!({"metadata": {"uid": pod.metadata.uid, "finalizers": [FINALIZER]}});
            let target = Target::of(&PodView::RESOURCE, &pod.metadata);
            self.executor
                .apply(Action::Patch { target, subresource: None, patch: PatchBody::Strategic(patch) })
                .await?;
        }
        Ok(claims.owned)
    }

    /// Forgets releases that the cache has seen; returns the others.
    fn still_released(&self, key: &Key, pods: &[Arc<PodView>]) -> HashSet<String> {
        let mut memory = self.memory();
        let memory = memory.entry(key.clone()).or_default();
        memory.released.retain(|uid| pods.iter().any(|pod| pod.metadata.uid == *uid && holds_finalizer(pod)));
        memory.released.clone()
    }

    /// Failures in a row make the pauses between new pods grow.
    fn remember_ends(&self, key: &Key, job: &JobView, a: &Assessment, now: Timestamp) {
        let mut memory = self.memory();
        let memory = memory.entry(key.clone()).or_default();
        let known = job.status.uncounted_terminated_pods.clone().unwrap_or_default();
        for pod in &a.release {
            if pod.status.phase == "Succeeded" {
                memory.failures = 0;
                memory.last_failure = None;
            } else if a.uncounted_failed.contains(&pod.metadata.uid) && !known.failed.contains(&pod.metadata.uid) {
                memory.failures += 1;
                memory.last_failure = Some(now);
            }
        }
    }

    fn pause(&self, key: &Key, now: Timestamp) -> Duration {
        let memory = self.memory();
        let Some((failures, since)) = memory.get(key).and_then(|m| Some((m.failures, m.last_failure?))) else {
            return Duration::ZERO;
        };
        let seconds = FIRST_BACKOFF_SECONDS.saturating_mul(1_i64 << failures.saturating_sub(1).min(10));
        remaining(since, seconds.min(LAST_BACKOFF_SECONDS), now)
    }

    /// Creates and deletes pods; returns how many are active afterwards, and the first failure.
    async fn act(
        &self,
        job: &JobView,
        subject: &Subject,
        a: &mut Assessment,
        settled: bool,
        now: Timestamp,
    ) -> (i32, Option<SyncError>) {
        let active = count(a.active.len());
        if let Some(finish) = &a.finish {
            // Of a job that failed they are failures, so their finalizers stay until they are counted.
            let (deleted, error) = self.delete(subject, &a.active, finish.success).await;
            return (active - deleted, error);
        }
        if !settled || is_deleting(&job.metadata) {
            return (active, None);
        }
        match manage(job, a) {
            Manage::Delete(pods) => {
                let (deleted, error) = self.delete(subject, &pods, true).await;
                (active - deleted, error)
            }
            Manage::Create(indexes) if indexes.is_empty() => (active, None),
            Manage::Create(indexes) => {
                let pause = self.pause(&subject.key, now);
                if !pause.is_zero() {
                    a.again = Some(a.again.map_or(pause, |before| before.min(pause)));
                    return (active, None);
                }
                self.expectations.expect(&subject.key, indexes.len(), []);
                let make = |number: usize| {
                    let failures = job
                        .spec
                        .backoff_limit_per_index
                        .map(|_| indexes[number].and_then(|index| a.index_failures.get(&index).copied()).unwrap_or(0));
                    pod_for(job, subject, indexes[number], failures)
                };
                let started = self.executor.slow_start(subject, &PodView::RESOURCE, indexes.len(), make).await;
                for _ in 0..indexes.len() - started.succeeded {
                    self.expectations.creation_observed(&subject.key);
                }
                let error = started.error.filter(|error| !error.is_namespace_terminating());
                (active + count(started.succeeded), error)
            }
        }
    }

    async fn delete(&self, subject: &Subject, pods: &[Arc<PodView>], uncounted: bool) -> (i32, Option<SyncError>) {
        if pods.is_empty() {
            return (0, None);
        }
        self.expectations.expect(&subject.key, 0, pods.iter().map(|pod| pod.metadata.uid.clone()));
        if uncounted {
            let releases = pods.iter().filter(|pod| holds_finalizer(pod)).map(|pod| release(pod)).collect();
            self.executor.each(releases).await;
            let uids = pods.iter().map(|pod| pod.metadata.uid.clone());
            self.memory().entry(subject.key.clone()).or_default().released.extend(uids);
        }
        let (mut deleted, mut first) = (0, None);
        for (pod, result) in pods.iter().zip(self.executor.delete_pods(subject, pods).await) {
            match result {
                Ok(()) => deleted += 1,
                Err(error) => {
                    self.expectations.deletion_observed(&subject.key, &pod.metadata.uid);
                    first.get_or_insert(error);
                }
            }
        }
        (deleted, first)
    }

    /// Writes ended pods down, lets them go, counts them, and closes the job when nothing is left. True when it closed.
    async fn write_status(
        &self,
        job: &JobView,
        subject: &Subject,
        a: &Assessment,
        active: i32,
        settled: bool,
        now: Timestamp,
    ) -> Result<bool, SyncError> {
        let idle = settled && active == 0;
        let finish =
            a.finish.clone().or_else(|| completed(job, a, usize::try_from(active).unwrap_or(0)).filter(|_| settled));
        let a_with_finish = Assessment { finish: finish.clone(), ..copy_of(a) };
        let mut status = status::written_down(job, &a_with_finish, active, now);
        let event = if finish.is_none() && settled { status::suspension(job, &mut status, now) } else { None };
        self.write(job, &job.status, &status, true).await?;
        if let Some((reason, note)) = event {
            self.executor.event(subject, EventKind::Normal, reason, note);
        }
        let mut released = Vec::new();
        for (pod, result) in
            a.release.iter().zip(self.executor.each(a.release.iter().map(|pod| release(pod)).collect()).await)
        {
            match result {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {
                    let result = if pod.status.phase == "Succeeded" { "succeeded" } else { "failed" };
                    PODS_FINISHED.with(&[&job.spec.completion_mode, result]).inc();
                    released.push(pod.metadata.uid.clone());
                }
            }
        }
        self.memory().entry(subject.key.clone()).or_default().released.extend(released.iter().cloned());
        let mut after = status::counted(status.clone(), &released);
        // Everything of the job has ended and is counted.
        let closes = finish.filter(|_| idle && a.active.is_empty() && a.terminating == 0);
        if let Some(finish) = &closes {
            after = status::closed(after, finish, now);
        }
        self.write(job, &status, &after, false).await?;
        if let Some(finish) = &closes {
            self.tell(job, subject, finish);
        }
        Ok(closes.is_some())
    }

    fn tell(&self, job: &JobView, subject: &Subject, finish: &Finish) {
        let result = if finish.success { "succeeded" } else { "failed" };
        FINISHED.with(&[&job.spec.completion_mode, &finish.reason, result]).inc();
        if finish.success {
            self.executor.event(subject, EventKind::Normal, "Completed", "Job completed");
        } else {
            let reason = FAILURE_REASONS.iter().find(|reason| **reason == finish.reason).unwrap_or(&"JobFailed");
            self.executor.event(subject, EventKind::Warning, reason, finish.message.as_str());
        }
    }

    async fn write(&self, job: &JobView, from: &JobStatus, to: &JobStatus, guarded: bool) -> Result<(), SyncError> {
        let version = guarded.then_some(job.metadata.resource_version.as_str());
        let Some(change) = status::change(from, to, version) else { return Ok(()) };
        let target = Target::of(&JobView::RESOURCE, &job.metadata);
        self.executor.apply(Action::Change { target, subresource: Some("status"), change }).await
    }
}

/// Reasons of failures, as events name them.
const FAILURE_REASONS: &[&str] =
    &["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy", "MaxFailedIndexesExceeded", "FailedIndexes"];

/// The assessment without what `written_down` does not read.
fn copy_of(a: &Assessment) -> Assessment {
    Assessment {
        ready: a.ready,
        terminating: a.terminating,
        succeeded_indexes: a.succeeded_indexes.clone(),
        failed_indexes: a.failed_indexes.clone(),
        settled: a.settled,
        uncounted_succeeded: a.uncounted_succeeded.clone(),
        uncounted_failed: a.uncounted_failed.clone(),
        ..Assessment::default()
    }
}

//! `job-controller`: pods that run to their end, as often as a job wants.

pub mod assess;
pub mod backoff;
pub mod indexes;
pub mod manage;
pub mod policy;
pub mod status;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::informer::Delta;
use component_base::metrics::{self, Counter, Family};
use jiff::Timestamp;
use serde_json::{Value, json};

use self::assess::{Assessment, FINALIZER, Finish, Snapshot, assess, completed, holds_finalizer};
use self::backoff::Backoff;
use self::manage::{Manage, failures_after, manage, pod_for};
use self::status::{Step, written_down};
use super::wake::{Wake, selecting, watch_dependents};
use crate::framework::claim::claim;
use crate::framework::plan::controller_of;
use crate::framework::pod_control::PodControl;
use crate::framework::{
    Action, Controller, EventKind, Executor, Expectations, Key, Plan, Queue, Setup, Store, Subject, SyncError,
    SyncResult, View,
};
use crate::views::batch::{JobStatus, JobView};
use crate::views::meta::{count, created, is_deleting};
use crate::views::orphans_of;
use crate::views::pod::{self, PodView};

const OURS: &str = "kubernetes.io/job-controller";

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

/// Pod events and status writes come in bursts: they lead to one step a second, as upstream's do. What a status says for a moment only
/// is then not written. Upstream writes a new job's figures at once; here they wait for its pods' first burst too.
const BATCH: Duration = Duration::from_secs(1);
/// How soon to look again when the cache does not show the own last write yet.
const CACHE_LAG: Duration = Duration::from_millis(20);

/// Registers `job-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("job");
    let jobs = setup.stores.of::<JobView>();
    let pods = setup.stores.of::<PodView>();
    let expectations = Arc::new(Expectations::default());
    watch_jobs(&jobs, &queue);
    let wake = Wake { queue: queue.clone(), expectations: Arc::clone(&expectations), delay: BATCH };
    watch_dependents(&pods, JobView::RESOURCE.kind.as_ref(), wake, selecting(&jobs, |job| &job.spec.selector));
    let executor = setup.executor("job-controller");
    let workers = setup.config.concurrent.job;
    let orphans = setup.queue("job_orphan_pod");
    watch_orphans(&jobs, &pods, &orphans);
    setup.workers(orphans, 1, Orphans { jobs: jobs.clone(), pods: pods.clone(), executor: executor.clone() });
    let control = PodControl::new(&executor, &expectations);
    setup.workers(queue, workers, Jobs { jobs, pods, expectations, executor, control, memory: Mutex::default() });
}

fn watch_jobs(jobs: &Store<JobView>, queue: &Queue) {
    let queue = queue.clone();
    jobs.on(move |delta| {
        let job = delta.object();
        let same = |old: &JobView| old.metadata.generation == job.metadata.generation && !job.is_finished();
        let delay = match delta {
            Delta::Updated { old, .. } if same(old) => BATCH,
            _ => Duration::ZERO,
        };
        queue.add_after(Key::of(&job.metadata), delay);
    });
}

/// Pods that lost their job, or whose job has gone or ended, must not keep the finalizer.
fn watch_orphans(jobs: &Store<JobView>, pods: &Store<PodView>, queue: &Queue) {
    let wake = queue.clone();
    pods.on(move |delta| {
        let pod = delta.object();
        if holds_finalizer(pod) && (controller_of(&pod.metadata).is_none() || is_deleting(&pod.metadata)) {
            wake.add(Key::of(&pod.metadata));
        }
    });
    let (wake, pods) = (queue.clone(), pods.clone());
    jobs.on(move |delta| {
        let job = delta.object();
        if matches!(delta, Delta::Deleted(_)) || job.is_finished() {
            let held = pods.by_index(pod::BY_OWNER, &job.metadata.uid);
            held.iter().filter(|pod| holds_finalizer(pod)).for_each(|pod| wake.add(Key::of(&pod.metadata)));
        }
    });
}

/// What this process remembers of a job.
#[derive(Debug, Default)]
struct Memory {
    /// Pods let go, that the cache still shows with the finalizer.
    released: HashSet<String>,
    /// Failures in a row.
    backoff: Backoff,
    /// The version of the last status that was written.
    written: u64,
    /// When the job was first looked at.
    started: Option<Timestamp>,
}

struct Jobs {
    jobs: Store<JobView>,
    pods: Store<PodView>,
    expectations: Arc<Expectations>,
    executor: Executor,
    control: PodControl,
    memory: Mutex<HashMap<Key, Memory>>,
}

impl Controller for Jobs {
    async fn sync(&self, key: &Key) -> SyncResult {
        let job = self.jobs.get(&key.namespace, &key.name);
        let Some(job) = job.filter(|job| !job.is_finished()) else {
            self.expectations.forget(key);
            self.memory().remove(key);
            return Ok(None);
        };
        if is_foreign(&job) {
            return Ok(None);
        }
        let version: u64 = job.metadata.resource_version.parse().unwrap_or(u64::MAX);
        if self.memory().get(key).is_some_and(|memory| version < memory.written) {
            return Ok(Some(CACHE_LAG));
        }
        let now = Timestamp::now();
        let subject = job.subject();
        let settled = self.expectations.satisfied(key);
        let pods = self.claim(&job, &subject).await?;
        let (released, backoff) = self.recall(key, &pods);
        let known = self.memory().get(key).and_then(|memory| memory.started).filter(|at| *at >= created(&job.metadata));
        let started = known.unwrap_or(now);
        let snapshot = Snapshot { job: &job, pods: &pods, released: &released, backoff, started, now };
        let a = assess(&snapshot);
        let acted = self.act(&snapshot, &subject, &a, settled).await;
        if known.is_none() {
            self.remember(key, |memory| memory.started = Some(now));
            let eventful = job.spec.suspend || acted.step.finish.is_some() || acted.failure.is_some();
            if job.status == JobStatus::default() && pods.is_empty() && !eventful {
                return Ok([a.again, acted.again, Some(BATCH)].into_iter().flatten().min());
            }
        }
        self.write_status(&snapshot, &subject, &a, &acted).await?;
        match acted.failure {
            Some(error) => Err(error),
            None => Ok([a.again, acted.again].into_iter().flatten().min()),
        }
    }
}

fn release(pod: &PodView) -> Action {
    pod.target().patch(json!({"metadata": {
        "uid": pod.metadata.uid,
        "$deleteFromPrimitiveList/finalizers": [FINALIZER],
    }}))
}

/// Takes the finalizer off pods without a job that would.
struct Orphans {
    jobs: Store<JobView>,
    pods: Store<PodView>,
    executor: Executor,
}

impl Orphans {
    fn is_orphan(&self, pod: &PodView) -> bool {
        let Some(owner) = controller_of(&pod.metadata) else { return true };
        let job = self.jobs.get(&pod.metadata.namespace, &owner.name).filter(|job| job.metadata.uid == owner.uid);
        let of_job = owner.kind == JobView::RESOURCE.kind && owner.api_version == JobView::RESOURCE.api_version();
        of_job && job.is_none_or(|job| job.is_finished() && !is_foreign(&job))
    }
}

impl Controller for Orphans {
    async fn sync(&self, key: &Key) -> SyncResult {
        let pod = self.pods.get(&key.namespace, &key.name);
        if let Some(pod) = pod.filter(|pod| holds_finalizer(pod) && self.is_orphan(pod)) {
            match self.executor.apply(release(&pod)).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }
}

fn is_foreign(job: &JobView) -> bool {
    job.spec.managed_by.as_deref().is_some_and(|by| by != OURS)
}

impl Jobs {
    fn memory(&self) -> MutexGuard<'_, HashMap<Key, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, key: &Key, change: impl FnOnce(&mut Memory)) {
        change(self.memory().entry(key.clone()).or_default());
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
            let target = pod.target();
            self.executor.apply(target.patch(patch)).await?;
        }
        Ok(claims.owned)
    }

    /// Forgets releases that the cache has seen; returns the others, and the failures in a row.
    fn recall(&self, key: &Key, pods: &[Arc<PodView>]) -> (HashSet<String>, Backoff) {
        let mut memory = self.memory();
        let memory = memory.entry(key.clone()).or_default();
        memory.released.retain(|uid| pods.iter().any(|pod| pod.metadata.uid == *uid && holds_finalizer(pod)));
        (memory.released.clone(), memory.backoff)
    }

    /// Creates and deletes pods.
    async fn act(&self, snapshot: &Snapshot<'_>, subject: &Subject, a: &Assessment, settled: bool) -> Acted {
        let job = snapshot.job;
        let mut acted = Acted::nothing(a);
        if let Some(finish) = &a.finish {
            // They are counted, or not, before their finalizers go.
            self.delete_counted(subject, &a.active, &mut acted).await;
            // Not before everything is known to have ended.
            acted.step.finish = (acted.step.active == 0 && settled).then(|| finish.clone());
            return acted;
        }
        let manages = settled && !is_deleting(&job.metadata);
        if manages {
            match manage(job, a, snapshot.now) {
                Manage::Delete(pods) => self.delete_uncounted(subject, &pods, &mut acted).await,
                Manage::Create(indexes) => self.create(job, subject, (a, &indexes), &mut acted).await,
                Manage::Wait(pause) => acted.again = Some(pause),
            }
        }
        acted.step.finish = completed(job, a, acted.step.active);
        acted.may_suspend = manages && acted.step.finish.is_none();
        acted
    }

    async fn create(
        &self,
        job: &JobView,
        subject: &Subject,
        (a, indexes): (&Assessment, &[Option<i32>]),
        acted: &mut Acted,
    ) {
        if indexes.is_empty() {
            return;
        }
        let make = |number: usize| {
            let failed = || indexes[number].and_then(|index| a.to_replace.get(&index)).map(|pod| &**pod);
            let failures = job.spec.backoff_limit_per_index.map(|_| failures_after(job, failed()));
            pod_for(job, subject, indexes[number], failures)
        };
        let done = self.control.perform(subject, indexes.len(), make, &[]).await;
        acted.step.active += count(done.created);
        acted.failure = done.error;
    }

    /// Deletes pods that are not to be counted: they lose their finalizer first.
    async fn delete_uncounted(&self, subject: &Subject, pods: &[Arc<PodView>], acted: &mut Acted) {
        let held = || pods.iter().filter(|pod| holds_finalizer(pod));
        self.executor.each(held().map(|pod| release(pod)).collect()).await;
        self.remember(&subject.key, |memory| memory.released.extend(held().map(|pod| pod.metadata.uid.clone())));
        let done = self.control.perform(subject, 0, |_| Value::Null, pods).await;
        done.deleted.iter().for_each(|pod| acted.step.deleted(pod));
        acted.failure = done.error;
    }

    /// Deletes pods that keep their finalizer until they are counted.
    async fn delete_counted(&self, subject: &Subject, pods: &[Arc<PodView>], acted: &mut Acted) {
        for (pod, result) in pods.iter().zip(self.executor.delete_pods(subject, pods).await) {
            match result {
                Ok(()) => acted.step.deleted(pod),
                Err(error) => {
                    acted.failure.get_or_insert(error);
                }
            }
        }
    }

    /// Writes ended pods down, lets them go, counts them, and closes the job when nothing is left.
    async fn write_status(
        &self,
        snapshot: &Snapshot<'_>,
        subject: &Subject,
        a: &Assessment,
        acted: &Acted,
    ) -> Result<(), SyncError> {
        let (job, now) = (snapshot.job, snapshot.now);
        let mut written = written_down(snapshot, a, &acted.step);
        let event = acted.may_suspend.then(|| status::suspension(job.spec.suspend, &mut written.status, now)).flatten();
        let version = self.write(job, (&job.status, &written.status), &job.metadata.resource_version).await?;
        self.remember(&subject.key, |memory| memory.backoff = a.backoff);
        if let Some((reason, note)) = event {
            self.executor.event(subject, EventKind::Normal, reason, note);
        }
        let failure = self.let_go(job, subject, &written.release).await;
        let released = self.memory().get(&subject.key).map(|memory| memory.released.clone()).unwrap_or_default();
        let held = snapshot.pods.iter().filter(|pod| holds_finalizer(pod) && !released.contains(&pod.metadata.uid));
        let mut after = status::counted(written.status.clone(), &held.map(|pod| pod.metadata.uid.as_str()).collect());
        let over = written.complete && failure.is_none() && acted.step.terminating == 0;
        let closes = acted.step.finish.as_ref().filter(|_| over && !status::has_uncounted(&after));
        if let Some(finish) = closes {
            after = status::closed(after, finish, now);
        }
        self.write(job, (&written.status, &after), &version).await?;
        if let Some(finish) = closes {
            self.tell(job, subject, &after, finish);
        }
        failure.map_or(Ok(()), Err)
    }

    /// Takes the finalizers off; the first failure.
    async fn let_go(&self, job: &JobView, subject: &Subject, pods: &[Arc<PodView>]) -> Option<SyncError> {
        let mut first = None;
        let results = self.executor.each(pods.iter().map(|pod| release(pod)).collect()).await;
        for (pod, result) in pods.iter().zip(results) {
            match result {
                Err(error) if !error.is_not_found() => {
                    first.get_or_insert(error);
                }
                _ => {
                    let result = if pod.status.phase == "Succeeded" { "succeeded" } else { "failed" };
                    PODS_FINISHED.with(&[&job.spec.completion_mode, result]).inc();
                    self.remember(&subject.key, |memory| {
                        memory.released.insert(pod.metadata.uid.clone());
                    });
                }
            }
        }
        first
    }

    fn tell(&self, job: &JobView, subject: &Subject, status: &JobStatus, finish: &Finish) {
        let result = if finish.success { "succeeded" } else { "failed" };
        FINISHED.with(&[&job.spec.completion_mode, &finish.reason, result]).inc();
        if !finish.success {
            let reason = FAILURE_REASONS.iter().find(|reason| **reason == finish.reason).unwrap_or(&"JobFailed");
            return self.executor.event(subject, EventKind::Warning, reason, finish.message.as_str());
        }
        if job.spec.completions.is_some_and(|completions| status.succeeded > completions) {
            let note = "Too many succeeded pods running after completion count reached";
            self.executor.event(subject, EventKind::Warning, "TooManySucceededPods", note);
        }
        self.executor.event(subject, EventKind::Normal, "Completed", "Job completed");
    }

    /// Writes the difference, if any, provided the job is still at `version`; returns the version after.
    async fn write(
        &self,
        job: &JobView,
        (from, to): (&JobStatus, &JobStatus),
        version: &str,
    ) -> Result<String, SyncError> {
        let Some(change) = status::change(from, to, version) else { return Ok(version.to_owned()) };
        let target = job.target();
        let after = self.executor.write_status(&target, &change).await?.resource_version;
        self.remember(&target.key, |memory| memory.written = after.parse().unwrap_or(0));
        Ok(after)
    }
}

/// What a step did.
#[derive(Debug)]
struct Acted {
    step: Step,
    /// The first thing that failed.
    failure: Option<SyncError>,
    /// Look again then.
    again: Option<Duration>,
    /// Whether the step saw the job through, so that it may be called suspended or resumed.
    may_suspend: bool,
}

impl Acted {
    fn nothing(a: &Assessment) -> Self {
        let step =
            Step { active: count(a.active.len()), ready: a.ready, terminating: count(a.leaving.len()), finish: None };
        Self { step, failure: None, again: None, may_suspend: false }
    }
}

/// Reasons of failures, as events name them.
const FAILURE_REASONS: &[&str] =
    &["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy", "MaxFailedIndexesExceeded", "FailedIndexes"];

//! `cronjob-controller`: starts jobs by the clock, at most one per due time, and keeps as many finished ones as asked for.
//!
//! A job's name is made of its due time, so that no crash starts it twice. `status.active` names the jobs that run; what is
//! there and not known, and what is known and not there, is said in events. Nothing polls: each key comes back when its next
//! start is due.

pub mod schedule;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use apimachinery::cron::Schedule;
use apimachinery::meta::ObjectMeta;
use client::resources;
use component_base::metrics::{self, Family, Histogram};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use self::schedule::{due, until_next};
use crate::framework::backoff::elapsed;
use crate::framework::plan::controller_of;
use crate::framework::{
    Action, Controller, EventKind, Executor, Key, Setup, Store, Subject, SyncError, SyncResult, Target, View,
};
use crate::views::batch::{BY_NAMESPACE, CronJobView, JobView};
use crate::views::meta::{is_deleting, to_value};

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

static SKEW: LazyLock<Family<Histogram>> = LazyLock::new(|| {
    metrics::histogram(
        "cronjob_controller_job_creation_skew_duration_seconds",
        "Seconds between the time a job was due and its creation.",
        &[],
        &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0],
    )
});

/// Registers `cronjob-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("cronjob");
    let crons = setup.stores.of::<CronJobView>();
    let jobs = setup.stores.of::<JobView>();
    crons.wakes(&queue);
    let wake = queue.clone();
    jobs.on(move |delta| {
        let meta = &delta.object().metadata;
        if let Some(owner) = controller_of(meta).filter(|owner| owner.kind == "CronJob") {
            wake.add(Key::new(&meta.namespace, &owner.name));
        }
    });
    let executor = setup.executor("cronjob-controller");
    setup.workers(queue, setup.config.concurrent.cron_job, CronJobs { crons, jobs, executor });
}

/// The finished jobs beyond the limits, oldest first.
pub fn surplus(cron: &CronJobView, jobs: &[Arc<JobView>]) -> Vec<Arc<JobView>> {
    let limits =
        [("Complete", cron.spec.successful_jobs_history_limit), ("Failed", cron.spec.failed_jobs_history_limit)];
    let mut surplus = Vec::new();
    for (condition, limit) in limits {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let mut finished: Vec<&Arc<JobView>> = jobs.iter().filter(|job| job.is(condition)).collect();
        let started = |job: &JobView| (job.status.start_time.is_absent(), job.status.start_time);
        finished.sort_by(|a, b| started(a).cmp(&started(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name)));
        surplus.extend(finished.iter().take(finished.len().saturating_sub(limit)).map(|job| Arc::clone(job)));
    }
    surplus
}

/// The job for a start: the template with a name and an owner.
pub fn job(cron: &CronJobView, owner: &Subject, start: Timestamp, zone: &TimeZone) -> Value {
    let template = &cron.spec.job_template;
    let mut annotations = template["metadata"]["annotations"].clone();
    if !annotations.is_object() {
        annotations = json!({});
    }
    let zoned = start.to_zoned(zone.clone());
    let offset = if zoned.offset().is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    annotations[SCHEDULED] = zoned.strftime(offset).to_string().into();
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(cron, start),
            "namespace": cron.metadata.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": [owner.controller_reference()],
        },
        "spec": template["spec"],
    })
}

fn job_name(cron: &CronJobView, start: Timestamp) -> String {
    format!("{}-{}", cron.metadata.name, start.as_second() / 60)
}

/// Where a cron job's clock hangs: the zone it names, or that of this process. The error names the unknown zone.
fn zone(cron: &CronJobView) -> Result<TimeZone, String> {
    match cron.spec.time_zone.as_deref() {
        None => Ok(TimeZone::system()),
        Some("") => Ok(TimeZone::UTC),
        Some(name) => TimeZone::get(name).map_err(|error| format!("invalid timeZone: {name:?}: {error}")),
    }
}

struct CronJobs {
    crons: Store<CronJobView>,
    jobs: Store<JobView>,
    executor: Executor,
}

/// One look at one cron job; `cron` is a copy whose status changes as the look goes on.
struct Look<'a> {
    executor: &'a Executor,
    about: Subject,
    cron: CronJobView,
    now: Timestamp,
}

impl Controller for CronJobs {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(cron) = self.crons.get(&key.namespace, &key.name) else { return Ok(None) };
        let mut jobs = self.jobs.by_index(BY_NAMESPACE, &key.namespace);
        jobs.retain(|job| {
            controller_of(&job.metadata).is_some_and(|owner| owner.kind == "CronJob" && owner.name == key.name)
        });
        let about = cron.subject();
        let mut look = Look { executor: &self.executor, about, cron: (*cron).clone(), now: Timestamp::now() };
        for old in surplus(&cron, &jobs) {
            look.delete(&old.metadata).await?;
        }
        let result = look.sync(&jobs).await;
        if look.cron.status != cron.status {
            look.write_status().await?;
        }
        result
    }
}

impl Look<'_> {
    fn event(&self, kind: EventKind, reason: &'static str, note: impl Into<String>) {
        self.executor.event(&self.about, kind, reason, note);
    }

    fn is_active(&self, uid: &str) -> bool {
        self.cron.status.active.iter().any(|job| job["uid"] == uid)
    }

    fn forget(&mut self, uid: &str) {
        self.cron.status.active.retain(|job| job["uid"] != uid);
    }

    async fn delete(&mut self, job: &ObjectMeta) -> Result<(), SyncError> {
        let target = Target::of(&resources::JOBS, job);
        let (uid, propagation) = (job.uid.clone(), Some("Background"));
        let delete = Action::Delete { target, uid, grace_period_seconds: None, propagation };
        if let Err(error) = self.executor.apply(delete).await {
            self.event(EventKind::Warning, "FailedDelete", format!("Deleted job: {error}"));
            return Err(error);
        }
        self.forget(&job.uid);
        self.event(EventKind::Normal, "SuccessfulDelete", format!("Deleted job {}", job.name));
        Ok(())
    }

    async fn write_status(&self) -> Result<(), SyncError> {
        let CronJobView { metadata, status, .. } = &self.cron;
        let change = json!({
            "metadata": {"resourceVersion": metadata.resource_version},
            "status": {
                "active": if status.active.is_empty() { Value::Null } else { to_value(&status.active) },
                "lastScheduleTime": status.last_schedule_time,
                "lastSuccessfulTime": status.last_successful_time,
            },
        });
        let target = Target::of(&CronJobView::RESOURCE, metadata);
        self.executor.apply(target.change_status(change)).await
    }

    async fn sync(&mut self, jobs: &[Arc<JobView>]) -> SyncResult {
        self.account(jobs).await?;
        if is_deleting(&self.cron.metadata) {
            return Ok(None);
        }
        let zone = match zone(&self.cron) {
            Ok(zone) => zone,
            Err(why) => {
                self.event(EventKind::Warning, "UnknownTimeZone", why);
                return Ok(None);
            }
        };
        if self.cron.spec.suspend {
            return Ok(None);
        }
        let text = self.cron.spec.schedule.clone();
        let Some(schedule) = Schedule::parse(&text) else {
            self.event(EventKind::Warning, "UnparseableSchedule", format!("unparseable schedule: {text:?}"));
            return Ok(None);
        };
        match due(&self.cron, &schedule, &zone, self.now, true) {
            Err(why) => {
                self.event(EventKind::Warning, "InvalidSchedule", format!("invalid schedule: {text}: {why}"));
                return Ok(None);
            }
            Ok(due) => {
                if due.many_missed() {
                    let note = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check \
                                clock skew";
                    self.event(EventKind::Warning, "TooManyMissedTimes", note);
                }
                if let Some(start) = due.at {
                    self.start(start, &zone).await?;
                }
            }
        }
        Ok(until_next(&self.cron, &schedule, &zone, self.now))
    }

    /// Brings `status.active` and the last success in line with the jobs that exist.
    async fn account(&mut self, jobs: &[Arc<JobView>]) -> Result<(), SyncError> {
        for job in jobs {
            let (uid, name) = (&job.metadata.uid, &job.metadata.name);
            match (self.is_active(uid), job.is_finished()) {
                (false, false) => {
                    let key = &self.about.key;
                    let fresh: CronJobView = self.executor.get(&key.namespace, &key.name).await?;
                    if fresh.metadata.uid == self.about.uid && fresh.status.active.iter().any(|job| job["uid"] == **uid)
                    {
                        self.cron = fresh;
                    } else {
                        let note = format!("Saw a job that the controller did not create or forgot: {name}");
                        self.event(EventKind::Warning, "UnexpectedJob", note);
                    }
                }
                (true, true) => {
                    self.forget(uid);
                    let condition = if job.is("Complete") { "Complete" } else { "Failed" };
                    let note = format!("Saw completed job: {name}, condition: {condition}");
                    self.event(EventKind::Normal, "SawCompletedJob", note);
                }
                _ => {}
            }
            if job.is("Complete") && job.status.completion_time > self.cron.status.last_successful_time {
                self.cron.status.last_successful_time = job.status.completion_time;
            }
        }
        for active in self.cron.status.active.clone() {
            let (uid, name) = (active["uid"].as_str().unwrap_or_default(), active["name"].as_str().unwrap_or_default());
            if jobs.iter().any(|job| job.metadata.uid == uid) {
                continue;
            }
            match self.executor.get::<JobView>(&self.about.key.namespace, name).await {
                Err(error) if error.is_not_found() => {
                    self.event(EventKind::Normal, "MissingJob", format!("Active job went missing: {name}"));
                    self.forget(uid);
                }
                other => other.map(drop)?,
            }
        }
        Ok(())
    }

    /// Starts the job of a due time, unless it is too late, was started already or another one is in its way.
    async fn start(&mut self, start: Timestamp, zone: &TimeZone) -> Result<(), SyncError> {
        let late = u64::try_from(self.now.as_second() - start.as_second()).unwrap_or(0);
        let deadline = self.cron.spec.starting_deadline_seconds.and_then(|limit| u64::try_from(limit).ok());
        if deadline.is_some_and(|limit| Duration::from_secs(limit) < Duration::from_secs(late)) {
            let note = format!("Missed scheduled time to start a job: {start}");
            self.event(EventKind::Warning, "MissSchedule", note);
            return Ok(());
        }
        let name = job_name(&self.cron, start);
        let known = self.cron.status.active.iter().any(|job| job["name"] == name);
        if known || self.cron.status.last_schedule_time.0 == Some(start) {
            return Ok(());
        }
        if self.cron.spec.concurrency_policy == "Forbid" && !self.cron.status.active.is_empty() {
            let note = "Not starting job because prior execution is running and concurrency policy is Forbid";
            self.event(EventKind::Normal, "JobAlreadyActive", note);
            return Ok(());
        }
        if self.cron.spec.concurrency_policy == "Replace" {
            for active in self.cron.status.active.clone() {
                let name = active["name"].as_str().unwrap_or_default();
                let job: JobView = self.executor.get(&self.about.key.namespace, name).await.inspect_err(|error| {
                    self.event(EventKind::Warning, "FailedGet", format!("Get job: {error}"));
                })?;
                self.delete(&job.metadata).await?;
            }
        }
        self.create(start, zone, &name).await
    }

    async fn create(&mut self, start: Timestamp, zone: &TimeZone, name: &str) -> Result<(), SyncError> {
        let namespace = self.about.key.namespace.clone();
        let zone = if self.cron.spec.time_zone.is_none() { &TimeZone::UTC } else { zone };
        let body = job(&self.cron, &self.about, start, zone);
        let created = match self.executor.create::<JobView>(&JobView::RESOURCE, Some(&namespace), &body).await {
            Ok(job) => {
                self.event(EventKind::Normal, "SuccessfulCreate", format!("Created job {name}"));
                SKEW.one().observe_duration(elapsed(start, Timestamp::now()));
                job
            }
            Err(error) if error.is_already_exists() => {
                // Made before a crash, or by somebody else, whose it then is.
                let job: JobView = self.executor.get(&namespace, name).await?;
                if controller_of(&job.metadata).is_none_or(|owner| owner.uid != self.about.uid) {
                    return Ok(());
                }
                job
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    self.event(EventKind::Warning, "FailedCreate", format!("Error creating job: {error}"));
                }
                return Err(error);
            }
        };
        let meta = &created.metadata;
        if !self.is_active(&meta.uid) {
            self.cron.status.active.push(json!({
                "apiVersion": "batch/v1", "kind": "Job", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid,
                "resourceVersion": meta.resource_version,
            }));
        }
        self.cron.status.last_schedule_time = start.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_named_by_their_time_and_old_ones_go() {
        let cron: CronJobView = serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "u"},
            "spec": {"successfulJobsHistoryLimit": 1, "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"x": 1}}},
        }))
        .unwrap();
        let owner = cron.subject();
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let made = job(&cron, &owner, start, &TimeZone::get("Asia/Kolkata").unwrap());
        assert_eq!(made["metadata"]["name"], "c-30000000");
        assert_eq!(made["metadata"]["annotations"][SCHEDULED], "2027-01-15T13:30:00+05:30");
        assert_eq!(made["metadata"]["ownerReferences"][0]["kind"], "CronJob");
        let finished = |name: &str, start: &str, condition: &str| -> Arc<JobView> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name}, "status": {
                    "startTime": start, "conditions": [{"type": condition, "status": "True"}]}}))
                .unwrap(),
            )
        };
        let jobs = [
            finished("late", "2026-01-02T00:00:00Z", "Complete"),
            finished("early", "2026-01-01T00:00:00Z", "Complete"),
            finished("failed", "2026-01-01T00:00:00Z", "Failed"),
        ];
        let names: Vec<String> = surplus(&cron, &jobs).iter().map(|job| job.metadata.name.clone()).collect();
        assert_eq!(names, ["early"], "without a limit failed jobs stay");
    }
}

//! How many pods a job needs now, which ones go, and what a pod of it looks like, purely.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::assess::{Assessment, FINALIZER, INDEX, INDEX_FAILURES, INDEX_IGNORED_FAILURES, failures_before, index_of};
use super::backoff::{Backoff, ended_at};
use super::policy::{Verdict, judge};
use crate::controllers::deletion_order::choose;
use crate::controllers::pod_template::pod_from_template;
use crate::framework::Subject;
use crate::views::batch::JobView;
use crate::views::meta::count;
use crate::views::pod::PodView;

/// At most so many pods are created or deleted in one step.
const BURST_PODS: usize = 500;
const MAX_NAME_CHARS: usize = 63;
const SUFFIX_CHARS: usize = 5;

/// What to do about the number of pods.
#[derive(Debug)]
pub enum Manage {
    /// Make one for each; None without number.
    Create(Vec<Option<i32>>),
    /// Delete these without counting them.
    Delete(Vec<Arc<PodView>>),
    /// Some are missing, but failures before ask for a pause.
    Wait(Duration),
}

/// Compares the pods with what is wanted.
pub fn manage(job: &JobView, a: &Assessment, now: Timestamp) -> Manage {
    if job.spec.suspend {
        return Manage::Delete(a.active.clone());
    }
    let active = count(a.active.len());
    let parallelism = job.spec.parallelism.unwrap_or(1);
    let wanted = match job.spec.completions {
        None if a.succeeded > 0 => active,
        None => parallelism,
        Some(completions) => (completions - a.succeeded).min(parallelism).max(0),
    };
    let mut excess = surplus(job, a, usize::try_from(active - wanted).unwrap_or(0), now);
    if !excess.is_empty() {
        excess.truncate(BURST_PODS);
        return Manage::Delete(excess);
    }
    let waiting = if job.replaces_only_ended() { count(a.leaving.len()) } else { 0 };
    let lacking = usize::try_from(wanted - waiting - active).unwrap_or(0).min(BURST_PODS);
    let per_index = job.spec.backoff_limit_per_index.is_some();
    let pause = if per_index { Duration::ZERO } else { a.backoff.left(now) };
    if lacking > 0 && !pause.is_zero() {
        return Manage::Wait(pause);
    }
    if !job.is_indexed() {
        return Manage::Create(vec![None; lacking]);
    }
    let indexes = free_indexes(job, a, lacking);
    if !per_index {
        return Manage::Create(indexes.into_iter().map(Some).collect());
    }
    let pauses: Vec<(i32, Duration)> = indexes.into_iter().map(|index| (index, pause_of(a, index, now))).collect();
    let ready: Vec<Option<i32>> =
        pauses.iter().filter(|(_, pause)| pause.is_zero()).map(|(index, _)| Some(*index)).collect();
    match pauses.iter().map(|(_, pause)| *pause).min() {
        Some(pause) if ready.is_empty() => Manage::Wait(pause),
        _ => Manage::Create(ready),
    }
}

fn pause_of(a: &Assessment, index: i32, now: Timestamp) -> Duration {
    let Some(failed) = a.to_replace.get(&index) else { return Duration::ZERO };
    let (counted, ignored) = failures_before(failed);
    Backoff { failures: counted + ignored + 1, last: Some(ended_at(failed)) }.left(now)
}

/// The first `most` indexes that no pod has and that have not ended.
fn free_indexes(job: &JobView, a: &Assessment, most: usize) -> Vec<i32> {
    let mut taken: BTreeSet<i32> = a.active.iter().filter_map(|pod| index_of(pod)).collect();
    if job.replaces_only_ended() {
        taken.extend(a.leaving.iter().filter_map(|pod| index_of(pod)));
    }
    taken.extend(&a.succeeded_indexes);
    taken.extend(&a.failed_indexes);
    (0..job.spec.completions.unwrap_or(0)).filter(|index| !taken.contains(index)).take(most).collect()
}

/// At least `least` pods to delete: of an indexed job first those without a number, with one out of range, or with another's
/// (all but the one that has come furthest).
fn surplus(job: &JobView, a: &Assessment, least: usize, now: Timestamp) -> Vec<Arc<PodView>> {
    let mut kept: BTreeMap<i32, Vec<Arc<PodView>>> = BTreeMap::new();
    let mut gone = Vec::new();
    for pod in &a.active {
        match index_of(pod) {
            _ if !job.is_indexed() => kept.entry(0).or_default().push(Arc::clone(pod)),
            Some(index) if index < job.spec.completions.unwrap_or(0) => {
                kept.entry(index).or_default().push(Arc::clone(pod));
            }
            _ => gone.push(Arc::clone(pod)),
        }
    }
    if job.is_indexed() {
        for pods in kept.values_mut() {
            let twins = choose(pods, &[], pods.len() - 1, now);
            pods.retain(|pod| twins.iter().all(|twin| !Arc::ptr_eq(twin, pod)));
            gone.extend(twins);
        }
    }
    let left: Vec<Arc<PodView>> = kept.into_values().flatten().collect();
    let more = least.saturating_sub(gone.len());
    gone.extend(choose(&left, &[], more, now));
    gone
}

/// The failures that a replacement of `failed` carries on: those that count, and those that the policy ignores.
pub fn failures_after(job: &JobView, failed: Option<&PodView>) -> (i32, i32) {
    let Some(pod) = failed else { return (0, 0) };
    let (counted, ignored) = failures_before(pod);
    if judge(job, pod) == Verdict::Ignore { (counted, ignored + 1) } else { (counted + 1, ignored) }
}

/// One pod; `failures` is how often its index failed before, see [`failures_after`].
pub fn pod_for(job: &JobView, subject: &Subject, index: Option<i32>, failures: Option<(i32, i32)>) -> Value {
    let mut pod = pod_from_template(&job.spec.template, subject);
    let mut finalizers = pod["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    finalizers.push(json!(FINALIZER));
    pod["metadata"]["finalizers"] = Value::Array(finalizers);
    let Some(index) = index else { return pod };
    let text = index.to_string();
    let room = MAX_NAME_CHARS - SUFFIX_CHARS - text.len() - 2;
    let base: String = subject.key.name.chars().take(room).collect();
    pod["metadata"]["generateName"] = json!(format!("{base}-{text}-"));
    pod["metadata"]["annotations"][INDEX] = json!(text);
    pod["metadata"]["labels"][INDEX] = json!(text);
    if let Some((counted, ignored)) = failures {
        pod["metadata"]["annotations"][INDEX_FAILURES] = json!(counted.to_string());
        if ignored > 0 {
            pod["metadata"]["annotations"][INDEX_IGNORED_FAILURES] = json!(ignored.to_string());
        }
    }
    pod["spec"]["hostname"] = json!(format!("{}-{text}", subject.key.name));
    let from = json!({"fieldRef": {"fieldPath": format!("metadata.labels['{INDEX}']")}});
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let mut env = container["env"].as_array().cloned().unwrap_or_default();
            if env.iter().all(|variable| variable["name"] != "JOB_COMPLETION_INDEX") {
                env.push(json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": from}));
                container["env"] = Value::Array(env);
            }
        }
    }
    pod
}

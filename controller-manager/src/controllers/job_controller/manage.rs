//! How many pods a job needs now, which ones go, and what a pod of it looks like, purely.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::assess::{Assessment, FINALIZER, INDEX, INDEX_FAILURES, index_of};
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
}

/// Compares the pods with what is wanted.
pub fn manage(job: &JobView, a: &Assessment) -> Manage {
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
    let mut excess = surplus(job, a);
    let more = usize::try_from(active - count(excess.len()) - wanted).unwrap_or(0);
    if more > 0 {
        let mut rest: Vec<Arc<PodView>> =
            a.active.iter().filter(|pod| excess.iter().all(|gone| !Arc::ptr_eq(gone, pod))).cloned().collect();
        rest.sort_by_key(|pod| (!pod.spec.node_name.is_empty(), pod.status.phase == "Running", pod.is_ready()));
        excess.extend(rest.into_iter().take(more));
    }
    if !excess.is_empty() {
        excess.truncate(BURST_PODS);
        return Manage::Delete(excess);
    }
    let waiting = if job.spec.pod_replacement_policy == "Failed" { a.terminating } else { 0 };
    let lacking = usize::try_from(wanted - waiting - active).unwrap_or(0).min(BURST_PODS);
    if !job.is_indexed() {
        return Manage::Create(vec![None; lacking]);
    }
    let mut taken: BTreeSet<i32> = a.active.iter().filter_map(|pod| index_of(pod)).collect();
    taken.extend(&a.succeeded_indexes);
    taken.extend(&a.failed_indexes);
    let free = (0..job.spec.completions.unwrap_or(0)).filter(|index| !taken.contains(index));
    Manage::Create(free.take(lacking).map(Some).collect())
}

/// Pods of an indexed job without a number, with one out of range, or with another's.
fn surplus(job: &JobView, a: &Assessment) -> Vec<Arc<PodView>> {
    if !job.is_indexed() {
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    let keeps = |pod: &Arc<PodView>, seen: &mut BTreeSet<i32>| {
        index_of(pod).is_some_and(|index| index < job.spec.completions.unwrap_or(0) && seen.insert(index))
    };
    a.active.iter().filter(|pod| !keeps(pod, &mut seen)).cloned().collect()
}

/// One pod; `failures` is how often its index failed before.
pub fn pod_for(job: &JobView, subject: &Subject, index: Option<i32>, failures: Option<i32>) -> Value {
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
    if let Some(failures) = failures {
        pod["metadata"]["annotations"][INDEX_FAILURES] = json!(failures.to_string());
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

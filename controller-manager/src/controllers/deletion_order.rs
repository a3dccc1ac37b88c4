//! Which pods go first when there are too many: upstream's ActivePodsWithRanks.
//!
//! Unassigned before assigned, pending before unknown before running, unready before ready, cheaper deletion cost first,
//! more siblings on the node first, then shorter ready, more restarts, and younger. Ages are compared by order of
//! magnitude, so that among pods of like age chance decides and no node is favoured. Upstream takes the uid for chance, but
//! only between unequal times, which is no order (a before b before c before a); here a time's hash is its chance.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use jiff::Timestamp;

use crate::views::meta::created;
use crate::views::pod::{ContainerStatus, PodView};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `excess` pods of `pods` to delete. `related` are the pods of all replica sets with the same controller.
pub fn choose(pods: &[Arc<PodView>], related: &[Arc<PodView>], excess: usize, now: Timestamp) -> Vec<Arc<PodView>> {
    let mut candidates = pods.to_vec();
    if excess < candidates.len() {
        let mut on_node: HashMap<&str, usize> = HashMap::new();
        for pod in related.iter().filter(|pod| pod.is_active()) {
            *on_node.entry(pod.spec.node_name.as_str()).or_default() += 1;
        }
        let rank = |pod: &PodView| on_node.get(pod.spec.node_name.as_str()).copied().unwrap_or(0);
        candidates.sort_by_cached_key(|pod| order(pod, rank(pod), now));
        candidates.truncate(excess);
    }
    candidates
}

/// Smaller goes first.
fn order(pod: &PodView, rank: usize, now: Timestamp) -> impl Ord + use<> {
    let age = |since: Timestamp| {
        let mut chance = DefaultHasher::new();
        since.hash(&mut chance);
        (magnitude(since, now), chance.finish())
    };
    let usefulness = (!pod.spec.node_name.is_empty(), phase(pod), pod.is_ready(), cost(pod), Reverse(rank));
    let ages = (pod.ready_since().map(age), Reverse(restarts(pod)), age(created(&pod.metadata)));
    (usefulness, ages, pod.metadata.uid.clone())
}

fn phase(pod: &PodView) -> u8 {
    match pod.status.phase.as_str() {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    }
}

fn cost(pod: &PodView) -> i32 {
    pod.metadata.annotations.get(DELETION_COST).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn magnitude(since: Timestamp, now: Timestamp) -> i32 {
    let age_ns = now.as_nanosecond() - since.as_nanosecond();
    u128::try_from(age_ns).ok().and_then(u128::checked_ilog2).map_or(-1, |log| i32::try_from(log).unwrap_or(i32::MAX))
}

fn restarts(pod: &PodView) -> (i32, i32) {
    let most = |statuses: &[ContainerStatus]| statuses.iter().map(|status| status.restart_count).max().unwrap_or(0);
    (most(&pod.status.container_statuses), most(&pod.status.init_container_statuses))
}

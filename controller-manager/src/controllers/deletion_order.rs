//! Which pods go first when there are too many: upstream's ActivePodsWithRanks.
//!
//! Unassigned before assigned, pending before unknown before running, unready before ready, cheaper deletion cost first,
//! more siblings on the node first, then shorter ready, more restarts, and younger. Ages are compared by order of
//! magnitude, so that among pods of like age chance (the uid) decides and no node is favoured.

use std::cmp::Ordering;
use std::collections::HashMap;
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
        candidates.sort_by(|a, b| order(a, b, rank(a), rank(b), now));
        candidates.truncate(excess);
    }
    candidates
}

fn order(a: &PodView, b: &PodView, rank_a: usize, rank_b: usize, now: Timestamp) -> Ordering {
    let assigned = |pod: &PodView| !pod.spec.node_name.is_empty();
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| a.is_ready().cmp(&b.is_ready()))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| ready_time(a, b, now))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| by_age(created(&a.metadata), created(&b.metadata), a, b, now))
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

fn ready_time(a: &PodView, b: &PodView, now: Timestamp) -> Ordering {
    match (a.ready_since(), b.ready_since()) {
        (Some(since_a), Some(since_b)) => by_age(since_a, since_b, a, b, now),
        _ => Ordering::Equal,
    }
}

/// Younger first by order of magnitude; the uid decides within one.
fn by_age(since_a: Timestamp, since_b: Timestamp, a: &PodView, b: &PodView, now: Timestamp) -> Ordering {
    if since_a == since_b {
        return Ordering::Equal;
    }
    magnitude(since_a, now).cmp(&magnitude(since_b, now)).then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn magnitude(since: Timestamp, now: Timestamp) -> i32 {
    let age_ns = now.as_nanosecond() - since.as_nanosecond();
    u128::try_from(age_ns).ok().and_then(u128::checked_ilog2).map_or(-1, |log| i32::try_from(log).unwrap_or(i32::MAX))
}

fn restarts(pod: &PodView) -> (i32, i32) {
    let most = |statuses: &[ContainerStatus]| statuses.iter().map(|status| status.restart_count).max().unwrap_or(0);
    (most(&pod.status.container_statuses), most(&pod.status.init_container_statuses))
}

//! How long a job waits before it replaces failed pods, purely: 10 s after the first failure in a row, doubling to ten minutes,
//! counted from the moment the last one ended.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::framework::backoff::remaining;
use crate::views::meta::created;
use crate::views::pod::{ContainerStatus, PodView};

const FIRST_SECONDS: i64 = 10;
const LAST_SECONDS: i64 = 600;

/// Failures since the last success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// How many.
    pub failures: i32,
    /// When the last one ended.
    pub last: Option<Timestamp>,
}

impl Backoff {
    /// The record after pods that have ended since the last step. A success forgets the failures before it.
    pub fn after(self, succeeded: &[Arc<PodView>], failed: &[Arc<PodView>]) -> Self {
        let success = succeeded.iter().map(|pod| ended_at(pod)).max();
        let later = failed.iter().map(|pod| ended_at(pod)).filter(|at| success.is_none_or(|success| *at > success));
        let before = if success.is_some() { Self::default() } else { self };
        later.fold(before, |record, at| Self {
            failures: record.failures.saturating_add(1),
            last: record.last.max(Some(at)),
        })
    }

    /// How long to wait still.
    pub fn left(self, now: Timestamp) -> Duration {
        let Some(last) = self.last else { return Duration::ZERO };
        let doublings = u32::try_from(self.failures - 1).unwrap_or(0).min(10);
        remaining(last, (FIRST_SECONDS << doublings).min(LAST_SECONDS), now)
    }
}

/// When a pod ended: as its containers (sidecars included) say, else when it ceased to be ready, else when its deletion was asked for,
/// else when it was made.
pub fn ended_at(pod: &PodView) -> Timestamp {
    let of_containers = || {
        let sidecar = |status: &&ContainerStatus| {
            pod.spec.init_containers.iter().any(|one| one.name == status.name && one.restart_policy == "Always")
        };
        let sidecars = pod.status.init_container_statuses.iter().filter(sidecar);
        let ends = pod.status.container_statuses.iter().chain(sidecars);
        let ends = ends.map(|status| status.state.terminated.as_ref()?.finished_at.0).collect::<Option<Vec<_>>>()?;
        ends.into_iter().max()
    };
    let unready = || pod.condition("Ready").filter(|ready| ready.status == "False")?.last_transition_time.0;
    let deleted = || {
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        pod.metadata.deletion_timestamp?.checked_sub(grace).ok()
    };
    of_containers().or_else(unready).or_else(deleted).unwrap_or_else(|| created(&pod.metadata))
}

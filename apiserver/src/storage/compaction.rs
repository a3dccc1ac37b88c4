//! Forgets etcd's history from time to time, as upstream does: what is older than two intervals goes. API servers that share an
//! etcd agree through a key of upstream's name, so that one of them does it each time.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::StorageError;
use super::clock::Clock;
use super::etcd::Etcd;
use super::position;

const KEY: &str = "compact_rev_key";

/// Compacts every `interval` until `shutdown`. With a zero interval it does nothing.
pub async fn run(etcd: Etcd, clock: std::sync::Arc<Clock>, interval: Duration, shutdown: CancellationToken) {
    if interval.is_zero() {
        return;
    }
    let mut next = Step::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        match step(&etcd, next).await {
            Ok((following, compacted)) => {
                next = following;
                clock.for_each_cache(|cache| cache.forget_before(position::start(compacted)));
            }
            Err(error) => tracing::warn!(err = %error, "Cannot compact etcd"),
        }
    }
}

/// What the next step compares and compacts with.
#[derive(Clone, Copy, Default)]
struct Step {
    version: i64,
    before: i64,
}

/// Compacts to `before` if nobody else did since we looked; gives the next step, and the revision of etcd that it is
/// compacted to.
async fn step(etcd: &Etcd, Step { version, before }: Step) -> Result<(Step, i64), StorageError> {
    match etcd.swap_by_version(KEY, version, &before.to_string()).await? {
        Err((version, compacted, now)) => Ok((Step { version, before: now }, compacted.parse().unwrap_or_default())),
        Ok(now) => {
            if before > 0 {
                etcd.compact(before).await?;
            }
            Ok((Step { version: version + 1, before: now }, before))
        }
    }
}

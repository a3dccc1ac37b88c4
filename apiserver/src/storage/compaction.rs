//! Forgets etcd's history from time to time, as upstream does: what is older than two intervals goes. API servers that share an
//! etcd agree through a key of upstream's name, so that one of them does it each time.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::StorageError;
use super::clock::Clock;
use super::etcd::Etcd;

const KEY: &str = "compact_rev_key";

/// Compacts every `interval` until `shutdown`. With a zero interval it does nothing.
pub async fn run(etcd: Etcd, clock: std::sync::Arc<Clock>, interval: Duration, shutdown: CancellationToken) {
    if interval.is_zero() {
        return;
    }
    let (mut version, mut before) = (0, 0);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        match step(&etcd, version, before).await {
            Ok((next_version, now)) => (version, before) = (next_version, now),
            Err(error) => tracing::warn!(err = %error, "Cannot compact etcd"),
        }
        drop_pins(&clock);
    }
}

fn drop_pins(clock: &Clock) {
    clock.for_each_cache(super::cache::ResourceCache::unpin_all);
}

/// Compacts to `before` if nobody else did since we looked; gives what to compare and to compact with next time.
async fn step(etcd: &Etcd, version: i64, before: u64) -> Result<(i64, u64), StorageError> {
    match etcd.swap_by_version(KEY, version, &before.to_string()).await? {
        Err((version, _, now)) => Ok((version, now)),
        Ok(now) => {
            if before > 0 {
                etcd.compact(before).await?;
            }
            Ok((version + 1, now))
        }
    }
}

//! Leases for objects that expire by themselves (events). Objects written close together share a lease, as upstream does it,
//! so that etcd does not hold one per event.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::StorageError;
use super::etcd::{Etcd, limited};

/// Objects that share a lease.
const MAX_OBJECTS: u32 = 1000;

struct Current {
    id: i64,
    taken_at: Instant,
    objects: u32,
}

/// Hands out leases of one length.
pub struct Leases {
    etcd: Etcd,
    ttl: Duration,
    current: Mutex<Option<Current>>,
}

impl Leases {
    /// Leases for objects that live for `ttl`.
    pub fn new(etcd: Etcd, ttl: Duration) -> Self {
        Self { etcd, ttl, current: Mutex::new(None) }
    }

    /// A lease that lasts at least as long as the objects shall live.
    ///
    /// # Errors
    /// etcd does not grant one.
    pub async fn get(&self) -> Result<i64, StorageError> {
        let reuse = (self.ttl / 20).min(Duration::from_secs(60));
        let mut current = self.current.lock().await;
        if let Some(lease) = current.as_mut().filter(|l| l.objects < MAX_OBJECTS && l.taken_at.elapsed() < reuse) {
            lease.objects += 1;
            return Ok(lease.id);
        }
        let seconds = i64::try_from((self.ttl + reuse).as_secs().max(1)).unwrap_or(i64::MAX);
        let grant = || {
            let mut client = self.etcd.lease();
            async move { client.grant(seconds, None).await }
        };
        let id = limited("lease grant", grant).await?.id();
        *current = Some(Current { id, taken_at: Instant::now(), objects: 1 });
        Ok(id)
    }
}

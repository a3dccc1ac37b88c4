//! Protection against acting twice on a cache that has not yet seen the first time.
//!
//! Before a controller creates or deletes dependents it notes how many; the informer's handlers count them off as they
//! come by. Until all have, or five minutes have passed (upstream's limit), the key is not acted on again. Creations are
//! counted; deletions are remembered by identity, because one deletion is seen twice (terminating, then gone).

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Key;

const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Expected {
    creations: i64,
    deletions: HashSet<String>,
    since: Instant,
}

/// One controller's expectations, for all its keys.
#[derive(Debug, Default)]
pub struct Expectations {
    by_key: Mutex<HashMap<Key, Expected>>,
}

impl Expectations {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Expected>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is about to be done for `key`, replacing what was noted before.
    pub fn expect(&self, key: &Key, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let expected = Expected {
            creations: i64::try_from(creations).unwrap_or(i64::MAX),
            deletions: deletions.into_iter().collect(),
            since: Instant::now(),
        };
        self.lock().insert(key.clone(), expected);
    }

    /// A dependent of `key` was created, or its creation failed.
    pub fn creation_observed(&self, key: &Key) {
        if let Some(expected) = self.lock().get_mut(key) {
            expected.creations -= 1;
        }
    }

    /// The dependent `uid` of `key` is terminating or gone, or its deletion failed.
    pub fn deletion_observed(&self, key: &Key, uid: &str) {
        if let Some(expected) = self.lock().get_mut(key) {
            expected.deletions.remove(uid);
        }
    }

    /// Whether the cache shows everything done for `key` so far.
    pub fn satisfied(&self, key: &Key) -> bool {
        self.lock().get(key).is_none_or(|expected| {
            (expected.creations <= 0 && expected.deletions.is_empty()) || expected.since.elapsed() > TIMEOUT
        })
    }

    /// The object behind `key` is gone.
    pub fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_until_all_were_seen() {
        let expectations = Expectations::default();
        let key = Key::new("ns", "web");
        assert!(expectations.satisfied(&key), "nothing expected");
        expectations.expect(&key, 2, ["u1".to_owned()]);
        expectations.creation_observed(&key);
        assert!(!expectations.satisfied(&key));
        expectations.creation_observed(&key);
        assert!(!expectations.satisfied(&key), "a deletion is still out");
        expectations.deletion_observed(&key, "u1");
        expectations.deletion_observed(&key, "u1");
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 5, []);
        expectations.forget(&key);
        assert!(expectations.satisfied(&key));
    }
}

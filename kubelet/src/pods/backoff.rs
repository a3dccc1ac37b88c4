//! Exponential back-off per key, with decay: upstream's `flowcontrol.Backoff` as plain data.
//!
//! A key's delay starts at the initial value, doubles with each failure up to the maximum, and is forgotten when
//! nothing failed for twice the maximum. Time is always given, never read.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

/// First delay of crash loops and image pulls.
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    delay: SignedDuration,
    updated: Timestamp,
}

/// Delays by key; one value per pod, so it is bounded by the pod's containers and images.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    entries: HashMap<String, Entry>,
}

impl Backoff {
    /// When the key may be tried again after something that happened at `event`; `None` when at once.
    pub fn blocked_until(
        &self,
        key: &str,
        event: Timestamp,
        now: Timestamp,
        max: SignedDuration,
    ) -> Option<(Timestamp, SignedDuration)> {
        let entry = self.entries.get(key)?;
        if event.duration_since(entry.updated) > max * 2 {
            return None;
        }
        let until = event.checked_add(entry.delay).ok()?;
        (now < until).then_some((until, entry.delay))
    }

    /// As `blocked_until`, measured from the last failure.
    pub fn blocked_since_update(
        &self,
        key: &str,
        now: Timestamp,
        max: SignedDuration,
    ) -> Option<(Timestamp, SignedDuration)> {
        let updated = self.entries.get(key)?.updated;
        self.blocked_until(key, updated, now, max)
    }

    /// Notes one more try after a failure at `event`.
    pub fn next(&mut self, key: &str, event: Timestamp, now: Timestamp, max: SignedDuration) {
        let initial = INITIAL.min(max);
        let delay = match self.entries.get(key) {
            Some(entry) if event.duration_since(entry.updated) <= max * 2 => (entry.delay * 2).min(max),
            _ => initial,
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    /// Forgets a key, after success.
    pub fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_caps_and_decays() {
        let max = SignedDuration::from_secs(300);
        let mut now = Timestamp::UNIX_EPOCH;
        let mut backoff = Backoff::default();
        assert_eq!(backoff.blocked_until("a", now, now, max), None);
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            backoff.next("a", now, now, max);
            let (until, delay) = backoff.blocked_until("a", now, now, max).unwrap();
            assert_eq!(delay.as_secs(), expected);
            assert_eq!(backoff.blocked_until("a", now, until, max), None);
            now = until;
        }
        now += SignedDuration::from_secs(1000);
        assert_eq!(backoff.blocked_until("a", now, now, max), None);
        backoff.next("a", now, now, max);
        assert_eq!(backoff.blocked_until("a", now, now, max).unwrap().1.as_secs(), 10);
    }
}

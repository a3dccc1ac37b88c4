//! Answers that are kept for a while: what a webhook said, whose certificate was verified.
//!
//! Guarantees: bounded; what has run out is never given. When it is full, what has run out goes first, and when all is still
//! good, everything: the next asker pays, nobody gets a wrong answer.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// At most `max_entries` answers by what was asked.
pub struct Remembered<K, V> {
    max_entries: usize,
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    /// Empty.
    pub fn new(max_entries: usize) -> Self {
        Self { max_entries, entries: Mutex::default() }
    }

    /// The answer, while it lasts.
    pub fn get(&self, asked: &K) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(asked).filter(|(until, _)| Instant::now() < *until).map(|(_, answer)| answer.clone())
    }

    /// Keeps an answer; one that lasts no time is not kept.
    pub fn insert(&self, asked: K, answer: V, lasts: Duration) {
        let now = Instant::now();
        let Some(until) = now.checked_add(lasts).filter(|_| !lasts.is_zero()) else { return };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.max_entries {
            entries.retain(|_, (until, _)| now < *until);
        }
        if entries.len() >= self.max_entries {
            entries.clear();
        }
        entries.insert(asked, (until, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn bounded_and_never_stale() {
        let remembered = Remembered::new(2);
        remembered.insert("no time", 0, Duration::ZERO);
        remembered.insert("over", 1, Duration::from_nanos(1));
        remembered.insert("good", 2, LONG);
        assert_eq!((remembered.get(&"no time"), remembered.get(&"good")), (None, Some(2)));
        remembered.insert("third", 3, LONG);
        // What had run out made room.
        assert_eq!(
            (remembered.get(&"over"), remembered.get(&"good"), remembered.get(&"third")),
            (None, Some(2), Some(3))
        );
        remembered.insert("fourth", 4, LONG);
        assert_eq!((remembered.get(&"good"), remembered.get(&"fourth")), (None, Some(4)));
    }
}

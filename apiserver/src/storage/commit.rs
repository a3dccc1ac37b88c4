//! Group commit: which of the waiting writes leave together. While some are on their way to etcd, those that come are
//! collected, and go as one transaction when an answer has come: what a transaction costs is then paid once for many.
//!
//! Guarantees: a write waits only while a transaction is on its way, and a full one never waits; companions have different
//! slots, thus different keys, and stand in the order of their slots; writes of one slot leave in the order they came in. Pure.

use std::collections::VecDeque;

/// Writes in a transaction; etcd's own bound is 128 by default.
const MAX_WRITES: usize = 64;
/// Bytes that a transaction is filled up to; etcd takes 1.5 MiB by default, and a single larger write goes alone.
const MAX_BYTES: usize = 512 << 10;

struct Waiting<T> {
    slot: u8,
    bytes: usize,
    write: T,
}

/// The writes that wait, and how many workers take them off.
pub(super) struct Queue<T> {
    waiting: VecDeque<Waiting<T>>,
    workers: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), workers: 0 }
    }
}

impl<T> Queue<T> {
    /// Takes a write in. If true, the caller starts a worker that calls [`Self::next`] until nothing comes.
    #[must_use]
    pub(super) fn push(&mut self, slot: u8, bytes: usize, write: T) -> bool {
        self.waiting.push_back(Waiting { slot, bytes, write });
        let start = self.waiting.len() > self.workers * MAX_WRITES;
        self.workers += usize::from(start);
        start
    }

    /// The writes of the next transaction, in the order of their slots. Nothing: the worker that asked is done.
    pub(super) fn next(&mut self) -> Vec<T> {
        let mut taken: Vec<Waiting<T>> = Vec::new();
        let mut left = VecDeque::new();
        let mut seen = [false; 1 << u8::BITS];
        let mut bytes = 0;
        while let Some(one) = self.waiting.pop_front() {
            let fits = taken.is_empty() || taken.len() < MAX_WRITES && bytes + one.bytes <= MAX_BYTES;
            // A later one of its slot must not overtake it.
            if std::mem::replace(&mut seen[usize::from(one.slot)], true) || !fits {
                left.push_back(one);
            } else {
                bytes += one.bytes;
                taken.push(one);
            }
        }
        self.waiting = left;
        self.workers -= usize::from(taken.is_empty());
        taken.sort_unstable_by_key(|one| one.slot);
        taken.into_iter().map(|one| one.write).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companions_have_different_slots_in_order_and_nothing_is_overtaken() {
        let mut queue = Queue::default();
        for (slot, name) in [(9, "a"), (3, "b"), (9, "c"), (1, "d"), (9, "e")] {
            let _ = queue.push(slot, 10, name);
        }
        assert_eq!(queue.next(), ["d", "b", "a"]);
        assert_eq!(queue.next(), ["c"]);
        let _ = queue.push(2, 10, "f");
        assert_eq!(queue.next(), ["f", "e"]);
        assert!(queue.next().is_empty());
    }

    #[test]
    fn transactions_are_bounded_and_a_large_write_goes_alone() {
        let mut queue = Queue::default();
        for slot in 0..100 {
            let _ = queue.push(slot, 10, slot);
        }
        assert_eq!([queue.next().len(), queue.next().len()], [64, 36]);
        let _ = queue.push(7, MAX_BYTES + 1, 7);
        let _ = queue.push(6, 10, 6);
        let _ = queue.push(5, MAX_BYTES, 5);
        assert_eq!([queue.next(), queue.next(), queue.next()], [vec![7], vec![6], vec![5]]);
    }

    #[test]
    fn a_worker_is_started_for_the_first_write_and_for_what_fills_a_transaction() {
        let mut queue = Queue::default();
        let started: Vec<u8> = (0..150).filter(|slot| queue.push(*slot, 1, ())).collect();
        assert_eq!(started, [0, 64, 128]);
        assert_eq!([(); 5].map(|()| queue.next().len()), [64, 64, 22, 0, 0]);
        assert!(!queue.push(0, 1, ()), "the third worker is still there");
        assert_eq!((queue.next().len(), queue.next().len()), (1, 0));
        assert!(queue.push(0, 1, ()));
    }
}

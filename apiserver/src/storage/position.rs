//! Resource versions: where a write stands in the log.
//!
//! One transaction of etcd may write many objects, and all of them get its revision; but a watch resumes after one object, so
//! each needs a place of its own. A resource version is therefore the revision and, in its low bits, a slot that follows from
//! the key: nothing has to be stored for it, and all API servers find the same. Who writes several keys in one transaction
//! takes keys of different slots, in the order of the slots ([`super::commit`]).
//!
//! Pure. The numbers of stored objects depend on it: it cannot be changed for a cluster that exists.

/// Bits of the slot.
const SLOT_BITS: u32 = 8;
/// The largest slot.
const LAST: u64 = (1 << SLOT_BITS) - 1;

/// The slot of a key (FNV-1a, folded).
pub(super) fn slot(key: &[u8]) -> u8 {
    let hash = key.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_le_bytes().into_iter().fold(0, |folded, byte| folded ^ byte)
}

/// The resource version of a key that etcd wrote at a revision.
pub(super) fn of(key: &[u8], revision: i64) -> u64 {
    start(revision) | u64::from(slot(key))
}

/// At or before everything that a revision wrote.
pub(super) fn start(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or_default() << SLOT_BITS
}

/// At or after everything that a revision wrote.
pub(super) fn end(revision: i64) -> u64 {
    start(revision) | LAST
}

/// The revision of etcd that a resource version belongs to.
pub(super) fn revision(version: u64) -> i64 {
    // It fits: the shift leaves the sign's bit free.
    (version >> SLOT_BITS).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_slot_for_ever() {
        let slots = ["/registry/pods/default/a", "/registry/pods/default/b", ""].map(|key| slot(key.as_bytes()));
        assert_eq!(slots, [145, 110, 197]);
    }

    #[test]
    fn what_a_revision_wrote_lies_between_its_neighbours() {
        for key in ["a", "b", "c"].map(str::as_bytes) {
            let version = of(key, 7);
            assert!((start(7)..=end(7)).contains(&version) && end(6) < version && version < start(8));
            assert_eq!(revision(version), 7);
        }
        assert_eq!((revision(0), revision(end(1)), revision(u64::MAX)), (0, 1, i64::MAX >> 7));
    }
}

//! A shorter form for what lies in etcd: LZ4 over the JSON.
//!
//! etcd's work and memory grow with the bytes it is given (half of what it does for a pod is for the bytes beyond the first
//! 3 KB), and most of an object is the names of its fields. A small object stays as it is: reading it in etcd teaches, and
//! there is little to win. Whatever the form, it is read.

use std::borrow::Cow;
use std::cell::RefCell;

/// What stands before a short value; the length of the JSON (four bytes, little endian) and the LZ4 block follow.
const MAGIC: &[u8] = b"hardway:lz4:v1:";
/// Smaller objects stay as they are.
const MIN_JSON_BYTES: usize = 1024;
/// A value that claims to be longer is corrupt: more than any body that is taken, with its ownership.
const MAX_JSON_BYTES: usize = 64 << 20;

/// A larger scratch is given back.
const MAX_SCRATCH_BYTES: usize = 64 << 10;

thread_local! {
    /// Where blocks are made: zeroing a new place for each would cost as much as half of the compression.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The short form, when it is worth it.
pub(super) fn shorten(json: &[u8]) -> Vec<u8> {
    if json.len() < MIN_JSON_BYTES {
        return json.to_vec();
    }
    SCRATCH.with_borrow_mut(|block| {
        let most = lz4_flex::block::get_maximum_output_size(json.len());
        if block.len() < most {
            block.resize(most, 0);
        }
        let (Ok(length), Ok(written)) = (u32::try_from(json.len()), lz4_flex::block::compress_into(json, block)) else {
            return json.to_vec();
        };
        let out = [MAGIC, &length.to_le_bytes(), &block[..written]].concat();
        if block.len() > MAX_SCRATCH_BYTES {
            *block = Vec::new();
        }
        out
    })
}

/// The JSON of either form.
///
/// # Errors
/// A short value is damaged.
pub(super) fn restore(stored: Cow<'_, [u8]>) -> Result<Cow<'_, [u8]>, String> {
    let Some(rest) = stored.strip_prefix(MAGIC) else { return Ok(stored) };
    let (length, block) = rest.split_first_chunk().ok_or("its LZ4 block has no length")?;
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_JSON_BYTES {
        return Err(format!("its LZ4 block claims {length} bytes, and at most {MAX_JSON_BYTES} are read"));
    }
    lz4_flex::block::decompress(block, length).map(Cow::Owned).map_err(|error| format!("its LZ4 block: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_value_comes_back(mut json in proptest::collection::vec(any::<u8>(), 0..4096), times in 1..4usize) {
            json = json.repeat(times);
            let stored = shorten(&json);
            prop_assert_eq!(restore(Cow::Owned(stored)).unwrap().into_owned(), json);
        }

        #[test]
        fn damage_is_an_error_or_another_value_and_never_more(tail in proptest::collection::vec(any::<u8>(), 0..64)) {
            let stored = [MAGIC, &tail].concat();
            if let Ok(json) = restore(Cow::Owned(stored)) {
                prop_assert!(json.len() <= MAX_JSON_BYTES);
            }
        }
    }

    #[test]
    fn a_large_object_is_shorter_and_a_small_one_as_it_is() {
        let json = br#"{"kind":"ConfigMap","apiVersion":"v1","data":{}}"#.to_vec();
        assert_eq!(shorten(&json), json);
        let large = json.repeat(100);
        assert!(shorten(&large).len() < large.len() / 10);
    }
}

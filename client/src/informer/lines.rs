//! Splits a body that comes in pieces into lines.

use bytes::{Bytes, BytesMut};

/// Largest event: an object may have 3 MiB, more in JSON with escapes.
const MAX_LINE_BYTES: usize = 32 << 20;

/// Buffered bytes that have no newline yet, and how far they were searched.
#[derive(Default)]
pub(super) struct Lines {
    buffer: BytesMut,
    searched: usize,
}

impl Lines {
    /// Adds received bytes; fails when a line grows beyond all bounds.
    pub(super) fn push(&mut self, data: &[u8]) -> Result<(), String> {
        if self.buffer.len() + data.len() > MAX_LINE_BYTES {
            return Err(format!("an event is larger than {MAX_LINE_BYTES} bytes"));
        }
        self.buffer.extend_from_slice(data);
        Ok(())
    }

    /// The next whole line, without its newline.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
        let Some(offset) = unsearched.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            if self.buffer.is_empty() {
                // Gives a large event's memory back.
                self.buffer = BytesMut::new();
            }
            return None;
        };
        let mut line = self.buffer.split_to(self.searched + offset + 1);
        line.truncate(self.searched + offset);
        self.searched = 0;
        Some(line.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_across_pieces() {
        let mut lines = Lines::default();
        let mut out: Vec<Bytes> = Vec::new();
        for piece in ["a", "b\nc\n", "", "\nde", "f\n", "rest"] {
            lines.push(piece.as_bytes()).unwrap();
            out.extend(std::iter::from_fn(|| lines.next()));
        }
        assert_eq!(out, ["ab", "c", "", "def"]);
    }
}

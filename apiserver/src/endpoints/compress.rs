//! Gzip for large answers to clients that take it, with upstream's bounds (128 KiB, fastest level).

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// Smaller answers are not worth the work.
pub const THRESHOLD_BYTES: usize = 128 << 10;

/// Whether the client takes gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|coding| {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
        name.trim() == "gzip" && !matches!(quality.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    })
}

/// A gzip stream that gives its output away piece by piece.
pub struct Gzip(GzEncoder<Vec<u8>>);

impl Default for Gzip {
    fn default() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::fast()))
    }
}

impl Gzip {
    /// Adds input and takes what output there is (often nothing yet).
    pub fn push(&mut self, input: &[u8]) -> Vec<u8> {
        // writing into memory cannot fail
        let _ = self.0.write_all(input);
        std::mem::take(self.0.get_mut())
    }

    /// Ends the stream.
    pub fn finish(self) -> Vec<u8> {
        self.0.finish().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn pieces_make_one_stream() {
        let mut gzip = Gzip::default();
        let mut out = Vec::new();
        let piece = vec![b'a'; 100_000];
        for _ in 0..10 {
            out.extend(gzip.push(&piece));
        }
        out.extend(gzip.finish());
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(out.as_slice()).read_to_end(&mut text).unwrap();
        assert_eq!(text.len(), 1_000_000);
        let headers = |v: &'static str| HeaderMap::from_iter([(ACCEPT_ENCODING, http::HeaderValue::from_static(v))]);
        assert!(
            accepts_gzip(&headers("br, gzip;q=0.5"))
                && !accepts_gzip(&headers("gzip;q=0"))
                && !accepts_gzip(&headers("identity"))
        );
    }
}

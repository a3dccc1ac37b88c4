//! The client's end of SPDY/3.1 (draft 3), as much as container runtimes need it: streams with a name, their bytes, pings.
//!
//! Guarantees: frames are bounded or passed on in pieces; nothing panics on what a peer sends; reading can be cancelled
//! between any two bytes. Header blocks of the peer are not read (they say nothing that we need), ours are compressed
//! without the preset dictionary, which readers of zlib streams take as the stream itself says. No flow control, as in the
//! implementation that all runtimes use.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncRead, AsyncReadExt as _};

const HEADER_BYTES: usize = 8;
/// Longest control frame that is read.
const MAX_CONTROL_BYTES: usize = 64 << 10;
/// Data is passed on in pieces of at most this.
const PIECE_BYTES: usize = 32 << 10;
const VERSION: u16 = 0x8003;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;

/// What the peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Bytes of a stream; `last` when none follow.
    Data { stream: u32, bytes: Bytes, last: bool },
    /// The peer ended a stream, orderly or not, without bytes.
    Ended { stream: u32 },
    /// To be sent back as it is.
    Ping(u32),
    /// The peer takes no more streams.
    GoAway,
}

/// A data frame of which a part is still to come.
struct Partial {
    stream: u32,
    left: usize,
    last: bool,
}

/// Reads frames.
pub(super) struct Reader<R> {
    io: R,
    buffer: BytesMut,
    partial: Option<Partial>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::with_capacity(PIECE_BYTES), partial: None }
    }

    /// The next event; `None` when the peer closed the connection.
    ///
    /// # Errors
    /// The connection breaks, or the peer does not speak SPDY/3.
    pub(super) async fn next(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.parse()? {
                return Ok(Some(event));
            }
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// An event out of what was read, if it is enough for one.
    fn parse(&mut self) -> io::Result<Option<Event>> {
        loop {
            if self.partial.is_some() {
                return Ok(self.piece());
            }
            if self.buffer.len() < HEADER_BYTES {
                return Ok(None);
            }
            let mut header = &self.buffer[..HEADER_BYTES];
            let (first, second) = (header.get_u32(), header.get_u32());
            let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
            if first & 0x8000_0000 == 0 {
                self.buffer.advance(HEADER_BYTES);
                self.partial = Some(Partial { stream: first, left: length, last: flags & FIN != 0 });
                continue;
            }
            if (first >> 16) as u16 != VERSION || length > MAX_CONTROL_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not speak SPDY/3"));
            }
            if self.buffer.len() < HEADER_BYTES + length {
                self.buffer.reserve(HEADER_BYTES + length - self.buffer.len());
                return Ok(None);
            }
            self.buffer.advance(HEADER_BYTES);
            let mut body = self.buffer.split_to(length);
            let number = if length >= 4 { body.get_u32() } else { 0 };
            match (first & 0xffff) as u16 {
                RST_STREAM => return Ok(Some(Event::Ended { stream: number })),
                SYN_REPLY if flags & FIN != 0 => return Ok(Some(Event::Ended { stream: number })),
                PING => return Ok(Some(Event::Ping(number))),
                GO_AWAY => return Ok(Some(Event::GoAway)),
                _ => {}
            }
        }
    }

    fn piece(&mut self) -> Option<Event> {
        let partial = self.partial.as_mut()?;
        if partial.left > 0 && self.buffer.is_empty() {
            self.buffer.reserve(PIECE_BYTES);
            return None;
        }
        let bytes = self.buffer.split_to(partial.left.min(self.buffer.len()).min(PIECE_BYTES)).freeze();
        partial.left -= bytes.len();
        let (stream, done) = (partial.stream, partial.left == 0);
        let last = done && partial.last;
        if done {
            self.partial = None;
        }
        Some(Event::Data { stream, bytes, last })
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | (length as u32 & 0x00ff_ffff));
}

/// Writes frames. All header blocks of a connection are one compressed stream.
pub(super) struct Frames {
    headers: Compress,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self { headers: Compress::new(Compression::fast(), true) }
    }

    /// Opens a stream of our side (odd ids, rising) with these headers.
    ///
    /// # Errors
    /// The compressor fails.
    pub(super) fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> io::Result<Bytes> {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        // Room for all at once: what does not compress grows by a few bytes.
        let mut block = Vec::with_capacity(plain.len() + 128);
        self.headers.compress_vec(&plain, &mut block, FlushCompress::Sync).map_err(io::Error::other)?;
        let mut out = BytesMut::with_capacity(HEADER_BYTES + 10 + block.len());
        control(&mut out, SYN_STREAM, 0, 10 + block.len());
        out.put_u32(stream);
        // No parent, highest priority.
        out.put_u32(0);
        out.put_u16(0);
        out.put_slice(&block);
        Ok(out.freeze())
    }
}

/// Bytes of a stream; with `last` none may follow.
pub(super) fn data(stream: u32, bytes: &[u8], last: bool) -> Bytes {
    const MAX_DATA_BYTES: usize = 0x00ff_ffff;
    let mut out = BytesMut::with_capacity(bytes.len() + HEADER_BYTES);
    let mut pieces = bytes.chunks(MAX_DATA_BYTES).peekable();
    // An end without bytes is a frame too.
    let mut piece = pieces.next().unwrap_or_default();
    loop {
        let next = pieces.next();
        let flags = if last && next.is_none() { FIN } else { 0 };
        out.put_u32(stream);
        out.put_u32(u32::from(flags) << 24 | piece.len() as u32);
        out.put_slice(piece);
        match next {
            Some(next) => piece = next,
            None => return out.freeze(),
        }
    }
}

/// The answer to a ping.
pub(super) fn ping(id: u32) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + 4);
    control(&mut out, PING, 0, 4);
    out.put_u32(id);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn events(bytes: &[u8]) -> io::Result<Vec<Event>> {
        let mut reader = Reader::new(bytes);
        let mut events = Vec::new();
        while let Some(event) = reader.next().await? {
            events.push(event);
        }
        Ok(events)
    }

    #[tokio::test]
    async fn what_is_read() {
        let mut wire = BytesMut::new();
        control(&mut wire, SYN_REPLY, 0, 6);
        wire.put_slice(&[0, 0, 0, 1, 9, 9]);
        wire.put_slice(&data(3, b"hello", false));
        wire.put_slice(&data(3, b"", true));
        wire.put_slice(&ping(2));
        control(&mut wire, RST_STREAM, 0, 8);
        wire.put_slice(&[0, 0, 0, 5, 0, 0, 0, 1]);
        control(&mut wire, GO_AWAY, 0, 8);
        wire.put_slice(&[0; 8]);
        let expected = [
            Event::Data { stream: 3, bytes: Bytes::from_static(b"hello"), last: false },
            Event::Data { stream: 3, bytes: Bytes::new(), last: true },
            Event::Ping(2),
            Event::Ended { stream: 5 },
            Event::GoAway,
        ];
        assert_eq!(events(&wire).await.unwrap(), expected);
        // Cut anywhere, it is a beginning of the same.
        for end in 0..wire.len() {
            let read = events(&wire[..end]).await.unwrap();
            assert!(read.len() <= expected.len(), "{end}");
        }
    }

    #[tokio::test]
    async fn large_data_comes_in_pieces() {
        let sent = vec![7; 3 * PIECE_BYTES + 1];
        let mut got = 0;
        for event in events(&data(1, &sent, true)).await.unwrap() {
            let Event::Data { bytes, last, .. } = event else { panic!("{event:?}") };
            got += bytes.len();
            assert!(bytes.len() <= PIECE_BYTES);
            assert_eq!(last, got == sent.len());
        }
        assert_eq!(got, sent.len());
    }

    #[tokio::test]
    async fn what_is_not_spdy() {
        assert!(events(b"\x80\x02\x00\x01\x00\x00\x00\x00").await.is_err());
        assert!(events(b"\x80\x03\x00\x01\x00\xff\xff\xff").await.is_err());
    }

    #[test]
    fn header_blocks_are_one_stream() {
        let mut frames = Frames::new();
        let mut reader = flate2::Decompress::new(true);
        for (stream, name) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            let frame = frames.open(stream, &[("streamtype", name)]).unwrap();
            assert_eq!(&frame[..4], [0x80, 3, 0, 1]);
            assert_eq!(frame[8..12], stream.to_be_bytes());
            let mut block = Vec::with_capacity(1024);
            reader.decompress_vec(&frame[18..], &mut block, flate2::FlushDecompress::Sync).unwrap();
            let expected =
                [&[0, 0, 0, 1, 0, 0, 0, 10][..], b"streamtype", &[0, 0, 0, name.len() as u8], name.as_bytes()];
            assert_eq!(block, expected.concat());
        }
    }
}

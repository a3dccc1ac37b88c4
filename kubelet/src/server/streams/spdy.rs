//! The client's side of SPDY/3.1, as far as a runtime's streaming server needs it: streams, data, their ends, pings.
//!
//! Headers are told in a compressed form whose blocks may hold plain bytes, which is what is sent; those of replies are not
//! looked at. There is no flow control but the connection's: neither side of these protocols uses SPDY's.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const CONTROL: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const FIN: u8 = 1;
/// Longest payload; the length has 24 bits.
const MAX_FRAME_BYTES: usize = (1 << 24) - 1;
/// Longest headers: blocks of plain bytes tell their length in 16 bits.
const MAX_HEADER_BYTES: usize = 1 << 12;

/// What the server sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Data {
        stream: u32,
        bytes: Vec<u8>,
        last: bool,
    },
    /// A stream that ended without its last data.
    Reset {
        stream: u32,
    },
    /// To be answered with the same number.
    Ping(u32),
    Closed,
}

/// Reads frames.
pub struct Reader<R>(R);

impl<R: AsyncRead + Unpin> Reader<R> {
    /// A reader of what comes after the upgrade.
    pub fn new(from: R) -> Self {
        Self(from)
    }

    /// The next frame that matters here; a connection that ends is `Closed`.
    ///
    /// # Errors
    /// The connection's.
    pub async fn next(&mut self) -> io::Result<Frame> {
        loop {
            let mut head = [0; 8];
            match self.0.read_exact(&mut head).await {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Frame::Closed),
                other => other?,
            };
            let [a, b, c, d, flags, long, middle, short] = head;
            let mut bytes = vec![0; u32::from_be_bytes([0, long, middle, short]) as usize];
            self.0.read_exact(&mut bytes).await?;
            if a & 0x80 == 0 {
                let stream = u32::from_be_bytes([a, b, c, d]);
                return Ok(Frame::Data { stream, bytes, last: flags & FIN != 0 });
            }
            let number = bytes.first_chunk().map(|n| u32::from_be_bytes(*n) & 0x7fff_ffff);
            match (u16::from_be_bytes([c, d]), number) {
                (RST_STREAM, Some(stream)) => return Ok(Frame::Reset { stream }),
                (PING, Some(number)) if number % 2 == 0 => return Ok(Frame::Ping(number)),
                (GO_AWAY, _) => return Ok(Frame::Closed),
                _ => {}
            }
        }
    }
}

/// Writes frames.
pub struct Writer<W> {
    to: W,
    /// Whether the compressed form was begun.
    begun: bool,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// A writer of what goes after the upgrade.
    pub fn new(to: W) -> Self {
        Self { to, begun: false }
    }

    async fn control(&mut self, kind: u16, payload: &[u8]) -> io::Result<()> {
        let [_, long, middle, short] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        let [a, b] = CONTROL.to_be_bytes();
        let [c, d] = kind.to_be_bytes();
        self.to.write_all(&[a, b, c, d, 0, long, middle, short]).await?;
        self.to.write_all(payload).await?;
        self.to.flush().await
    }

    /// Opens a stream; clients' numbers are odd and grow.
    ///
    /// # Errors
    /// The connection's, or headers that are too long.
    pub async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> io::Result<()> {
        let count = |n: usize| u32::try_from(n).unwrap_or(0).to_be_bytes();
        let mut block = count(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(count(text.len()));
            block.extend(text.as_bytes());
        }
        let Some(length) = u16::try_from(block.len()).ok().filter(|_| block.len() <= MAX_HEADER_BYTES) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the stream's headers are too long"));
        };
        let mut payload = [stream.to_be_bytes(), 0u32.to_be_bytes()].concat();
        // Priority and slot.
        payload.extend([0, 0]);
        if !std::mem::replace(&mut self.begun, true) {
            payload.extend([0x78, 0x01]);
        }
        // A block of plain bytes, and an empty one that makes the other side pass on what it has.
        payload.push(0);
        payload.extend(length.to_le_bytes());
        payload.extend((!length).to_le_bytes());
        payload.extend(block);
        payload.extend([0, 0, 0, 0xff, 0xff]);
        self.control(SYN_STREAM, &payload).await
    }

    /// Sends data of a stream; `last` ends it.
    ///
    /// # Errors
    /// The connection's.
    pub async fn data(&mut self, stream: u32, bytes: &[u8], last: bool) -> io::Result<()> {
        let mut chunks = bytes.chunks(MAX_FRAME_BYTES).peekable();
        if chunks.peek().is_none() && last {
            return self.chunk(stream, &[], FIN).await;
        }
        while let Some(chunk) = chunks.next() {
            let flags = if last && chunks.peek().is_none() { FIN } else { 0 };
            self.chunk(stream, chunk, flags).await?;
        }
        Ok(())
    }

    async fn chunk(&mut self, stream: u32, bytes: &[u8], flags: u8) -> io::Result<()> {
        let [_, long, middle, short] = u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
        let [a, b, c, d] = stream.to_be_bytes();
        self.to.write_all(&[a, b, c, d, flags, long, middle, short]).await?;
        self.to.write_all(bytes).await?;
        self.to.flush().await
    }

    /// Answers a ping.
    ///
    /// # Errors
    /// The connection's.
    pub async fn pong(&mut self, number: u32) -> io::Result<()> {
        self.control(PING, &number.to_be_bytes()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_as_the_protocol_has_them() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        writer.open(1, &[("streamtype", "error")]).await.unwrap();
        writer.data(1, b"hi", true).await.unwrap();
        // version 3, SYN_STREAM, no flags, then the length
        assert_eq!(out[..8], [0x80, 3, 0, 1, 0, 0, 0, 49]);
        assert_eq!(out[18..25], [0x78, 0x01, 0, 27, 0, 228, 0xff], "a plain block of 27 bytes");
        assert!(out[25..].starts_with(b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05error\0\0\0\xff\xff"));
        let mut reader = Reader::new(&out[57..]);
        assert_eq!(reader.next().await.unwrap(), Frame::Data { stream: 1, bytes: b"hi".to_vec(), last: true });
        assert_eq!(reader.next().await.unwrap(), Frame::Closed);
        let mut second = Vec::new();
        let mut writer = Writer { to: &mut second, begun: true };
        writer.open(3, &[]).await.unwrap();
        assert_eq!(second[18..23], [0, 4, 0, 251, 0xff], "the form is begun once");
    }

    #[tokio::test]
    async fn control_frames_that_matter() {
        let reply = [0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0, 0, 1];
        let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2];
        let reset = [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 1];
        let bytes = [reply.as_slice(), &ping, &reset, &[0x80, 3, 0, 7, 0, 0, 0, 0]].concat();
        let mut reader = Reader::new(bytes.as_slice());
        assert_eq!(reader.next().await.unwrap(), Frame::Ping(2));
        assert_eq!(reader.next().await.unwrap(), Frame::Reset { stream: 5 });
        assert_eq!(reader.next().await.unwrap(), Frame::Closed);
    }
}

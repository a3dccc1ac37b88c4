//! The server's side of WebSocket (RFC 6455), as far as binary messages need it.
//!
//! Clients mask what they send; messages may come in fragments; a ping is answered with a pong by the reader's owner.
//! Bounded: a message longer than `MAX_MESSAGE_BYTES` ends the connection.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest message; clients send pieces of 32 KiB.
const MAX_MESSAGE_BYTES: u64 = 16 << 20;
/// What the RFC adds to a client's key.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Whether a request wants to become a WebSocket that speaks `protocol`.
pub fn offers(headers: &HeaderMap, protocol: &str) -> bool {
    let has = |name: &str, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(token))
    };
    has("upgrade", "websocket") && has("sec-websocket-protocol", protocol)
}

/// The answer to a client's `Sec-WebSocket-Key`.
pub fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}{KEY_SUFFIX}")))
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    Binary(Vec<u8>),
    /// To be answered with the same bytes.
    Ping(Vec<u8>),
    Closed,
}

/// Reads messages.
pub struct Reader<R> {
    from: R,
    /// The message whose fragments are coming.
    partial: Vec<u8>,
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// A reader of what comes after the handshake.
    pub fn new(from: R) -> Self {
        Self { from, partial: Vec::new() }
    }

    /// The next message; a connection that ends is `Closed`.
    ///
    /// # Errors
    /// What is no WebSocket frame of a client, or is too long.
    pub async fn next(&mut self) -> io::Result<Message> {
        loop {
            let mut head = [0; 2];
            match self.from.read_exact(&mut head).await {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Message::Closed),
                other => other?,
            };
            let (last, code) = (head[0] & FINAL != 0, head[0] & 0x0f);
            let payload = self.payload(head[1]).await?;
            match code {
                CONTINUATION | TEXT | BINARY => {
                    self.partial.extend(payload);
                    if self.partial.len() as u64 > MAX_MESSAGE_BYTES {
                        return Err(invalid("the message is too long"));
                    }
                    if last {
                        return Ok(Message::Binary(std::mem::take(&mut self.partial)));
                    }
                }
                CLOSE => return Ok(Message::Closed),
                PING => return Ok(Message::Ping(payload)),
                PONG => {}
                _ => return Err(invalid("unknown kind of frame")),
            }
        }
    }

    async fn payload(&mut self, second: u8) -> io::Result<Vec<u8>> {
        if second & MASKED == 0 {
            return Err(invalid("a client's frame must be masked"));
        }
        let length = match second & !MASKED {
            126 => u64::from(self.from.read_u16().await?),
            127 => self.from.read_u64().await?,
            short => u64::from(short),
        };
        let size = usize::try_from(length).ok().filter(|_| length <= MAX_MESSAGE_BYTES);
        let size = size.ok_or_else(|| invalid("the frame is too long"))?;
        let mut mask = [0; 4];
        self.from.read_exact(&mut mask).await?;
        let mut payload = vec![0; size];
        self.from.read_exact(&mut payload).await?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        Ok(payload)
    }
}

/// Writes messages.
pub struct Writer<W>(W);

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// A writer of what goes after the handshake.
    pub fn new(to: W) -> Self {
        Self(to)
    }

    async fn frame(&mut self, code: u8, prefix: &[u8], payload: &[u8]) -> io::Result<()> {
        let length = prefix.len() + payload.len();
        let mut head = vec![FINAL | code];
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short), _) if short < 126 => head.push(short),
            (_, Ok(medium)) => {
                head.push(126);
                head.extend(medium.to_be_bytes());
            }
            _ => {
                head.push(127);
                head.extend((length as u64).to_be_bytes());
            }
        }
        head.extend(prefix);
        self.0.write_all(&head).await?;
        self.0.write_all(payload).await?;
        self.0.flush().await
    }

    /// A binary message of two parts.
    ///
    /// # Errors
    /// The connection's.
    pub async fn binary(&mut self, prefix: &[u8], payload: &[u8]) -> io::Result<()> {
        self.frame(BINARY, prefix, payload).await
    }

    /// Answers a ping.
    ///
    /// # Errors
    /// The connection's.
    pub async fn pong(&mut self, payload: &[u8]) -> io::Result<()> {
        self.frame(PONG, &[], payload).await
    }

    /// Says that nothing more comes, because all is done.
    ///
    /// # Errors
    /// The connection's.
    pub async fn close(&mut self) -> io::Result<()> {
        self.frame(CLOSE, &1000u16.to_be_bytes(), &[]).await?;
        self.0.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let body = payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m);
        [first, MASKED | u8::try_from(payload.len()).unwrap()].into_iter().chain(mask).chain(body).collect()
    }

    #[test]
    fn handshake() {
        // the RFC's own example
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut headers = HeaderMap::new();
        headers.insert("upgrade", "websocket".parse().unwrap());
        headers.insert("sec-websocket-protocol", "v4.channel.k8s.io, v5.channel.k8s.io".parse().unwrap());
        assert!(offers(&headers, "v5.channel.k8s.io") && !offers(&headers, "channel.k8s.io"));
    }

    #[tokio::test]
    async fn messages() {
        let bytes =
            [masked(BINARY, b"ab"), masked(FINAL | PING, b"p"), masked(FINAL, b"c"), masked(FINAL | CLOSE, b"")];
        let bytes = bytes.concat();
        let mut reader = Reader::new(bytes.as_slice());
        assert_eq!(reader.next().await.unwrap(), Message::Ping(b"p".to_vec()));
        assert_eq!(reader.next().await.unwrap(), Message::Binary(b"abc".to_vec()));
        assert_eq!(reader.next().await.unwrap(), Message::Closed);
        assert_eq!(reader.next().await.unwrap(), Message::Closed, "the connection's end");
        assert!(Reader::new([0x82, 0x01, b'x'].as_slice()).next().await.is_err(), "not masked");
        let long = [[0x82, 0xff].as_slice(), &u64::MAX.to_be_bytes(), &[0; 4]].concat();
        assert!(Reader::new(long.as_slice()).next().await.is_err(), "too long");
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        writer.binary(&[1], &[7; 200]).await.unwrap();
        writer.close().await.unwrap();
        assert_eq!(out[..5], [0x82, 126, 0, 201, 1]);
        assert_eq!(out[out.len() - 4..], [0x88, 2, 0x03, 0xe8]);
    }
}

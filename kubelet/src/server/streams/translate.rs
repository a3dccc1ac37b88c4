//! Carries streams between a WebSocket client and a runtime that speaks SPDY.
//!
//! A command's streams are channels of the client's messages, told by their first byte; each is a SPDY stream. A message
//! of channel 255 ends the channel it names, so that a command sees the end of its input. The connection ends when the
//! command's outputs and its result have ended.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{spdy, websocket};

/// WebSocket protocol of commands whose input can be ended.
pub const COMMAND_PROTOCOL: &str = "v5.channel.k8s.io";
/// WebSocket protocol that carries a port-forward's SPDY connection.
pub const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// Channel of messages that end another.
const END_CHANNEL: u8 = 255;
/// Frames waiting for the client's or the runtime's side.
const QUEUE_FRAMES: usize = 16;
const BUFFER_BYTES: usize = 32 << 10;

/// A command's streams by channel: standard ones, its result, and the terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Error = 3,
    Resize = 4,
}

/// Which streams a command has.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wanted {
    /// Channels, the name of their streams, and their numbers, in the order in which clients open them.
    fn streams(self) -> Vec<(Channel, &'static str, u32)> {
        let all = [
            (Channel::Error, "error", true),
            (Channel::Stdin, "stdin", self.stdin),
            (Channel::Stdout, "stdout", self.stdout),
            (Channel::Stderr, "stderr", self.stderr && !self.tty),
            (Channel::Resize, "resize", self.tty),
        ];
        let wanted = all.into_iter().filter(|(_, _, on)| *on);
        wanted.zip((1..).step_by(2)).map(|((channel, name, _), number)| (channel, name, number)).collect()
    }
}

/// What is for the runtime.
enum ToRuntime {
    Data { number: u32, bytes: Vec<u8>, last: bool },
    Pong(u32),
}

/// What is for the client.
enum ToClient {
    Data { channel: Channel, bytes: Vec<u8> },
    Pong(Vec<u8>),
    Done,
}

type Streams = [(Channel, &'static str, u32)];

fn gone<T>(_: T) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

/// Carries a command's streams until it has ended or either side is gone.
///
/// # Errors
/// A side's connection, or what it should not have sent.
pub async fn command<C, R>(client: C, runtime: R, wanted: Wanted) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
    R: AsyncRead + AsyncWrite,
{
    let streams = wanted.streams();
    let (client_in, client_out) = tokio::io::split(client);
    let (runtime_in, runtime_out) = tokio::io::split(runtime);
    let mut to_runtime = spdy::Writer::new(runtime_out);
    for (_, name, number) in &streams {
        to_runtime.open(*number, &[("streamtype", name)]).await?;
    }
    let (runtime_queue, for_runtime) = mpsc::channel(QUEUE_FRAMES);
    let (client_queue, for_client) = mpsc::channel(QUEUE_FRAMES);
    // Tells the client that the streams are there.
    let first = [Channel::Stdout, Channel::Stderr, Channel::Error];
    let first = first.into_iter().find(|c| streams.iter().any(|(s, ..)| s == c)).unwrap_or(Channel::Error);
    client_queue.send(ToClient::Data { channel: first, bytes: Vec::new() }).await.map_err(gone)?;
    let from_client = read_client(websocket::Reader::new(client_in), &streams, &runtime_queue, &client_queue);
    let from_runtime = read_runtime(spdy::Reader::new(runtime_in), &streams, &runtime_queue, &client_queue);
    // Reading goes on to its end even when everything was read: the writer of the client's side ends the whole.
    let from_runtime = async {
        from_runtime.await?;
        std::future::pending().await
    };
    tokio::select! {
        done = from_client => done,
        done = from_runtime => done,
        done = write_runtime(to_runtime, for_runtime) => done,
        done = write_client(websocket::Writer::new(client_out), for_client) => done,
    }
}

async fn write_runtime<W>(mut writer: spdy::Writer<W>, mut queue: mpsc::Receiver<ToRuntime>) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    while let Some(out) = queue.recv().await {
        match out {
            ToRuntime::Data { number, bytes, last } => writer.data(number, &bytes, last).await?,
            ToRuntime::Pong(number) => writer.pong(number).await?,
        }
    }
    Ok(())
}

async fn write_client<W>(mut writer: websocket::Writer<W>, mut queue: mpsc::Receiver<ToClient>) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    while let Some(out) = queue.recv().await {
        match out {
            ToClient::Data { channel, bytes } => writer.binary(&[channel as u8], &bytes).await?,
            ToClient::Pong(bytes) => writer.pong(&bytes).await?,
            ToClient::Done => break,
        }
    }
    writer.close().await
}

/// Passes the command's outputs on until all have ended or the runtime is gone.
async fn read_runtime<R: AsyncRead + Unpin>(
    mut reader: spdy::Reader<R>,
    streams: &Streams,
    runtime: &mpsc::Sender<ToRuntime>,
    client: &mpsc::Sender<ToClient>,
) -> io::Result<()> {
    let ends = |channel: Channel| !matches!(channel, Channel::Stdin | Channel::Resize);
    let mut open: Vec<u32> = streams.iter().filter(|(c, ..)| ends(*c)).map(|(_, _, number)| *number).collect();
    while !open.is_empty() {
        match reader.next().await? {
            spdy::Frame::Data { stream, bytes, last } => {
                let known = streams.iter().find(|(_, _, number)| *number == stream);
                if let Some((channel, ..)) = known.filter(|_| !bytes.is_empty()) {
                    client.send(ToClient::Data { channel: *channel, bytes }).await.map_err(gone)?;
                }
                open.retain(|number| !last || *number != stream);
            }
            spdy::Frame::Reset { stream } => open.retain(|number| *number != stream),
            spdy::Frame::Ping(number) => runtime.send(ToRuntime::Pong(number)).await.map_err(gone)?,
            spdy::Frame::Closed => break,
        }
    }
    client.send(ToClient::Done).await.map_err(gone)
}

/// Passes the client's messages on until it is gone.
async fn read_client<R: AsyncRead + Unpin>(
    mut reader: websocket::Reader<R>,
    streams: &Streams,
    runtime: &mpsc::Sender<ToRuntime>,
    client: &mpsc::Sender<ToClient>,
) -> io::Result<()> {
    loop {
        let message = match reader.next().await? {
            websocket::Message::Binary(message) => message,
            websocket::Message::Ping(bytes) => {
                client.send(ToClient::Pong(bytes)).await.map_err(gone)?;
                continue;
            }
            websocket::Message::Closed => return Ok(()),
        };
        let (channel, bytes, last) = match message.split_first() {
            Some((&END_CHANNEL, [channel])) => (*channel, &[][..], true),
            Some((channel, bytes)) => (*channel, bytes, false),
            None => continue,
        };
        let writable = |c: Channel| matches!(c, Channel::Stdin | Channel::Resize) && c as u8 == channel;
        let Some((_, _, number)) = streams.iter().find(|(c, ..)| writable(*c)) else { continue };
        let out = ToRuntime::Data { number: *number, bytes: bytes.to_vec(), last };
        runtime.send(out).await.map_err(gone)?;
    }
}

/// Carries a SPDY connection inside a client's messages, byte by byte.
///
/// # Errors
/// A side's connection.
pub async fn tunnel<C, R>(client: C, runtime: R) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
    R: AsyncRead + AsyncWrite,
{
    let (client_in, client_out) = tokio::io::split(client);
    let (mut runtime_in, mut runtime_out) = tokio::io::split(runtime);
    let (mut reader, mut writer) = (websocket::Reader::new(client_in), websocket::Writer::new(client_out));
    let (pings, mut asked) = mpsc::channel::<Vec<u8>>(QUEUE_FRAMES);
    let inward = async {
        loop {
            match reader.next().await? {
                websocket::Message::Binary(bytes) => {
                    runtime_out.write_all(&bytes).await?;
                    runtime_out.flush().await?;
                }
                // A full queue means that the client does not read; then it does not miss the answer either.
                websocket::Message::Ping(bytes) => drop(pings.try_send(bytes)),
                websocket::Message::Closed => return Ok(()),
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            tokio::select! {
                read = runtime_in.read(&mut buffer) => match read? {
                    0 => return writer.close().await,
                    n => writer.binary(&[], &buffer[..n]).await?,
                },
                Some(ping) = asked.recv() => writer.pong(&ping).await?,
            }
        }
    };
    tokio::select! {
        done = inward => done,
        done = outward => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's binary message; a mask of zeros leaves the bytes as they are.
    fn message(bytes: &[u8]) -> Vec<u8> {
        [&[0x82, 0x80 | u8::try_from(bytes.len()).unwrap(), 0, 0, 0, 0], bytes].concat()
    }

    #[tokio::test]
    async fn a_command_gets_its_input_and_its_end() {
        let (mut client, client_side) = tokio::io::duplex(4096);
        let (runtime, runtime_side) = tokio::io::duplex(4096);
        let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };
        let carrying = tokio::spawn(command(client_side, runtime_side, wanted));
        client.write_all(&[message(b"\0hello"), message(&[END_CHANNEL, 0])].concat()).await.unwrap();
        let (from, to) = tokio::io::split(runtime);
        let mut frames = spdy::Reader::new(from);
        let data = |stream, bytes: &[u8], last| spdy::Frame::Data { stream, bytes: bytes.to_vec(), last };
        assert_eq!(frames.next().await.unwrap(), data(3, b"hello", false));
        assert_eq!(frames.next().await.unwrap(), data(3, b"", true));
        let mut runtime = spdy::Writer::new(to);
        runtime.data(5, b"out", false).await.unwrap();
        runtime.data(5, b"", true).await.unwrap();
        runtime.data(1, b"{}", true).await.unwrap();
        carrying.await.unwrap().unwrap();
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"\x82\x01\x01\x82\x04\x01out\x82\x03\x03{}\x88\x02\x03\xe8");
    }

    #[tokio::test]
    async fn a_tunnel_carries_bytes() {
        let (mut client, client_side) = tokio::io::duplex(4096);
        let (mut runtime, runtime_side) = tokio::io::duplex(4096);
        let carrying = tokio::spawn(tunnel(client_side, runtime_side));
        client.write_all(&message(b"in")).await.unwrap();
        let mut seen = [0; 2];
        runtime.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"in");
        runtime.write_all(b"out").await.unwrap();
        drop(runtime);
        carrying.await.unwrap().unwrap();
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"\x82\x03out\x88\x02\x03\xe8");
    }
}

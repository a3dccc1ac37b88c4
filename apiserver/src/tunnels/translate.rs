//! WebSocket clients of backends that speak SPDY: `v5.channel.k8s.io` of exec and attach becomes streams, and the SPDY
//! connection of port-forward travels inside binary messages.
//!
//! Guarantees, as upstream: exec and attach answer the handshake first and report everything that goes wrong later as a
//! Status on the error channel; port-forward passes a backend's refusal back. The client's end closes the backend's
//! connection and the other way round; after the command has ended the client gets all of its output and the time to read
//! it. Both directions flow independently, so that neither can block the other.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use apimachinery::status::Status;
use bytes::{BufMut, Bytes, BytesMut};
use component_base::serving::Body;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use http::header::{HeaderName, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message, Utf8Bytes};

use super::relay::{self, Target};
use super::spdy::{self, Event, Frames, Reader};
use super::unreachable;
use super::websocket::{self, Socket};
use crate::http::request::Query;

/// Exec and attach with a signal for the end of input.
pub(super) const V5: &str = "v5.channel.k8s.io";
/// What a runtime speaks on its SPDY connections.
const V4: &str = "v4.channel.k8s.io";
const TUNNEL: &str = "SPDY/3.1+";
const SPDY: &str = "spdy/3.1";
const VERSION_HEADER: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// How long a client may take to read what is left after the command has ended.
const FINISH_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The Status at the end, and the words of a refusal.
const MAX_STATUS_BYTES: usize = 64 << 10;
const READ_BYTES: usize = 32 << 10;

type Io = TokioIo<Upgraded>;

/// Channels of `v5.channel.k8s.io`.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Its payload is the channel that the client closes.
const CLOSE: u8 = 255;

/// Which streams a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    pub(super) fn of(query: &Query) -> Self {
        let [stdin, stdout, stderr, tty] = ["stdin", "stdout", "stderr", "tty"].map(|name| query.flag(name));
        Self { stdin, stdout, stderr, tty }
    }

    /// Channel and stream id, in the order in which they are opened. With a terminal there is one output.
    fn opened(self) -> Vec<(u8, u32, &'static str)> {
        let wanted = [
            (ERROR, "error", true),
            (STDIN, "stdin", self.stdin),
            (STDOUT, "stdout", self.stdout),
            (STDERR, "stderr", self.stderr && !self.tty),
            (RESIZE, "resize", self.tty),
        ];
        let wanted = wanted.into_iter().filter(|(_, _, wanted)| *wanted);
        wanted.zip((1..).step_by(2)).map(|((channel, name, _), id)| (channel, id, name)).collect()
    }

    /// Where a message without content tells the client that the connection is there.
    fn first_channel(self) -> u8 {
        match (self.stdout, self.stderr) {
            (true, _) => STDOUT,
            (false, true) => STDERR,
            (false, false) => ERROR,
        }
    }
}

/// Whether a client wants exec or attach to be translated.
pub(super) fn wants_v5(headers: &http::HeaderMap) -> bool {
    websocket::offered(headers).any(|protocol| protocol == V5)
}

/// The protocols that a client wants to speak through a tunnel.
pub(super) fn tunnelled(headers: &http::HeaderMap) -> Vec<String> {
    let inner = websocket::offered(headers).filter_map(|protocol| protocol.strip_prefix(TUNNEL));
    inner.filter(|protocol| protocol.ends_with("k8s.io")).map(str::to_owned).collect()
}

fn count(name: &'static str, help: &'static str, code: u16) {
    component_base::metrics::counter(name, help, &["code"]).with(&[code.to_string().as_str()]).inc();
}

/// A session of exec or attach has ended, or could not begin.
fn count_session(code: u16) {
    count("apiserver_stream_translator_requests_total", "Translated sessions by how they ended", code);
}

/// Answers an exec or attach over `v5.channel.k8s.io`; the session runs on by itself.
pub(super) fn remote_command(
    target: Target,
    mut request: Request<Incoming>,
    streams: Streams,
) -> Result<Response<Body>, Status> {
    let answer = websocket::accept(request.headers(), Some(V5)).map_err(|why| {
        count_session(400);
        Status::bad_request(why)
    })?;
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // Without an upgrade the backend is never asked.
        match upgraded.await {
            Ok(upgraded) => session(websocket::socket(upgraded).await, target, streams).await,
            Err(error) => tracing::debug!(%error, "WebSocket upgrade did not complete"),
        }
    });
    Ok(answer)
}

async fn session(socket: Socket, target: Target, streams: Streams) {
    let (mut sink, stream) = socket.split();
    if sink.send(message(streams.first_channel(), &[])).await.is_err() {
        return;
    }
    match open(&target).await {
        Ok(io) => run(sink, stream, io, streams).await,
        Err(status) => finish(sink, &status, std::pin::pin!(drain(stream))).await,
    }
}

/// A SPDY connection to the backend, or the Status that tells why not.
async fn open(target: &Target) -> Result<Io, Status> {
    let mut response = relay::ask_upgrade(target, &[V4.to_owned()]).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let text = relay::text(relay::boxed(response), MAX_STATUS_BYTES).await;
        return Err(match serde_json::from_str::<Status>(&text) {
            Ok(status) if status.code != 0 => status,
            _ => Status::internal(format!("unable to upgrade connection: {}", text.trim())),
        });
    }
    hyper::upgrade::on(&mut response).await.map(TokioIo::new).map_err(|error| unreachable(target, &error))
}

async fn run(sink: SplitSink<Socket, Message>, stream: SplitStream<Socket>, io: Io, streams: Streams) {
    let opened = streams.opened();
    let (read, write) = tokio::io::split(io);
    let (pings, pinged) = mpsc::channel(4);
    let mut output = Output { sink, reader: Reader::new(read), opened: opened.clone(), pings };
    let mut input = std::pin::pin!(to_backend(stream, write, opened, pinged));
    let ended = {
        let output = std::pin::pin!(output.run());
        tokio::select! {
            // The client is gone: dropping the rest closes the backend's connection.
            () = &mut input => None,
            status = output => Some(status),
        }
    };
    if let Some(Ok(status)) = ended {
        finish(output.sink, &status, input).await;
    }
}

/// The backend's side of a session.
struct Output {
    sink: SplitSink<Socket, Message>,
    reader: Reader<ReadHalf<Io>>,
    opened: Vec<(u8, u32, &'static str)>,
    pings: mpsc::Sender<u32>,
}

impl Output {
    /// Passes output on until all of it has ended; how the command ended.
    ///
    /// # Errors
    /// The client is gone.
    async fn run(&mut self) -> Result<Status, SocketError> {
        let mut status = BytesMut::new();
        let mut running: Vec<u32> = self
            .opened
            .iter()
            .filter(|(channel, ..)| (STDOUT..=ERROR).contains(channel))
            .map(|(_, id, _)| *id)
            .collect();
        while !running.is_empty() {
            let (stream, bytes, last) = match self.reader.next().await {
                Ok(Some(Event::Data { stream, bytes, last })) => (stream, bytes, last),
                Ok(Some(Event::Ended { stream })) => (stream, Bytes::new(), true),
                Ok(Some(Event::Ping(id))) => {
                    // A peer that pings faster than it takes answers loses some.
                    let _ = self.pings.try_send(id);
                    continue;
                }
                Ok(Some(Event::GoAway)) => continue,
                Ok(None) if !status.is_empty() => break,
                Ok(None) => return Ok(Status::internal("the backend closed the connection before the command ended")),
                Err(error) => return Ok(Status::internal(format!("error reading from the backend: {error}"))),
            };
            let channel = self.opened.iter().find(|(_, id, _)| *id == stream).map(|(channel, ..)| *channel);
            match channel {
                Some(ERROR) if status.len() + bytes.len() <= MAX_STATUS_BYTES => status.put_slice(&bytes),
                Some(channel @ (STDOUT | STDERR)) if !bytes.is_empty() => {
                    self.sink.send(message(channel, &bytes)).await?;
                }
                _ => {}
            }
            if last {
                running.retain(|id| *id != stream);
            }
        }
        Ok(outcome(&status))
    }
}

/// How the command ended, by what stood on the error stream; nothing is success.
fn outcome(text: &[u8]) -> Status {
    if text.is_empty() {
        return success();
    }
    match serde_json::from_slice::<Status>(text) {
        Ok(status) if status.status == "Success" => success(),
        Ok(status) => status,
        Err(_) => Status::internal(format!("error stream protocol error: {}", String::from_utf8_lossy(text))),
    }
}

fn success() -> Status {
    Status { status: "Success".to_owned(), ..Status::default() }
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut out = BytesMut::with_capacity(bytes.len() + 1);
    out.put_u8(channel);
    out.put_slice(bytes);
    Message::Binary(out.freeze())
}

/// An orderly end; clients take one without a code for a failure.
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// Sends the Status and a close, then waits until the client closes: what it has not read yet must not be cut off.
async fn finish(mut sink: SplitSink<Socket, Message>, status: &Status, client: Pin<&mut impl Future<Output = ()>>) {
    // A command's own failure is no failure of the translation.
    count_session(if status.code == 0 { 200 } else { status.code });
    let last = async {
        let text = json!(status).to_string();
        if sink.send(message(ERROR, text.as_bytes())).await.is_ok() && sink.send(goodbye()).await.is_ok() {
            client.await;
        }
    };
    let _ = tokio::time::timeout(FINISH_TIMEOUT, last).await;
}

/// Reads until the client closes.
async fn drain(mut stream: SplitStream<Socket>) {
    while let Some(Ok(_)) = stream.next().await {}
}

/// The client's side of a session: opens the streams and passes input on until the client closes. When the backend takes no
/// more, what comes is thrown away.
async fn to_backend(
    mut stream: SplitStream<Socket>,
    mut io: WriteHalf<Io>,
    opened: Vec<(u8, u32, &'static str)>,
    mut pinged: mpsc::Receiver<u32>,
) {
    let mut frames = Frames::new();
    let mut open = true;
    for (_, id, name) in &opened {
        open = match frames.open(*id, &[("streamtype", name)]) {
            Ok(frame) => open && io.write_all(&frame).await.is_ok(),
            Err(_) => false,
        };
    }
    loop {
        let frame = tokio::select! {
            message = stream.next() => match message {
                Some(Ok(Message::Binary(bytes))) => input(&bytes, &opened),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => None,
            },
            Some(id) = pinged.recv() => Some(spdy::ping(id)),
        };
        if let Some(frame) = frame
            && open
        {
            open = io.write_all(&frame).await.is_ok();
        }
    }
}

/// The frame for a client's message; nothing for channels that it may not write.
fn input(bytes: &[u8], opened: &[(u8, u32, &'static str)]) -> Option<Bytes> {
    let (channel, payload) = bytes.split_first()?;
    let stream = |channel: u8| opened.iter().find(|(own, ..)| *own == channel).map(|(_, id, _)| *id);
    match *channel {
        STDIN | RESIZE => (!payload.is_empty()).then_some(spdy::data(stream(*channel)?, payload, false)),
        CLOSE if payload == [STDIN] => Some(spdy::data(stream(STDIN)?, &[], true)),
        _ => None,
    }
}

/// Carries a SPDY connection inside a client's WebSocket.
pub(super) async fn tunnel(
    target: Target,
    mut request: Request<Incoming>,
    protocols: &[String],
) -> Result<Response<Body>, Status> {
    let mut response = relay::ask_upgrade(&target, protocols).await?;
    let help = "Tunnelled connections by what the backend answered";
    count("apiserver_stream_tunnel_requests_total", help, response.status().as_u16());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(relay::boxed(response));
    }
    if !relay::tokens(response.headers(), &UPGRADE).any(|token| token.eq_ignore_ascii_case(SPDY)) {
        return Err(Status::internal("unable to upgrade: missing upgrade headers in response"));
    }
    let chosen = response.headers().get(&VERSION_HEADER).and_then(|version| version.to_str().ok());
    let chosen = chosen.map(|version| format!("{TUNNEL}{version}"));
    let answer = websocket::accept(request.headers(), chosen.as_deref()).map_err(Status::bad_request)?;
    let client = hyper::upgrade::on(&mut request);
    let backend = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        // Either side failing to upgrade drops the other, which closes it.
        match tokio::try_join!(client, backend) {
            Ok((client, backend)) => carry(websocket::socket(client).await, TokioIo::new(backend)).await,
            Err(error) => tracing::debug!(%error, "Upgrade did not complete"),
        }
    });
    Ok(answer)
}

async fn carry(socket: Socket, backend: Io) {
    let (mut sink, mut stream) = socket.split();
    let (mut read, mut write) = tokio::io::split(backend);
    let to_backend = async {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(bytes) if write.write_all(&bytes).await.is_err() => return,
                Message::Close(_) => return,
                _ => {}
            }
        }
    };
    let to_client = async {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        while let Ok(1..) = read.read_buf(&mut buffer).await {
            if sink.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                return;
            }
            buffer.reserve(READ_BYTES);
        }
        let _ = sink.send(goodbye()).await;
    };
    tokio::select! {
        () = to_backend => {}
        () = to_client => {}
    }
}

#[cfg(test)]
mod tests;

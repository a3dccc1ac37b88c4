//! Container logs: reads the runtime's log files as CRI writes them (`time stream tag text`), from the end or a time on,
//! and follows them across rotations until the container ends.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use component_base::BoxError;
use component_base::serving::Body;
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Refusal, State, find, parameters};
use crate::beneath;
use crate::cri::snapshot::{Container, State as ContainerState};
use crate::cri::{Runtime, api};

const BLOCK_BYTES: usize = 32 << 10;
/// How often a followed file is looked at.
const FOLLOW_PERIOD: Duration = Duration::from_millis(250);
/// Looks without news after which the container is asked for.
const LOOKS_PER_ASK: u32 = 4;
/// Longest line that is kept together.
const MAX_LINE_BYTES: usize = 1 << 20;

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    follow: bool,
    previous: bool,
    timestamps: bool,
    since: Option<Timestamp>,
    tail_lines: Option<u64>,
    limit_bytes: Option<u64>,
    stream: Option<String>,
}

impl Options {
    /// Options of a query.
    ///
    /// # Errors
    /// A value that cannot be read.
    pub fn parse(query: &str, now: Timestamp) -> Result<Self, String> {
        let mut options = Self::default();
        for (name, value) in parameters(query) {
            let flag = matches!(value.as_str(), "1" | "true");
            let number = || value.parse::<u64>().map_err(|_| format!("invalid {name}: {value:?}"));
            match name.as_str() {
                "follow" => options.follow = flag,
                "previous" => options.previous = flag,
                "timestamps" => options.timestamps = flag,
                "tailLines" => options.tail_lines = Some(number()?),
                "limitBytes" => options.limit_bytes = Some(number()?),
                "sinceSeconds" => {
                    let seconds = i64::try_from(number()?).unwrap_or(i64::MAX);
                    options.since = now.checked_sub(SignedDuration::from_secs(seconds)).ok();
                }
                "sinceTime" => {
                    options.since = Some(value.parse().map_err(|_| format!("invalid sinceTime: {value:?}"))?);
                }
                "stream" => options.stream = Some(value.to_lowercase()).filter(|s| s == "stdout" || s == "stderr"),
                _ => {}
            }
        }
        Ok(options)
    }
}

/// Answers `/containerLogs/NS/POD/CONTAINER`.
pub async fn answer(
    state: &State,
    namespace: &str,
    name: &str,
    container: &str,
    query: &str,
) -> Result<Response<Body>, Refusal> {
    let bad = |message: String| Refusal(StatusCode::BAD_REQUEST, message);
    let options = Options::parse(query, Timestamp::now()).map_err(bad)?;
    let view = find::pod(state, namespace, name, None).await?;
    if view.pod.container(container).is_none() {
        let message = format!("container \"{container}\" not found in pod \"{name}\"");
        return Err(Refusal(StatusCode::NOT_FOUND, message));
    }
    let actual = find::actual(state, &view.pod).await?;
    let mut attempts = actual.containers.iter().filter(|c| c.name == container);
    let chosen = if options.previous {
        let latest = attempts.next();
        // In back-off the last end is the previous one.
        let waiting =
            find::status(&view, container).and_then(|s| s.state.as_ref()).is_some_and(|s| s.waiting.is_some());
        let previous = if waiting { latest } else { attempts.next() };
        previous
            .ok_or_else(|| bad(format!("previous terminated container \"{container}\" in pod \"{name}\" not found")))?
    } else {
        attempts.find(|c| c.state != ContainerState::Created).ok_or_else(|| {
            let waiting =
                find::status(&view, container).and_then(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone());
            let reason = waiting.unwrap_or_else(|| "ContainerCreating".into());
            bad(format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}"))
        })?
    };
    let (sender, receiver) = mpsc::channel(8);
    let (runtime, root) = (state.context.runtime.clone(), PathBuf::from(&state.context.dirs.pod_logs));
    let reader = Reader { runtime, root, container: chosen.clone(), options, out: sender };
    tokio::spawn(reader.run());
    let frames = ReceiverStream::new(receiver).map(|bytes| Ok::<_, BoxError>(Frame::data(bytes)));
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let plain = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    Ok(response)
}

/// The reader went away, or everything wanted was sent.
struct Done;

struct Reader {
    runtime: Runtime,
    /// Directory of all pods' logs.
    root: PathBuf,
    container: Container,
    options: Options,
    out: mpsc::Sender<Bytes>,
}

impl Reader {
    async fn run(self) {
        let path = PathBuf::from(&self.container.log_path);
        if let Err(error) = self.copy(&path).await {
            let _ = self.out.send(Bytes::from(format!("unable to read the log {}: {error}\n", path.display()))).await;
        }
    }

    async fn copy(&self, path: &Path) -> std::io::Result<()> {
        let mut file = self.open(path)?;
        if let Some(lines) = self.options.tail_lines {
            let start = tail_start(&mut file, lines).await?;
            file.seek(SeekFrom::Start(start)).await?;
        }
        let mut left = self.options.limit_bytes.unwrap_or(u64::MAX);
        let mut pending = Vec::new();
        let mut quiet = 0;
        loop {
            let read = self.drain(&mut file, &mut pending, &mut left).await;
            let grew = match read {
                Ok(Ok(grew)) => grew,
                Ok(Err(Done)) => return Ok(()),
                Err(error) => return Err(error),
            };
            if !self.options.follow {
                return Ok(());
            }
            quiet = if grew { 0 } else { quiet + 1 };
            if rotated(&file, path).await {
                // The rest of the old file was read just before it was moved away.
                if let Ok(Err(Done)) = self.drain(&mut file, &mut pending, &mut left).await {
                    return Ok(());
                }
                file = self.open(path)?;
                continue;
            }
            if quiet >= LOOKS_PER_ASK {
                quiet = 0;
                if !self.still_running().await {
                    let _ = self.drain(&mut file, &mut pending, &mut left).await;
                    return Ok(());
                }
            }
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_PERIOD) => {}
                () = self.out.closed() => return Ok(()),
            }
        }
    }

    /// Never what a link that a pod put in the log's place leads to.
    fn open(&self, path: &Path) -> std::io::Result<File> {
        beneath::file(&self.root, path).map(File::from_std)
    }

    async fn still_running(&self) -> bool {
        let request = api::ContainerStatusRequest { container_id: self.container.id.clone(), verbose: false };
        let status = self.runtime.container_status(request).await.ok().and_then(|r| r.status);
        status.is_some_and(|s| ContainerState::from(s.state) == ContainerState::Running)
    }

    /// Sends what the file has now; whether there was something.
    async fn drain(
        &self,
        file: &mut File,
        pending: &mut Vec<u8>,
        left: &mut u64,
    ) -> std::io::Result<Result<bool, Done>> {
        let mut block = vec![0; BLOCK_BYTES];
        let mut grew = false;
        loop {
            let n = file.read(&mut block).await?;
            if n == 0 {
                return Ok(Ok(grew));
            }
            grew = true;
            pending.extend_from_slice(&block[..n]);
            let Some(end) = pending.iter().rposition(|b| *b == b'\n') else {
                if pending.len() > MAX_LINE_BYTES {
                    pending.clear();
                }
                continue;
            };
            let mut text = render(&pending[..=end], &self.options);
            pending.drain(..=end);
            let allowed = usize::try_from(*left).unwrap_or(usize::MAX);
            text.truncate(allowed);
            *left -= text.len() as u64;
            if !text.is_empty() && self.out.send(Bytes::from(text)).await.is_err() {
                return Ok(Err(Done));
            }
            if *left == 0 {
                return Ok(Err(Done));
            }
        }
    }
}

/// Whether the path names another file by now.
async fn rotated(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata().await, tokio::fs::metadata(path).await) {
        (Ok(open), Ok(named)) => open.ino() != named.ino(),
        _ => false,
    }
}

/// Where the last `lines` lines begin.
async fn tail_start(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let length = file.metadata().await?.len();
    if lines == 0 {
        return Ok(length);
    }
    let mut end = length;
    let mut found = 0;
    let mut block = vec![0; BLOCK_BYTES];
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES as u64);
        let size = usize::try_from(end - start).unwrap_or(BLOCK_BYTES);
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut block[..size]).await?;
        for (index, byte) in block[..size].iter().enumerate().rev() {
            let position = start + index as u64;
            // The newline that ends the file begins no line.
            if *byte == b'\n' && position + 1 != length {
                found += 1;
                if found == lines {
                    return Ok(position + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// The wanted part of complete CRI log lines.
pub fn render(log: &[u8], options: &Options) -> Vec<u8> {
    let mut text = Vec::with_capacity(log.len());
    for line in log.split_inclusive(|b| *b == b'\n') {
        let mut fields = line.splitn(4, |b| *b == b' ');
        let (Some(time), Some(stream), Some(tag), Some(content)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if options.stream.as_ref().is_some_and(|s| s.as_bytes() != stream) {
            continue;
        }
        if let Some(since) = options.since {
            let at = std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok());
            if at.is_none_or(|at| at < since) {
                continue;
            }
        }
        if options.timestamps {
            text.extend_from_slice(time);
            text.push(b' ');
        }
        // A partial line goes on in the next one.
        let partial = tag.first() == Some(&b'P');
        text.extend_from_slice(if partial { content.strip_suffix(b"\n").unwrap_or(content) } else { content });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F three\n";

    #[test]
    fn rendering() {
        let show = |query: &str| {
            let options = Options::parse(query, Timestamp::UNIX_EPOCH).unwrap();
            String::from_utf8(render(LOG, &options)).unwrap()
        };
        assert_eq!(show(""), "one\ntwo\nthree\n");
        assert_eq!(show("stream=Stdout"), "one\nthree\n");
        assert_eq!(show("sinceTime=2026-01-01T00:00:02Z&timestamps=true"), "2026-01-01T00:00:02Z three\n");
        assert!(Options::parse("tailLines=x", Timestamp::UNIX_EPOCH).is_err());
    }

    #[tokio::test]
    async fn tails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, LOG).unwrap();
        let mut file = File::open(&path).await.unwrap();
        let start = tail_start(&mut file, 1).await.unwrap();
        assert!(LOG[usize::try_from(start).unwrap()..].ends_with(b"three\n"));
        assert_eq!(tail_start(&mut file, 9).await.unwrap(), 0);
        assert_eq!(tail_start(&mut file, 0).await.unwrap(), LOG.len() as u64);
    }
}

//! A watch as a stream of lines: first what is there, then what happens, bookmarks in between.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use component_base::BoxError;
use component_base::metrics::{self, Counter, Family, Gauge};
use component_base::serving::Body;
use futures::StreamExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::present::Presenter;
use crate::registry::Watch;
use crate::storage::fanout::{Delivery, Encoding, Event, Next};

/// Between two bookmarks.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// The last bookmark comes so long before the end, for the client to resume from.
const BEFORE_END: Duration = Duration::from_secs(2);
/// Events that wait together are sent together up to this size.
const MAX_BATCH_BYTES: usize = 16 << 10;

/// An open watch on its way out.
pub struct WatchStream {
    watch: Watch,
    presenter: Presenter,
    encoding: Encoding,
    /// `None` when none comes any more.
    next_bookmark: Option<Instant>,
    deadline: Instant,
    stop: CancellationToken,
    first: bool,
    open: Arc<Gauge>,
    sent: Arc<Counter>,
}

static OPEN: LazyLock<Family<Gauge>> = LazyLock::new(|| {
    let labels = &["component", "group", "resource", "scope", "subresource", "verb", "version"];
    metrics::gauge("apiserver_longrunning_requests", "Watches that are open", labels)
});
static SENT: LazyLock<Family<Counter>> = LazyLock::new(|| {
    metrics::counter("apiserver_watch_events_total", "Events sent to watches", &["group", "resource", "version"])
});

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl WatchStream {
    /// Sends until `timeout` or `stop`.
    pub fn new(
        watch: Watch,
        presenter: Presenter,
        bookmarks: bool,
        timeout: Duration,
        stop: CancellationToken,
    ) -> Self {
        let encoding = presenter.encoding();
        let now = Instant::now();
        let deadline = now + timeout;
        let next_bookmark = next_bookmark(now, deadline).filter(|_| bookmarks);
        let (info, resource) = (&presenter.ctx.info, &presenter.resource);
        let (group, plural, version) = (resource.group.as_str(), resource.plural.as_str(), info.api_version.as_str());
        let open = OPEN.with(&["apiserver", group, plural, crate::http::metrics::scope(info), "", "WATCH", version]);
        let sent = SENT.with(&[group, plural, version]);
        open.inc();
        Self { watch, presenter, encoding, next_bookmark, deadline, stop, first: true, open, sent }
    }

    /// The answer.
    pub fn into_response(self) -> Response<Body> {
        let content_type = self.presenter.accepted.content_type(true);
        let stream = futures::stream::unfold(self, |mut stream| async move {
            let bytes = stream.next().await?;
            Some((bytes, stream))
        });
        respond(stream, content_type)
    }

    async fn next(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.next_initial() {
            return Some(bytes);
        }
        loop {
            // Ages in tables count from when the event is sent.
            self.presenter.ctx.now = jiff::Timestamp::now();
            match self.watch.take() {
                Next::Event(event, delivery) => {
                    let Some((event, delivery)) = self.converted(event, delivery).await else { continue };
                    let bytes = self.presenter.event(&event, delivery, &self.encoding, self.first);
                    self.sent.inc();
                    self.first = false;
                    return Some(self.with_waiting(bytes).await);
                }
                Next::Ended => return None,
                Next::Empty => {}
            }
            tokio::select! {
                () = self.watch.woken() => {}
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = tokio::time::sleep_until(self.next_bookmark.unwrap_or(self.deadline)), if self.next_bookmark.is_some() => {
                    if let Some(bytes) = self.bookmark().await {
                        return Some(bytes);
                    }
                }
            }
        }
    }

    async fn converted(&self, event: Arc<Event>, delivery: Delivery) -> Option<(Arc<Event>, Delivery)> {
        let Presenter { registry, resource, version, .. } = &self.presenter;
        registry.event_as(resource, version, (event, delivery), self.watch.late.as_ref()).await
    }

    /// Adds what waits behind an event.
    async fn with_waiting(&mut self, bytes: Bytes) -> Bytes {
        let mut batch: Option<BytesMut> = None;
        loop {
            if batch.as_ref().map_or(bytes.len(), BytesMut::len) >= MAX_BATCH_BYTES {
                break;
            }
            // What is not an event (the end) is found again by the next call.
            let Next::Event(event, delivery) = self.watch.take() else { break };
            let Some((event, delivery)) = self.converted(event, delivery).await else { continue };
            let batch = batch.get_or_insert_with(|| BytesMut::from(&bytes[..]));
            batch.extend_from_slice(&self.presenter.event(&event, delivery, &self.encoding, false));
            self.sent.inc();
        }
        batch.map_or(bytes, BytesMut::freeze)
    }

    fn next_initial(&mut self) -> Option<Bytes> {
        let mut listing = self.watch.initial.take()?;
        let (presenter, first) = (&self.presenter, &mut self.first);
        let mut out = BytesMut::new();
        let more = listing.advance(|entry| {
            out.extend_from_slice(&presenter.added(entry, std::mem::take(first)));
            out.len() < MAX_BATCH_BYTES
        });
        if more {
            self.watch.initial = Some(listing);
        } else if self.watch.marks_end_of_initial {
            out.extend_from_slice(&presenter.bookmark(listing.revision, true, std::mem::take(first)));
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    async fn bookmark(&mut self) -> Option<Bytes> {
        self.next_bookmark = next_bookmark(Instant::now(), self.deadline);
        match self.watch.progress() {
            Ok(revision) => Some(self.presenter.bookmark(revision, false, std::mem::take(&mut self.first))),
            Err(Next::Event(event, delivery)) => {
                let (event, delivery) = self.converted(event, delivery).await?;
                Some(self.presenter.event(&event, delivery, &self.encoding, std::mem::take(&mut self.first)))
            }
            Err(_) => None,
        }
    }
}

/// Upstream's rule: each minute, and once before the end.
fn next_bookmark(now: Instant, deadline: Instant) -> Option<Instant> {
    Some((now + BOOKMARKS).min(deadline.checked_sub(BEFORE_END)?)).filter(|at| *at > now)
}

/// A stream of lines that ends after one.
pub fn single(line: Bytes, content_type: &'static str) -> Response<Body> {
    respond(futures::stream::iter([line]), content_type)
}

fn respond(stream: impl futures::Stream<Item = Bytes> + Send + 'static, content_type: &'static str) -> Response<Body> {
    let frames = stream.map(|bytes| Ok::<_, BoxError>(Frame::data(bytes)));
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bookmark_comes_each_minute_and_before_the_end() {
        let now = Instant::now();
        let after = |seconds| Duration::from_secs(seconds);
        assert_eq!(next_bookmark(now, now + after(300)), Some(now + after(60)));
        assert_eq!(next_bookmark(now, now + after(30)), Some(now + after(28)));
        assert_eq!(next_bookmark(now + after(28), now + after(30)), None);
        assert_eq!(next_bookmark(now, now + after(1)), None);
    }
}

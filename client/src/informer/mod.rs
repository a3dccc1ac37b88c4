//! A local copy of a resource, kept current by list and watch.
//!
//! Guarantees: after every step the copy equals some state the server had, never older than one it had before, and the
//! handlers have seen exactly the changes that lead there (after a new list, deletions are found by difference). Survives
//! broken connections, 410 and bad events; resumes by resource version; pauses between failures grow, with jitter.
//! Only `T` is decoded, from the raw bytes of each event. Memory: one `Arc<T>` per object, indexes hold the same `Arc`s;
//! a list is fetched in pages.
//! Assumes: handlers do not block (they enqueue keys). They run in the informer's task, in order.

mod lines;
mod store;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::meta::ObjectMeta;
use component_base::metrics::{Counter, Family};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::resource::{ObjectKey, ResourceRef};
use crate::{Client, ClientError, List, ListOptions};

pub use store::{Delta, Reader};
use store::{IndexFn, Shared};

/// What can be cached: a small struct with only the fields its loop needs.
pub trait Cached: DeserializeOwned + Send + Sync + 'static {
    /// Its metadata; name, namespace and resource version must be decoded.
    fn meta(&self) -> &ObjectMeta;
}

/// Objects per page of a list.
const PAGE: u32 = 500;
/// A watch that is silent for longer than the server promised (bookmarks come each minute) is taken for dead.
const MAX_SILENCE: Duration = Duration::from_secs(180);

/// A watch that lasted this long worked, however it ended: the next failure starts with a short pause.
const HEALTHY_WATCH: Duration = Duration::from_secs(5);

/// Builds an informer.
pub struct Informer<T> {
    client: Client,
    resource: ResourceRef,
    namespace: Option<String>,
    options: ListOptions,
    indexes: Vec<(&'static str, IndexFn<T>)>,
    handlers: Vec<store::Handler<T>>,
    backoff: Backoff,
}

impl<T> std::fmt::Debug for Informer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Informer").field("resource", &self.resource).finish_non_exhaustive()
    }
}

impl<T: Cached> Informer<T> {
    /// All objects of a resource, unless narrowed.
    pub fn builder(client: &Client, resource: ResourceRef) -> Self {
        Self {
            client: client.clone(),
            resource,
            namespace: None,
            options: ListOptions::default(),
            indexes: Vec::new(),
            handlers: Vec::new(),
            backoff: Backoff::new(Duration::from_millis(800), Duration::from_secs(30)),
        }
    }

    /// Only this namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Only objects that match.
    #[must_use]
    pub fn field_selector(mut self, selector: &str) -> Self {
        selector.clone_into(&mut self.options.field_selector);
        self
    }

    /// Only objects that match.
    #[must_use]
    pub fn label_selector(mut self, selector: &str) -> Self {
        selector.clone_into(&mut self.options.label_selector);
        self
    }

    /// Only metadata is sent and decoded.
    #[must_use]
    pub fn metadata_only(mut self) -> Self {
        self.options.metadata_only = true;
        self
    }

    /// Adds an index: `keys` tells under which keys an object is found.
    #[must_use]
    pub fn index(mut self, name: &'static str, keys: impl Fn(&T) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.indexes.push((name, Box::new(keys)));
        self
    }

    /// Adds a handler that sees every change. It must not block.
    #[must_use]
    pub fn on_event(mut self, handler: impl Fn(&Delta<T>) + Send + Sync + 'static) -> Self {
        self.handlers.push(Box::new(handler));
        self
    }

    /// Shortest and longest pause between failures; 800 ms and 30 s unless set.
    #[must_use]
    pub fn backoff(mut self, shortest: Duration, longest: Duration) -> Self {
        self.backoff = Backoff::new(shortest, longest);
        self
    }

    /// Starts the task that keeps the copy current until shutdown.
    pub fn start(self, shutdown: CancellationToken) -> Reader<T> {
        let shared = Arc::new(Shared::new(self.indexes, self.handlers));
        let task = Task {
            client: self.client,
            resource: self.resource,
            namespace: self.namespace,
            options: self.options,
            backoff: self.backoff,
            shared: Arc::clone(&shared),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = task.run() => {}
                () = shutdown.cancelled() => {}
            }
        });
        Reader::new(shared)
    }
}

struct Task<T> {
    client: Client,
    resource: ResourceRef,
    namespace: Option<String>,
    options: ListOptions,
    backoff: Backoff,
    shared: Arc<Shared<T>>,
}

/// How a watch ended.
#[derive(Debug)]
enum Ended {
    /// The server closed it after its time, having sent at least one event or not.
    Normally { events: usize },
    /// The version to resume from is gone.
    Expired,
    /// Anything else; try again from the same version.
    Failed(ClientError),
}

impl<T: Cached> Task<T> {
    async fn run(mut self) {
        let mut connections = self.client.connections();
        loop {
            connections.mark_unchanged();
            // Boxed, as below: what a request needs is not held while the watch is silent, which it mostly is.
            let mut version = match Box::pin(self.list()).await {
                Ok(version) => version,
                Err(error) => {
                    self.report("list", &error);
                    self.backoff.pause_or(&mut connections, &error).await;
                    continue;
                }
            };
            loop {
                connections.mark_unchanged();
                let started = tokio::time::Instant::now();
                let ended = self.watch(&mut version).await;
                let healthy = started.elapsed() > HEALTHY_WATCH;
                if healthy {
                    self.backoff.reset();
                }
                match ended {
                    Ended::Normally { events } if events > 0 || healthy => {}
                    Ended::Normally { .. } => self.backoff.pause().await,
                    // The server restarted or compacted: listing is the way on, once without waiting.
                    Ended::Expired if healthy => break,
                    Ended::Expired => {
                        self.backoff.pause().await;
                        break;
                    }
                    Ended::Failed(error) => {
                        self.report("watch", &error);
                        self.backoff.pause_or(&mut connections, &error).await;
                    }
                }
            }
        }
    }

    fn report(&self, what: &'static str, error: &ClientError) {
        FAILURES.with(&[what, &self.resource.plural]).inc();
        match error {
            // The connection says so itself, once for all that share it.
            ClientError::Connect { .. } => tracing::debug!(resource = %self.resource, %error, "cannot {what}"),
            error => tracing::warn!(resource = %self.resource, %error, "cannot {what}, trying again"),
        }
    }

    /// Lists all pages at one state and replaces the copy by it.
    async fn list(&mut self) -> Result<String, ClientError> {
        let mut options = ListOptions { limit: PAGE, ..self.options.clone() };
        let mut items = Vec::new();
        let version = loop {
            let page: List<T> = self.client.list(&self.resource, self.namespace.as_deref(), &options).await?;
            items.extend(page.items.into_iter().map(Arc::new));
            if page.continue_token.is_empty() {
                break page.resource_version;
            }
            options.continue_token = page.continue_token;
        };
        self.shared.replace(items);
        Ok(version)
    }

    async fn watch(&mut self, version: &mut String) -> Ended {
        // Spread, so that a thousand watches that began together do not end together.
        let timeout_seconds = 300 + rand::random_range(0..300);
        let options = ListOptions { resource_version: version.clone(), ..self.options.clone() };
        let namespace = self.namespace.as_deref();
        let request = Box::pin(self.client.watch(&self.resource, namespace, &options, timeout_seconds));
        let response = match request.await {
            Ok(response) => response,
            Err(error) if error.is_expired() => return Ended::Expired,
            Err(error) => return Ended::Failed(error),
        };
        let mut body = response.into_body();
        let mut lines = lines::Lines::default();
        let mut events = 0;
        loop {
            let frame = match tokio::time::timeout(MAX_SILENCE, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return Ended::Normally { events },
                Ok(Some(Err(error))) => return self.broken(error.to_string()),
                Err(_) => return self.broken(format!("silent for {} s", MAX_SILENCE.as_secs())),
            };
            let Ok(data) = frame.into_data() else { continue };
            if let Err(reason) = lines.push(&data) {
                return self.broken(reason);
            }
            while let Some(line) = lines.next() {
                match self.apply(&line, version) {
                    Ok(()) => events += 1,
                    Err(ended) => return ended,
                }
            }
        }
    }

    fn broken(&self, reason: String) -> Ended {
        Ended::Failed(ClientError::Transport { request: format!("watch {}", self.resource), reason })
    }

    fn apply(&self, line: &[u8], version: &mut String) -> Result<(), Ended> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let event: Event<'_> =
            serde_json::from_slice(line).map_err(|e| self.broken(format!("event is not understood: {e}")))?;
        let raw = event.object.get();
        match event.kind {
            "ADDED" | "MODIFIED" | "DELETED" => match crate::decode::from_slice::<T>(raw.as_bytes()) {
                Ok(object) => {
                    object.meta().resource_version.clone_into(version);
                    if event.kind == "DELETED" {
                        self.shared.remove(Arc::new(object));
                    } else {
                        self.shared.upsert(Arc::new(object));
                    }
                }
                Err(error) => {
                    // One object that cannot be read must not stop the others.
                    let only: OnlyMeta = serde_json::from_str(raw).unwrap_or_default();
                    let key = ObjectKey::of(&only.metadata);
                    tracing::error!(resource = %self.resource, object = %key, %error, "object is not understood, skipped");
                    if !only.metadata.resource_version.is_empty() {
                        *version = only.metadata.resource_version;
                    }
                }
            },
            "BOOKMARK" => {
                let only: OnlyMeta = serde_json::from_str(raw).unwrap_or_default();
                if !only.metadata.resource_version.is_empty() {
                    *version = only.metadata.resource_version;
                }
            }
            "ERROR" => {
                let status: apimachinery::status::Status = serde_json::from_str(raw).unwrap_or_default();
                let expired = status.code == 410;
                return Err(if expired { Ended::Expired } else { Ended::Failed(ClientError::Status(status)) });
            }
            other => tracing::warn!(resource = %self.resource, kind = other, "event of unknown type, skipped"),
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize, Default)]
struct OnlyMeta {
    #[serde(default)]
    metadata: ObjectMeta,
}

static FAILURES: std::sync::LazyLock<Family<Counter>> = std::sync::LazyLock::new(|| {
    component_base::metrics::counter(
        "hardway_informer_failures_total",
        "Lists and watches of the local copies that failed and were tried again.",
        &["step", "resource"],
    )
});

/// Doubling pauses with full jitter above the half.
#[derive(Debug)]
struct Backoff {
    shortest: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, next: shortest }
    }

    fn reset(&mut self) {
        self.next = self.shortest;
    }

    async fn pause(&mut self) {
        let pause = self.next.mul_f64(rand::random_range(0.5..1.0));
        self.next = (self.next * 2).min(self.longest);
        tokio::time::sleep(pause).await;
    }

    /// A pause that ends early when somebody else found the server again.
    async fn pause_or(&mut self, connections: &mut tokio::sync::watch::Receiver<u64>, error: &ClientError) {
        let unreachable = matches!(error, ClientError::Connect { .. });
        tokio::select! {
            () = self.pause() => {}
            // The sender lives as long as the client, which this task holds.
            _ = connections.changed(), if unreachable => self.reset(),
        }
    }
}

#[cfg(test)]
mod tests;

//! Telling people what happens: events of `events.k8s.io/v1`, aggregated and limited.
//!
//! Guarantees: recording never blocks and never fails its caller. Repeats of the same event within six minutes become one
//! object whose series counts. Per object at most 25 events at once and one per five minutes after (upstream's limits).
//! What does not fit the queue is dropped and counted.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use apimachinery::meta::ObjectMeta;
use apimachinery::time::format_micro_time;
use component_base::metrics::{self, Counter, Family};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::resources::EVENTS;
use crate::{Client, Patch, ResourceRef};

/// Events waiting to be sent.
const QUEUE_EVENTS: usize = 1000;
/// Distinct events remembered for aggregation.
const MAX_REMEMBERED: usize = 4096;
const SERIES_WINDOW: Duration = Duration::from_secs(6 * 60);
/// A series is written again no more often than this.
const SERIES_WRITE_EVERY: Duration = Duration::from_secs(20);
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
/// `note` is cut to this, as the API demands.
const MAX_NOTE_BYTES: usize = 1024;

/// What an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace, or empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    pub name: String,
    /// uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Version the event is about.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Part of the object: `spec.containers{web}`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field_path: String,
}

impl ObjectRef {
    /// An object of a resource.
    pub fn of(resource: &ResourceRef, meta: &ObjectMeta) -> Self {
        Self {
            api_version: resource.api_version(),
            kind: resource.kind.to_string(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: String::new(),
        }
    }

    /// A part of it.
    #[must_use]
    pub fn at(mut self, field_path: impl Into<String>) -> Self {
        self.field_path = field_path.into();
        self
    }
}

/// Whether something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// As planned.
    Normal,
    /// Not as planned.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Event {
    regarding: ObjectRef,
    kind: EventType,
    reason: String,
    action: String,
    note: String,
}

/// Records events; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: Option<mpsc::Sender<Event>>,
    dropped: Arc<Counter>,
}

static DROPPED: LazyLock<Family<Counter>> = LazyLock::new(|| {
    metrics::counter("hardway_events_dropped_total", "Events that were not sent because too many waited.", &[])
});

impl Recorder {
    /// Starts the task that sends. `controller` is `reportingController` (`kubelet`, `default-scheduler`), `instance` the
    /// host or node.
    pub fn start(client: &Client, controller: &str, instance: &str, shutdown: CancellationToken) -> Self {
        let (queue, mut events) = mpsc::channel(QUEUE_EVENTS);
        let mut sender = Sender {
            client: client.clone(),
            controller: controller.to_owned(),
            instance: instance.to_owned(),
            remembered: HashMap::new(),
            spam: HashMap::new(),
        };
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    () = shutdown.cancelled() => None,
                };
                let Some(event) = event else { return };
                sender.handle(event).await;
            }
        });
        Self { queue: Some(queue), dropped: DROPPED.one() }
    }

    /// Records nothing; for tests and tools.
    pub fn silent() -> Self {
        Self { queue: None, dropped: DROPPED.one() }
    }

    /// Records one event. `reason` is one CamelCase word, `action` what was being done (the reason where there is no
    /// better word), `note` a sentence.
    pub fn event(&self, regarding: &ObjectRef, kind: EventType, reason: &str, action: &str, note: impl Into<String>) {
        let Some(queue) = &self.queue else { return };
        let mut note = note.into();
        if note.len() > MAX_NOTE_BYTES {
            let end = (0..=MAX_NOTE_BYTES).rev().find(|i| note.is_char_boundary(*i)).unwrap_or(0);
            note.truncate(end);
        }
        let action = if action.is_empty() { reason } else { action };
        let (reason, action) = (reason.to_owned(), action.to_owned());
        if queue.try_send(Event { regarding: regarding.clone(), kind, reason, action, note }).is_err() {
            self.dropped.inc();
        }
    }
}

/// An event that was sent.
struct Sent {
    name: String,
    count: u32,
    last: Instant,
    written: Instant,
}

struct Sender {
    client: Client,
    controller: String,
    instance: String,
    remembered: HashMap<Event, Sent>,
    spam: HashMap<ObjectRef, (f64, Instant)>,
}

/// What to do with an event.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Create,
    Series { name: String, count: u32 },
    Nothing,
}

impl Sender {
    async fn handle(&mut self, mut event: Event) {
        // Repeats about an object's later versions are the same event.
        let regarding_version = std::mem::take(&mut event.regarding.resource_version);
        let namespace = match event.regarding.namespace.as_str() {
            "" => "default".to_owned(),
            namespace => namespace.to_owned(),
        };
        let now = jiff::Timestamp::now();
        match self.plan(&event, Instant::now()) {
            Step::Nothing => {}
            Step::Create => {
                let name = format!("{}.{:016x}", event.regarding.name, rand::random::<u64>());
                let mut body = self.body(&event, &name, &namespace, now);
                if !regarding_version.is_empty() {
                    body["regarding"]["resourceVersion"] = regarding_version.into();
                }
                match self.client.create::<serde::de::IgnoredAny>(&EVENTS, Some(&namespace), &body).await {
                    Ok(_) => self.remember(event, name),
                    // A namespace that goes away refuses new objects: nothing to repair.
                    Err(error) => tracing::debug!(%error, reason = event.reason, "event was refused"),
                }
            }
            Step::Series { name, count } => {
                let series = json!({"series": {"count": count, "lastObservedTime": format_micro_time(now)}});
                let patch = Patch::Merge(series);
                let patched =
                    self.client.patch::<serde::de::IgnoredAny>(&EVENTS, Some(&namespace), &name, None, &patch).await;
                if let Err(error) = patched {
                    tracing::debug!(%error, "event series was refused");
                    if error.is_not_found() {
                        self.remembered.remove(&event);
                    }
                }
            }
        }
    }

    fn plan(&mut self, event: &Event, now: Instant) -> Step {
        if let Some(sent) = self.remembered.get_mut(event)
            && now.duration_since(sent.last) < SERIES_WINDOW
        {
            sent.count = sent.count.saturating_add(1);
            sent.last = now;
            if sent.count > 2 && now.duration_since(sent.written) < SERIES_WRITE_EVERY {
                return Step::Nothing;
            }
            sent.written = now;
            return Step::Series { name: sent.name.clone(), count: sent.count };
        }
        if self.spam.len() >= MAX_REMEMBERED {
            self.spam.retain(|_, (_, since)| now.duration_since(*since) < SERIES_WINDOW);
            if self.spam.len() >= MAX_REMEMBERED {
                self.spam.clear();
            }
        }
        let regarding = ObjectRef { field_path: String::new(), ..event.regarding.clone() };
        let (tokens, since) = self.spam.entry(regarding).or_insert((BURST, now));
        *tokens = (*tokens + now.duration_since(*since).as_secs_f64() * REFILL_PER_SECOND).min(BURST);
        *since = now;
        if *tokens < 1.0 {
            return Step::Nothing;
        }
        *tokens -= 1.0;
        Step::Create
    }

    fn remember(&mut self, event: Event, name: String) {
        let now = Instant::now();
        if self.remembered.len() >= MAX_REMEMBERED {
            self.remembered.retain(|_, sent| now.duration_since(sent.last) < SERIES_WINDOW);
            if self.remembered.len() >= MAX_REMEMBERED {
                self.remembered.clear();
            }
        }
        self.remembered.insert(event, Sent { name, count: 1, last: now, written: now });
    }

    fn body(&self, event: &Event, name: &str, namespace: &str, now: jiff::Timestamp) -> Value {
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": format_micro_time(now),
            "reportingController": self.controller,
            "reportingInstance": if self.instance.is_empty() { &self.controller } else { &self.instance },
            "action": event.action,
            "reason": event.reason,
            "regarding": event.regarding,
            "note": event.note,
            "type": event.kind.as_str(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_server::FakeServer;

    fn event(note: &str) -> Event {
        let regarding =
            ObjectRef { kind: "Pod".into(), namespace: "x".into(), name: "p".into(), ..ObjectRef::default() };
        Event {
            regarding,
            kind: EventType::Normal,
            reason: "Pulled".into(),
            action: "Pulled".into(),
            note: note.into(),
        }
    }

    fn sender(server: &FakeServer) -> Sender {
        let client = server.client.clone();
        Sender {
            client,
            controller: "c".into(),
            instance: "n".into(),
            remembered: HashMap::new(),
            spam: HashMap::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_become_a_series_and_spam_is_dropped() {
        let server = FakeServer::start();
        let mut sender = sender(&server);
        let start = Instant::now();
        assert_eq!(sender.plan(&event("a"), start), Step::Create);
        sender.remember(event("a"), "p.1".into());
        assert_eq!(sender.plan(&event("a"), start), Step::Series { name: "p.1".into(), count: 2 });
        assert_eq!(sender.plan(&event("a"), start), Step::Nothing);
        let later = start + SERIES_WRITE_EVERY;
        assert_eq!(sender.plan(&event("a"), later), Step::Series { name: "p.1".into(), count: 4 });
        assert_eq!(sender.plan(&event("a"), later + SERIES_WINDOW), Step::Create);
        let created = (0..40).filter(|i| sender.plan(&event(&i.to_string()), later) == Step::Create).count();
        assert!((20..=25).contains(&created), "{created}");
    }

    #[tokio::test]
    async fn writes_events_v1() {
        let server = FakeServer::start();
        server.will_answer(201, "{}");
        let mut sender = sender(&server);
        sender.handle(event("Successfully pulled")).await;
        assert_eq!(server.seen(), ["POST /apis/events.k8s.io/v1/namespaces/x/events"]);
        let body: Value = serde_json::from_slice(&server.request(0).1).unwrap();
        assert_eq!(
            (&body["reason"], &body["type"], &body["reportingInstance"]),
            (&json!("Pulled"), &json!("Normal"), &json!("n"))
        );
        assert!(body["eventTime"].as_str().unwrap().ends_with('Z'));
    }
}

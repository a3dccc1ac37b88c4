//! Events to a webhook, many at a time, in the background. Too many waiting ones are dropped and counted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::webhook::{Client, ClientConfig};

/// For one batch.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often a batch is sent again.
const MAX_ATTEMPTS: u32 = 4;

/// What the flags say.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// A kubeconfig that says where and with which credentials.
    pub file: PathBuf,
    /// Events that may wait.
    pub max_waiting: usize,
    /// Events in one call.
    pub max_batch: usize,
    /// How long an event waits for others.
    pub max_wait: Duration,
    /// Before a failed call is made again; doubles each time.
    pub backoff: Duration,
    /// Largest event, where there is a bound.
    pub max_event_bytes: Option<usize>,
}

/// The webhook backend.
pub struct Webhook(mpsc::Sender<Value>);

impl Webhook {
    /// Starts sending; ends when dropped and empty.
    pub(super) fn start(config: &WebhookConfig) -> Result<Self, String> {
        let to = ClientConfig::from_kubeconfig(&config.file).map_err(|err| err.to_string())?;
        let (sender, mut waiting) = mpsc::channel(config.max_waiting.max(1));
        let config = config.clone();
        tokio::spawn(async move {
            let client = Client::new(Arc::new(crate::objects::Nothing));
            let mut batch = Vec::new();
            while waiting.recv_many(&mut batch, config.max_batch.max(1)).await > 0 {
                let fill = async {
                    while batch.len() < config.max_batch
                        && let Some(event) = waiting.recv().await
                    {
                        batch.push(event);
                    }
                };
                let _ = tokio::time::timeout(config.max_wait, fill).await;
                deliver(&client, &to.get(), std::mem::take(&mut batch), config.backoff).await;
            }
        });
        Ok(Self(sender))
    }

    /// Whether there is room for the event.
    pub(super) fn send(&self, event: &Value) -> bool {
        self.0.try_send(event.clone()).is_ok()
    }
}

async fn deliver(client: &Client, to: &ClientConfig, events: Vec<Value>, backoff: Duration) {
    let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": events});
    let mut pause = backoff;
    for attempt in 1..=MAX_ATTEMPTS {
        match client.send(to, &list, TIMEOUT).await {
            Ok(_) => return,
            Err(err) if attempt == MAX_ATTEMPTS => tracing::error!(%err, "Audit events are lost"),
            Err(err) => {
                tracing::warn!(%err, "Cannot send audit events yet");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::webhook::tests::Server;

    static CALLS: AtomicUsize = AtomicUsize::new(0);
    static RECEIVED: Mutex<Vec<Value>> = Mutex::new(Vec::new());

    /// Fails the first time.
    fn receiver(_: &str, list: &Value) -> (u16, Value) {
        if CALLS.fetch_add(1, Ordering::SeqCst) == 0 {
            return (500, json!({}));
        }
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
        let mut received = RECEIVED.lock().unwrap_or_else(PoisonError::into_inner);
        received.extend(list["items"].as_array().unwrap().clone());
        (200, json!({}))
    }

    #[tokio::test]
    async fn events_arrive_in_order_and_in_batches_after_a_failure_too() {
        const EVENTS: usize = 5;
        let server = Server::start(&["localhost"], receiver, false).await;
        let dir = tempfile::tempdir().unwrap();
        let config = WebhookConfig {
            file: server.kubeconfig(dir.path(), "/audit"),
            max_waiting: EVENTS,
            max_batch: 2,
            max_wait: Duration::from_millis(10),
            backoff: Duration::from_millis(1),
            max_event_bytes: None,
        };
        let webhook = Webhook::start(&config).unwrap();
        for n in 0..EVENTS {
            assert!(webhook.send(&json!({"n": n})));
        }
        assert!(!webhook.send(&json!({"n": "too many"})));
        let all = async {
            while RECEIVED.lock().unwrap().len() < EVENTS {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
        let order: Vec<_> = RECEIVED.lock().unwrap().iter().map(|event| event["n"].as_u64()).collect();
        assert_eq!(order, (0..EVENTS as u64).map(Some).collect::<Vec<_>>());
    }
}

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
                deliver(&client, &to, std::mem::take(&mut batch), config.backoff).await;
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

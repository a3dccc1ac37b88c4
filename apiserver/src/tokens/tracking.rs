//! When legacy tokens were last used: the day, as a label of the secret that holds the token, so that the controller that
//! removes unused ones knows.
//!
//! Authentication only notes ([`Uses`]); a task writes ([`record`]). A note that finds no room is lost, the next use brings
//! it again.

use apimachinery::meta;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::Store;

/// The label of the day.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The label of a secret whose token is taken no more.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const MAX_WAITING: usize = 64;

/// A secret whose token was used.
#[derive(Debug, PartialEq, Eq)]
pub struct Used {
    namespace: String,
    name: String,
    uid: String,
    day: String,
}

/// Takes notes.
#[derive(Clone, Debug)]
pub struct Uses(mpsc::Sender<Used>);

impl Uses {
    /// And who reads them.
    pub fn channel() -> (Self, mpsc::Receiver<Used>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Self(sender), receiver)
    }

    /// The token of this secret was used, unless that is already written.
    pub fn note(&self, secret: &Value, now: Timestamp) {
        let day = now.strftime("%Y-%m-%d").to_string();
        if secret["metadata"]["labels"][LAST_USED].as_str() == Some(day.as_str()) {
            return;
        }
        let text = |text: &str| text.to_owned();
        let used = Used {
            namespace: text(meta::namespace(secret)),
            name: text(meta::name(secret)),
            uid: text(secret["metadata"]["uid"].as_str().unwrap_or_default()),
            day,
        };
        if self.0.try_send(used).is_err() {
            tracing::debug!(secret = meta::name(secret), "No room to note the use of a legacy token");
        }
    }
}

/// The secret with the day of its use; `None` when there is nothing to write.
fn marked(mut secret: Value, used: &Used) -> Option<Value> {
    let same = secret["metadata"]["uid"].as_str() == Some(used.uid.as_str());
    let written = secret["metadata"]["labels"][LAST_USED].as_str() == Some(used.day.as_str());
    if !same || written {
        return None;
    }
    meta::set_label(&mut secret, LAST_USED, &used.day);
    Some(secret)
}

/// Writes what is noted until shutdown.
pub async fn record(store: &dyn Store, mut notes: mpsc::Receiver<Used>, stop: CancellationToken) {
    const SECRETS: crate::objects::ResourceName = ("", "secrets");
    while let Some(Some(used)) = stop.run_until_cancelled(notes.recv()).await {
        let secret = store.get(SECRETS, &used.namespace, &used.name);
        let Some(secret) = secret.and_then(|secret| marked(secret, &used)) else { continue };
        if let Err(err) = store.update(SECRETS, "", secret).await {
            tracing::warn!(secret = used.name, namespace = used.namespace, %err, "Cannot note the use of a legacy token");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn once_a_day() {
        let (uses, mut notes) = Uses::channel();
        let now: Timestamp = "2026-03-04T05:06:07Z".parse().unwrap();
        let secret =
            json!({"metadata": {"namespace": "ns", "name": "s", "uid": "u", "labels": {LAST_USED: "2026-03-03"}}});
        uses.note(&secret, now);
        let used = notes.try_recv().unwrap();
        let written = marked(secret.clone(), &used).unwrap();
        assert_eq!(written["metadata"]["labels"][LAST_USED], "2026-03-04");
        uses.note(&written, now);
        assert!(notes.try_recv().is_err());
        assert_eq!(marked(written, &used), None);
        let mut other = secret;
        other["metadata"]["uid"] = json!("made anew");
        assert_eq!(marked(other, &used), None);
    }
}

//! The status manager: the one writer of pod statuses to the API.
//!
//! Guarantees: the newest status of each pod reaches the API in the end, as a patch of what differs, only to the very
//! object it belongs to (uid); conditions of others are left alone; a pod whose deletion was asked for is deleted from
//! the API only after its final status is there and nothing of it runs. Failed writes are tried again with a delay that
//! grows. Without changes it writes nothing, also not after a restart.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::meta;
use client::{Client, ClientError, DeleteOptions, Patch, resources};
use futures::StreamExt;
use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::pods::types::Pod;

/// Writes at the same time; many pods that start at once wait for each other's writes otherwise.
const MAX_WRITES: usize = 8;
/// First and longest delay between two tries.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// A pod's newest status.
#[derive(Debug, Clone)]
pub struct Update {
    /// The pod's newest object, as the API has it (for a static pod, the static one).
    pub pod: Arc<Pod>,
    /// Uid of the API's object: the pod's, or its mirror's.
    pub api_uid: String,
    pub status: Arc<PodStatus>,
    /// Nothing of the pod runs and nothing will.
    pub finished: bool,
}

struct Entry {
    update: Update,
    /// What the API holds as far as we know.
    known: Map<String, Value>,
    retry: Option<(Instant, Duration)>,
    dirty: bool,
}

/// Runs until shutdown.
pub async fn run(client: Client, mut updates: mpsc::Receiver<Update>, shutdown: CancellationToken) {
    let mut entries: HashMap<String, Entry> = HashMap::new();
    loop {
        let next = entries.values().filter_map(|e| e.retry.map(|(at, _)| at)).min();
        let timer = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = timer => {}
            update = updates.recv() => match update {
                Some(update) => note(&mut entries, update),
                None => return,
            },
        }
        while let Ok(update) = updates.try_recv() {
            note(&mut entries, update);
        }
        write_due(&client, &mut entries).await;
    }
}

fn note(entries: &mut HashMap<String, Entry>, update: Update) {
    match entries.get_mut(&update.api_uid) {
        Some(entry) => {
            entry.update = update;
            entry.dirty = true;
        }
        None => {
            let known = fields(&update.pod.status);
            entries.insert(update.api_uid.clone(), Entry { update, known, retry: None, dirty: true });
        }
    }
}

async fn write_due(client: &Client, entries: &mut HashMap<String, Entry>) {
    let now = Instant::now();
    let due = entries.extract_if(|_, e| e.retry.map_or(e.dirty, |(at, _)| at <= now)).collect::<Vec<_>>();
    let writes = futures::stream::iter(due).map(|(uid, mut entry)| async move {
        entry.dirty = false;
        let result = write(client, &mut entry).await;
        (uid, entry, result)
    });
    let mut writes = std::pin::pin!(writes.buffer_unordered(MAX_WRITES));
    while let Some((uid, mut entry, result)) = writes.next().await {
        match result {
            Ok(Written::Gone) => continue,
            Ok(Written::Kept) => entry.retry = None,
            Err(error) => {
                let delay = entry.retry.map_or(FIRST_RETRY, |(_, d)| (d * 2).min(LAST_RETRY));
                let pod = entry.update.pod.full_name();
                tracing::warn!(pod, %error, retry_in = ?delay, "Failed to update status for pod");
                entry.retry = Some((Instant::now() + delay, delay));
            }
        }
        entries.insert(uid, entry);
    }
}

enum Written {
    Kept,
    Gone,
}

async fn write(client: &Client, entry: &mut Entry) -> Result<Written, ClientError> {
    let update = entry.update.clone();
    let pod = &update.pod;
    let wanted = fields(&update.status);
    let changes = difference(&entry.known, &wanted);
    if !changes.is_empty() {
        let patch = json!({"metadata": {"uid": update.api_uid}, "status": changes});
        let patch = Patch::Strategic(patch);
        match client.patch::<Value>(&resources::PODS, Some(pod.namespace()), pod.name(), Some("status"), &patch).await {
            Ok(_) => entry.known = wanted,
            Err(error) if is_gone(client, &update, &error).await => return Ok(Written::Gone),
            Err(error) => return Err(error),
        }
    }
    if !update.finished || !pod.deletion_requested() || pod.is_static() {
        return Ok(Written::Kept);
    }
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(&update.api_uid) };
    match client.delete(&resources::PODS, Some(pod.namespace()), pod.name(), &options).await {
        Ok(()) => Ok(Written::Gone),
        Err(error) if is_gone(client, &update, &error).await => Ok(Written::Gone),
        Err(error) => Err(error),
    }
}

/// Whether a write failed because the object does not exist, or its name belongs to another one now. A conflict alone
/// does not say so: somebody else may have been writing at the same time.
async fn is_gone(client: &Client, update: &Update, error: &ClientError) -> bool {
    if !error.is_conflict() {
        return error.is_not_found();
    }
    let pod = &update.pod;
    match client.get::<Value>(&resources::PODS, Some(pod.namespace()), pod.name()).await {
        Ok(found) => meta::uid(&found) != update.api_uid,
        Err(error) => error.is_not_found(),
    }
}

fn fields(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// The fields of a strategic merge patch that turn `old` into `new`.
fn difference(old: &Map<String, Value>, new: &Map<String, Value>) -> Map<String, Value> {
    let mut changes = Map::new();
    for (name, value) in new {
        let before = old.get(name);
        let changed = match name.as_str() {
            // A pod is acknowledged once.
            "startTime" if before.is_some_and(|b| !b.is_null()) => false,
            // Others' conditions are not ours to compare or send.
            "conditions" => {
                value.as_array().into_iter().flatten().any(|c| !has_condition(before, c))
                    || ended(value, before).next().is_some()
            }
            _ => before != Some(value),
        };
        if changed {
            changes.insert(name.clone(), directed(name, value, before));
        }
    }
    // Only what the kubelet writes is the kubelet's to remove.
    const OWN: [&str; 8] = [
        "reason", "message", "podIP", "podIPs", "initContainerStatuses", "containerStatuses",
        "ephemeralContainerStatuses", "resources",
    ];
    for name in OWN.into_iter().filter(|n| old.contains_key(*n) && !new.contains_key(*n)) {
        changes.insert(name.to_owned(), Value::Null);
    }
    changes
}

/// Lists that merge by a key need a word for the entries that are gone.
fn directed(name: &str, value: &Value, before: Option<&Value>) -> Value {
    let Value::Array(items) = value else { return value.clone() };
    if name == "conditions" {
        let delete = ended(value, before).map(|t| json!({"$patch": "delete", "type": t}));
        return items.iter().map(|condition| without_leftovers(condition, before)).chain(delete).collect();
    }
    if !matches!(name, "podIPs" | "hostIPs") {
        return value.clone();
    }
    let ip = |v: &Value| v["ip"].clone();
    let gone = before.and_then(Value::as_array).into_iter().flatten();
    let gone = gone.filter(|b| !items.iter().any(|i| ip(i) == ip(b))).map(|b| json!({"$patch": "delete", "ip": ip(b)}));
    Value::Array(items.iter().cloned().chain(gone).collect())
}

/// The conditions of the kubelet's that go away again, where they were there and are not any more.
fn ended<'a>(new: &Value, before: Option<&Value>) -> impl Iterator<Item = &'a str> {
    let has = |list: &Value, t: &str| list.as_array().into_iter().flatten().any(|c| c["type"] == t);
    let gone = |t: &&str| before.is_some_and(|b| has(b, t)) && !has(new, t);
    ["PodResizePending", "PodResizeInProgress"].into_iter().filter(gone).collect::<Vec<_>>().into_iter()
}

/// A merged condition keeps what the new one does not say; what is gone must be said to be.
fn without_leftovers(condition: &Value, before: Option<&Value>) -> Value {
    let mut condition = condition.clone();
    let mut list = before.and_then(Value::as_array).into_iter().flatten();
    let Some(old) = list.find(|c| c["type"] == condition["type"]) else { return condition };
    for field in ["reason", "message"] {
        if condition.get(field).is_none() && old.get(field).is_some() {
            condition[field] = Value::Null;
        }
    }
    condition
}

fn has_condition(list: Option<&Value>, condition: &Value) -> bool {
    let same = |c: &&Value| c["type"] == condition["type"];
    let found = list.and_then(Value::as_array).and_then(|l| l.iter().find(same));
    const FIELDS: [&str; 5] = ["status", "reason", "message", "lastTransitionTime", "observedGeneration"];
    found.is_some_and(|c| FIELDS.iter().all(|f| c[*f] == condition[*f]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn only_differences_are_written() {
        let old = map(&json!({"phase": "Running", "podIPs": [{"ip": "1"}], "reason": "x", "nominatedNodeName": "n",
            "conditions": [{"type": "Ready", "status": "True", "reason": "r"}, {"type": "other/gate", "status": "True"}]}));
        let same = map(&json!({"phase": "Running", "podIPs": [{"ip": "1"}], "reason": "x",
            "conditions": [{"type": "Ready", "status": "True", "reason": "r"}]}));
        assert!(difference(&old, &same).is_empty());
        let new = map(&json!({"phase": "Running", "podIPs": [{"ip": "2"}],
            "conditions": [{"type": "Ready", "status": "False"}]}));
        let changes = Value::Object(difference(&old, &new));
        assert_eq!(
            changes,
            json!({"podIPs": [{"ip": "2"}, {"$patch": "delete", "ip": "1"}], "reason": null,
                "conditions": [{"type": "Ready", "status": "False", "reason": null}]})
        );
    }
}

//! `namespace-controller`: empties namespaces that are being deleted, and then lets them go.
//!
//! What there is to delete comes from discovery, so that custom resources go too. Pods go first (upstream's ordered
//! deletion): nothing they might need (secrets, network policies) goes before them.

pub mod reconcile;
#[cfg(test)]
mod tests;

use std::time::Duration;

use client::{DeleteOptions, ListOptions, ResourceRef, resources};
use futures::StreamExt;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use self::reconcile::{Round, finalizers_left, status_change};
use crate::framework::discovery::{Served, discover};
use crate::framework::{Action, Controller, Executor, Key, Setup, Store, SyncResult, View};
use crate::views::meta::is_deleting;
use crate::views::namespace::NamespaceView;

/// How many collections are emptied at the same time.
const PARALLEL_COLLECTIONS: usize = 8;
/// Lets other API servers notice the deletion, and late creations arrive (upstream's time).
const GRACE: Duration = Duration::from_secs(5);
/// After a deletion time has passed, how soon to look again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Registers `namespace-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("namespace");
    let namespaces = setup.stores.of::<NamespaceView>();
    let wake = queue.clone();
    namespaces.on(move |delta| {
        if is_deleting(&delta.object().metadata) {
            wake.add_after(Key::of(&delta.object().metadata), GRACE);
        }
    });
    let executor = setup.executor("namespace-controller");
    let workers = setup.config.concurrent.namespace;
    setup.workers(queue, workers, Namespaces { namespaces, executor });
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Left {
    metadata: apimachinery::meta::ObjectMeta,
}

struct Namespaces {
    namespaces: Store<NamespaceView>,
    executor: Executor,
}

impl Controller for Namespaces {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(namespace) = self.namespaces.get("", &key.name) else { return Ok(None) };
        if !is_deleting(&namespace.metadata) || !namespace.spec.finalizers.iter().any(|name| name == "kubernetes") {
            return Ok(None);
        }
        let (round, wait_seconds) = self.empty(&key.name).await?;
        let target = namespace.target();
        if let Some(change) = status_change(&namespace, &round, Timestamp::now()) {
            self.executor.apply(target.clone().change_status(change)).await?;
        }
        if !round.is_done() {
            // Upstream's rule: half the longest grace period, and a second.
            let wait = wait_seconds.map_or(LOOK_AGAIN, |seconds| Duration::from_secs(seconds / 2 + 1));
            return Ok(Some(wait));
        }
        let change = json!({"spec": {"finalizers": finalizers_left(&namespace)}});
        self.executor.apply(Action::Change { target, subresource: Some("finalize"), change }).await?;
        Ok(None)
    }
}

impl Namespaces {
    /// Deletes what is in the namespace; returns what is left and the longest grace period of a pod among it.
    async fn empty(&self, namespace: &str) -> Result<(Round, Option<u64>), crate::framework::SyncError> {
        let discovery = discover(self.executor.client()).await?;
        let mut round = Round { undiscovered: discovery.failed, ..Round::default() };
        let mut wait = None;
        let all: Vec<Served> = discovery
            .resources
            .into_iter()
            .filter(|served| served.resource.namespaced && served.supports(&["delete"]))
            .collect();
        let (pods, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|served| served.resource == resources::PODS);
        for (served, left) in self.empty_all(namespace, pods).await {
            note(&mut round, &mut wait, &served, left);
        }
        if round.remaining.is_empty() && round.failures.is_empty() {
            for (served, left) in self.empty_all(namespace, others).await {
                note(&mut round, &mut wait, &served, left);
            }
        }
        Ok((round, wait))
    }

    async fn empty_all(&self, namespace: &str, all: Vec<Served>) -> Vec<(ResourceRef, Result<Vec<Left>, String>)> {
        futures::stream::iter(all)
            .map(|served| async move {
                let left = self.empty_one(namespace, &served).await;
                (served.resource, left)
            })
            .buffer_unordered(PARALLEL_COLLECTIONS)
            .collect()
            .await
    }

    async fn empty_one(&self, namespace: &str, served: &Served) -> Result<Vec<Left>, String> {
        let (client, resource) = (self.executor.client(), &served.resource);
        let trouble = |error: client::ClientError| format!("{resource}: {error}");
        let gone = |error: &client::ClientError| {
            error.is_not_found() || error.status().is_some_and(|status| status.code == 405)
        };
        let options = DeleteOptions { propagation_policy: Some("Background".to_owned()), ..DeleteOptions::default() };
        let listable = served.supports(&["list"]);
        let list = async || match client.list::<Left>(resource, Some(namespace), &ListOptions::default()).await {
            Ok(list) => Ok(list.items),
            Err(error) if gone(&error) => Ok(Vec::new()),
            Err(error) => Err(trouble(error)),
        };
        if served.supports(&["deletecollection"]) {
            match client.delete_collection(resource, Some(namespace), &ListOptions::default(), &options).await {
                Err(error) if !gone(&error) => return Err(trouble(error)),
                _ => {}
            }
        } else if listable {
            for object in list().await? {
                match client.delete(resource, Some(namespace), &object.metadata.name, &options).await {
                    Err(error) if !gone(&error) => return Err(trouble(error)),
                    _ => {}
                }
            }
        }
        if listable { list().await } else { Ok(Vec::new()) }
    }
}

fn note(round: &mut Round, wait: &mut Option<u64>, resource: &ResourceRef, left: Result<Vec<Left>, String>) {
    let left = match left {
        Ok(left) => left,
        Err(error) => return round.failures.push(error),
    };
    if left.is_empty() {
        return;
    }
    round.remaining.insert(resource.to_string(), left.len());
    for object in &left {
        for finalizer in &object.metadata.finalizers {
            *round.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        let grace = object.metadata.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        *wait = (*wait).max(grace.filter(|_| *resource == resources::PODS));
    }
}

//! Performs plans: the only place from which controllers write.
//!
//! Changes travel as merge patches. Upstream's roles grant many controllers `update` but not `patch`; where the server
//! refuses the patch, the same change is made by reading the whole object, changing it and writing it back on the
//! condition that nobody else did in between. The refusal is remembered, so that it is met once per resource.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use apimachinery::meta::ObjectMeta;
use apimachinery::patch::merge_patch;
use bytes::Bytes;
use client::events::{EventType as EventKind, ObjectRef, Recorder};
use client::{Client, ClientError, DeleteOptions, Patch, Preconditions, ResourceRef};
use component_base::metrics::{Counter, Family};
use futures::StreamExt;
use http::{Method, Request, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::plan::{Action, Plan, Subject, Target};
use super::runtime::SyncError;
use super::store::View;
use crate::views::pod::PodView;

/// How many writes of one step are under way at once.
const PARALLEL_WRITES: usize = 64;

static ACTIONS: LazyLock<Family<Counter>> = LazyLock::new(|| {
    component_base::metrics::counter(
        "hardway_controller_writes_total",
        "Writes of controllers by account, kind of write, resource and outcome.",
        &["account", "action", "resource", "outcome"],
    )
});

/// A resource and a subresource.
type Place = (String, Option<&'static str>);

/// One controller's hands: its identity and its events. Cheap to clone.
#[derive(Clone)]
pub struct Executor {
    account: Arc<str>,
    client: Client,
    events: Recorder,
    refused: Arc<Mutex<HashSet<Place>>>,
}

/// What came of several creations.
#[derive(Debug)]
pub struct Started {
    /// How many worked.
    pub succeeded: usize,
    /// The first failure.
    pub error: Option<SyncError>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Created {
    metadata: ObjectMeta,
}

impl Executor {
    /// Hands that act as `client` does.
    pub fn new(account: &str, client: Client, events: Recorder) -> Self {
        Self { account: account.into(), client, events, refused: Arc::default() }
    }

    /// The client behind it, for reads that no informer serves.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// One object as the server has it now.
    pub async fn get<T: View>(&self, namespace: &str, name: &str) -> Result<T, SyncError> {
        Ok(self.client.get(&T::RESOURCE, non_empty(namespace), name).await?)
    }

    /// Creates an object and decodes the answer (reviews).
    pub async fn create<T: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        body: &impl Serialize,
    ) -> Result<T, SyncError> {
        Ok(self.client.create(resource, namespace, body).await?)
    }

    /// Sends an event, sooner or later or never.
    pub fn event(&self, about: &Subject, kind: EventKind, reason: &'static str, note: impl Into<String>) {
        let object = ObjectRef {
            api_version: about.resource.api_version(),
            kind: about.resource.kind.to_string(),
            namespace: about.key.namespace.clone(),
            name: about.key.name.clone(),
            uid: about.uid.clone(),
            ..ObjectRef::default()
        };
        self.events.event(&object, kind, reason, "", note);
    }

    /// Performs a plan until an action fails.
    pub async fn run(&self, plan: Plan) -> Result<(), SyncError> {
        for action in plan.actions {
            self.apply(action).await?;
        }
        Ok(())
    }

    /// Performs all of `actions`, several at once; results in their order.
    pub async fn each(&self, actions: Vec<Action>) -> Vec<Result<(), SyncError>> {
        futures::stream::iter(actions).map(|action| self.apply(action)).buffered(PARALLEL_WRITES).collect().await
    }

    /// Deletes pods of `owner`, telling of success and failure as events about it; results in the pods' order.
    pub async fn delete_pods(&self, owner: &Subject, pods: &[Arc<PodView>]) -> Vec<Result<(), SyncError>> {
        let actions = pods.iter().map(|pod| Action::Delete {
            target: Target::of(&PodView::RESOURCE, &pod.metadata),
            uid: String::new(),
            grace_period_seconds: None,
            propagation: None,
        });
        let results = self.each(actions.collect()).await;
        for (pod, result) in pods.iter().zip(&results) {
            let name = &pod.metadata.name;
            match result {
                Ok(()) => self.event(owner, EventKind::Normal, "SuccessfulDelete", format!("Deleted pod: {name}")),
                Err(error) => self.event(owner, EventKind::Warning, "FailedDelete", format!("Error deleting: {error}")),
            }
        }
        results
    }

    /// Makes `count` objects in batches of 1, 2, 4 …, so that what fails always fails once and not `count` times.
    /// `make` is given the number of each; success and failure are told as events about `owner`.
    pub async fn slow_start(
        &self,
        owner: &Subject,
        resource: &ResourceRef,
        count: usize,
        make: impl Fn(usize) -> Value,
    ) -> Started {
        let mut started = Started { succeeded: 0, error: None };
        let (mut left, mut batch) = (count, 1_usize);
        while left > 0 && started.error.is_none() {
            let size = batch.min(left);
            let first = count - left;
            let bodies: Vec<Value> = (first..first + size).map(&make).collect();
            let results: Vec<Result<String, SyncError>> = futures::stream::iter(bodies)
                .map(|body| self.make(resource, &owner.key.namespace, body))
                .buffer_unordered(PARALLEL_WRITES)
                .collect()
                .await;
            for result in results {
                match result {
                    Ok(name) => {
                        started.succeeded += 1;
                        let note = format!("Created {}: {name}", resource.kind.to_lowercase());
                        self.event(owner, EventKind::Normal, "SuccessfulCreate", note);
                    }
                    Err(error) => {
                        if !error.is_namespace_terminating() {
                            let note = format!("Error creating: {error}");
                            self.event(owner, EventKind::Warning, "FailedCreate", note);
                        }
                        started.error.get_or_insert(error);
                    }
                }
            }
            left -= size;
            batch *= 2;
        }
        started
    }

    /// Creates an object and returns the name that the server gave.
    pub async fn make(&self, resource: &ResourceRef, namespace: &str, body: Value) -> Result<String, SyncError> {
        let result: Result<Created, ClientError> = self.client.create(resource, non_empty(namespace), &body).await;
        self.count("create", resource, result.is_ok());
        Ok(result?.metadata.name)
    }

    /// Performs one action.
    pub async fn apply(&self, action: Action) -> Result<(), SyncError> {
        match action {
            Action::Create { resource, namespace, body } => self.make(&resource, &namespace, body).await.map(drop),
            Action::Change { target, subresource, change } => {
                let result = self.change(&target, subresource, &change).await;
                self.counted("change", &target, result)
            }
            Action::Patch { target, subresource, patch } => {
                let result = self.patch(&target, subresource, &patch.into()).await;
                self.counted("patch", &target, result)
            }
            Action::Replace { target, subresource, body } => {
                let result = self.put(&target, subresource, &body).await;
                self.counted("update", &target, result)
            }
            Action::Delete { target, uid, grace_period_seconds, propagation } => {
                let result = self.delete(&target, uid, grace_period_seconds, propagation).await;
                self.counted("delete", &target, result)
            }
            Action::Adopt { owner, target, uid } => self.adopt(&owner, &target, &uid).await,
            Action::Release { owner_uid, target, uid } => {
                let patch = json!({"metadata": {
                    "uid": uid,
                    "ownerReferences": [{"$patch": "delete", "uid": owner_uid}],
                }});
                match self.patch(&target, None, &Patch::Strategic(patch)).await {
                    // Gone, or made again, or released already.
                    Err(error) if error.is_not_found() || error.is_invalid() => Ok(()),
                    result => self.counted("release", &target, result),
                }
            }
            Action::Event { about, kind, reason, note } => {
                self.event(&about, kind, reason, note);
                Ok(())
            }
        }
    }

    async fn adopt(&self, owner: &Subject, target: &Target, uid: &str) -> Result<(), SyncError> {
        let fresh: Created = self.client.get(&owner.resource, owner.key.namespace(), &owner.key.name).await?;
        if fresh.metadata.uid != owner.uid || fresh.metadata.is_terminating() {
            return Err(SyncError::Waiting(format!(
                "{} {} is going away and adopts nothing",
                owner.resource.kind, owner.key
            )));
        }
        let patch = json!({"metadata": {"uid": uid, "ownerReferences": [owner.controller_reference()]}});
        let result = self.patch(target, None, &Patch::Strategic(patch)).await;
        self.counted("adopt", target, result)
    }

    /// Merges `change` into an object's status; returns the metadata after it.
    pub async fn write_status(&self, target: &Target, change: &Value) -> Result<ObjectMeta, SyncError> {
        let result = self.change(target, Some("status"), change).await;
        self.count("change", &target.resource, result.is_ok());
        Ok(result?)
    }

    async fn patch(
        &self,
        target: &Target,
        sub: Option<&'static str>,
        patch: &Patch,
    ) -> Result<ObjectMeta, ClientError> {
        let namespace = target.key.namespace();
        let result: Result<Created, _> =
            self.client.patch(&target.resource, namespace, &target.key.name, sub, patch).await;
        result.map(|answer| answer.metadata)
    }

    async fn change(
        &self,
        target: &Target,
        sub: Option<&'static str>,
        change: &Value,
    ) -> Result<ObjectMeta, ClientError> {
        let place = (target.resource.to_string(), sub);
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(&place);
        if !refused {
            match self.patch(target, sub, &Patch::Merge(change.clone())).await {
                Err(error) if error.is_forbidden() && !is_namespace_terminating(&error) => {
                    self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
                }
                result => return result,
            }
        }
        self.read_change_write(target, sub, change).await
    }

    async fn read_change_write(
        &self,
        target: &Target,
        sub: Option<&'static str>,
        change: &Value,
    ) -> Result<ObjectMeta, ClientError> {
        let (namespace, name) = (target.key.namespace(), target.key.name.as_str());
        let mut object: Value = self.client.get(&target.resource, namespace, name).await?;
        // A version in the change replaces the one just read, so that the server refuses when they differ.
        merge_patch(&mut object, change);
        self.put(target, sub, &object).await
    }

    async fn put(&self, target: &Target, sub: Option<&'static str>, object: &Value) -> Result<ObjectMeta, ClientError> {
        let (namespace, name) = (target.key.namespace(), target.key.name.as_str());
        let result: Result<Created, _> = match sub {
            Some(sub) => self.client.put_sub(&target.resource, namespace, name, sub, object).await,
            None => self.client.update(&target.resource, namespace, name, object).await,
        };
        result.map(|answer| answer.metadata)
    }

    /// Deletes an object if it still is as `meta` says; a conflict when it is not. Its absence is success.
    pub async fn delete_unchanged(
        &self,
        target: &Target,
        meta: &ObjectMeta,
        propagation: &'static str,
    ) -> Result<(), SyncError> {
        let (uid, version) = (Some(meta.uid.clone()), Some(meta.resource_version.clone()));
        let options = DeleteOptions {
            grace_period_seconds: None,
            propagation_policy: Some(propagation.to_owned()),
            preconditions: Preconditions { uid, resource_version: version },
        };
        let result = self.client.delete(&target.resource, target.key.namespace(), &target.key.name, &options).await;
        self.count("delete", &target.resource, result.is_ok());
        match result {
            Err(error) if error.is_not_found() => Ok(()),
            result => Ok(result?),
        }
    }

    async fn delete(
        &self,
        target: &Target,
        uid: String,
        grace_period_seconds: Option<i64>,
        propagation: Option<&'static str>,
    ) -> Result<(), ClientError> {
        let conditional = !uid.is_empty();
        let options = DeleteOptions {
            grace_period_seconds,
            propagation_policy: propagation.map(str::to_owned),
            preconditions: Preconditions { uid: conditional.then_some(uid), resource_version: None },
        };
        match self.client.delete(&target.resource, target.key.namespace(), &target.key.name, &options).await {
            Err(error) if error.is_not_found() || (conditional && error.is_conflict()) => Ok(()),
            result => result,
        }
    }

    fn counted<T>(&self, action: &str, target: &Target, result: Result<T, ClientError>) -> Result<(), SyncError> {
        self.count(action, &target.resource, result.is_ok());
        result.map(drop).map_err(SyncError::from)
    }

    fn count(&self, action: &str, resource: &ResourceRef, ok: bool) {
        ACTIONS.with(&[&self.account, action, &resource.plural, if ok { "success" } else { "error" }]).inc();
    }
}

fn non_empty(namespace: &str) -> Option<&str> {
    (!namespace.is_empty()).then_some(namespace)
}

/// Whether a creation was refused because the namespace is going away.
pub fn is_namespace_terminating(error: &ClientError) -> bool {
    let details = error.status().and_then(|status| status.details.as_ref());
    details.is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
}

/// A JSON document at a path that is no resource (discovery).
pub async fn get_json<T: DeserializeOwned>(client: &Client, path: &str, accept: &str) -> Result<T, ClientError> {
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(header::ACCEPT, accept)
        .body(Bytes::new())
        .map_err(|error| ClientError::Request(error.to_string()))?;
    let answer = client.raw(request).await?;
    serde_json::from_slice(answer.body())
        .map_err(|error| ClientError::Decode { request: format!("GET {path}"), reason: error.to_string() })
}

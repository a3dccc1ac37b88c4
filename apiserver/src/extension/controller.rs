//! Keeps what is served equal to the definitions: accepts names, serves what is established, and empties and releases what
//! is being deleted.
//!
//! Level-driven: every change of a definition (and of the objects of one that is being deleted) makes it look at all of
//! them again. Every server does this for itself; their writes agree.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apimachinery::meta;
use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::definition::CLEANUP;
use super::{DEFINITIONS, identity, is_true, names, resource};
use crate::http::request::RequestContext;
use crate::registry::{DeleteOptions, ReadOptions, Registry, Target, UpdateOptions};
use crate::resources::{Resource, ResourceTable};

/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// The loop's own state.
pub struct Controller {
    registry: Arc<Registry>,
    built_in: Vec<Arc<Resource>>,
    wake: Arc<Notify>,
    /// Definitions whose objects wake the loop.
    followed: HashSet<String>,
    /// Definitions by name, with the revision that they were read at.
    read: BTreeMap<Arc<str>, (u64, Arc<Value>)>,
    /// All definitions that there were at the start are served.
    synced: Arc<AtomicBool>,
}

impl Controller {
    /// Over a registry that serves the built-in kinds.
    pub fn new(registry: Arc<Registry>) -> Self {
        let built_in = registry.table().load().iter().filter(|r| r.custom.is_none()).cloned().collect();
        let wake = Arc::new(Notify::new());
        let woken = Arc::clone(&wake);
        registry.subscribe(DEFINITIONS, Box::new(move |_| woken.notify_one()));
        Self { registry, built_in, wake, followed: HashSet::new(), read: BTreeMap::new(), synced: Arc::default() }
    }

    /// Becomes true when all definitions that there were at the start are served.
    pub fn synced(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.synced)
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.reconcile() => outcome,
            };
            let pause = match outcome {
                Ok(()) => Duration::MAX,
                Err(error) => {
                    tracing::warn!(err = %error, "Custom resources are not up to date; trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Makes everything what the definitions say now.
    ///
    /// # Errors
    /// Storage, or a write that was refused; the rest is done nevertheless.
    pub async fn reconcile(&mut self) -> Result<(), Status> {
        let mut outcome = Ok(());
        let mut definitions = self.definitions()?;
        for index in 0..definitions.len() {
            if meta::deletion_timestamp(&definitions[index]).is_some() {
                continue;
            }
            let all = definitions.iter().map(AsRef::as_ref);
            let wanted = names::status(&definitions[index], all, Timestamp::now());
            if wanted == definitions[index]["status"] {
                continue;
            }
            match self.write(&definitions[index], "status", &|definition| definition["status"] = wanted.clone()).await {
                Ok(()) => Arc::make_mut(&mut definitions[index])["status"] = wanted,
                Err(error) => outcome = Err(error),
            }
        }
        self.serve(&definitions).await?;
        self.synced.store(true, Ordering::Relaxed);
        for definition in definitions.iter().filter(|definition| meta::deletion_timestamp(definition).is_some()) {
            if let Err(error) = self.finish(definition).await {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// All definitions; what did not change since the last time is not read again.
    fn definitions(&mut self) -> Result<Vec<Arc<Value>>, Status> {
        let table = self.registry.table().load();
        let resource = table.by_plural(DEFINITIONS.0, DEFINITIONS.1).ok_or_else(Status::no_such_path)?;
        let snapshot = self.registry.cache(resource)?.snapshot(0);
        self.read.retain(|name, _| snapshot.map.contains_key(name));
        for (name, entry) in &snapshot.map {
            if self.read.get(name).is_none_or(|(revision, _)| *revision != entry.revision) {
                self.read.insert(Arc::clone(name), (entry.revision, Arc::new(entry.value())));
            }
        }
        Ok(self.read.values().map(|(_, definition)| Arc::clone(definition)).collect())
    }

    /// Serves what is established; what did not change stays the same value.
    async fn serve(&self, definitions: &[Arc<Value>]) -> Result<(), Status> {
        let known = self.registry.table().load();
        let mut served = self.built_in.clone();
        let mut same = known.iter().filter(|resource| resource.custom.is_some()).count();
        let mut changed = 0;
        for definition in definitions.iter().filter(|definition| is_true(definition, "Established")) {
            let names = &definition["status"]["acceptedNames"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let old = known.by_plural(&text(&definition["spec"]["group"]), &text(&names["plural"]));
            let unchanged = old.filter(|old| {
                old.custom.as_ref().is_some_and(|custom| custom.identity == identity(definition))
                    && old.short_names == super::texts(&names["shortNames"])
                    && old.kind == text(&names["kind"])
            });
            if unchanged.is_some() {
                same -= 1;
            } else {
                changed += 1;
            }
            served.push(unchanged.cloned().unwrap_or_else(|| Arc::new(resource(definition))));
        }
        if same == 0 && changed == 0 {
            return Ok(());
        }
        self.registry.serve(ResourceTable::new(served)).await
    }

    /// Deletes the objects of a definition that is being deleted, and lets go of it when they are gone.
    async fn finish(&mut self, definition: &Value) -> Result<(), Status> {
        if !meta::finalizers(definition).any(|finalizer| finalizer == CLEANUP) {
            return Ok(());
        }
        let spec = &definition["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
        let table = self.registry.table().load();
        let own = meta::uid(definition);
        let served = table.by_plural(&group, &plural);
        if let Some(resource) = served.filter(|r| r.custom.as_ref().is_some_and(|custom| custom.identity.0 == own)) {
            let cache = self.registry.cache(resource)?;
            if self.followed.insert(own.to_owned()) {
                let woken = Arc::clone(&self.wake);
                cache.subscribe(Box::new(move |_| woken.notify_one()));
            }
            let revision = self.registry.clock().catch_up().await?;
            if !cache.snapshot(revision).map.is_empty() {
                self.empty(resource).await?;
                let revision = self.registry.clock().catch_up().await?;
                if !cache.snapshot(revision).map.is_empty() {
                    // Finalizers hold some of them; their end wakes this loop.
                    return Ok(());
                }
            }
        }
        self.followed.remove(own);
        self.write(definition, "", &|definition| {
            let left = meta::finalizers(definition).filter(|finalizer| *finalizer != CLEANUP).map(str::to_owned);
            let left = left.collect();
            meta::set_finalizers(definition, left);
        })
        .await
    }

    async fn empty(&self, resource: &Resource) -> Result<(), Status> {
        let ctx = RequestContext::internal(Timestamp::now());
        // In the version that is stored, where it is served, no webhook is needed.
        let stored = resource.custom.as_ref().map_or("", |custom| &custom.storage_api_version);
        let stored = resource.versions.iter().find(|version| resource.api_version(&version.version) == stored);
        let version = stored.or(resource.versions.first()).ok_or_else(Status::no_such_path)?;
        let target = Target { ctx: &ctx, resource, version, subresource: None, namespace: "", name: "" };
        self.registry.delete_collection(&target, &ReadOptions::default(), &DeleteOptions::default()).await.map(drop)
    }

    /// Edits a definition as it is now. One that is gone needs no edit.
    async fn write(
        &self,
        definition: &Value,
        subresource: &str,
        edit: &(dyn Fn(&mut Value) + Send + Sync),
    ) -> Result<(), Status> {
        let table = self.registry.table().load();
        let resource = table.by_plural(DEFINITIONS.0, DEFINITIONS.1).ok_or_else(Status::no_such_path)?;
        let ctx = RequestContext::internal(Timestamp::now());
        let version = resource.versions.first().ok_or_else(Status::no_such_path)?;
        let (name, subresource) = (meta::name(definition), resource.subresource(subresource));
        let target = Target { ctx: &ctx, resource, version, subresource, namespace: "", name };
        let change = |now: Option<&Value>| {
            let mut object = now.cloned().ok_or_else(|| Status::not_found(&resource.group_resource(), name))?;
            edit(&mut object);
            Ok(object)
        };
        match self.registry.update(&target, &change, UpdateOptions::default()).await {
            Err(status) if status.code != 404 => Err(status),
            _ => Ok(()),
        }
    }
}

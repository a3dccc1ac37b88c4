//! `garbage-collector-controller`: removes objects whose owners are gone, and carries out foreground deletion and
//! orphaning.
//!
//! Every deletable resource is watched for its metadata alone. The graph of owners has one owner, this controller; the
//! informers' handlers update it and queue identities to look at. Before anything is deleted, the server is asked:
//! the graph only says where to look.

pub mod decide;
pub mod graph;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use apimachinery::meta::ObjectMeta;
use client::informer::{Cached, Delta, Informer, Reader};
use client::work_queue::{Requeue, WorkQueue, run};
use client::{Client, ResourceRef};
use serde::{Deserialize, Deserializer};
use tokio_util::sync::CancellationToken;

use self::decide::{OwnerState, decide, forget_owners, propagation, remove_finalizer};
use self::graph::{FOREGROUND, Graph, ORPHAN, Owner, Uid, Wake};
use crate::framework::discovery::discover;
use crate::framework::runtime::OnDeleted;
use crate::framework::{EventKind, Executor, Key, Setup, Subject, SyncError, Target};
use crate::views::crd::{ApiServiceView, CrdView};

/// After a new kind is served, how long to wait for more before asking what is served.
const DISCOVERY_DELAY: Duration = Duration::from_secs(1);
const DISCOVERY_RETRY: Duration = Duration::from_secs(10);
/// Identities of objects that are gone: kept so that the server is not asked for each of their dependents.
const MAX_GONE: usize = 4096;

/// Registers `garbage-collector-controller`.
pub fn register(setup: &mut Setup) {
    let executor = setup.executor("generic-garbage-collector");
    let changed = Arc::new(tokio::sync::Notify::new());
    let (crds, services) = (setup.stores.of::<CrdView>(), setup.stores.of::<ApiServiceView>());
    let wake = Arc::clone(&changed);
    crds.on(move |_| wake.notify_one());
    let wake = Arc::clone(&changed);
    services.on(move |_| wake.notify_one());
    let collector = Arc::new(Collector {
        executor,
        on_deleted: Arc::clone(&setup.on_deleted),
        watching: setup.client(),
        graph: Mutex::default(),
        resources: RwLock::default(),
        delete: WorkQueue::new("garbage_collector_attempt_to_delete"),
        orphan: WorkQueue::new("garbage_collector_attempt_to_orphan"),
        gone: Mutex::default(),
    });
    let workers = setup.config.concurrent.garbage_collector;
    let job = Arc::clone(&collector);
    setup.job(move |shutdown| async move {
        job.follow_discovery(&changed, &shutdown).await;
    });
    let job = Arc::clone(&collector);
    setup.job(move |shutdown| async move {
        run(&job.delete, workers, &shutdown, |uid| {
            let job = Arc::clone(&job);
            async move { done(job.attempt_to_delete(&uid).await) }
        })
        .await;
    });
    setup.job(move |shutdown| async move {
        run(&collector.orphan, workers, &shutdown, |uid| {
            let job = Arc::clone(&collector);
            async move { done(job.attempt_to_orphan(&uid).await) }
        })
        .await;
    });
}

fn done(result: Result<(), SyncError>) -> Result<Requeue, SyncError> {
    match result {
        Ok(()) => Ok(Requeue::Done),
        Err(error) if error.is_conflict() => Ok(Requeue::Now),
        Err(error) => Err(error),
    }
}

/// Metadata of any object, without what the graph does not need.
struct Metadata(ObjectMeta);

impl Cached for Metadata {
    fn meta(&self) -> &ObjectMeta {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Object {
            metadata: ObjectMeta,
        }
        let mut metadata = Object::deserialize(deserializer)?.metadata;
        metadata.labels.clear();
        metadata.annotations.clear();
        Ok(Self(metadata))
    }
}

struct Watched {
    resource: ResourceRef,
    reader: Reader<Metadata>,
    stop: CancellationToken,
}

struct Collector {
    executor: Executor,
    on_deleted: OnDeleted,
    watching: Client,
    graph: Mutex<Graph>,
    /// What is watched; a node's number is its place here. Places are never used again.
    resources: RwLock<Vec<Watched>>,
    delete: WorkQueue<Uid>,
    orphan: WorkQueue<Uid>,
    gone: Mutex<Gone>,
}

/// Identities that are known not to exist, which is for ever. Bounded: the oldest are forgotten, and asked for again.
#[derive(Default)]
struct Gone {
    known: HashSet<Uid>,
    in_order: VecDeque<Uid>,
}

impl Gone {
    fn insert(&mut self, uid: &str) {
        if self.known.insert(uid.to_owned()) {
            self.in_order.push_back(uid.to_owned());
        }
        if self.in_order.len() > MAX_GONE
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, wake: Wake) {
        wake.delete.into_iter().for_each(|uid| self.delete.add(uid));
        wake.orphan.into_iter().for_each(|uid| self.orphan.add(uid));
        wake.misplaced.into_iter().for_each(|(dependent, owner)| self.report_misplaced(&dependent, &owner));
    }

    fn gone(&self) -> MutexGuard<'_, Gone> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_gone(&self, uid: &str) {
        self.gone().insert(uid);
    }

    /// Tells that `dependent` names an owner of another namespace; that reference counts as one to nothing.
    fn report_misplaced(&self, dependent: &str, owner: &str) {
        let Some(node) = self.graph().get(dependent).cloned() else { return };
        let Some(resource) = node.resource.and_then(|number| self.resource(number)) else { return };
        let Some(reference) = node.owners.iter().find(|reference| reference.uid == owner) else { return };
        let (namespace, about) =
            (node.key.namespace.clone(), Subject { resource, key: node.key.clone(), uid: dependent.to_owned() });
        let Owner { uid, api_version, kind, name, .. } = reference;
        let identity = format!("[{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}]");
        let note = format!("ownerRef {identity} does not exist in namespace {namespace:?}");
        self.executor.event(&about, EventKind::Warning, "OwnerRefInvalidNamespace", note);
    }

    /// Watches what is served, and again whenever that may have changed.
    async fn follow_discovery(self: Arc<Self>, changed: &tokio::sync::Notify, shutdown: &CancellationToken) {
        loop {
            let wait = match discover(&self.watching).await {
                Ok(discovery) => {
                    let wanted: Vec<ResourceRef> = discovery
                        .resources
                        .into_iter()
                        .filter(|served| served.supports(&["delete", "list", "watch"]))
                        .map(|served| served.resource)
                        .filter(|resource| resource.plural != "events")
                        .collect();
                    self.watch(&wanted, discovery.failed.is_empty(), shutdown);
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot find out what is served, trying again");
                    Some(DISCOVERY_RETRY)
                }
            };
            let pause = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => changed.notified().await,
                }
                tokio::time::sleep(DISCOVERY_DELAY).await;
            };
            tokio::select! {
                () = pause => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Starts informers for what is new, and stops those of what is no longer served (if that is known for sure).
    fn watch(self: &Arc<Self>, wanted: &[ResourceRef], complete: bool, shutdown: &CancellationToken) {
        let mut resources = self.resources.write().unwrap_or_else(PoisonError::into_inner);
        if complete {
            for watched in resources.iter().filter(|watched| !wanted.contains(&watched.resource)) {
                watched.stop.cancel();
            }
        }
        for resource in wanted {
            if resources.iter().any(|watched| watched.resource == *resource && !watched.stop.is_cancelled()) {
                continue;
            }
            let (number, stop, collector) = (resources.len(), shutdown.child_token(), Arc::clone(self));
            self.graph().kinds.push(resource.kind.to_string());
            let watched = resource.clone();
            let reader = Informer::<Metadata>::builder(&self.watching, resource.clone())
                .metadata_only()
                .on_event(move |delta| {
                    collector.observe(number, delta);
                    if let (Delta::Deleted(object), Some(tell)) = (delta, collector.on_deleted.get()) {
                        tell(&watched, &object.0.namespace);
                    }
                })
                .start(stop.clone());
            resources.push(Watched { resource: resource.clone(), reader, stop });
        }
    }

    fn observe(&self, resource: usize, delta: &Delta<Metadata>) {
        let wake = match delta {
            Delta::Deleted(object) => {
                self.remember_gone(&object.0.uid);
                self.graph().remove(&object.0.uid)
            }
            Delta::Added(object) => self.graph().upsert(resource, &object.0),
            Delta::Updated { old, new } => {
                let mut graph = self.graph();
                // Gone and made again between two looks.
                let mut wake = if old.0.uid == new.0.uid { Wake::default() } else { graph.remove(&old.0.uid) };
                wake.extend(graph.upsert(resource, &new.0));
                wake
            }
        };
        self.wake(wake);
    }

    /// Dependents that no informer has brought yet must not be missed.
    fn check_complete(&self) -> Result<(), SyncError> {
        let resources = self.resources.read().unwrap_or_else(PoisonError::into_inner);
        match resources.iter().find(|watched| !watched.stop.is_cancelled() && !watched.reader.has_synced()) {
            None => Ok(()),
            Some(watched) => Err(SyncError::Waiting(format!("{} are not all known yet", watched.resource))),
        }
    }

    fn resource(&self, number: usize) -> Option<ResourceRef> {
        let resources = self.resources.read().unwrap_or_else(PoisonError::into_inner);
        resources.get(number).map(|watched| watched.resource.clone())
    }

    /// The resource behind a reference to an owner; None for kinds that are not served (or not deletable).
    fn resource_of(&self, api_version: &str, kind: &str) -> Option<ResourceRef> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let resources = self.resources.read().unwrap_or_else(PoisonError::into_inner);
        resources
            .iter()
            .find(|watched| {
                watched.resource.group == group && watched.resource.kind == kind && !watched.stop.is_cancelled()
            })
            .map(|watched| watched.resource.clone())
    }

    /// The object as the server has it now, None if there is none of this identity.
    async fn live(&self, target: &Target, uid: &str) -> Result<Option<ObjectMeta>, SyncError> {
        let client = self.executor.client();
        match client.get::<Metadata>(&target.resource, target.key.namespace(), &target.key.name).await {
            Ok(object) if object.0.uid == uid => Ok(Some(object.0)),
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn attempt_to_delete(&self, uid: &Uid) -> Result<(), SyncError> {
        let Some(node) = self.graph().get(uid).cloned() else { return Ok(()) };
        let resource = match node.resource {
            Some(number) => self.resource(number),
            None => self.resource_of(&node.described_as.0, &node.described_as.1),
        };
        // Owners of unknown kinds are believed to exist.
        let Some(resource) = resource else { return Ok(()) };
        let target = Target { resource, key: node.key.clone() };
        if !node.is_virtual() && node.deleting && !node.foreground {
            return Ok(());
        }
        if !node.is_virtual() && !node.waits() && self.delete_as_known(&node, &target, uid).await? {
            return Ok(());
        }
        let Some(latest) = self.live(&target, uid).await? else {
            // One only known from a reference may be elsewhere than the reference says.
            if !node.is_virtual() {
                self.remember_gone(uid);
            }
            let wake = self.graph().remove(uid);
            self.wake(wake);
            return Ok(());
        };
        // It exists; its informer will bring it.
        if node.is_virtual() {
            return Ok(());
        }
        if node.waits() {
            return self.continue_foreground(uid, &target, &latest).await;
        }
        // It is looked at again when the graph has seen that. Judged now, an object that owns itself would be taken for one of
        // two that wait for each other.
        if node.is_behind(&latest) {
            return Ok(());
        }
        let owners = self.judge_owners(&target, &latest).await?;
        let has_dependents = !node.dependents.is_empty();
        let waiting = node.dependents.iter().any(|uid| self.graph().get(uid).is_some_and(graph::Node::waits));
        for action in decide(&target, &latest, &owners, has_dependents, waiting) {
            self.executor.apply(action).await?;
        }
        Ok(())
    }

    /// Deletes an object all of whose owners are known to be gone, on the condition that it is still as the cache shows it:
    /// then nobody need be asked. False when that cannot be said, or no longer holds.
    async fn delete_as_known(&self, node: &graph::Node, target: &Target, uid: &str) -> Result<bool, SyncError> {
        let known = |owner: &Owner| self.gone().known.contains(&owner.uid);
        // An object of no namespace may name owners that it cannot have.
        if node.key.namespace.is_empty() || node.owners.is_empty() || !node.owners.iter().all(known) {
            return Ok(false);
        }
        let Some(meta) = node.resource.and_then(|number| self.cached(number, &node.key)) else { return Ok(false) };
        if meta.0.uid != uid || graph::owners_of(&meta.0) != node.owners {
            return Ok(false);
        }
        match self.executor.delete_unchanged(target, &meta.0, propagation(&meta.0)).await {
            Err(error) if error.is_conflict() => Ok(false),
            result => result.map(|()| true),
        }
    }

    fn cached(&self, number: usize, key: &Key) -> Option<Arc<Metadata>> {
        let resources = self.resources.read().unwrap_or_else(PoisonError::into_inner);
        resources.get(number)?.reader.get(&key.namespace, &key.name)
    }

    /// The owner waits for its dependents: those that block are looked at; when none is left it may go.
    async fn continue_foreground(&self, uid: &Uid, target: &Target, latest: &ObjectMeta) -> Result<(), SyncError> {
        self.check_complete()?;
        let blocking = {
            let graph = self.graph();
            graph.get(uid).map(|node| graph.blocking_dependents(node, uid)).unwrap_or_default()
        };
        if blocking.is_empty() {
            if let Some(action) = remove_finalizer(target, latest, FOREGROUND) {
                self.executor.apply(action).await?;
            }
            return Ok(());
        }
        for (dependent, waits) in blocking {
            if !waits {
                self.delete.add(dependent);
            }
        }
        Ok(())
    }

    /// The owners' states; none when one of them cannot be judged, upon which nothing is done.
    async fn judge_owners(&self, target: &Target, meta: &ObjectMeta) -> Result<Vec<(Uid, OwnerState)>, SyncError> {
        let mut states = Vec::new();
        for owner in graph::owners_of(meta) {
            let Some(state) = self.judge(target, &owner).await? else { return Ok(Vec::new()) };
            states.push((owner.uid, state));
        }
        Ok(states)
    }

    async fn judge(&self, dependent: &Target, owner: &Owner) -> Result<Option<OwnerState>, SyncError> {
        let Some(resource) = self.resource_of(&owner.api_version, &owner.kind) else { return Ok(None) };
        // A cluster-wide object cannot have an owner in a namespace; such a reference is never acted on.
        if resource.namespaced && dependent.key.namespace.is_empty() {
            return Ok(None);
        }
        if self.gone().known.contains(&owner.uid) {
            return Ok(Some(OwnerState::Absent));
        }
        let namespace = if resource.namespaced { dependent.key.namespace.as_str() } else { "" };
        let target = Target { resource, key: Key::new(namespace, &owner.name) };
        Ok(Some(match self.live(&target, &owner.uid).await? {
            None => OwnerState::Absent,
            Some(meta) if meta.is_terminating() && meta.finalizers.iter().any(|name| name == FOREGROUND) => {
                OwnerState::Waiting
            }
            Some(_) => OwnerState::Solid,
        }))
    }

    /// Makes all dependents forget the owner, then lets it go.
    async fn attempt_to_orphan(&self, uid: &Uid) -> Result<(), SyncError> {
        let Some(node) = self.graph().get(uid).cloned() else { return Ok(()) };
        let Some(resource) = node.resource.and_then(|number| self.resource(number)) else { return Ok(()) };
        let target = Target { resource, key: node.key.clone() };
        self.check_complete()?;
        let Some(latest) = self.live(&target, uid).await? else { return Ok(()) };
        let mut actions = Vec::new();
        for dependent in self.dependents_of(&node) {
            let Some(meta) = self.live(&dependent.1, &dependent.0).await? else { continue };
            if meta.owner_references.iter().any(|owner| owner.uid == *uid) {
                actions.push(forget_owners(&dependent.1, &meta, &[uid]));
            }
        }
        for result in self.executor.each(actions).await {
            match result {
                Err(error) if error.is_not_found() => {}
                result => result?,
            }
        }
        if let Some(action) = remove_finalizer(&target, &latest, ORPHAN) {
            self.executor.apply(action).await?;
        }
        Ok(())
    }

    fn dependents_of(&self, node: &graph::Node) -> Vec<(Uid, Target)> {
        let mut found = HashMap::new();
        let graph = self.graph();
        for uid in &node.dependents {
            if let Some(dependent) = graph.get(uid)
                && let Some(number) = dependent.resource
            {
                found.insert(uid.clone(), (number, dependent.key.clone()));
            }
        }
        drop(graph);
        found
            .into_iter()
            .filter_map(|(uid, (number, key))| Some((uid, Target { resource: self.resource(number)?, key })))
            .collect()
    }
}

//! The informers: local copies of what placement depends on, each of them telling the inbox what changed.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

use apimachinery::meta::ObjectMeta;
use client::informer::{Cached, Delta, Informer, Reader};
use client::{Client, ResourceRef, resources};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::inbox::{Inbox, Kind};
use crate::model::node::NodeInfo;
use crate::model::pod::PodInfo;
use crate::model::template::Template;
use crate::objects::device::{DeviceClass, ResourceClaim, ResourceSlice};
use crate::objects::node::{CsiNode, Node};
use crate::objects::pod::Pod;
use crate::objects::policy::{DisruptionBudget, Namespace};
use crate::objects::volume::{Claim, CsiDriver, PersistentVolume, StorageCapacity, StorageClass};
use crate::objects::workload::{LabelOwner, SelectorOwner};

/// A pod, reduced to what is kept.
#[derive(Debug, Deserialize)]
#[serde(from = "Pod")]
pub struct CachedPod {
    meta: ObjectMeta,
    /// The pod.
    pub info: Arc<PodInfo>,
}

impl From<Pod> for CachedPod {
    fn from(pod: Pod) -> Self {
        let mut info = PodInfo::of(&pod);
        info.template = shared(info.template);
        Self { info: Arc::new(info), meta: identity(pod.metadata) }
    }
}

/// Templates that are remembered for sharing.
const MAX_RECENT_TEMPLATES: usize = 512;

thread_local! {
    /// Pods of one template come one after the other; this keeps one copy of it instead of one per pod.
    static RECENT: RefCell<HashSet<Arc<Template>>> = RefCell::default();
}

fn shared(template: Arc<Template>) -> Arc<Template> {
    RECENT.with_borrow_mut(|recent| {
        if let Some(known) = recent.get(&template) {
            return known.clone();
        }
        if recent.len() >= MAX_RECENT_TEMPLATES {
            recent.clear();
        }
        recent.insert(template.clone());
        template
    })
}

/// A node, reduced to what is kept.
#[derive(Debug, Deserialize)]
#[serde(from = "Node")]
pub struct CachedNode {
    meta: ObjectMeta,
    /// The node.
    pub info: NodeInfo,
}

impl From<Node> for CachedNode {
    fn from(node: Node) -> Self {
        Self { info: NodeInfo::of(&node), meta: identity(node.metadata) }
    }
}

/// Metadata without what is kept elsewhere.
fn identity(meta: ObjectMeta) -> ObjectMeta {
    let ObjectMeta { name, namespace, uid, resource_version, .. } = meta;
    ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() }
}

macro_rules! cached {
    ($field:ident: $($kind:ty),*) => {
        $(impl Cached for $kind {
            fn meta(&self) -> &ObjectMeta {
                &self.$field
            }
        })*
    };
}

cached!(meta: CachedPod, CachedNode);
cached!(metadata: Namespace, DisruptionBudget, LabelOwner, SelectorOwner, Claim, PersistentVolume, StorageClass, CsiNode);
cached!(metadata: CsiDriver, StorageCapacity, ResourceClaim, ResourceSlice, DeviceClass);

/// Readers of all of them.
#[derive(Clone)]
#[allow(missing_docs)] // the names are the kinds'
pub struct Sources {
    pub pods: Reader<CachedPod>,
    pub nodes: Reader<CachedNode>,
    pub namespaces: Reader<Namespace>,
    pub budgets: Reader<DisruptionBudget>,
    pub services: Reader<LabelOwner>,
    pub controllers: Reader<LabelOwner>,
    pub replica_sets: Reader<SelectorOwner>,
    pub stateful_sets: Reader<SelectorOwner>,
    pub claims: Reader<Claim>,
    pub volumes: Reader<PersistentVolume>,
    pub classes: Reader<StorageClass>,
    pub csi_nodes: Reader<CsiNode>,
    pub csi_drivers: Reader<CsiDriver>,
    pub capacities: Reader<StorageCapacity>,
    pub device_claims: Reader<ResourceClaim>,
    pub device_classes: Reader<DeviceClass>,
    pub slices: Reader<ResourceSlice>,
    /// Changes whenever a claim does; for those who wait for one.
    pub claims_changed: watch::Receiver<u64>,
}

impl Sources {
    /// Starts all informers.
    pub fn start(client: &Client, inbox: &Arc<Inbox>, shutdown: &CancellationToken) -> Self {
        let (bump, claims_changed) = watch::channel(0u64);
        let start = Starter { client, inbox, shutdown };
        let claims = start.builder(resources::PERSISTENT_VOLUME_CLAIMS, Kind::Claim);
        Self {
            // Finished pods hold nothing, and leave the copy as if they were deleted.
            pods: start
                .builder(resources::PODS, Kind::Pod)
                .field_selector("status.phase!=Succeeded,status.phase!=Failed")
                .start(shutdown.clone()),
            nodes: start.plain(resources::NODES, Kind::Node),
            namespaces: start.plain(resources::NAMESPACES, Kind::Namespace),
            budgets: start.plain(resources::POD_DISRUPTION_BUDGETS, Kind::Budget),
            services: start.plain(resources::SERVICES, Kind::Service),
            controllers: start.plain(resources::REPLICATION_CONTROLLERS, Kind::Controller),
            replica_sets: start.plain(resources::REPLICA_SETS, Kind::ReplicaSet),
            stateful_sets: start.plain(resources::STATEFUL_SETS, Kind::StatefulSet),
            claims: claims.on_event(move |_| bump.send_modify(|n| *n += 1)).start(shutdown.clone()),
            volumes: start.plain(resources::PERSISTENT_VOLUMES, Kind::Volume),
            classes: start.plain(resources::STORAGE_CLASSES, Kind::Class),
            csi_nodes: start.plain(resources::CSI_NODES, Kind::CsiNode),
            csi_drivers: start.plain(resources::CSI_DRIVERS, Kind::CsiDriver),
            capacities: start.plain(resources::CSI_STORAGE_CAPACITIES, Kind::Capacity),
            device_claims: start.plain(resources::RESOURCE_CLAIMS, Kind::DeviceClaim),
            device_classes: start.plain(resources::DEVICE_CLASSES, Kind::DeviceClass),
            slices: start.plain(resources::RESOURCE_SLICES, Kind::Slice),
            claims_changed,
        }
    }

    /// Waits until all copies are complete.
    pub async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.nodes.synced(),
            self.namespaces.synced(),
            self.budgets.synced(),
            self.services.synced(),
            self.controllers.synced(),
            self.replica_sets.synced(),
            self.stateful_sets.synced(),
            self.claims.synced(),
            self.volumes.synced(),
            self.classes.synced(),
            self.csi_nodes.synced(),
            self.csi_drivers.synced(),
            self.capacities.synced(),
            self.device_claims.synced(),
            self.device_classes.synced(),
            self.slices.synced(),
        );
    }

    /// Whether the copies that no placement can do without are complete.
    pub fn has_synced(&self) -> bool {
        self.pods.has_synced() && self.nodes.has_synced()
    }
}

struct Starter<'a> {
    client: &'a Client,
    inbox: &'a Arc<Inbox>,
    shutdown: &'a CancellationToken,
}

impl Starter<'_> {
    fn builder<T: Cached>(&self, resource: ResourceRef, kind: Kind) -> Informer<T> {
        let inbox = self.inbox.clone();
        Informer::builder(self.client, resource).on_event(move |delta: &Delta<T>| inbox.put(kind, delta.key()))
    }

    fn plain<T: Cached>(&self, resource: ResourceRef, kind: Kind) -> Reader<T> {
        self.builder(resource, kind).start(self.shutdown.clone())
    }
}

//! Looking at a changed object: the cluster's columns and the queue take it as it is now, and the difference to what was
//! known tells waiting pods whether another attempt is worth it.

use std::sync::Arc;

use client::ObjectKey;
use client::informer::{Cached, Reader};

use super::Scheduler;
use super::inbox::{Changed, Kind};
use crate::cluster::world::ByName;
use crate::model::pod::{PodInfo, PodKey};
use crate::plugins::Plugin;
use crate::queue::hints::Event;

impl Scheduler {
    /// Looks at one object.
    pub(super) fn observe(&mut self, (kind, key): &Changed) {
        let world = &mut self.cluster.world;
        let s = &self.sources;
        match kind {
            Kind::Pod => self.observe_pod(&PodKey::new(&key.namespace, &key.name)),
            Kind::Node => self.observe_node(&key.name),
            Kind::Namespace => {
                let labels = s.namespaces.get_key(key).map(|n| n.metadata.labels.clone());
                self.cluster.set_namespace(&key.name, labels);
                self.tell(&Event::Namespace);
            }
            Kind::Budget => {
                take(&mut world.budgets, &s.budgets, key, |b| Some(b.clone()));
            }
            Kind::Service | Kind::Controller | Kind::ReplicaSet | Kind::StatefulSet => {
                self.observe_selector(*kind, key);
            }
            Kind::Volume => {
                let volume = s.volumes.get_key(key);
                if volume.as_ref().is_none_or(|v| v.spec.claim_ref.is_some()) {
                    world.volumes.promised.remove(&key.name);
                }
                match volume {
                    Some(v) => world.volumes.volumes.insert(key.name.clone(), (*v).clone()),
                    None => world.volumes.volumes.remove(&key.name),
                };
                self.tell(&Event::Volumes);
            }
            Kind::DeviceClaim | Kind::DeviceClass | Kind::Slice => self.observe_devices(*kind, key),
            _ => self.observe_storage(*kind, key),
        }
    }

    fn observe_selector(&mut self, kind: Kind, key: &ObjectKey) {
        let (s, selectors) = (&self.sources, &mut self.cluster.world.selectors);
        let changed = match kind {
            Kind::Service => take(&mut selectors.services, &s.services, key, |o| Some(o.spec.selector.clone())),
            Kind::Controller => {
                take(&mut selectors.controllers, &s.controllers, key, |o| Some(o.spec.selector.clone()))
            }
            Kind::ReplicaSet => take(&mut selectors.replica_sets, &s.replica_sets, key, |o| o.spec.selector.clone()),
            _ => take(&mut selectors.stateful_sets, &s.stateful_sets, key, |o| o.spec.selector.clone()),
        };
        if changed {
            *selectors.epochs.entry(key.namespace.clone()).or_default() += 1;
        }
    }

    fn observe_storage(&mut self, kind: Kind, key: &ObjectKey) {
        let (s, volumes) = (&self.sources, &mut self.cluster.world.volumes);
        let name = key.name.clone();
        match kind {
            Kind::Claim => {
                take(&mut volumes.claims, &s.claims, key, |c| Some(c.clone()));
            }
            Kind::Capacity => {
                take(&mut volumes.capacities, &s.capacities, key, |c| Some(c.clone()));
            }
            Kind::Class => {
                set(&mut volumes.classes, name, s.classes.get_key(key).map(|c| (*c).clone()));
            }
            Kind::CsiNode => {
                set(&mut volumes.csi_nodes, name, s.csi_nodes.get_key(key).map(|c| (*c).clone()));
            }
            _ => set(&mut volumes.drivers, name, s.csi_drivers.get_key(key).map(|c| (*c).clone())),
        }
        self.tell(&Event::Volumes);
    }

    fn observe_devices(&mut self, kind: Kind, key: &ObjectKey) {
        let (s, devices) = (&self.sources, &mut self.cluster.world.devices);
        let name = key.name.clone();
        match kind {
            Kind::DeviceClass => {
                set(&mut devices.classes, name, s.device_classes.get_key(key).map(|c| (*c).clone()));
            }
            Kind::Slice => set(&mut devices.slices, name, s.slices.get_key(key).map(|c| (*c).clone())),
            _ => {
                take(&mut devices.claims, &s.device_claims, key, |c| Some(c.clone()));
                if devices.claim(&key.namespace, &key.name).is_none_or(|c| c.status.allocation.is_some()) {
                    devices.promised.remove(&(key.namespace.clone(), key.name.clone()));
                }
                let now = self.now_ms();
                let waits = self.queue.using_claim(&key.namespace, &key.name);
                for info in waits {
                    let gated = self.is_gated(&info);
                    self.queue.upsert(&info, gated, now);
                }
            }
        }
        self.tell(&Event::Devices);
    }

    /// Whether a pod is not to be tried: its gates hold it, or a claim of devices is not there yet.
    fn is_gated(&self, info: &PodInfo) -> bool {
        let Some(profile) = self.profile_of(info).map(|p| &self.profiles[p]) else { return false };
        (profile.gates && !info.gates.is_empty())
            || (profile.filters.contains(Plugin::DynamicResources)
                && !self.cluster.world.devices.has_all(&info.template))
    }

    fn observe_node(&mut self, name: &str) {
        let before = self.cluster.nodes.id(name).and_then(|id| self.cluster.nodes.info(id)).cloned();
        match (self.sources.nodes.get("", name), before) {
            (Some(node), None) => {
                self.cluster.set_node(node.info.clone());
                self.tell(&Event::NodeAdded(&node.info));
            }
            (Some(node), Some(before)) => {
                if self.cluster.set_node(node.info.clone()) {
                    self.tell(&Event::NodeChanged(&before, &node.info));
                }
            }
            (None, Some(_)) => {
                self.cluster.remove_node(name);
                self.tell(&Event::NodeRemoved);
            }
            (None, None) => {}
        }
    }

    fn observe_pod(&mut self, key: &PodKey) {
        match self.sources.pods.get(&key.namespace, &key.name) {
            None => self.pod_gone(key),
            Some(pod) if !pod.info.node_name.is_empty() => self.pod_placed(&pod.info),
            Some(pod) => self.pod_waits(&pod.info),
        }
    }

    fn pod_gone(&mut self, key: &PodKey) {
        if let Some(entry) = self.queue.remove(key) {
            self.cluster.nominate(&entry.info, "");
            if !entry.info.nominated.is_empty() {
                self.tell(&Event::NominationEnded);
            }
        }
        if let Some(placed) = self.cluster.take(key) {
            self.tell(&Event::PodRemoved(&placed.info));
        }
    }

    fn pod_placed(&mut self, info: &Arc<PodInfo>) {
        if self.queue.remove(&info.key).is_some() {
            self.cluster.nominate(info, "");
        }
        let before = self.cluster.placed(&info.key).cloned();
        if before.as_ref().is_some_and(|p| !p.assumed && same(&p.info, info)) {
            return;
        }
        self.cluster.place(info, false);
        match before {
            Some(p) if !p.assumed && p.info.node_name == info.node_name => self.tell(&Event::PodChanged(&p.info, info)),
            _ => self.tell(&Event::PodPlaced(info)),
        }
    }

    fn pod_waits(&mut self, info: &Arc<PodInfo>) {
        let known_uid = self.cluster.placed(&info.key).map(|p| p.info.uid.clone());
        let known_uid = known_uid.or_else(|| self.queue.get(&info.key).map(|e| e.info.uid.clone()));
        if known_uid.is_some_and(|uid| uid != info.uid) {
            // Another pod of the same name: the one that was known is gone.
            self.pod_gone(&info.key);
        }
        if self.cluster.placed(&info.key).is_some() {
            // Its binding is under way, and ends one way or the other.
            return;
        }
        if self.profile_of(info).is_none() {
            return;
        }
        if info.terminating {
            self.queue.remove(&info.key);
            self.cluster.nominate(info, "");
            return;
        }
        let gated = self.is_gated(info);
        if self.queue.get(&info.key).is_none() && !info.nominated.is_empty() {
            self.cluster.nominate(info, &info.nominated);
        }
        let is_new = self.queue.get(&info.key).is_none();
        self.queue.upsert(info, gated, self.now_ms());
        if is_new {
            self.stats.incoming("UnscheduledPodAdd", if gated { "gated" } else { "active" }, 1);
        }
        if is_new && gated && !info.gates.is_empty() {
            self.report_gated(info);
        }
    }

    /// Tells waiting pods what happened.
    pub(super) fn tell(&mut self, event: &Event<'_>) {
        let now = self.now_ms();
        let moved = self.queue.on_event(event, &self.cluster.world, now);
        self.stats.incoming(event.name(), "backoff", moved);
    }
}

/// Whether two states of a placed pod are the same to others.
fn same(a: &PodInfo, b: &PodInfo) -> bool {
    a.node_name == b.node_name
        && a.uid == b.uid
        && a.terminating == b.terminating
        && a.preempted == b.preempted
        && a.started == b.started
        && a.template == b.template
}

fn set<T>(map: &mut std::collections::HashMap<String, T>, name: String, value: Option<T>) {
    match value {
        Some(v) => {
            map.insert(name, v);
        }
        None => {
            map.remove(&name);
        }
    }
}

/// Takes an object's part into a map by namespace and name. Returns whether anything was or is there.
fn take<T: Cached, V>(map: &mut ByName<V>, from: &Reader<T>, key: &ObjectKey, part: impl Fn(&T) -> Option<V>) -> bool {
    match from.get_key(key).and_then(|o| part(&o)) {
        Some(v) => {
            map.entry(key.namespace.clone()).or_default().insert(key.name.clone(), v);
            true
        }
        None => {
            let Some(inner) = map.get_mut(&key.namespace) else { return false };
            let was = inner.remove(&key.name).is_some();
            if inner.is_empty() {
                map.remove(&key.namespace);
            }
            was
        }
    }
}

//! Columns of nodes. A node keeps its slot while its object or any pod on it is known; slots are reused.

use std::collections::HashMap;
use std::sync::Arc;

use super::counters::TemplateId;
use crate::model::node::NodeInfo;
use crate::model::pod::PodInfo;
use crate::plugins::fit::Usage;

/// Slot of a node.
pub type NodeId = usize;

/// The columns.
#[derive(Debug, Default)]
pub struct Nodes {
    by_name: HashMap<Arc<str>, NodeId>,
    free: Vec<NodeId>,
    names: Vec<Arc<str>>,
    infos: Vec<Option<Arc<NodeInfo>>>,
    generations: Vec<u64>,
    usage: Vec<Usage>,
    pods: Vec<Vec<Arc<PodInfo>>>,
    affine: Vec<Vec<(TemplateId, u32)>>,
    images: HashMap<String, u32>,
    live: usize,
    generation: u64,
    images_generation: u64,
}

impl Nodes {
    /// Number of slots, used or not.
    pub fn slots(&self) -> usize {
        self.names.len()
    }

    /// Number of nodes whose object is known.
    pub fn len(&self) -> usize {
        self.live
    }

    /// True without nodes.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Slots of nodes whose object is known.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> {
        (0..self.infos.len()).filter(|id| self.infos[*id].is_some())
    }

    /// Slot of a name.
    pub fn id(&self, name: &str) -> Option<NodeId> {
        self.by_name.get(name).copied()
    }

    /// What the node's object says; `None` when it is gone.
    pub fn info(&self, id: NodeId) -> Option<&NodeInfo> {
        self.infos.get(id)?.as_deref()
    }

    /// Name of a slot.
    pub fn name(&self, id: NodeId) -> &Arc<str> {
        &self.names[id]
    }

    /// Changes whenever the node's object does.
    pub fn generation(&self, id: NodeId) -> u64 {
        self.generations[id]
    }

    /// What its pods use.
    pub fn usage(&self, id: NodeId) -> &Usage {
        &self.usage[id]
    }

    /// Its pods.
    pub fn pods(&self, id: NodeId) -> &[Arc<PodInfo>] {
        &self.pods[id]
    }

    /// Templates of its pods that have affinity terms, with the number of pods of each.
    pub fn affine(&self, id: NodeId) -> &[(TemplateId, u32)] {
        &self.affine[id]
    }

    /// Number of nodes that have an image.
    pub fn image_nodes(&self, name: &str) -> u32 {
        self.images.get(name).copied().unwrap_or(0)
    }

    /// Changes whenever an image score may: nodes come and go, images spread.
    pub fn images_generation(&self) -> u64 {
        self.images_generation
    }

    /// Sets what a node's object says. Returns its slot, or `None` when that is what is known already.
    pub(super) fn set(&mut self, info: NodeInfo) -> Option<NodeId> {
        let id = self.slot(&info.name);
        if self.infos[id].as_deref() == Some(&info) {
            return None;
        }
        let old = self.infos[id].replace(Arc::new(info));
        if old.is_none() {
            self.live += 1;
        }
        self.count_images(old.as_deref(), id);
        self.renew(id);
        Some(id)
    }

    /// Forgets what a node's object says.
    pub(super) fn remove_info(&mut self, name: &str) -> Option<NodeId> {
        let id = self.id(name)?;
        let old = self.infos[id].take()?;
        self.live -= 1;
        self.count_images(Some(&old), id);
        self.renew(id);
        Some(id)
    }

    fn renew(&mut self, id: NodeId) {
        self.generation += 1;
        self.generations[id] = self.generation;
    }

    fn count_images(&mut self, old: Option<&NodeInfo>, id: NodeId) {
        let new = self.infos[id].clone();
        let count_changed = old.is_none() || new.is_none();
        if !count_changed && old.map(|o| &o.images) == new.as_ref().map(|n| &n.images) {
            return;
        }
        self.images_generation += 1;
        for name in old.iter().flat_map(|o| o.images.keys()) {
            if let Some(n) = self.images.get_mut(name) {
                *n -= 1;
                if *n == 0 {
                    self.images.remove(name);
                }
            }
        }
        for name in new.iter().flat_map(|n| n.images.keys()) {
            *self.images.entry(name.clone()).or_default() += 1;
        }
    }

    /// Slot of a name, made when there is none.
    pub(super) fn slot(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.id(name) {
            return id;
        }
        let name: Arc<str> = name.into();
        let id = if let Some(id) = self.free.pop() {
            self.names[id] = name.clone();
            id
        } else {
            self.names.push(name.clone());
            self.infos.push(None);
            self.generations.push(0);
            self.usage.push(Usage::default());
            self.pods.push(Vec::new());
            self.affine.push(Vec::new());
            self.names.len() - 1
        };
        self.renew(id);
        self.by_name.insert(name, id);
        id
    }

    /// Frees the slot of a node that is gone and has no pods.
    pub(super) fn release_if_unused(&mut self, id: NodeId) {
        if self.infos[id].is_none() && self.pods[id].is_empty() && self.by_name.remove(&self.names[id]).is_some() {
            self.usage[id] = Usage::default();
            self.free.push(id);
        }
    }

    pub(super) fn add_pod(&mut self, id: NodeId, pod: &Arc<PodInfo>, template: TemplateId) {
        self.usage[id].add(&pod.template);
        self.pods[id].push(pod.clone());
        if pod.template.has_affinity() {
            match self.affine[id].iter_mut().find(|(t, _)| *t == template) {
                Some((_, n)) => *n += 1,
                None => self.affine[id].push((template, 1)),
            }
        }
    }

    pub(super) fn remove_pod(&mut self, id: NodeId, pod: &PodInfo, template: TemplateId) {
        let Some(i) = self.pods[id].iter().position(|p| p.key == pod.key) else { return };
        self.pods[id].swap_remove(i);
        self.usage[id].remove(&pod.template);
        if let Some(i) = self.affine[id].iter().position(|(t, _)| *t == template) {
            self.affine[id][i].1 -= 1;
            if self.affine[id][i].1 == 0 {
                self.affine[id].swap_remove(i);
            }
        }
    }
}

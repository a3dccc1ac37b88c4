//! VolumeRestrictions, NodeVolumeLimits, VolumeBinding and VolumeZone.
//!
//! `prepare` looks at a pod's claims once and says why it cannot be placed anywhere; `filter` judges one node and says
//! what would have to be bound or provisioned there. Claims of classes that wait for the first consumer are bound to the
//! smallest fitting volume that the node reaches, else provisioned where class, topology and capacity allow it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Plugin, PluginSet, Rejection};
use crate::cluster::world::ByName;
use crate::model::node::NodeInfo;
use crate::model::template::Template;
use crate::objects::node::CsiNode;
use crate::objects::volume::{Claim, CsiDriver, PersistentVolume, StorageCapacity, StorageClass};

mod binding;
mod limits;
mod restrictions;
mod zone;

pub use binding::VolumePlan;

/// Tells the provisioner on which node a claim's volume will be used.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Claims, volumes, classes and drivers.
#[derive(Debug, Default)]
pub struct Volumes {
    /// PersistentVolumeClaims.
    pub claims: ByName<Claim>,
    /// PersistentVolumes by name.
    pub volumes: BTreeMap<String, PersistentVolume>,
    /// StorageClasses by name.
    pub classes: HashMap<String, StorageClass>,
    /// CSINodes by name.
    pub csi_nodes: HashMap<String, CsiNode>,
    /// CSIDrivers by name.
    pub drivers: HashMap<String, CsiDriver>,
    /// CSIStorageCapacities.
    pub capacities: ByName<StorageCapacity>,
    /// Volumes promised to claims (namespace, name) whose binding is under way.
    pub promised: HashMap<String, (String, String)>,
}

/// What a pod needs of volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Need {
    namespace: String,
    /// Volumes that its bound claims have.
    bound: Vec<String>,
    /// Claims to bind or provision for, smallest first.
    waiting: Vec<String>,
    /// Claims that only one pod may use.
    exclusive: BTreeSet<String>,
    /// Other pods that use one of those.
    conflicts: i64,
}

/// Why a pod's volumes keep it from every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unready {
    /// The plugin that says so.
    pub plugin: Plugin,
    /// In words.
    pub reason: String,
}

impl Need {
    /// Counts a pod in (1) or out (-1) that was not there when the need was made.
    pub fn count(&mut self, other: &Template, by: i64) {
        self.conflicts += by * uses(other, &self.namespace, &self.exclusive);
    }
}

/// Claim names of a pod's volumes, with whether each is generated for an ephemeral volume.
pub fn claim_names(t: &Template) -> impl Iterator<Item = (String, bool)> + '_ {
    t.volumes.iter().filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(c), _) => Some((c.claim_name.clone(), false)),
        (None, Some(_)) => Some((format!("{}-{}", t.volume_owner, v.name), true)),
        (None, None) => None,
    })
}

fn uses(t: &Template, namespace: &str, exclusive: &BTreeSet<String>) -> i64 {
    if t.namespace != namespace || exclusive.is_empty() {
        return 0;
    }
    i64::try_from(claim_names(t).filter(|(n, _)| exclusive.contains(n)).count()).unwrap_or(0)
}

impl Volumes {
    /// A claim.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Claim> {
        self.claims.get(namespace)?.get(name)
    }

    /// What a pod needs; `None` when its volumes restrict nothing. `others` are the templates of all placed pods.
    ///
    /// # Errors
    /// When a claim is absent, lost, being deleted or not yet bound and of an immediate class.
    pub fn prepare<'a>(
        &self,
        t: &Template,
        enabled: PluginSet,
        others: impl Iterator<Item = &'a Template>,
    ) -> Result<Option<Need>, Unready> {
        if t.volumes.is_empty() {
            return Ok(None);
        }
        let mut need = Need { namespace: t.namespace.clone(), ..Need::default() };
        let unready = |reason: String| Unready { plugin: Plugin::VolumeBinding, reason };
        let mut immediate = false;
        for (name, ephemeral) in claim_names(t) {
            let Some(claim) = self.claim(&t.namespace, &name) else {
                return Err(unready(if ephemeral {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                }));
            };
            let volume = &claim.spec.volume_name;
            if claim.status.phase == "Lost" {
                let reason =
                    format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}");
                return Err(unready(reason));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(unready(format!("persistentvolumeclaim {name:?} is being deleted")));
            }
            if claim.spec.access_modes.iter().any(|m| m == "ReadWriteOncePod") {
                need.exclusive.insert(name.clone());
            }
            if claim.is_bound() {
                need.bound.push(volume.clone());
            } else if volume.is_empty() && self.waits_for_consumer(claim) {
                need.waiting.push(name);
            } else {
                immediate = true;
            }
        }
        if immediate && enabled.contains(Plugin::VolumeBinding) {
            return Err(unready("pod has unbound immediate PersistentVolumeClaims".into()));
        }
        need.waiting.sort_by_key(|n| self.claim(&t.namespace, n).map(binding::requested_bytes));
        if !need.exclusive.is_empty() && enabled.contains(Plugin::VolumeRestrictions) {
            need.conflicts = others.map(|o| uses(o, &t.namespace, &need.exclusive)).sum();
        }
        Ok(Some(need))
    }

    fn waits_for_consumer(&self, claim: &Claim) -> bool {
        let class = claim.spec.storage_class_name.as_ref().and_then(|c| self.classes.get(c));
        class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
    }

    /// Judges a node with the pods that are on it.
    ///
    /// # Errors
    /// The first plugin's rejection.
    pub fn filter<'a>(
        &self,
        need: &Need,
        t: &Template,
        enabled: PluginSet,
        node: &NodeInfo,
        pods: impl Iterator<Item = &'a Template> + Clone,
    ) -> Result<VolumePlan, Rejection> {
        let reject = |r: Option<Rejection>| r.map_or(Ok(()), Err);
        if enabled.contains(Plugin::VolumeRestrictions) {
            reject(restrictions::filter(t, need.conflicts > 0, pods.clone()))?;
        }
        if enabled.contains(Plugin::NodeVolumeLimits) {
            reject(limits::filter(self, t, node, pods))?;
        }
        let plan = if enabled.contains(Plugin::VolumeBinding) {
            binding::filter(self, need, node)?
        } else {
            VolumePlan::default()
        };
        if enabled.contains(Plugin::VolumeZone) {
            reject(zone::filter(self, &need.bound, node))?;
        }
        Ok(plan)
    }
}

//! VolumeBinding on one node.

use super::{NO_PROVISIONER, Need, SELECTED_NODE, Volumes};
use crate::model::node::NodeInfo;
use crate::model::resources::whole;
use crate::objects::volume::{Claim, PersistentVolume, StorageClass};
use crate::plugins::{Plugin, Rejection};

/// What must happen to a pod's claims once it is placed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumePlan {
    /// Claim and the volume to bind it to.
    pub bind: Vec<(String, String)>,
    /// Claims to provision for.
    pub provision: Vec<String>,
}

impl VolumePlan {
    /// True when nothing must happen.
    pub fn is_empty(&self) -> bool {
        self.bind.is_empty() && self.provision.is_empty()
    }
}

/// Storage that a claim asks for, in bytes.
pub(super) fn requested_bytes(claim: &Claim) -> i64 {
    claim.spec.resources.requests.get("storage").map_or(0, |s| whole(s))
}

pub(super) fn filter(all: &Volumes, need: &Need, node: &NodeInfo) -> Result<VolumePlan, Rejection> {
    let reject = |reason| Err(Rejection::unresolvable(Plugin::VolumeBinding, reason));
    for name in &need.bound {
        let Some(volume) = all.volumes.get(name) else {
            return reject("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
        };
        if !reachable(volume, node) {
            return reject("node(s) didn't match PersistentVolume's node affinity");
        }
    }
    let mut plan = VolumePlan::default();
    let mut room = true;
    for name in &need.waiting {
        let Some(claim) = all.claim(&need.namespace, name) else { continue };
        match place(all, claim, node, &plan) {
            Placed::Volume(v) => plan.bind.push((name.clone(), v)),
            Placed::Provisioned => plan.provision.push(name.clone()),
            Placed::NoRoom => room = false,
            Placed::Nowhere => return reject("node(s) didn't find available persistent volumes to bind"),
        }
    }
    if room { Ok(plan) } else { reject("node(s) did not have enough free storage") }
}

enum Placed {
    Volume(String),
    Provisioned,
    NoRoom,
    Nowhere,
}

fn place(all: &Volumes, claim: &Claim, node: &NodeInfo, plan: &VolumePlan) -> Placed {
    match claim.metadata.annotations.get(SELECTED_NODE) {
        Some(selected) if *selected != *node.name => return Placed::Nowhere,
        // Provisioning is under way: the claim stays with that node.
        Some(_) => return Placed::Provisioned,
        None => {}
    }
    if let Some(volume) = find_volume(all, claim, node, plan) {
        return Placed::Volume(volume);
    }
    let class = claim.spec.storage_class_name.as_ref().and_then(|c| all.classes.get(c));
    match class {
        Some(c) if !c.provisioner.is_empty() && c.provisioner != NO_PROVISIONER && allows(c, node) => {
            if has_capacity(all, c, claim, node) { Placed::Provisioned } else { Placed::NoRoom }
        }
        _ => Placed::Nowhere,
    }
}

fn reachable(volume: &PersistentVolume, node: &NodeInfo) -> bool {
    let required = volume.spec.node_affinity.as_ref().and_then(|a| a.required.as_ref());
    required.is_none_or(|r| r.matches(&node.name, &node.labels))
}

fn is_for(volume: &PersistentVolume, claim: &Claim) -> bool {
    volume.spec.claim_ref.as_ref().is_some_and(|r| {
        r.name == claim.metadata.name
            && r.namespace == claim.metadata.namespace
            && (r.uid.is_empty() || r.uid == claim.metadata.uid)
    })
}

/// The smallest volume that satisfies a claim and that the node reaches; one made for the claim comes first.
fn find_volume(all: &Volumes, claim: &Claim, node: &NodeInfo, plan: &VolumePlan) -> Option<String> {
    let size = requested_bytes(claim);
    let capacity = |v: &PersistentVolume| v.spec.capacity.get("storage").map_or(0, |s| whole(s));
    let mode = |m: &Option<String>| m.clone().unwrap_or_else(|| "Filesystem".into());
    let me = (claim.metadata.namespace.clone(), claim.metadata.name.clone());
    let fits = |v: &&PersistentVolume| {
        v.metadata.deletion_timestamp.is_none()
            && mode(&v.spec.volume_mode) == mode(&claim.spec.volume_mode)
            && v.spec.volume_attributes_class_name.as_deref().unwrap_or_default()
                == claim.spec.volume_attributes_class_name.as_deref().unwrap_or_default()
            && capacity(v) >= size
            && reachable(v, node)
            && all.promised.get(&v.metadata.name).is_none_or(|c| *c == me)
            && !plan.bind.iter().any(|(_, taken)| *taken == v.metadata.name)
    };
    let open = |v: &&PersistentVolume| {
        v.spec.claim_ref.is_none()
            && (v.status.phase == "Available" || all.promised.contains_key(&v.metadata.name))
            && v.spec.storage_class_name == claim.spec.storage_class_name.as_deref().unwrap_or_default()
            && claim.spec.selector.as_ref().is_none_or(|s| s.matches(&v.metadata.labels))
            && claim.spec.access_modes.iter().all(|m| v.spec.access_modes.contains(m))
    };
    let made_for = all.volumes.values().filter(|v| is_for(v, claim)).find(fits);
    let found = made_for.or_else(|| all.volumes.values().filter(open).filter(fits).min_by_key(|v| capacity(v)));
    found.map(|v| v.metadata.name.clone())
}

fn allows(class: &StorageClass, node: &NodeInfo) -> bool {
    class.allowed_topologies.is_empty()
        || class
            .allowed_topologies
            .iter()
            .any(|t| t.match_label_expressions.iter().all(|r| r.matches(node.labels.get(&r.key).map(String::as_str))))
}

/// Whether some reported capacity of the class that the node reaches is large enough; drivers that report none have it.
fn has_capacity(all: &Volumes, class: &StorageClass, claim: &Claim, node: &NodeInfo) -> bool {
    if !all.drivers.get(&class.provisioner).is_some_and(|d| d.spec.storage_capacity) {
        return true;
    }
    let size = requested_bytes(claim);
    all.capacities.values().flat_map(|m| m.values()).any(|c| {
        let largest = c.maximum_volume_size.as_ref().or(c.capacity.as_ref());
        c.storage_class_name == class.metadata.name
            && largest.is_some_and(|s| whole(s) >= size)
            && c.node_topology.as_ref().is_some_and(|s| s.matches(&node.labels))
    })
}

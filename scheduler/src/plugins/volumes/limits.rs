//! NodeVolumeLimits: how many volumes of each CSI driver a node can attach. A volume that several pods of a node share
//! counts once.

use std::collections::{BTreeMap, BTreeSet};

use super::{Volumes, claim_names};
use crate::model::node::NodeInfo;
use crate::model::template::Template;
use crate::plugins::{Plugin, Rejection};

pub(super) fn filter<'a>(
    all: &Volumes,
    t: &Template,
    node: &NodeInfo,
    pods: impl Iterator<Item = &'a Template>,
) -> Option<Rejection> {
    let drivers = &all.csi_nodes.get(&*node.name)?.spec.drivers;
    let limits: BTreeMap<&str, i64> =
        drivers.iter().filter_map(|d| Some((d.name.as_str(), d.allocatable.as_ref()?.count?))).collect();
    let wanted = attached(all, t);
    if limits.is_empty() || wanted.is_empty() {
        return None;
    }
    let held: BTreeSet<(String, String)> = pods.flat_map(|p| attached(all, p)).collect();
    for (driver, limit) in limits {
        let count = |set: &mut dyn Iterator<Item = &(String, String)>| set.filter(|(d, _)| d == driver).count();
        let new = count(&mut wanted.difference(&held));
        if new > 0 && i64::try_from(new + count(&mut held.iter())).unwrap_or(i64::MAX) > limit {
            return Some(Rejection::resolvable(Plugin::NodeVolumeLimits, "node(s) exceed max volume count"));
        }
    }
    None
}

/// Driver and handle of each CSI volume that a pod attaches; a claim without a volume yet stands for itself.
fn attached(all: &Volumes, t: &Template) -> BTreeSet<(String, String)> {
    let one = |(name, _): (String, bool)| {
        let claim = all.claim(&t.namespace, &name)?;
        if claim.spec.volume_name.is_empty() {
            let class = all.classes.get(claim.spec.storage_class_name.as_ref()?)?;
            return Some((class.provisioner.clone(), format!("{}/{name}", t.namespace)));
        }
        let csi = all.volumes.get(&claim.spec.volume_name)?.spec.csi.as_ref()?;
        Some((csi.driver.clone(), csi.volume_handle.clone()))
    };
    claim_names(t).filter_map(one).collect()
}

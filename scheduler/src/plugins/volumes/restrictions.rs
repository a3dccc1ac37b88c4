//! VolumeRestrictions: disks that two pods of a node cannot share, and claims that only one pod may use.

use crate::model::template::Template;
use crate::objects::pod::Volume;
use crate::plugins::{Plugin, Rejection};

pub(super) fn filter<'a>(
    t: &Template,
    exclusive_taken: bool,
    mut pods: impl Iterator<Item = &'a Template>,
) -> Option<Rejection> {
    let clashes = |p: &Template| t.volumes.iter().any(|mine| p.volumes.iter().any(|theirs| conflict(mine, theirs)));
    if pods.any(clashes) {
        return Some(Rejection::resolvable(Plugin::VolumeRestrictions, "node(s) had no available disk"));
    }
    let reason = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by \
                  another pod";
    exclusive_taken.then(|| Rejection::resolvable(Plugin::VolumeRestrictions, reason))
}

fn conflict(a: &Volume, b: &Volume) -> bool {
    if let (Some(a), Some(b)) = (&a.gce_persistent_disk, &b.gce_persistent_disk) {
        return a.pd_name == b.pd_name && !(a.read_only && b.read_only);
    }
    if let (Some(a), Some(b)) = (&a.aws_elastic_block_store, &b.aws_elastic_block_store) {
        return a.volume_id == b.volume_id;
    }
    if let (Some(a), Some(b)) = (&a.iscsi, &b.iscsi) {
        return a.iqn == b.iqn && !(a.read_only && b.read_only);
    }
    if let (Some(a), Some(b)) = (&a.rbd, &b.rbd) {
        let same_cluster = a.monitors.iter().any(|m| b.monitors.contains(m));
        return same_cluster && a.pool == b.pool && a.image == b.image && !(a.read_only && b.read_only);
    }
    false
}

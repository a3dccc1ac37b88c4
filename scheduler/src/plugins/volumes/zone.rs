//! VolumeZone: a bound volume labelled with zones or regions (several are joined by `__`) is used in one of them only.
//! A node without any such label is not judged.

use super::Volumes;
use crate::model::node::NodeInfo;
use crate::plugins::{Plugin, Rejection};

/// Label of today and of before.
const KEYS: [(&str, &str); 4] = [
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
];

pub(super) fn filter(all: &Volumes, bound: &[String], node: &NodeInfo) -> Option<Rejection> {
    if !KEYS.iter().any(|(key, _)| node.labels.contains_key(*key)) {
        return None;
    }
    for volume in bound.iter().filter_map(|v| all.volumes.get(v)) {
        for (key, today) in KEYS {
            let Some(zones) = volume.metadata.labels.get(key) else { continue };
            let here = node.labels.get(key).or_else(|| node.labels.get(today));
            if !here.is_some_and(|h| zones.split("__").any(|z| z.trim() == h)) {
                return Some(Rejection::unresolvable(Plugin::VolumeZone, "node(s) had no available volume zone"));
            }
        }
    }
    None
}

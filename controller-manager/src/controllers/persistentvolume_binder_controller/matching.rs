//! Which volume suits a claim.

use std::sync::Arc;

use apimachinery::quantity::Quantity;

use crate::views::meta::is_deleting;
use crate::views::volume::{ClaimView, VolumeView, same_mode, storage};

/// The volume to bind: among those with as few access modes as possible beyond the wanted ones, one that is reserved for
/// the claim, else the smallest. When binding is `delayed` only a reserved one is, as the scheduler chooses the others.
pub(super) fn best<'a>(
    claim: &ClaimView,
    volumes: &'a [Arc<VolumeView>],
    delayed: bool,
) -> Option<&'a Arc<VolumeView>> {
    let candidates = volumes.iter().filter(|v| {
        let reserved = v.is_for(claim);
        (reserved || v.spec.claim_ref.is_none()) && suits(claim, v) && (reserved || (!delayed && is_open(claim, v)))
    });
    let cost = |v: &&Arc<VolumeView>| -> (usize, bool, Quantity) {
        (v.spec.access_modes.len(), !v.is_for(claim), storage(&v.spec.capacity))
    };
    candidates.min_by_key(cost)
}

fn suits(claim: &ClaimView, volume: &VolumeView) -> bool {
    has_modes(claim, volume)
        && volume.size_against(&claim.requested()).is_ge()
        && same_mode(&volume.spec.volume_mode, &claim.spec.volume_mode)
        && !is_deleting(&volume.metadata)
        && volume.spec.volume_attributes_class_name == claim.spec.volume_attributes_class_name
}

fn is_open(claim: &ClaimView, volume: &VolumeView) -> bool {
    volume.status.phase == "Available"
        && volume.class() == claim.class().unwrap_or_default()
        && (claim.spec.selector.source.is_null() || claim.spec.selector.matches(&volume.metadata.labels))
}

fn has_modes(claim: &ClaimView, volume: &VolumeView) -> bool {
    claim.spec.access_modes.iter().all(|mode| volume.spec.access_modes.contains(mode))
}

/// Why a volume that a person chose for a claim cannot serve it, in words.
pub(super) fn mismatch(claim: &ClaimView, volume: &VolumeView) -> Option<&'static str> {
    if volume.size_against(&claim.requested()).is_lt() {
        Some("requested PV is too small")
    } else if volume.class() != claim.class().unwrap_or_default() {
        Some("storageClassName does not match")
    } else if volume.spec.volume_attributes_class_name != claim.spec.volume_attributes_class_name {
        Some("volumeAttributesClassName does not match")
    } else if !same_mode(&volume.spec.volume_mode, &claim.spec.volume_mode) {
        Some("incompatible volumeMode")
    } else if !has_modes(claim, volume) {
        Some("incompatible accessMode")
    } else {
        None
    }
}

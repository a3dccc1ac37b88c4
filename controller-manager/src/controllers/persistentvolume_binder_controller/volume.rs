//! What becomes of a volume.

use client::events::EventType::Warning;
use serde_json::{Value, json};

use super::{BOUND_BY_CONTROLLER, MIGRATED_TO, PROVISIONED_BY, external};
use crate::framework::{Plan, Target, View};
use crate::views::volume::{ClaimView, VolumeView, same_mode};

/// What to do about a volume, and whether its claim must be looked at first.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) plan: Plan,
    pub(super) claim_first: bool,
}

fn target(volume: &VolumeView) -> Target {
    volume.target()
}

/// Says in which phase a volume is.
pub(super) fn set_phase(plan: &mut Plan, volume: &VolumeView, phase: &str) {
    if volume.status.phase != phase {
        let change = json!({"status": {"phase": phase, "message": null, "reason": null}});
        plan.change(target(volume), Some("status"), change);
    }
}

/// Makes a volume the claim's, if nobody changed it meanwhile.
pub(super) fn reserve(plan: &mut Plan, volume: &VolumeView, claim: &ClaimView) {
    let meta = &claim.metadata;
    let reserved = volume.is_for(claim);
    if reserved && volume.spec.claim_ref.as_ref().is_some_and(|r| r.uid == meta.uid) {
        return;
    }
    let mut change = json!({
        "metadata": {"resourceVersion": volume.metadata.resource_version},
        "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace,
            "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version}},
    });
    if !reserved {
        change["metadata"]["annotations"][BOUND_BY_CONTROLLER] = json!("yes");
    }
    plan.change(target(volume), None, change);
}

/// Brings a volume one step closer to where it belongs. `owner` is the claim that its reference means, if that exists.
pub(super) fn reconcile(volume: &VolumeView, owner: Option<&ClaimView>) -> Outcome {
    let mut outcome = Outcome::default();
    let plan = &mut outcome.plan;
    let (name, policy) = (&volume.metadata.name, volume.spec.persistent_volume_reclaim_policy.as_str());
    if volume.spec.claim_ref.as_ref().is_none_or(|r| r.uid.is_empty()) {
        set_phase(plan, volume, "Available");
        return outcome;
    }
    match owner {
        None => release(plan, volume),
        Some(claim) if claim.spec.volume_name.is_empty() => {
            if same_mode(&claim.spec.volume_mode, &volume.spec.volume_mode) {
                outcome.claim_first = true;
            } else {
                let note = format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{}\" due to incompatible volumeMode.",
                    claim.metadata.name
                );
                plan.event(&volume.subject(), Warning, "VolumeMismatch", note);
                let note = format!(
                    "Cannot bind PersistentVolume \"{name}\" to requested PersistentVolumeClaim due to incompatible volumeMode."
                );
                plan.event(&claim.subject(), Warning, "VolumeMismatch", note);
            }
        }
        Some(claim) if claim.spec.volume_name == *name => set_phase(plan, volume, "Bound"),
        // The claim took another volume. One that was made for it is of no use to anybody else.
        Some(_) if policy == "Delete" && volume.metadata.annotations.contains_key(PROVISIONED_BY) => {
            release(plan, volume);
        }
        Some(_) => unbind(plan, volume),
    }
    outcome
}

fn unbind(plan: &mut Plan, volume: &VolumeView) {
    let version = &volume.metadata.resource_version;
    let change = if volume.metadata.annotations.contains_key(BOUND_BY_CONTROLLER) {
        json!({"metadata": {"resourceVersion": version, "annotations": {BOUND_BY_CONTROLLER: null}},
            "spec": {"claimRef": null}})
    } else {
        json!({"metadata": {"resourceVersion": version}, "spec": {"claimRef": {"uid": null}}})
    };
    plan.change(target(volume), None, change);
    set_phase(plan, volume, "Available");
}

/// A volume whose claim is gone.
fn release(plan: &mut Plan, volume: &VolumeView) {
    let phase = volume.status.phase.as_str();
    if phase == "Failed" {
        return;
    }
    let annotations = &volume.metadata.annotations;
    let provisioner = annotations.get(PROVISIONED_BY).map(String::as_str);
    // Who made it removes it once it is released.
    let elsewhere = annotations.contains_key(MIGRATED_TO) || provisioner.is_some_and(|p| external(p).is_some());
    let failed = match volume.spec.persistent_volume_reclaim_policy.as_str() {
        "Recycle" => Some(("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned())),
        "Delete" if !elsewhere => {
            let name = &volume.metadata.name;
            let why = "no deletable volume plugin matched";
            Some(("VolumeFailedDelete", format!("error getting deleter volume plugin for volume \"{name}\": {why}")))
        }
        _ => None,
    };
    set_phase(plan, volume, "Released");
    if let Some((reason, message)) = failed {
        let status: Value = json!({"status": {"phase": "Failed", "message": message}});
        plan.change(target(volume), Some("status"), status);
        plan.event(&volume.subject(), Warning, reason, message);
    }
}

//! Who owns the claims of a stateful set's pods, purely: the set, when they are to go with it; the pod, when they are to go with
//! scaling and scaling has removed it; nobody otherwise. Claims that another controller or a former set or pod of the same
//! name owns are left alone.

use std::sync::Arc;

use serde_json::{Value, json};

use super::identity::claim_name;
use crate::framework::{EventKind, Key, Plan, Subject, Target, View};
use crate::views::meta::{is_deleting, to_value};
use crate::views::volume::ClaimView;
use crate::views::workloads::StatefulSetView;
use apimachinery::meta::OwnerReference;

/// The set and one of its pods, as owners of claims.
pub struct Owners<'a> {
    /// The set.
    pub set: &'a Subject,
    /// The pod; its uid is empty before it is made.
    pub pod: &'a Subject,
    /// Whether scaling removes the pod.
    pub condemned: bool,
}

fn names(reference: &OwnerReference, owner: &Subject) -> bool {
    reference.api_version == owner.resource.api_version()
        && reference.kind == owner.resource.kind
        && reference.name == owner.key.name
}

/// Whether a former object of the owner's name holds the claim.
fn is_stale(claim: &ClaimView, owner: &Subject) -> bool {
    let named = claim.metadata.owner_references.iter().find(|reference| names(reference, owner));
    named.is_some_and(|reference| reference.uid != owner.uid)
}

impl Owners<'_> {
    fn either(&self, test: impl Fn(&Subject) -> bool) -> bool {
        test(self.set) || test(self.pod)
    }

    /// Which of the set and the pod are to own claims.
    fn wanted(&self, set: &StatefulSetView) -> Vec<&Subject> {
        let policy = set.spec.persistent_volume_claim_retention_policy.clone().unwrap_or_default();
        let (by_set, by_pod) = (policy.when_deleted == "Delete", policy.when_scaled == "Delete");
        let mut owners = Vec::new();
        if by_pod && self.condemned {
            owners.push(self.pod);
        } else if by_set {
            owners.push(self.set);
        }
        owners
    }

    /// Whether another controller has the claim, where the set's policy would want it.
    fn conflict(&self, set: &StatefulSetView, claim: &ClaimView) -> bool {
        let policy = set.spec.persistent_volume_claim_retention_policy.clone().unwrap_or_default();
        let keeps = policy.when_deleted != "Delete" && policy.when_scaled != "Delete";
        !keeps
            && claim.metadata.owner_references.iter().any(|reference| {
                let ours = self.either(|owner| names(reference, owner));
                if ours { self.either(|owner| is_stale(claim, owner)) } else { reference.controller == Some(true) }
            })
    }

    /// The owners that a claim is to have; None when it has them.
    pub fn change(&self, set: &StatefulSetView, claim: &ClaimView) -> Option<Vec<Value>> {
        let held = &claim.metadata.owner_references;
        let owns = |owner: &Subject| held.iter().any(|reference| reference.uid == owner.uid);
        if self.either(|owner| is_stale(claim, owner)) {
            return None;
        }
        let conflict = self.conflict(set, claim);
        let wanted = if conflict { Vec::new() } else { self.wanted(set) };
        let controls = |owner: &Subject| {
            held.iter().any(|reference| reference.uid == owner.uid && reference.controller == Some(true))
        };
        let is_right = |owner: &Subject| {
            let is_wanted = wanted.iter().any(|other| other.uid == owner.uid);
            if is_wanted { controls(owner) } else { !owns(owner) }
        };
        if is_right(self.set) && is_right(self.pod) {
            return None;
        }
        let others = held.iter().filter(|reference| !self.either(|owner| names(reference, owner)));
        Some(others.map(to_value).chain(wanted.iter().map(|owner| owner.controller_reference())).collect())
    }
}

/// Hands the pod's claims to whom they belong; whether any had to be.
pub fn hand_over(plan: &mut Plan, set: &StatefulSetView, owners: &Owners<'_>, claims: &[Arc<ClaimView>]) -> bool {
    let mut changed = false;
    for claim in claims {
        let name = &claim.metadata.name;
        if owners.conflict(set, claim) {
            let note = format!(
                "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim"
            );
            plan.event(owners.set, EventKind::Warning, "ConflictingController", note);
        }
        let Some(references) = owners.change(set, claim) else { continue };
        changed = true;
        let target = Target { resource: ClaimView::RESOURCE, key: Key::new(&claim.metadata.namespace, name) };
        let version = &claim.metadata.resource_version;
        let change = json!({"metadata": {"resourceVersion": version, "ownerReferences": references}});
        plan.push(target.change(change));
    }
    changed
}

/// Why no pod can be made on these claims now: one is still the former pod's (it goes with it; nothing is said), or is being
/// deleted.
pub fn blocked(set: &StatefulSetView, owners: &Owners<'_>, claims: &[Arc<ClaimView>]) -> Option<Option<String>> {
    let scaled = set.spec.persistent_volume_claim_retention_policy.as_ref();
    if scaled.is_some_and(|policy| policy.when_scaled == "Delete")
        && claims.iter().any(|claim| is_stale(claim, owners.pod))
    {
        return Some(None);
    }
    let going = claims.iter().find(|claim| is_deleting(&claim.metadata))?;
    Some(Some(format!("pvc {} is being deleted", going.metadata.name)))
}

/// The pod's claims that exist, by the set's templates.
pub fn existing(
    set: &StatefulSetView,
    ordinal: i32,
    find: &(dyn Fn(&str) -> Option<Arc<ClaimView>> + Sync),
) -> Vec<Arc<ClaimView>> {
    let templates = set.spec.volume_claim_templates.iter();
    templates.filter_map(|template| find(&claim_name(template, &set.metadata.name, ordinal))).collect()
}

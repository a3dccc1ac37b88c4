//! What to do with one object, once its owners are known, purely.

use apimachinery::meta::ObjectMeta;
use serde_json::{Value, json};

use super::graph::{FOREGROUND, ORPHAN, Uid};
use crate::framework::plan::PatchBody;
use crate::framework::{Action, Target};

/// What became of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It exists and stays.
    Solid,
    /// It does not exist (any more).
    Absent,
    /// It exists and waits for its dependents to go.
    Waiting,
}

/// The step for an object with these owners. `waiting_dependents` are those of its dependents that wait themselves;
/// `has_dependents` whether anything refers to it.
pub fn decide(
    target: &Target,
    meta: &ObjectMeta,
    owners: &[(Uid, OwnerState)],
    has_dependents: bool,
    waiting_dependents: bool,
) -> Vec<Action> {
    let in_state = |state: OwnerState| owners.iter().filter(move |(_, is)| *is == state).map(|(uid, _)| uid.as_str());
    if owners.is_empty() {
        return Vec::new();
    }
    if in_state(OwnerState::Solid).next().is_some() {
        let lost: Vec<&str> = in_state(OwnerState::Absent).chain(in_state(OwnerState::Waiting)).collect();
        return if lost.is_empty() { Vec::new() } else { vec![forget_owners(target, meta, &lost)] };
    }
    if in_state(OwnerState::Waiting).next().is_some() && has_dependents {
        let mut actions = Vec::new();
        if waiting_dependents {
            // Two that wait for each other would wait for ever.
            actions.push(unblock_owners(target, meta));
        }
        actions.push(delete(target, meta, "Foreground"));
        return actions;
    }
    vec![delete(target, meta, propagation(meta))]
}

/// How an object that has lost its owners goes: as its finalizers ask for.
pub fn propagation(meta: &ObjectMeta) -> &'static str {
    let has = |finalizer: &str| meta.finalizers.iter().any(|name| name == finalizer);
    if has(ORPHAN) {
        "Orphan"
    } else if has(FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    }
}

fn delete(target: &Target, meta: &ObjectMeta, propagation: &'static str) -> Action {
    Action::Delete {
        target: target.clone(),
        uid: meta.uid.clone(),
        grace_period_seconds: None,
        propagation: Some(propagation),
    }
}

/// A patch that keeps only the owners for which `keep` says so, and changes them by `change`. Conditional on the version.
fn owners_patch(
    target: &Target,
    meta: &ObjectMeta,
    keep: impl Fn(&str) -> bool,
    change: impl Fn(&mut Value),
) -> Action {
    let owners: Vec<Value> = meta
        .owner_references
        .iter()
        .filter(|owner| keep(&owner.uid))
        .map(|owner| {
            let mut value = crate::views::meta::to_value(owner);
            change(&mut value);
            value
        })
        .collect();
    target.clone().change(json!({"metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "ownerReferences": owners,
    }}))
}

/// Removes the owners `uids`.
pub fn forget_owners(target: &Target, meta: &ObjectMeta, uids: &[&str]) -> Action {
    owners_patch(target, meta, |uid| !uids.contains(&uid), |_| {})
}

fn unblock_owners(target: &Target, meta: &ObjectMeta) -> Action {
    owners_patch(target, meta, |_| true, |owner| owner["blockOwnerDeletion"] = json!(false))
}

/// Removes a finalizer; None when it is not there.
pub fn remove_finalizer(target: &Target, meta: &ObjectMeta, finalizer: &str) -> Option<Action> {
    let index = meta.finalizers.iter().position(|name| name == finalizer)?;
    let path = format!("/metadata/finalizers/{index}");
    Some(Action::Patch {
        target: target.clone(),
        subresource: None,
        patch: PatchBody::Json(json!([
            {"op": "test", "path": "/metadata/uid", "value": meta.uid},
            {"op": "test", "path": path, "value": finalizer},
            {"op": "remove", "path": path},
        ])),
    })
}

//! What a controller wants done, as data. Planning is pure; [`super::executor::Executor`] performs a plan in order and
//! stops at the first action that fails, so an event placed behind an action is only sent when that action worked.
//!
//! Views are decoded partially, therefore no action writes back a whole object: it is created, changed by a patch,
//! or deleted.

use std::time::Duration;

use apimachinery::meta::{ObjectMeta, OwnerReference};
use client::events::EventType as EventKind;
use client::{Patch, ResourceRef};
use serde_json::{Value, json};

use super::Key;

/// One object to act on.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Which collection.
    pub resource: ResourceRef,
    /// Which object in it.
    pub key: Key,
}

impl Target {
    /// The object that carries `meta`.
    pub fn of(resource: &ResourceRef, meta: &ObjectMeta) -> Self {
        Self { resource: resource.clone(), key: Key::of(meta) }
    }

    /// Merges `change` into the object.
    pub fn change(self, change: Value) -> Action {
        Action::Change { target: self, subresource: None, change }
    }

    /// Merges `change` into the object through its status.
    pub fn change_status(self, change: Value) -> Action {
        Action::Change { target: self, subresource: Some("status"), change }
    }

    /// Patches the object strategically.
    pub fn patch(self, patch: Value) -> Action {
        Action::Patch { target: self, subresource: None, patch: PatchBody::Strategic(patch) }
    }

    /// Patches the object's status strategically.
    pub fn patch_status(self, patch: Value) -> Action {
        Action::Patch { target: self, subresource: Some("status"), patch: PatchBody::Strategic(patch) }
    }

    /// Deletes the object of this uid (any, if that is empty), with its defaults.
    pub fn delete(self, uid: &str) -> Action {
        Action::Delete { target: self, uid: uid.to_owned(), grace_period_seconds: None, propagation: None }
    }
}

/// The object an event is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// Its kind, by resource.
    pub resource: ResourceRef,
    /// Where it is.
    pub key: Key,
    /// Its identity.
    pub uid: String,
}

impl Subject {
    /// The object that carries `meta`.
    pub fn of(resource: &ResourceRef, meta: &ObjectMeta) -> Self {
        Self { resource: resource.clone(), key: Key::of(meta), uid: meta.uid.clone() }
    }

    /// The owner reference with which this object controls another one.
    pub fn controller_reference(&self) -> Value {
        json!({
            "apiVersion": self.resource.api_version(),
            "kind": self.resource.kind,
            "name": self.key.name,
            "uid": self.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        })
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// POST a complete object.
    Create {
        /// Where to.
        resource: ResourceRef,
        /// Empty for cluster-wide objects.
        namespace: String,
        /// The object, with apiVersion and kind.
        body: Value,
    },
    /// Merge `change` into the object as it is on the server. A `metadata.resourceVersion` inside makes it conditional.
    Change {
        /// What to change.
        target: Target,
        /// `status`, `scale` …
        subresource: Option<&'static str>,
        /// A JSON merge patch.
        change: Value,
    },
    /// Send a patch whose type matters (strategic merge of owner references, taints, conditions).
    Patch {
        /// What to patch.
        target: Target,
        /// `status` …
        subresource: Option<&'static str>,
        /// The patch.
        patch: PatchBody,
    },
    /// PUT an object of which every field is the controller's own.
    Replace {
        /// What to replace.
        target: Target,
        /// `status` …
        subresource: Option<&'static str>,
        /// The whole object.
        body: Value,
    },
    /// Remove an object. Its absence is success.
    Delete {
        /// What to remove.
        target: Target,
        /// Only if it still is this one; empty for any.
        uid: String,
        /// Seconds of grace; None leaves it to the object.
        grace_period_seconds: Option<i64>,
        /// `Background`, `Foreground`, `Orphan`; None leaves it to the kind.
        propagation: Option<&'static str>,
    },
    /// Make `owner` the controller of `target`, unless the owner (asked afresh) is being deleted or another object by now.
    Adopt {
        /// The controller to be.
        owner: Subject,
        /// The orphan.
        target: Target,
        /// The orphan's identity.
        uid: String,
    },
    /// Take `owner` out of the owners of `target`. Absence is success.
    Release {
        /// The controller so far.
        owner_uid: String,
        /// The object that no longer matches.
        target: Target,
        /// That object's identity.
        uid: String,
    },
    /// Tell people.
    Event {
        /// About what.
        about: Subject,
        /// How serious.
        kind: EventKind,
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        note: String,
    },
}

/// The body of [`Action::Patch`].
#[derive(Clone, Debug, PartialEq)]
pub enum PatchBody {
    /// Strategic merge patch.
    Strategic(Value),
    /// JSON patch.
    Json(Value),
}

impl From<PatchBody> for Patch {
    fn from(body: PatchBody) -> Self {
        match body {
            PatchBody::Strategic(value) => Self::Strategic(value),
            PatchBody::Json(value) => Self::Json(value),
        }
    }
}

/// Steps in order, and when to look again without being asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Done in order until one fails.
    pub actions: Vec<Action>,
    /// Look again after this time even if nothing changes.
    pub again_after: Option<Duration>,
}

impl Plan {
    /// Adds a step.
    pub fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Adds an event.
    pub fn event(&mut self, about: &Subject, kind: EventKind, reason: &'static str, note: impl Into<String>) {
        self.push(Action::Event { about: about.clone(), kind, reason, note: note.into() });
    }

    /// Changes `target` by merging.
    pub fn change(&mut self, target: Target, subresource: Option<&'static str>, change: Value) {
        self.push(Action::Change { target, subresource, change });
    }

    /// Looks again after `delay`, or earlier if that was asked for before.
    pub fn again(&mut self, delay: Duration) {
        self.again_after = Some(self.again_after.map_or(delay, |before| before.min(delay)));
    }
}

/// The owner that manages the object, if any.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().find(|owner| owner.controller == Some(true))
}

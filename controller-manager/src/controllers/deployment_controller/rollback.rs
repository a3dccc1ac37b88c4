//! Going back to a former template when the deprecated annotation asks for it, purely. Clients of today write the template
//! themselves; this serves what was converted from old API versions.

use serde_json::{Map, Value, json};

use super::model::{NOT_COPIED, ReplicaSet, without_hash};
use crate::framework::{Action, EventKind, Plan, Subject, View};
use crate::views::workloads::DeploymentView;

/// Holds the revision to go back to, 0 for the one before the last.
pub const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";

/// The change of the deployment back to `revision`, in any case without the annotation, and what to say.
pub fn roll_back<'a>(
    deployment: &DeploymentView,
    subject: &Subject,
    revision: i64,
    sets: impl Iterator<Item = &'a ReplicaSet>,
) -> Vec<Action> {
    let sets: Vec<&ReplicaSet> = sets.collect();
    let mut revisions: Vec<i64> = sets.iter().map(|set| set.revision()).collect();
    revisions.sort_unstable();
    let wanted = if revision == 0 { revisions.iter().rev().nth(1).copied().unwrap_or(0) } else { revision };
    let target = sets.into_iter().find(|set| wanted != 0 && set.revision() == wanted);
    let mut change = json!({"metadata": {
        "resourceVersion": deployment.metadata.resource_version,
        "annotations": {ROLLBACK_TO: null},
    }});
    let (kind, reason, note) = match target {
        None => {
            let note = if wanted == 0 {
                "Unable to find last revision."
            } else {
                "Unable to find the revision to rollback to."
            };
            (EventKind::Warning, "DeploymentRollbackRevisionNotFound", note.to_owned())
        }
        Some(set) if set.has_template_of(deployment) => {
            let name = &deployment.metadata.name;
            let note = format!("The rollback revision contains the same template as current deployment \"{name}\"");
            (EventKind::Warning, "DeploymentRollbackTemplateUnchanged", note)
        }
        Some(set) => {
            change["spec"]["template"] = difference(&deployment.spec.template, &without_hash(&set.view.spec.template));
            hand_annotations_back(&mut change["metadata"]["annotations"], deployment, set);
            let note = format!("Rolled back deployment \"{}\" to revision {wanted}", deployment.metadata.name);
            (EventKind::Normal, "DeploymentRollback", note)
        }
    };
    let mut plan = Plan::default();
    plan.change(deployment.target(), None, change);
    plan.event(subject, kind, reason, note);
    plan.actions
}

/// The deployment gets the annotations it had when the replica set was made.
fn hand_annotations_back(annotations: &mut Value, deployment: &DeploymentView, set: &ReplicaSet) {
    let copied = |name: &&String| !NOT_COPIED.contains(&name.as_str());
    for name in deployment.metadata.annotations.keys().filter(copied) {
        annotations[name] = Value::Null;
    }
    for (name, value) in set.annotations.iter().filter(|(name, _)| copied(name)) {
        annotations[name] = json!(value);
    }
}

/// The merge patch that makes `to` of `from`.
fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch: Map<String, Value> =
        from.keys().filter(|name| !to.contains_key(*name)).map(|name| (name.clone(), Value::Null)).collect();
    for (name, value) in to {
        match from.get(name) {
            Some(before) if before == value => {}
            Some(before) => drop(patch.insert(name.clone(), difference(before, value))),
            None => drop(patch.insert(name.clone(), value.clone())),
        }
    }
    Value::Object(patch)
}

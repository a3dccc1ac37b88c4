//! The history of a template as ControllerRevisions, for daemon sets and stateful sets: which revision the present
//! template is, what its name and number are, and which old ones may go. Pure, but for [`record`].

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::revision::{encode_hash, hash_of};
use crate::framework::{Action, Executor, Subject, SyncError, Target, View};
use crate::views::meta::created;
use crate::views::workloads::ControllerRevisionView;

/// Which revision a pod was made from.
pub const HASH_LABEL: &str = "controller-revision-hash";

/// The present revision among the others.
#[derive(Debug)]
pub struct History {
    /// Name of the present one.
    pub name: String,
    /// Its hash, as pods carry it.
    pub hash: String,
    /// Makes it, or gives it a newer number.
    pub actions: Vec<Action>,
    /// All others, oldest first.
    pub old: Vec<Arc<ControllerRevisionView>>,
}

/// A template as a revision stores it.
pub fn data_of(template: &Value) -> Value {
    let mut template = template.clone();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision stores.
pub fn template_of(revision: &ControllerRevisionView) -> Value {
    let mut template = revision.data["spec"]["template"].clone();
    if let Some(map) = template.as_object_mut() {
        map.remove("$patch");
    }
    template
}

/// What a set looks like now.
#[derive(Debug)]
pub struct Present<'a> {
    /// The template.
    pub template: &'a Value,
    /// How often the name of a new revision was taken.
    pub collisions: i32,
    /// The label with which a new revision carries its hash.
    pub hash_label: &'static str,
    /// Annotations of a new revision.
    pub annotations: Value,
}

/// Finds the present revision and makes it, if it is not there; of a set that is going away it makes none. None when the
/// name was taken by another template (the collision is counted) or nothing can be made any more.
pub async fn record(
    executor: &Executor,
    owner: &Subject,
    present: &Present<'_>,
    owned: &[Arc<ControllerRevisionView>],
    going: bool,
) -> Result<Option<History>, SyncError> {
    let mut found = history(owner, present, owned);
    for action in std::mem::take(&mut found.actions).into_iter().filter(|_| !going) {
        match executor.apply(action).await {
            Err(error) if error.is_already_exists() => {
                let existing: ControllerRevisionView = executor.get(&owner.key.namespace, &found.name).await?;
                if existing.data == data_of(present.template) {
                    continue;
                }
                let change = json!({"status": {"collisionCount": present.collisions + 1}});
                let target = Target { resource: owner.resource.clone(), key: owner.key.clone() };
                executor.apply(target.change_status(change)).await?;
                return Ok(None);
            }
            Err(error) if error.is_namespace_terminating() => return Ok(None),
            result => result?,
        }
    }
    Ok(Some(found))
}

/// Finds the revision of the template among those that `owner` controls, or plans to make it. Rolling back to an older
/// template gives its revision a new number.
pub fn history(owner: &Subject, present: &Present<'_>, owned: &[Arc<ControllerRevisionView>]) -> History {
    let Present { template, collisions, hash_label, annotations } = present;
    let data = data_of(template);
    let mut all = owned.to_vec();
    all.sort_by(|a, b| a.revision.cmp(&b.revision).then_with(|| created(&a.metadata).cmp(&created(&b.metadata))));
    let (same, mut old): (Vec<_>, Vec<_>) = all.into_iter().partition(|revision| revision.data == data);
    let next = old.iter().map(|revision| revision.revision).max().unwrap_or(0) + 1;
    let mut same = same;
    let Some(current) = same.pop() else {
        let hash = encode_hash(hash_of(template, *collisions));
        let name = format!("{}-{hash}", owner.key.name);
        let mut labels = template["metadata"]["labels"].clone();
        labels[*hash_label] = json!(hash);
        let body = json!({
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": name,
                "namespace": owner.key.namespace,
                "labels": labels,
                "annotations": annotations,
                "ownerReferences": [owner.controller_reference()],
            },
            "data": data,
            "revision": next,
        });
        let namespace = owner.key.namespace.clone();
        let create = Action::Create { resource: ControllerRevisionView::RESOURCE, namespace, body };
        return History { name, hash, actions: vec![create], old };
    };
    // Several with the same template come from an interrupted rename; the newest counts.
    old.splice(0..0, same);
    let mut actions = Vec::new();
    if current.revision < next {
        actions.push(
            current
                .target()
                .change(json!({"metadata": {"resourceVersion": current.metadata.resource_version}, "revision": next})),
        );
    }
    let hash = current.metadata.labels.get(*hash_label).cloned().unwrap_or_default();
    History { name: current.metadata.name.clone(), hash, actions, old }
}

/// Which old revisions the history limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// All, as daemon sets do.
    All,
    /// Those that no pod uses any more, as stateful sets do.
    Idle,
}

/// Deletes the oldest revisions beyond `limit` that no pod uses any more.
pub fn clean_up(
    old: &[Arc<ControllerRevisionView>],
    limit: Option<i32>,
    in_use: &BTreeSet<&str>,
    counted: Counted,
) -> Vec<Action> {
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    let idle: Vec<_> = old
        .iter()
        .filter(|revision| {
            let hash = revision.metadata.labels.get(HASH_LABEL).map_or("", String::as_str);
            !in_use.contains(hash) && !in_use.contains(revision.metadata.name.as_str())
        })
        .collect();
    let counted = if counted == Counted::All { old.len() } else { idle.len() };
    let excess = counted.saturating_sub(limit);
    idle.into_iter().take(excess).map(|revision| revision.target().delete(&revision.metadata.uid)).collect()
}

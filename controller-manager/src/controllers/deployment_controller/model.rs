//! A deployment's replica sets while a plan is being made: what they will be once the plan is done.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::meta::ObjectMeta;
use serde_json::{Value, json};

use crate::framework::{Action, Target, View};
use crate::views::meta::{created, is_deleting};
use crate::views::workloads::{DeploymentView, ReplicaSetView};

/// Rollout number, on deployments and replica sets.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Former rollout numbers of a replica set that was rolled back to.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The deployment's size when this replica set was last sized.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// That size with the surge.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// The label that tells one template's pods from another's.
pub const HASH_LABEL: &str = "pod-template-hash";

/// Annotations that are each object's own, and are not handed from a deployment to its replica sets or back.
pub const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    super::rollback::ROLLBACK_TO,
];
const MAX_HISTORY_CHARS: usize = 2000;

/// One replica set with the size and annotations it is to have.
#[derive(Clone, Debug)]
pub struct ReplicaSet {
    /// As it is (for one to be created: as it will be, with an empty status).
    pub view: Arc<ReplicaSetView>,
    /// The size it is to have.
    pub replicas: i32,
    /// The annotations it is to have.
    pub annotations: BTreeMap<String, String>,
    /// The readiness time it is to have.
    pub min_ready_seconds: i32,
}

impl ReplicaSet {
    /// A replica set as it is.
    pub fn new(view: Arc<ReplicaSetView>) -> Self {
        Self {
            replicas: view.spec.replicas,
            annotations: view.metadata.annotations.clone(),
            min_ready_seconds: view.spec.min_ready_seconds,
            view,
        }
    }

    /// Its metadata.
    pub fn meta(&self) -> &ObjectMeta {
        &self.view.metadata
    }

    /// An annotation that holds a number.
    pub fn number_annotation(&self, name: &str) -> Option<i32> {
        self.annotations.get(name)?.parse().ok()
    }

    /// Its rollout number; 0 without one.
    pub fn revision(&self) -> i64 {
        self.annotations.get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Whether its template is the deployment's, but for the hash label.
    pub fn has_template_of(&self, deployment: &DeploymentView) -> bool {
        without_hash(&self.view.spec.template) == without_hash(&deployment.spec.template)
    }

    /// Whether it may be removed once it is too old: it holds no pods and is not about to.
    pub fn is_idle(&self) -> bool {
        self.view.status.replicas == 0
            && self.replicas == 0
            && self.meta().generation <= self.view.status.observed_generation
            && !is_deleting(self.meta())
    }

    /// Records the sizes it was made for, which proportional scaling needs later.
    pub fn note_sizes(&mut self, wanted: i32, max: i32) {
        self.annotations.insert(DESIRED_REPLICAS.to_owned(), wanted.to_string());
        self.annotations.insert(MAX_REPLICAS.to_owned(), max.to_string());
    }

    /// Takes over the deployment's annotations and the rollout number.
    pub fn note_rollout(&mut self, deployment: &DeploymentView, revision: i64) {
        for (name, value) in &deployment.metadata.annotations {
            if !NOT_COPIED.contains(&name.as_str()) {
                self.annotations.insert(name.clone(), value.clone());
            }
        }
        let Some(before) = self.annotations.get(REVISION).cloned() else {
            self.annotations.insert(REVISION.to_owned(), revision.to_string());
            return;
        };
        // A number that a person garbled is left alone, as upstream does.
        let Ok(number) = before.parse::<i64>() else { return };
        if number < revision {
            self.annotations.insert(REVISION.to_owned(), revision.to_string());
            let history = self.annotations.entry(REVISION_HISTORY.to_owned()).or_default();
            *history = appended(history, &before);
        }
    }

    /// The change that makes the stored replica set this one; None when nothing differs. Conditional on the version seen.
    pub fn change(&self) -> Option<Action> {
        let mut change = json!({});
        if self.replicas != self.view.spec.replicas {
            change["spec"]["replicas"] = json!(self.replicas);
        }
        if self.min_ready_seconds != self.view.spec.min_ready_seconds {
            change["spec"]["minReadySeconds"] = json!(self.min_ready_seconds);
        }
        for (name, value) in &self.annotations {
            if self.view.metadata.annotations.get(name) != Some(value) {
                change["metadata"]["annotations"][name] = json!(value);
            }
        }
        if change.as_object().is_none_or(serde_json::Map::is_empty) {
            return None;
        }
        change["metadata"]["resourceVersion"] = json!(self.meta().resource_version);
        Some(Target::of(&ReplicaSetView::RESOURCE, self.meta()).change(change))
    }
}

fn appended(history: &str, revision: &str) -> String {
    if history.is_empty() {
        return revision.to_owned();
    }
    let mut kept: Vec<&str> = history.split(',').collect();
    if kept.contains(&revision) {
        return history.to_owned();
    }
    while !kept.is_empty() && kept.iter().map(|part| part.len() + 1).sum::<usize>() + revision.len() > MAX_HISTORY_CHARS
    {
        kept.remove(0);
    }
    kept.push(revision);
    kept.join(",")
}

/// The template without the label that the controller itself adds.
pub fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty()));
    }
    template
}

/// Oldest first; names break ties.
pub fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> std::cmp::Ordering {
    created(a.meta()).cmp(&created(b.meta())).then_with(|| a.meta().name.cmp(&b.meta().name))
}

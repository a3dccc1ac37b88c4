//! Objects besides pods and nodes that placement depends on.

use std::collections::{BTreeMap, HashMap};

use crate::model::template::{NamespaceLabels, Template};
use crate::objects::policy::DisruptionBudget;
use crate::objects::selector::{LabelSelector, Labels};
use crate::plugins::devices::Devices;
use crate::plugins::volumes::Volumes;

/// A namespaced object by kind-specific map.
pub type ByName<T> = HashMap<String, BTreeMap<String, T>>;

/// Selectors of things that own or front pods, by namespace and name.
#[derive(Debug, Default)]
pub struct Selectors {
    /// Services.
    pub services: ByName<Labels>,
    /// ReplicationControllers.
    pub controllers: ByName<Labels>,
    /// ReplicaSets.
    pub replica_sets: ByName<LabelSelector>,
    /// StatefulSets.
    pub stateful_sets: ByName<LabelSelector>,
    /// Per namespace, how often any of the above changed.
    pub epochs: HashMap<String, u64>,
}

impl Selectors {
    /// Changes whenever a selector of the namespace does.
    pub fn epoch(&self, namespace: &str) -> u64 {
        self.epochs.get(namespace).copied().unwrap_or(0)
    }

    /// What default spreading counts for a pod: what all of its services select, and its owner.
    pub fn of(&self, t: &Template) -> LabelSelector {
        let mut labels = Labels::new();
        for selector in self.services.get(&t.namespace).into_iter().flat_map(BTreeMap::values) {
            // A service without a selector selects nothing.
            if !selector.is_empty() && selector.iter().all(|(k, v)| t.labels.get(k) == Some(v)) {
                labels.extend(selector.clone());
            }
        }
        let mut out = LabelSelector::default();
        if let Some(owner) = &t.owner {
            match (owner.api_version.as_str(), owner.kind.as_str()) {
                ("v1", "ReplicationController") => {
                    labels.extend(named(&self.controllers, t, &owner.name).cloned().unwrap_or_default());
                }
                ("apps/v1", "ReplicaSet") => {
                    out = named(&self.replica_sets, t, &owner.name).cloned().unwrap_or_default();
                }
                ("apps/v1", "StatefulSet") => {
                    out = named(&self.stateful_sets, t, &owner.name).cloned().unwrap_or_default();
                }
                _ => {}
            }
        }
        for (k, v) in labels {
            // Two different values for one key select nothing, as two requirements on it would.
            if out.match_labels.get(&k).is_some_and(|mine| *mine != v) {
                out.match_expressions.push(crate::objects::selector::Requirement {
                    key: k,
                    operator: "In".into(),
                    values: vec![v],
                });
            } else {
                out.match_labels.insert(k, v);
            }
        }
        out
    }
}

fn named<'a, T>(map: &'a ByName<T>, t: &Template, name: &str) -> Option<&'a T> {
    map.get(&t.namespace)?.get(name)
}

/// Everything else.
#[derive(Debug, Default)]
pub struct World {
    /// Labels of namespaces.
    pub namespaces: NamespaceLabels,
    /// Selectors for default spreading.
    pub selectors: Selectors,
    /// Disruption budgets by namespace and name.
    pub budgets: ByName<DisruptionBudget>,
    /// Claims, volumes and the like.
    pub volumes: Volumes,
    /// Claims of devices and what drivers offer.
    pub devices: Devices,
    /// Changes whenever something changed that may change any verdict (a namespace's labels, a selector).
    pub epoch: u64,
}

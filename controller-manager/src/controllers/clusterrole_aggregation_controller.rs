//! `clusterrole-aggregation-controller`: a cluster role with an aggregation rule has the rules of all that it selects.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::framework::{Action, Controller, Executor, Key, Setup, Store, SyncResult, View};
use crate::views::rbac::ClusterRoleView;

/// Registers `clusterrole-aggregation-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("ClusterRoleAggregator");
    let roles = setup.stores.of::<ClusterRoleView>();
    let (wake, all) = (queue.clone(), roles.clone());
    roles.on(move |delta| {
        // Any role may be selected by any aggregating one, before or after the change.
        wake.add(Key::of(&delta.object().metadata));
        for role in all.list().iter().filter(|role| role.aggregation_rule.is_some()) {
            wake.add(Key::of(&role.metadata));
        }
    });
    let executor = setup.executor("clusterrole-aggregation-controller");
    setup.workers(queue, 5, Aggregation { roles, executor });
}

/// The change that gives `role` the rules of those among `all` that it selects, if they differ.
pub fn reconcile(role: &ClusterRoleView, all: &[Arc<ClusterRoleView>]) -> Option<Action> {
    let selectors = &role.aggregation_rule.as_ref()?.cluster_role_selectors;
    let mut selected: Vec<&ClusterRoleView> = all
        .iter()
        .map(AsRef::as_ref)
        .filter(|other| other.metadata.name != role.metadata.name)
        .filter(|other| selectors.iter().any(|selector| selector.matches(&other.metadata.labels)))
        .collect();
    selected.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<&Value> = Vec::new();
    for rule in selected.iter().flat_map(|other| other.rules.iter().flatten()) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    if role.rules.iter().flatten().collect::<Vec<_>>() == rules {
        return None;
    }
    Some(role.target().change(json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules})))
}

struct Aggregation {
    roles: Store<ClusterRoleView>,
    executor: Executor,
}

impl Controller for Aggregation {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(role) = self.roles.get("", &key.name) else { return Ok(None) };
        if let Some(action) = reconcile(&role, &self.roles.list()) {
            self.executor.apply(action).await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(value: Value) -> Arc<ClusterRoleView> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn rules_of_selected_roles_are_joined_once_in_order_of_names() {
        let view = role(json!({"metadata": {"name": "view", "labels": {"to": "x"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}]}}));
        let all = [
            Arc::clone(&view),
            role(
                json!({"metadata": {"name": "b", "labels": {"to": "x"}}, "rules": [{"verbs": ["get"]}, {"verbs": ["b"]}]}),
            ),
            role(json!({"metadata": {"name": "a", "labels": {"to": "x"}}, "rules": [{"verbs": ["get"]}]})),
            role(json!({"metadata": {"name": "c"}, "rules": [{"verbs": ["c"]}]})),
        ];
        let Some(Action::Change { change, .. }) = reconcile(&view, &all) else { panic!("a change") };
        assert_eq!(change["rules"], json!([{"verbs": ["get"]}, {"verbs": ["b"]}]));
        assert_eq!(reconcile(&all[1], &all), None, "no aggregation rule");
    }
}

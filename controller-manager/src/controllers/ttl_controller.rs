//! `ttl-controller`: tells kubelets through an annotation how long they may cache objects, by the size of the cluster.

use std::sync::atomic::{AtomicUsize, Ordering};

use client::informer::Delta;
use serde_json::json;

use crate::framework::{Action, Controller, Executor, Key, Setup, Store, SyncResult, View};
use crate::views::node::NodeView;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// (go back below so many nodes, go on above so many, seconds). The ranges overlap, so that a cluster at a boundary
/// does not change its mind with every node.
const STEPS: &[(usize, usize, u32)] =
    &[(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The step for a cluster of `nodes` that is at `step`.
pub fn next_step(mut step: usize, nodes: usize) -> usize {
    while step + 1 < STEPS.len() && nodes > STEPS[step].1 {
        step += 1;
    }
    while step > 0 && nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

/// Registers `ttl-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("ttlcontroller");
    let nodes = setup.stores.of::<NodeView>();
    let (wake, all) = (queue.clone(), nodes.clone());
    nodes.on(move |delta| {
        wake.add(Key::of(&delta.object().metadata));
        let count = all.list().len();
        let boundary = STEPS.iter().any(|(low, high, _)| count.abs_diff(*low) <= 1 || count.abs_diff(*high) <= 1);
        if boundary && matches!(delta, Delta::Added(_) | Delta::Deleted(_)) {
            all.list().iter().for_each(|node| wake.add(Key::of(&node.metadata)));
        }
    });
    let executor = setup.executor("ttl-controller");
    setup.workers(queue, 5, Ttl { nodes, executor, step: AtomicUsize::new(0) });
}

/// The change that a node needs.
pub fn reconcile(node: &NodeView, step: usize) -> Option<Action> {
    let wanted = STEPS[step].2.to_string();
    if node.metadata.annotations.get(ANNOTATION) == Some(&wanted) {
        return None;
    }
    Some(node.target().change(json!({"metadata": {"annotations": {ANNOTATION: wanted}}})))
}

struct Ttl {
    nodes: Store<NodeView>,
    executor: Executor,
    step: AtomicUsize,
}

impl Controller for Ttl {
    async fn sync(&self, key: &Key) -> SyncResult {
        let step = next_step(self.step.load(Ordering::Relaxed), self.nodes.list().len());
        self.step.store(step, Ordering::Relaxed);
        let Some(node) = self.nodes.get("", &key.name) else { return Ok(None) };
        if let Some(action) = reconcile(&node, step) {
            self.executor.apply(action).await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::next_step;

    #[test]
    fn steps_change_late_in_both_directions() {
        for (step, nodes, next) in
            [(0, 1, 0), (0, 100, 0), (0, 101, 1), (1, 95, 1), (1, 89, 0), (0, 5000, 4), (4, 10, 0)]
        {
            assert_eq!(next_step(step, nodes), next, "{step} with {nodes} nodes");
        }
    }
}

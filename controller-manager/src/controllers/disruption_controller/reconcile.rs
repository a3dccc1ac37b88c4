//! A budget's status as a pure function of its pods and of how many their controllers want. Upstream's arithmetic:
//! percentages are of what the controllers want, rounded up; a number of `minAvailable` counts the pods that are there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::int_or_string::IntOrString;
use jiff::Timestamp;

use crate::framework::backoff::remaining;
use crate::framework::plan::controller_of;
use crate::views::meta::{Condition, Time, condition, count, is_deleting};
use crate::views::pod::PodView;
use crate::views::policy::{BudgetStatus, BudgetView};
use crate::views::workloads::{DeploymentView, ReplicaSetView};

/// An evicted pod that has not begun to end after so long is counted again.
const EVICTION_SECONDS: i64 = 120;
/// The condition of budgets.
const ALLOWED: &str = "DisruptionAllowed";

/// Whether the budget speaks of what the pods' controllers want, which must then be found out.
pub fn needs_scale(budget: &BudgetView) -> bool {
    budget.spec.max_unavailable.is_some() || matches!(budget.spec.min_available, Some(IntOrString::Text(_)))
}

/// Who decides on the pods of a replica set, and how many it wants: the deployment above it, or the set itself where that is gone.
pub fn of_replica_set(
    set: &ReplicaSetView,
    deployment: impl FnOnce(&str) -> Option<Arc<DeploymentView>>,
) -> (String, i32) {
    let above = controller_of(&set.metadata).filter(|above| above.kind == "Deployment");
    let above = above.and_then(|above| deployment(&above.name).filter(|it| it.metadata.uid == above.uid));
    above.map_or_else(
        || (set.metadata.uid.clone(), set.spec.replicas),
        |above| (above.metadata.uid.clone(), above.spec.replicas),
    )
}

/// How many pods there should be, and how many of them healthy. `scale` is what the controllers want, where needed.
pub fn expected(budget: &BudgetView, pods: usize, scale: i32) -> Result<(i32, i32), String> {
    let broken = || "the budget's value is neither a number nor a percentage".to_owned();
    match (&budget.spec.max_unavailable, &budget.spec.min_available) {
        (Some(max), _) => {
            let missing = max.scaled(scale, true).ok_or_else(broken)?;
            Ok((scale, scale.saturating_sub(missing).max(0)))
        }
        (None, Some(IntOrString::Int(min))) => Ok((count(pods), *min)),
        (None, Some(min)) => Ok((scale, min.scaled(scale, true).ok_or_else(broken)?)),
        (None, None) => Ok((0, 0)),
    }
}

/// Evicted pods that are believed to end soon; those that were and did not; and when the first belief ends.
#[derive(Debug, Default, PartialEq)]
pub struct Evicted {
    /// Still believed in.
    pub pending: BTreeMap<String, Time>,
    /// Names of pods that should have ended.
    pub overdue: Vec<String>,
    /// Look again then.
    pub again: Option<Duration>,
}

/// Sorts out `status.disruptedPods`.
pub fn evicted(budget: &BudgetView, pods: &[Arc<PodView>], now: Timestamp) -> Evicted {
    let mut evicted = Evicted::default();
    for pod in pods.iter().filter(|pod| !is_deleting(&pod.metadata)) {
        let name = &pod.metadata.name;
        let Some(since) = budget.status.disrupted_pods.get(name).and_then(|time| time.0) else { continue };
        let left = remaining(since, EVICTION_SECONDS, now);
        if left.is_zero() {
            evicted.overdue.push(name.clone());
        } else {
            evicted.pending.insert(name.clone(), since.into());
            evicted.again = Some(evicted.again.map_or(left, |before| before.min(left)));
        }
    }
    evicted
}

/// The status that the budget should have.
pub fn status(
    budget: &BudgetView,
    pods: &[Arc<PodView>],
    (expected, desired): (i32, i32),
    pending: BTreeMap<String, Time>,
    now: Timestamp,
) -> BudgetStatus {
    let healthy = pods
        .iter()
        .filter(|pod| !is_deleting(&pod.metadata) && !pending.contains_key(&pod.metadata.name) && pod.is_ready());
    let healthy = count(healthy.count());
    let spare = healthy.saturating_sub(desired);
    let allowed = if expected <= 0 { 0 } else { spare.max(0) };
    let generation = budget.metadata.generation;
    let (state, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    BudgetStatus {
        observed_generation: generation,
        disruptions_allowed: allowed,
        current_healthy: healthy,
        desired_healthy: desired,
        expected_pods: expected,
        disrupted_pods: pending,
        conditions: with_condition(budget, state, reason, "", generation, now),
    }
}

/// The status of a budget that cannot be worked out: nothing may be evicted.
pub fn failed(budget: &BudgetView, why: &str, now: Timestamp) -> BudgetStatus {
    let seen = budget.status.observed_generation;
    BudgetStatus {
        disruptions_allowed: 0,
        conditions: with_condition(budget, "False", "SyncFailed", why, seen, now),
        ..budget.status.clone()
    }
}

fn with_condition(
    budget: &BudgetView,
    status: &str,
    reason: &str,
    message: &str,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let before = condition(&budget.status.conditions, ALLOWED);
    let since = before.filter(|before| before.status == status).map(|before| before.last_transition_time);
    let mut conditions = budget.status.conditions.clone();
    conditions.retain(|condition| condition.kind != ALLOWED);
    conditions.push(Condition {
        kind: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: Some(generation),
        last_transition_time: since.unwrap_or_else(|| now.into()),
        ..Condition::default()
    });
    conditions
}

/// How long the pod may still carry a `DisruptionTarget` without ending; None when it carries none that counts.
pub fn stale_in(pod: &PodView, now: Timestamp) -> Option<Duration> {
    let target = pod.condition("DisruptionTarget")?;
    let counts = target.status == "True" && target.reason != "TerminationByKubelet";
    let lives = !is_deleting(&pod.metadata) && !pod.is_terminal();
    (counts && lives).then(|| remaining(target.last_transition_time.0.unwrap_or_default(), EVICTION_SECONDS, now))
}

#[cfg(test)]
mod tests {
    use apimachinery::time::parse_time;
    use serde_json::{Value, json};

    use super::*;

    fn pods(count: usize) -> Vec<Arc<PodView>> {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        (0..count)
            .map(
                |i| json!({"metadata": {"name": format!("p{i}")}, "status": {"phase": "Running", "conditions": ready}}),
            )
            .map(|pod| Arc::new(serde_json::from_value(pod).unwrap()))
            .collect()
    }

    #[allow(clippy::needless_pass_by_value)]
    fn budget(spec: Value, evicted: Value) -> BudgetView {
        serde_json::from_value(
            json!({"metadata": {"generation": 3}, "spec": spec, "status": {"disruptedPods": evicted}}),
        )
        .unwrap()
    }

    #[test]
    fn a_replica_set_speaks_for_itself_where_its_deployment_is_gone() {
        let set = json!({"metadata": {"uid": "set", "ownerReferences": [{"kind": "Deployment", "name": "web", "uid": "d", "controller": true}]},
            "spec": {"replicas": 3}});
        let set = serde_json::from_value(set).unwrap();
        let deployment = |uid: &str| -> Option<Arc<DeploymentView>> {
            serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {"replicas": 5}})).ok().map(Arc::new)
        };
        assert_eq!(of_replica_set(&set, |_| deployment("d")), ("d".to_owned(), 5));
        for gone in [None, deployment("a later one of that name")] {
            assert_eq!(of_replica_set(&set, |_| gone), ("set".to_owned(), 3));
        }
    }

    #[test]
    fn arithmetic() {
        for (spec, scale, wanted) in [
            (json!({"minAvailable": 2}), 9, (4, 2, 2)),
            (json!({"minAvailable": 9}), 9, (4, 9, 0)),
            (json!({"minAvailable": "51%"}), 4, (4, 3, 1)),
            (json!({"minAvailable": "50%"}), 5, (5, 3, 1)),
            (json!({"maxUnavailable": "30%"}), 4, (4, 2, 2)),
            (json!({"maxUnavailable": 7}), 4, (4, 0, 4)),
            (json!({"maxUnavailable": 1}), 0, (0, 0, 0)),
            (json!({}), 0, (0, 0, 0)),
        ] {
            let (budget, pods, now) = (budget(spec, json!({})), pods(4), Timestamp::UNIX_EPOCH);
            let status = status(&budget, &pods, expected(&budget, 4, scale).unwrap(), BTreeMap::new(), now);
            let got = (status.expected_pods, status.desired_healthy, status.disruptions_allowed);
            assert_eq!(got, wanted, "{:?}", budget.spec);
            assert_eq!(status.conditions[0].observed_generation, Some(3));
        }
        assert!(expected(&budget(json!({"minAvailable": "many"}), json!({})), 4, 4).is_err());
    }

    #[test]
    fn evicted_pods_do_not_count_until_they_are_overdue() {
        let now = parse_time("2026-01-01T00:02:00Z").unwrap();
        let evictions =
            json!({"p0": "2026-01-01T00:00:00Z", "p1": "2026-01-01T00:00:30Z", "gone": "2026-01-01T00:01:00Z"});
        let (budget, pods) = (budget(json!({"minAvailable": 1}), evictions), pods(3));
        let found = evicted(&budget, &pods, now);
        assert_eq!(found.overdue, ["p0"]);
        assert_eq!(found.again, Some(Duration::from_secs(30)));
        let status = status(&budget, &pods, (3, 1), found.pending, now);
        assert_eq!((status.current_healthy, status.disruptions_allowed), (2, 1));
        assert_eq!(status.disrupted_pods.keys().collect::<Vec<_>>(), ["p1"]);
    }
}

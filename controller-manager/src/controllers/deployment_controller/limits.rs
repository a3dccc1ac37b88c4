//! The arithmetic of a rolling update: how many pods may be too many, how many may be missing, and each replica set's
//! share when a deployment is scaled in the middle of a rollout. Upstream's deployment utilities, number for number.

use apimachinery::int_or_string::IntOrString;

use super::model::ReplicaSet;
use crate::views::workloads::DeploymentView;

/// `value` of `total`; percentages are rounded up or down.
pub fn resolve(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    value.and_then(|value| value.scaled(total, round_up)).unwrap_or(0)
}

/// Surge and unavailability as numbers. Both cannot be zero, or nothing would ever move.
fn fenceposts(deployment: &DeploymentView) -> (i32, i32) {
    let rolling = deployment.spec.strategy.rolling_update.as_ref();
    let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), deployment.spec.replicas, true);
    let unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), deployment.spec.replicas, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// Whether pods are replaced bit by bit.
pub fn is_rolling(deployment: &DeploymentView) -> bool {
    deployment.spec.strategy.kind == "RollingUpdate"
}

/// How many pods there may be beyond the wanted number.
pub fn max_surge(deployment: &DeploymentView) -> i32 {
    if is_rolling(deployment) { fenceposts(deployment).0 } else { 0 }
}

/// How many of the wanted pods may be missing.
pub fn max_unavailable(deployment: &DeploymentView) -> i32 {
    if !is_rolling(deployment) || deployment.spec.replicas == 0 {
        return 0;
    }
    fenceposts(deployment).1.min(deployment.spec.replicas)
}

/// How large the newest replica set may become now, with `all_pods` pods wanted by all replica sets together.
pub fn new_size(deployment: &DeploymentView, all_pods: i32, new_pods: i32) -> i32 {
    let wanted = deployment.spec.replicas;
    if !is_rolling(deployment) {
        return wanted;
    }
    let rolling = deployment.spec.strategy.rolling_update.as_ref();
    let max_total = wanted + resolve(rolling.and_then(|r| r.max_surge.as_ref()), wanted, true);
    if all_pods >= max_total {
        return new_pods;
    }
    new_pods + (max_total - all_pods).min(wanted - new_pods)
}

/// The share of `to_add` (negative: to remove) that falls to `set`, with `added` handed out already.
pub fn proportion(set: &ReplicaSet, deployment: &DeploymentView, to_add: i32, added: i32) -> i32 {
    if set.replicas == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(set, deployment);
    let allowed = to_add - added;
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

fn fraction(set: &ReplicaSet, deployment: &DeploymentView) -> i32 {
    if deployment.spec.replicas == 0 {
        return -set.replicas;
    }
    let max_now = f64::from(deployment.spec.replicas + max_surge(deployment));
    let before = match set.number_annotation(super::model::MAX_REPLICAS) {
        Some(number) if number != 0 => number,
        _ => deployment.status.replicas,
    };
    if before == 0 {
        return 0;
    }
    let size = (f64::from(set.replicas) * max_now / f64::from(before)).round();
    // Within i32: replicas are, and the quotient of two totals is bounded by them.
    size as i32 - set.replicas
}

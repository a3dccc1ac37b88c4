//! Which pods make room for a critical one that the node would refuse for lack of resources. Pure.
//!
//! As few and as unimportant pods as possible: best-effort ones before burstable before guaranteed, of each class those
//! whose requests come closest to what is lacking.

use std::sync::Arc;

use super::resources::{Amounts, pod_requests, qos_class};
use super::types::Pod;

/// Whether `pod` may displace `other`.
fn outranks(pod: &Pod, other: &Pod) -> bool {
    let higher = pod.spec.priority.zip(other.spec.priority).is_some_and(|(a, b)| a > b);
    (pod.is_critical() && !other.is_critical()) || higher
}

/// What is still lacking when these pods are gone.
fn without<'a>(lacking: &Amounts, pods: impl IntoIterator<Item = &'a Arc<Pod>>) -> Amounts {
    let mut left = lacking.clone();
    for pod in pods {
        let own = requests(pod);
        for (name, amount) in &mut left {
            *amount -= own.get(name).copied().unwrap_or(0);
        }
    }
    left.retain(|_, amount| *amount > 0);
    left
}

/// A pod's requests; it also takes one of the node's places for pods.
fn requests(pod: &Pod) -> Amounts {
    let mut own = pod_requests(&pod.spec);
    own.insert("pods".to_owned(), 1);
    own
}

/// How much of what is lacking a pod leaves lacking: the sum of squares of the shares.
#[allow(clippy::cast_precision_loss, reason = "shares are compared, not counted")]
fn distance(lacking: &Amounts, pod: &Pod) -> f64 {
    let own = requests(pod);
    let share = |(name, amount): (&String, &i64)| {
        let left = amount - own.get(name).copied().unwrap_or(0);
        if left > 0 { (left as f64 / *amount as f64).powi(2) } else { 0.0 }
    };
    lacking.iter().map(share).sum()
}

/// Pods of one class that cover what is lacking, the closest first; as many as there are when they do not suffice.
fn closest(mut pods: Vec<Arc<Pod>>, mut lacking: Amounts) -> Vec<Arc<Pod>> {
    let mut chosen = Vec::new();
    while !lacking.is_empty() {
        let size = |pod: &Pod| ["memory", "cpu"].map(|name| requests(pod).get(name).copied().unwrap_or(0));
        let order = |a: &&Arc<Pod>, b: &&Arc<Pod>| {
            distance(&lacking, a).total_cmp(&distance(&lacking, b)).then_with(|| size(a).cmp(&size(b)))
        };
        let Some(best) = pods.iter().min_by(order).cloned() else { return chosen };
        pods.retain(|pod| !Arc::ptr_eq(pod, &best));
        lacking = without(&lacking, [&best]);
        chosen.push(best);
    }
    chosen
}

/// The pods to end so that the critical `pod` finds what is `lacking`; none when all together would not suffice, or when
/// it is not critical.
pub fn victims<'a>(pod: &Pod, others: impl Iterator<Item = &'a Arc<Pod>>, lacking: &Amounts) -> Option<Vec<Arc<Pod>>> {
    let mut classes = [Vec::new(), Vec::new(), Vec::new()];
    for other in others.filter(|other| pod.is_critical() && outranks(pod, other)) {
        let class = match qos_class(&other.spec) {
            "BestEffort" => 0,
            "Burstable" => 1,
            _ => 2,
        };
        classes[class].push(Arc::clone(other));
    }
    if !without(lacking, classes.iter().flatten()).is_empty() {
        return None;
    }
    let [best_effort, burstable, guaranteed] = classes;
    let guaranteed = closest(guaranteed, without(lacking, best_effort.iter().chain(&burstable)));
    let burstable = closest(burstable, without(lacking, best_effort.iter().chain(&guaranteed)));
    let best_effort = closest(best_effort, without(lacking, burstable.iter().chain(&guaranteed)));
    Some([best_effort, burstable, guaranteed].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::types::tests::pod;
    use serde_json::json;

    fn wanting(name: &str, priority: i32, cpu: &str, limit: Option<&str>) -> Arc<Pod> {
        let limits = limit.map(|cpu| json!({"cpu": cpu, "memory": "1Mi"})).unwrap_or(json!({}));
        let requests = if cpu.is_empty() { json!({}) } else { json!({"cpu": cpu, "memory": "1Mi"}) };
        Arc::new(pod(json!({"metadata": {"name": name}, "spec": {"priority": priority,
            "containers": [{"name": "c", "resources": {"requests": requests, "limits": limits}}]}})))
    }

    #[test]
    fn the_least_important_go() {
        let critical = wanting("critical", 2_000_001_000, "1", None);
        let others = [
            wanting("idle", 0, "", None),
            wanting("small", 0, "200m", None),
            wanting("fits", 0, "500m", None),
            wanting("large", 0, "900m", None),
            wanting("guaranteed", 0, "900m", Some("900m")),
            wanting("other-critical", 2_000_001_000, "900m", None),
        ];
        let chosen = |cpu: i64| {
            let lacking = Amounts::from([("cpu".into(), cpu)]);
            let pods = victims(&critical, others.iter(), &lacking)?;
            Some(pods.iter().map(|p| p.name().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(chosen(400), Some(vec!["fits".into()]));
        assert_eq!(chosen(1000), Some(vec!["large".into(), "small".into()]));
        assert_eq!(chosen(2000), Some(vec!["large".into(), "small".into(), "guaranteed".into()]));
        assert_eq!(chosen(9000), None);
        let places = Amounts::from([("pods".into(), 1)]);
        assert_eq!(victims(&critical, others.iter(), &places).unwrap()[0].name(), "idle");
        assert!(victims(&others[3], others.iter(), &places).is_none(), "only critical pods displace others");
    }
}

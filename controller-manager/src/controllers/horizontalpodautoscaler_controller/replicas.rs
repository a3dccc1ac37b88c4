//! How many replicas one metric asks for, purely: from samples of pods, their requests and states. Upstream's replica
//! calculator: pods without a sample count as idle when growing and as exactly on target when shrinking; pods that are not
//! ready yet count as idle when growing and not at all otherwise; small deviations change nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::quantity::Quantity;
use jiff::Timestamp;

use crate::framework::backoff::remaining;
use crate::views::meta::{count, is_deleting};
use crate::views::pod::PodView;

/// One pod's value, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The value.
    pub milli: i64,
    /// The end of the window it was measured in.
    pub at: Timestamp,
    /// The window's length.
    pub window: Duration,
}

/// Samples by pod name.
pub type Samples = BTreeMap<String, Sample>;

/// How far off the target a ratio may be without consequence.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Upwards.
    pub up: f64,
    /// Downwards.
    pub down: f64,
}

impl Tolerance {
    fn bears(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// When young pods' samples are not believed.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// So long after the start CPU samples need a ready pod.
    pub cpu_initialization: Duration,
    /// A pod that became unready within so long after its start has never been ready.
    pub initial_readiness: Duration,
}

/// What a sample is measured against.
#[derive(Clone, Debug)]
pub enum Goal {
    /// A share of the pods' requests (thousandths by pod name), in percent.
    Utilization(i32, BTreeMap<String, i64>),
    /// An average, in thousandths.
    Average(i64),
}

/// What a metric asks for, and what is: the average in percent of the requests (for [`Goal::Utilization`]) and in thousandths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposal {
    /// So many.
    pub replicas: i32,
    /// Percent of the requests.
    pub utilization: i32,
    /// Average, in thousandths.
    pub average: i64,
}

#[derive(Debug, Default, PartialEq)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn group(pods: &[Arc<PodView>], samples: &Samples, cpu: bool, patience: Patience, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.metadata.name.clone();
        if is_deleting(&pod.metadata) || pod.status.phase == "Failed" {
            groups.ignored.insert(name);
        } else if pod.status.phase == "Pending" {
            groups.unready.insert(name);
        } else if let Some(sample) = samples.get(&name) {
            if cpu && !is_believed(pod, sample, patience, now) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

fn is_believed(pod: &PodView, sample: &Sample, patience: Patience, now: Timestamp) -> bool {
    let (Some(ready), Some(start)) = (pod.condition("Ready"), pod.status.start_time.0) else { return false };
    let unready = ready.status == "False";
    let since = ready.last_transition_time.0.unwrap_or_default();
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    if !remaining(start, seconds(patience.cpu_initialization), now).is_zero() {
        let whole_window = remaining(since, seconds(sample.window), sample.at).is_zero();
        !unready && whole_window
    } else {
        !unready || remaining(start, seconds(patience.initial_readiness), since).is_zero()
    }
}

/// Requests of one resource by pod name, in thousandths; of one container where one is named.
pub fn requests(
    pods: &[Arc<PodView>],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    let amount = |text: &String| Quantity::parse(text).map(|amount| amount.milli()).unwrap_or(0);
    let of = |pod: &PodView| -> Result<i64, String> {
        if let Some(whole) = pod.spec.resources.requests.get(resource).filter(|_| container.is_none()) {
            return Ok(amount(whole));
        }
        let sidecars = pod.spec.init_containers.iter().filter(|container| container.restart_policy == "Always");
        let mut sum = 0_i64;
        for one in pod.spec.containers.iter().chain(sidecars) {
            if container.is_some_and(|name| name != one.name) {
                continue;
            }
            let own = one.resources.requests.get(resource).ok_or_else(|| {
                format!("missing request for {resource} in container {} of Pod {}", one.name, pod.metadata.name)
            })?;
            sum = sum.saturating_add(amount(own));
        }
        Ok(sum)
    };
    pods.iter().map(|pod| Ok((pod.metadata.name.clone(), of(pod)?))).collect()
}

/// The deviation from the goal, the percentage and the average.
fn ratio(samples: &BTreeMap<String, i64>, goal: &Goal) -> Result<(f64, i32, i64), String> {
    match goal {
        Goal::Average(target) => {
            let average = samples.values().sum::<i64>() / i64::try_from(samples.len().max(1)).unwrap_or(1);
            Ok((average as f64 / *target as f64, 0, average))
        }
        Goal::Utilization(target, requests) => {
            let known = || samples.iter().filter_map(|(pod, milli)| Some((*milli, *requests.get(pod)?)));
            let (used, requested) = known().fold((0_i64, 0_i64), |sum, pod| (sum.0 + pod.0, sum.1 + pod.1));
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let percent = i32::try_from(used.saturating_mul(100) / requested).unwrap_or(i32::MAX);
            let pods = i64::try_from(known().count().max(1)).unwrap_or(1);
            Ok((f64::from(percent) / f64::from(*target), percent, used / pods))
        }
    }
}

/// What the samples ask for. `cpu` says that young pods' samples are judged.
pub fn propose(
    pods: &[Arc<PodView>],
    samples: &Samples,
    current: i32,
    goal: &Goal,
    tolerance: Tolerance,
    young: Option<Patience>,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let zero = Patience { cpu_initialization: Duration::ZERO, initial_readiness: Duration::ZERO };
    let groups = group(pods, samples, young.is_some(), young.unwrap_or(zero), now);
    let left_out = |pod: &String| groups.ignored.contains(pod) || groups.unready.contains(pod);
    let mut values: BTreeMap<String, i64> =
        samples.iter().filter(|(pod, _)| !left_out(pod)).map(|(pod, sample)| (pod.clone(), sample.milli)).collect();
    if values.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let (first, utilization, average) = ratio(&values, goal)?;
    let answer = |replicas: i32| Proposal { replicas, utilization, average };
    let with_unready = !groups.unready.is_empty() && first > 1.0;
    if !with_unready && groups.missing.is_empty() {
        return Ok(answer(if tolerance.bears(first) { current } else { up(first * groups.ready as f64) }));
    }
    for pod in &groups.missing {
        let on_target = match goal {
            Goal::Average(target) => *target,
            Goal::Utilization(target, requests) => {
                requests.get(pod).copied().unwrap_or(0).saturating_mul(i64::from(*target).max(100)) / 100
            }
        };
        if first < 1.0 {
            values.insert(pod.clone(), on_target);
        } else if first > 1.0 {
            values.insert(pod.clone(), 0);
        }
    }
    if with_unready {
        values.extend(groups.unready.iter().map(|pod| (pod.clone(), 0)));
    }
    let (second, ..) = ratio(&values, goal)?;
    let replicas = up(second * f64::from(count(values.len())));
    let turned = (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0);
    let against = (second < 1.0 && replicas > current) || (second > 1.0 && replicas < current);
    Ok(answer(if tolerance.bears(second) || turned || against { current } else { replicas }))
}

/// What a value asks for that is not the pods' own: `ready` of `current` replicas carry it now. From nothing it takes as
/// many as the ratio says.
pub fn by_ratio(ratio: f64, current: i32, ready: i32, tolerance: Tolerance) -> i32 {
    match current {
        0 => up(ratio),
        _ if tolerance.bears(ratio) => current,
        _ => up(ratio * f64::from(ready)),
    }
}

/// What a total asks for that is to be shared evenly: replicas, and the average now.
pub fn by_share(total: i64, target: i64, status_replicas: i32, tolerance: Tolerance) -> (i32, i64) {
    let ratio = total as f64 / (target as f64 * f64::from(status_replicas));
    let replicas = if tolerance.bears(ratio) { status_replicas } else { up(total as f64 / target as f64) };
    (replicas, (total as f64 / f64::from(status_replicas.max(1))).ceil() as i64)
}

/// Running and ready pods.
pub fn ready(pods: &[Arc<PodView>]) -> i32 {
    count(pods.iter().filter(|pod| pod.status.phase == "Running" && pod.is_ready()).count())
}

fn up(replicas: f64) -> i32 {
    replicas.ceil() as i32
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOLERANCE: Tolerance = Tolerance { up: 0.1, down: 0.1 };

    fn pods(states: &[&str]) -> Vec<Arc<PodView>> {
        let pod = |(i, state): (usize, &&str)| {
            let (phase, ready) = match *state {
                "ready" => ("Running", "True"),
                "unready" => ("Running", "False"),
                other => (other, "False"),
            };
            let pod = json!({
                "metadata": {"name": format!("p{i}")},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
                "status": {"phase": phase, "startTime": "2026-01-01T00:00:00Z", "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            });
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        states.iter().enumerate().map(pod).collect()
    }

    fn samples(values: &[i64]) -> Samples {
        let at = apimachinery::time::parse_time("2026-01-01T01:00:00Z").unwrap();
        let sample = |milli| Sample { milli, at, window: Duration::from_secs(60) };
        values.iter().enumerate().map(|(i, milli)| (format!("p{i}"), sample(*milli))).collect()
    }

    #[test]
    fn proposals() {
        let now = apimachinery::time::parse_time("2026-01-01T01:00:00Z").unwrap();
        let minute = Duration::from_secs(60);
        let patience = Patience { cpu_initialization: minute, initial_readiness: minute };
        for (states, values, target, wanted) in [
            (&["ready"; 3][..], &[300, 500, 700][..], 30, (5, 50, 500)),
            (&["ready"; 3], &[300, 500, 700], 50, (3, 50, 500)),
            (&["ready"; 3], &[520, 540, 550], 50, (3, 53, 536)),
            // Missing samples: idle when growing, on target when shrinking.
            (&["ready"; 4], &[1000, 1000], 50, (4, 100, 1000)),
            (&["ready"; 4], &[100, 100], 50, (4, 10, 100)),
            // Unready pods do not hold back shrinking, and are idle when growing.
            (&["ready", "ready", "unready", "Pending"], &[100, 100, 100], 50, (1, 10, 100)),
            (&["ready", "ready", "unready"], &[900, 900, 900], 50, (4, 90, 900)),
            (&["ready", "Failed"], &[900, 900], 50, (2, 90, 900)),
        ] {
            let pods = pods(states);
            let goal = Goal::Utilization(target, requests(&pods, "cpu", None).unwrap());
            let got =
                propose(&pods, &samples(values), count(pods.len()), &goal, TOLERANCE, Some(patience), now).unwrap();
            assert_eq!((got.replicas, got.utilization, got.average), wanted, "{states:?} {values:?}");
        }
        let three = pods(&["ready"; 3]);
        let on_target = propose(&three, &samples(&[100, 100]), 3, &Goal::Average(100), TOLERANCE, None, now).unwrap();
        assert_eq!(on_target.replicas, 3, "a missing sample changes nothing when the others are on target");
        assert!(propose(&[], &samples(&[]), 1, &Goal::Average(1), TOLERANCE, None, now).is_err());
        assert!(requests(&pods(&["ready"]), "memory", None).unwrap_err().contains("missing request for memory"));
    }

    #[test]
    fn values_beside_the_pods() {
        assert_eq!(by_ratio(2.0, 3, 2, TOLERANCE), 4);
        assert_eq!(by_ratio(1.05, 3, 2, TOLERANCE), 3);
        assert_eq!(by_ratio(2.3, 0, 0, TOLERANCE), 3);
        assert_eq!(by_share(10_000, 2_000, 3, TOLERANCE), (5, 3334));
        assert_eq!(by_share(6_100, 2_000, 3, TOLERANCE), (3, 2034));
    }
}

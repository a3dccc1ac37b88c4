//! From what the metrics ask for to what is done: stabilisation, rates and limits. Pure; the history of one autoscaler is an
//! argument. Upstream's rules, number for number.

use std::time::Duration;

use jiff::Timestamp;

use crate::framework::backoff::{elapsed, remaining};
use crate::views::autoscaling::{Behavior, ScalingRules};

/// What was recommended when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recommendation {
    /// So many.
    pub replicas: i32,
    /// When.
    pub at: Timestamp,
}

/// By how much it was scaled when; always positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// So many more or less.
    pub replicas: i32,
    /// When.
    pub at: Timestamp,
}

/// What is remembered of one autoscaler. Bounded by its windows: what no rule looks at any more is dropped.
#[derive(Clone, Debug, Default)]
pub struct History {
    recommendations: Vec<Recommendation>,
    ups: Vec<Change>,
    downs: Vec<Change>,
}

/// The numbers of one look.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The least that is allowed.
    pub min: i32,
    /// The most.
    pub max: i32,
    /// What there is.
    pub current: i32,
    /// What the metrics ask for.
    pub wanted: i32,
}

/// What to do, and the two conditions that say why: (status, reason, message).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The new size.
    pub replicas: i32,
    /// `AbleToScale`; always true.
    pub able: (&'static str, &'static str),
    /// `ScalingLimited`.
    pub limited: (bool, &'static str, &'static str),
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const UP: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

impl History {
    /// What there was when the autoscaler was first seen counts as a recommendation.
    pub fn begin(&mut self, replicas: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push(Recommendation { replicas, at: now });
        }
    }

    /// Decides. `window` is the flag's stabilisation of scaling down.
    pub fn decide(&mut self, behavior: Option<&Behavior>, sizes: Sizes, window: Duration, now: Timestamp) -> Decision {
        let default = i64::try_from(window.as_secs()).unwrap_or(i64::MAX);
        let (up, down) = match behavior {
            None => (0, default),
            Some(behavior) => (
                behavior.scale_up.stabilization_window_seconds.unwrap_or(0),
                behavior.scale_down.stabilization_window_seconds.unwrap_or(default),
            ),
        };
        let stable = self.stabilize(behavior.is_some(), sizes, (up, down), now);
        let able = match stable == sizes.wanted {
            true => READY,
            false if behavior.is_some() && sizes.wanted >= sizes.current => UP,
            false => DOWN,
        };
        let sizes = Sizes { wanted: stable, ..sizes };
        let (replicas, (reason, message)) = match behavior {
            None => limit(sizes),
            Some(behavior) => self.rate(behavior, sizes, now),
        };
        Decision { replicas, able, limited: (replicas != stable, reason, message) }
    }

    fn stabilize(&mut self, both_ways: bool, sizes: Sizes, (up, down): (i64, i64), now: Timestamp) -> i32 {
        let recent = |seconds: i64| {
            let inside = self.recommendations.iter().filter(move |past| !remaining(past.at, seconds, now).is_zero());
            inside.map(|past| past.replicas)
        };
        let highest = recent(down).max().map_or(sizes.wanted, |past| past.max(sizes.wanted));
        let lowest = recent(up).min().map_or(sizes.wanted, |past| past.min(sizes.wanted));
        let keep = up.max(down);
        self.recommendations.retain(|past| !remaining(past.at, keep, now).is_zero());
        self.recommendations.push(Recommendation { replicas: sizes.wanted, at: now });
        if both_ways { sizes.current.max(lowest).min(highest) } else { highest }
    }

    fn rate(&self, behavior: &Behavior, sizes: Sizes, now: Timestamp) -> (i32, (&'static str, &'static str)) {
        if sizes.wanted > sizes.current {
            let rate = self.reach(&behavior.scale_up, sizes.current, true, now).max(sizes.current);
            let (most, why) = if sizes.max > rate { (rate, UP_LIMIT) } else { (sizes.max, TOO_MANY) };
            if sizes.wanted > most {
                return (most, why);
            }
        } else if sizes.wanted < sizes.current {
            let rate = self.reach(&behavior.scale_down, sizes.current, false, now).min(sizes.current);
            let (least, why) = if sizes.min < rate { (rate, DOWN_LIMIT) } else { (sizes.min, TOO_FEW) };
            if sizes.wanted < least {
                return (least, why);
            }
        }
        (sizes.wanted, WITHIN)
    }

    /// How far the policies let the size go from where it was when their period began.
    fn reach(&self, rules: &ScalingRules, current: i32, up: bool, now: Timestamp) -> i32 {
        let select = rules.select_policy.as_deref().unwrap_or("Max");
        if select == "Disabled" {
            return current;
        }
        let within = |changes: &[Change], seconds: i64| -> i32 {
            changes.iter().filter(|past| !remaining(past.at, seconds, now).is_zero()).map(|past| past.replicas).sum()
        };
        let reaches = rules.policies.iter().map(|policy| {
            let start = current - within(&self.ups, policy.period_seconds) + within(&self.downs, policy.period_seconds);
            match (policy.kind.as_str(), up) {
                ("Pods", true) => start.saturating_add(policy.value),
                ("Pods", false) => start.saturating_sub(policy.value),
                (_, true) => share(start, 1.0 + f64::from(policy.value) / 100.0).ceil() as i32,
                (_, false) => share(start, 1.0 - f64::from(policy.value) / 100.0) as i32,
            }
        });
        // The policy that changes least reaches lowest on the way up and highest on the way down.
        if (select == "Min") == up { reaches.min().unwrap_or(i32::MAX) } else { reaches.max().unwrap_or(i32::MIN) }
    }

    /// Notes that it was scaled.
    pub fn scaled(&mut self, behavior: Option<&Behavior>, from: i32, to: i32, now: Timestamp) {
        let Some(behavior) = behavior else { return };
        let (changes, rules) =
            if to > from { (&mut self.ups, &behavior.scale_up) } else { (&mut self.downs, &behavior.scale_down) };
        let longest = rules.policies.iter().map(|policy| policy.period_seconds).max().unwrap_or(0);
        changes.retain(|past| elapsed(past.at, now).as_secs() <= u64::try_from(longest).unwrap_or(0));
        changes.push(Change { replicas: (to - from).abs(), at: now });
    }
}

fn share(start: i32, factor: f64) -> f64 {
    f64::from(start) * factor
}

/// Without a behaviour: at most double (or four), within the bounds.
fn limit(sizes: Sizes) -> (i32, (&'static str, &'static str)) {
    let rate = sizes.current.saturating_mul(2).max(4);
    let (most, why) = if sizes.max > rate { (rate, UP_LIMIT) } else { (sizes.max, TOO_MANY) };
    match sizes.wanted {
        wanted if wanted < sizes.min => (sizes.min, TOO_FEW),
        wanted if wanted > most => (most, why),
        wanted => (wanted, WITHIN),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn ago(seconds: i64) -> Timestamp {
        now().checked_sub(SignedDuration::from_secs(seconds)).unwrap()
    }

    fn decide(history: &mut History, behavior: Value, current: i32, wanted: i32) -> (i32, &'static str, &'static str) {
        let behavior: Option<Behavior> = serde_json::from_value(behavior).unwrap();
        let sizes = Sizes { min: 1, max: 20, current, wanted };
        let decision = history.decide(behavior.as_ref(), sizes, Duration::from_secs(300), now());
        (decision.replicas, decision.able.0, decision.limited.1)
    }

    #[test]
    fn without_a_behaviour() {
        let past = |replicas, seconds| History {
            recommendations: vec![Recommendation { replicas, at: ago(seconds) }],
            ..History::default()
        };
        for (mut history, current, wanted, expected) in [
            (History::default(), 2, 3, (3, "ReadyForNewScale", "DesiredWithinRange")),
            (History::default(), 1, 9, (4, "ReadyForNewScale", "ScaleUpLimit")),
            (History::default(), 12, 30, (20, "ReadyForNewScale", "TooManyReplicas")),
            (History::default(), 3, 0, (1, "ReadyForNewScale", "TooFewReplicas")),
            (past(5, 200), 5, 2, (5, "ScaleDownStabilized", "DesiredWithinRange")),
            (past(5, 301), 5, 2, (2, "ReadyForNewScale", "DesiredWithinRange")),
        ] {
            assert_eq!(decide(&mut history, Value::Null, current, wanted), expected, "{current} to {wanted}");
        }
    }

    #[test]
    fn policies_count_from_the_start_of_their_period() {
        let policy =
            |kind: &str, value: i32, period: i64| json!({"type": kind, "value": value, "periodSeconds": period});
        let both = json!([policy("Pods", 1, 60), policy("Percent", 100, 60)]);
        let up = |rules: Value| json!({"scaleUp": rules, "scaleDown": {"stabilizationWindowSeconds": 0}});
        let down = |rules: Value| json!({"scaleDown": rules});
        let grown = History { ups: vec![Change { replicas: 1, at: ago(30) }], ..History::default() };
        let rows = [
            (History::default(), up(json!({"policies": both})), 4, 20, (8, "ScaleUpLimit")),
            (History::default(), up(json!({"policies": both, "selectPolicy": "Min"})), 4, 20, (5, "ScaleUpLimit")),
            (grown.clone(), up(json!({"policies": [policy("Pods", 1, 60)]})), 5, 9, (5, "ScaleUpLimit")),
            (grown, up(json!({"policies": [policy("Pods", 1, 20)]})), 5, 9, (6, "ScaleUpLimit")),
            (History::default(), up(json!({"selectPolicy": "Disabled"})), 5, 9, (5, "ScaleUpLimit")),
            (History::default(), up(json!({"policies": [policy("Percent", 1, 60)]})), 5, 9, (6, "ScaleUpLimit")),
            (
                History::default(),
                down(json!({"stabilizationWindowSeconds": 0, "policies": both})),
                10,
                1,
                (1, "DesiredWithinRange"),
            ),
            (
                History::default(),
                down(json!({"stabilizationWindowSeconds": 0, "policies": both, "selectPolicy": "Min"})),
                10,
                1,
                (9, "ScaleDownLimit"),
            ),
        ];
        for (mut history, behavior, current, wanted, expected) in rows {
            let (replicas, _, limited) = decide(&mut history, behavior.clone(), current, wanted);
            assert_eq!((replicas, limited), expected, "{behavior}");
        }
        let mut history =
            History { recommendations: vec![Recommendation { replicas: 3, at: ago(10) }], ..History::default() };
        let slow = up(json!({"stabilizationWindowSeconds": 60, "policies": both}));
        assert_eq!(decide(&mut history, slow, 2, 4), (3, "ScaleUpStabilized", "DesiredWithinRange"));
    }
}

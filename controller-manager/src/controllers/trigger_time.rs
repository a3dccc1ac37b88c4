//! When the change happened that endpoints are written for: an annotation by which programming latency is measured.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use apimachinery::time::format_time;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::framework::{Action, Key};
use crate::views::meta::{condition, created};
use crate::views::pod::PodView;
use crate::views::service::ServiceView;

const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What a service's last look saw.
struct Seen {
    service: Timestamp,
    /// When each pod's readiness last changed, by the pod's name.
    pods: HashMap<String, Timestamp>,
}

/// What the last look at each service saw.
#[derive(Default)]
pub struct TriggerTimes(Mutex<HashMap<Key, Seen>>);

impl TriggerTimes {
    /// The earliest change since the last look, which this one then is; the service's creation at the first one.
    pub fn changed(&self, key: &Key, service: &ServiceView, pods: &[Arc<PodView>]) -> Option<Timestamp> {
        let of = |pod: &PodView| Some((pod.metadata.name.clone(), ready_since(pod)?));
        let now = Seen { service: created(&service.metadata), pods: pods.iter().filter_map(|pod| of(pod)).collect() };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = known.get(key) else {
            let at = now.service;
            known.insert(key.clone(), now);
            return Some(at);
        };
        let newer = |(name, at): &(&String, &Timestamp)| before.pods.get(*name).is_none_or(|old| *at > old);
        let changes = now.pods.iter().filter(newer).map(|(_, at)| *at);
        let earliest = changes.chain((now.service > before.service).then_some(now.service)).min();
        known.insert(key.clone(), now);
        earliest
    }

    /// The service is gone.
    pub fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

fn ready_since(pod: &PodView) -> Option<Timestamp> {
    condition(&pod.status.conditions, "Ready")?.last_transition_time.0
}

/// Says in what `action` writes when its cause was; without one, what a former write said goes.
pub fn stamp(action: &mut Action, at: Option<Timestamp>) {
    match (action, at) {
        (Action::Create { body, .. }, Some(at)) => body["metadata"]["annotations"][ANNOTATION] = json!(format_time(at)),
        (Action::Change { change, .. }, at) => {
            change["metadata"]["annotations"][ANNOTATION] = at.map_or(Value::Null, |at| json!(format_time(at)));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_change_since_the_last_look_counts() {
        let service: ServiceView =
            serde_json::from_value(json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}})).unwrap();
        let pod = |name: &str, second: u8| -> Arc<PodView> {
            let at = format!("2026-01-01T00:00:{second:02}Z");
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": at});
            let pod = json!({"metadata": {"name": name}, "status": {"conditions": [ready]}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let times = TriggerTimes::default();
        let key = Key::new("n", "s");
        let look = |pods: &[Arc<PodView>]| times.changed(&key, &service, pods).map(|at| at.as_second() % 60);
        assert_eq!(look(&[pod("a", 1)]), Some(0), "the service's creation");
        assert_eq!(look(&[pod("a", 1)]), None);
        assert_eq!(look(&[pod("a", 9), pod("b", 7), pod("c", 8)]), Some(7));
        times.forget(&key);
        assert_eq!(look(&[]), Some(0));
    }

    #[test]
    fn a_write_without_a_cause_takes_the_old_time_away() {
        let target = crate::framework::Target::of(&client::resources::ENDPOINT_SLICES, &Default::default());
        let mut action = target.change(json!({}));
        stamp(&mut action, Some(Timestamp::UNIX_EPOCH));
        stamp(&mut action, None);
        let Action::Change { change, .. } = action else { panic!("a change") };
        assert_eq!(change, json!({"metadata": {"annotations": {ANNOTATION: null}}}));
    }
}

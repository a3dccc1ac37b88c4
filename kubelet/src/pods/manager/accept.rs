//! Taking pods on: admission, resizes, and what the pods of a QoS class share.

use std::sync::Arc;

use super::{Manager, Slot, relevant_change};
use crate::events::Kind;
use crate::pods::admission;
use crate::pods::preemption;
use crate::pods::resize;
use crate::pods::resources::{Amounts, pod_requests, qos_class};
use crate::pods::types::{Pod, Source, Termination};
use crate::pods::worker::Goal;

impl Manager {
    /// Takes a pod object; a new pod is looked at before it may start.
    pub(super) fn insert(&mut self, pod: Arc<Pod>) {
        let uid = pod.uid().to_owned();
        if let Some(slot) = self.slots.get_mut(&uid) {
            slot.take(pod);
            self.consider(&uid);
            self.share_cpu();
            return;
        }
        let mut slot = Slot::new(Arc::clone(&pod));
        if was_accepted(&pod) {
            slot.desired.pod = resize::as_told(&pod);
        }
        slot.api_uid = (!pod.is_static()).then(|| uid.clone());
        if pod.is_terminal() {
            slot.goal = Goal::Stop;
            slot.desired.termination =
                Some(Termination { grace_seconds: pod.grace_seconds(), ..Termination::default() });
        } else if !pod.deletion_requested()
            && !was_accepted(&pod)
            && let Err((reason, message)) = self.admit(&pod)
        {
            self.parts.context.events.pod(&pod, Kind::Warning, &reason, &message);
            slot.goal = Goal::Stop;
            slot.desired.termination = Some(Termination { failed: Some((reason, message)), ..Termination::default() });
        }
        self.slots.insert(uid.clone(), slot);
        self.consider(&uid);
        self.share_cpu();
    }

    /// Gives a running pod what it asks for by now, or notes why not.
    fn consider(&mut self, uid: &str) {
        let Some(slot) = self.slots.get(uid).filter(|s| s.goal == Goal::Run && s.asked.source == Source::Api) else {
            return;
        };
        let asked = Arc::clone(&slot.asked);
        let refused = if slot.desired.pod.spec == asked.spec {
            None
        } else {
            let others = self.slots.values().filter(|s| s.goal == Goal::Run && s.asked.uid() != uid);
            resize::consider(&asked, others.map(|s| &*s.desired.pod), &self.parts.node.borrow().allocatable)
        };
        let Some(slot) = self.slots.get_mut(uid) else { return };
        let event = match &refused {
            Some(r) if slot.desired.refused.as_ref() != Some(r) => {
                let reason = if r.reason == "Deferred" { "ResizeDeferred" } else { "ResizeInfeasible" };
                Some((Kind::Warning, reason, resize::summary(&asked, r.reason, &r.message)))
            }
            None if slot.desired.pod.spec != asked.spec => {
                slot.desired.pod = Arc::clone(&asked);
                Some((Kind::Normal, "ResizeStarted", resize::summary(&asked, "started", "")))
            }
            _ => None,
        };
        let changed = slot.desired.refused != refused || event.is_some();
        slot.desired.refused = refused;
        if let Some((kind, reason, text)) = event {
            self.parts.context.events.pod(&asked, kind, reason, &text);
        }
        if changed {
            self.wake(uid);
        }
    }

    /// Looks again at pods that wait for room.
    pub(super) fn reconsider(&mut self) {
        let waiting = self.slots.iter().filter(|(_, s)| s.desired.refused.is_some());
        for uid in waiting.map(|(uid, _)| uid.clone()).collect::<Vec<_>>() {
            self.consider(&uid);
        }
    }

    fn admit(&mut self, pod: &Pod) -> Result<(), admission::Refusal> {
        let node = self.parts.node.borrow().clone();
        let labels_known = !node.labels.is_empty();
        admission::under_pressure(pod, *self.parts.pressure.borrow())?;
        let running = || self.slots.values().filter(|s| s.goal == Goal::Run).map(|s| &s.desired.pod);
        let others = running().map(|pod| &**pod);
        match admission::admit(pod, others.clone(), &node, labels_known) {
            Err((reason, _)) if reason.starts_with("OutOf") && pod.is_critical() => {
                let lacking = admission::shortage(pod, others, &node.allocatable);
                let victims = preemption::victims(pod, running(), &lacking);
                self.preempt(victims.ok_or_else(|| no_victims(&lacking))?);
                Ok(())
            }
            other => other,
        }
    }

    /// Ends pods in favour of a critical one.
    fn preempt(&mut self, victims: Vec<Arc<Pod>>) {
        const REASON: &str = "Preempting";
        const MESSAGE: &str = "Preempted in order to admit critical pod";
        const CONDITION: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";
        for victim in victims {
            self.parts.context.events.pod(&victim, Kind::Warning, REASON, MESSAGE);
            let termination = Termination {
                grace_seconds: victim.grace_seconds(),
                failed: Some((REASON.into(), MESSAGE.into())),
                disruption: Some(("TerminationByKubelet".into(), CONDITION.into())),
            };
            self.terminate(victim.uid(), termination);
        }
    }

    /// Gives the burstable pods together what they ask for by now.
    pub(super) fn share_cpu(&mut self) {
        let running = self.slots.values().filter(|s| s.goal == Goal::Run).map(|s| &s.desired.pod.spec);
        let burstable = running.filter(|spec| qos_class(spec) == "Burstable");
        let milli = burstable.map(|spec| pod_requests(spec).get("cpu").copied().unwrap_or(0)).sum();
        if milli == self.burstable_milli {
            return;
        }
        match self.parts.context.cgroups.share_cpu(milli) {
            Ok(()) => self.burstable_milli = milli,
            Err(error) => tracing::warn!(%error, "Cannot share CPU out among the QoS classes"),
        }
    }
}

impl Slot {
    /// Takes a newer object of its pod. A goal that was reached stays reached when nothing changed that a pass would look
    /// at: no pass follows then, so nothing else would say it again.
    fn take(&mut self, pod: Arc<Pod>) {
        self.reached &= !relevant_change(&self.asked, &pod);
        self.desired.pod = resize::with_resources_of(&pod, &self.desired.pod);
        self.asked = pod;
    }
}

fn no_victims(lacking: &Amounts) -> admission::Refusal {
    let list: String = lacking.iter().map(|(name, amount)| format!("(res: {name}, q: {amount}), ")).collect();
    let message = format!(
        "Pod was rejected: Unexpected error while attempting to recover from admission failure: preemption: error finding \
         a set of pods to preempt: no set of running pods found to reclaim resources: [{list}]"
    );
    ("UnexpectedAdmissionError".to_owned(), message)
}

/// A pod that already ran here was accepted by an earlier life of the kubelet.
fn was_accepted(pod: &Pod) -> bool {
    let statuses = [&pod.status.container_statuses, &pod.status.init_container_statuses];
    statuses.into_iter().flatten().flatten().any(|s| s.container_id.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::types::tests::pod;
    use serde_json::json;

    /// The echo of the status that was written last must not hide that nothing of the pod runs any more: its deletion
    /// would wait for ever.
    #[test]
    fn an_echo_of_the_status_leaves_the_goal_reached() {
        let object = |generation: i64, phase: &str| {
            let metadata = json!({"name": "p", "uid": "u", "generation": generation});
            Arc::new(pod(json!({"metadata": metadata, "spec": {"containers": []}, "status": {"phase": phase}})))
        };
        let mut slot = Slot::new(object(1, "Succeeded"));
        slot.reached = true;
        let mut echo = object(1, "Succeeded");
        Arc::make_mut(&mut echo).status.observed_generation = Some(1);
        slot.take(echo);
        assert!(slot.reached);
        slot.take(object(2, "Succeeded"));
        assert!(!slot.reached, "a change of the pod needs another pass");
    }
}

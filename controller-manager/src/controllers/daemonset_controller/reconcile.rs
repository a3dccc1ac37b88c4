//! One step of a daemon set, purely: which nodes need a pod, which pods must go, how far a rolling update may go now, and
//! what to say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::placement::{Placement, place, tolerations};
use crate::controllers::history::HASH_LABEL;
use crate::controllers::pod_template::pod_from_template;
use crate::framework::Subject;
use crate::views::meta::{created, is_deleting, to_value};
use crate::views::node::NodeView;
use crate::views::pod::PodView;
use crate::views::workloads::{DaemonSetStatus, DaemonSetView};

/// On daemon sets, pods (as a label) and revisions: the number of the template, as older versions counted.
pub const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";

/// What a daemon set's next step depends on.
pub struct Snapshot<'a> {
    /// The set.
    pub set: &'a DaemonSetView,
    /// All nodes.
    pub nodes: &'a [Arc<NodeView>],
    /// The pods that belong to it.
    pub pods: &'a [Arc<PodView>],
    /// The hash of the present template.
    pub hash: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// What to make and delete.
#[derive(Debug, Default)]
pub struct Changes {
    /// Nodes that need a pod.
    pub create_on: Vec<String>,
    /// Pods that must go.
    pub delete: Vec<Arc<PodView>>,
    /// Ended pods among them: (reason of the event, pod).
    pub ended: Vec<(&'static str, Arc<PodView>)>,
}

type ByNode = BTreeMap<String, Vec<Arc<PodView>>>;

impl Snapshot<'_> {
    fn by_node(&self) -> ByNode {
        let mut by_node = ByNode::new();
        // An ended pod that is being deleted only waits for its finalizers.
        for pod in self.pods.iter().filter(|pod| !(pod.is_terminal() && is_deleting(&pod.metadata))) {
            by_node.entry(pod.target_node().to_owned()).or_default().push(Arc::clone(pod));
        }
        for pods in by_node.values_mut() {
            // Bound before unbound, then oldest first.
            pods.sort_by_key(|pod| (pod.spec.node_name.is_empty(), created(&pod.metadata), pod.metadata.name.clone()));
        }
        by_node
    }

    fn is_new(&self, pod: &PodView) -> bool {
        let label = |name: &str| pod.metadata.labels.get(name).map(String::as_str);
        let generation = self.set.metadata.annotations.get(GENERATION).map(String::as_str);
        label(HASH_LABEL) == Some(self.hash) || (generation.is_some() && label(GENERATION_LABEL) == generation)
    }

    fn is_available(&self, pod: &PodView) -> bool {
        pod.is_available(self.set.spec.min_ready_seconds, self.now)
    }

    /// (surge, unavailable) as numbers of the nodes that should run a pod.
    fn limits(&self) -> (i32, i32) {
        let desired = self.nodes.iter().filter(|node| place(node, &self.set.spec.template).run).count();
        let desired = crate::views::meta::count(desired);
        let rolling = self.set.spec.update_strategy.rolling_update.as_ref();
        let scaled = |value: Option<&apimachinery::int_or_string::IntOrString>| {
            value.and_then(|value| value.scaled(desired, true)).unwrap_or(0)
        };
        let surge = scaled(rolling.and_then(|rolling| rolling.max_surge.as_ref()));
        let unavailable = scaled(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()));
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    fn surges(&self) -> bool {
        self.set.spec.update_strategy.kind == "RollingUpdate" && self.limits().0 > 0
    }
}

/// Nodes that lack a pod, and pods that are where none belongs, or one too many.
pub fn manage(snapshot: &Snapshot<'_>) -> Changes {
    let by_node = snapshot.by_node();
    let surges = snapshot.surges();
    let mut changes = Changes::default();
    for node in snapshot.nodes {
        let pods = by_node.get(&node.metadata.name).map(Vec::as_slice).unwrap_or_default();
        manage_node(
            snapshot,
            place(node, &snapshot.set.spec.template),
            &node.metadata.name,
            pods,
            surges,
            &mut changes,
        );
    }
    // Not yet bound, and meant for a node that is gone. Bound ones are the pod garbage collector's.
    for (name, pods) in &by_node {
        if !snapshot.nodes.iter().any(|node| node.metadata.name == *name) {
            let unbound = |pod: &&Arc<PodView>| pod.spec.node_name.is_empty() && !is_deleting(&pod.metadata);
            changes.delete.extend(pods.iter().filter(unbound).cloned());
        }
    }
    changes
}

fn manage_node(
    snapshot: &Snapshot<'_>,
    placement: Placement,
    node: &str,
    pods: &[Arc<PodView>],
    surges: bool,
    changes: &mut Changes,
) {
    if placement.run && pods.is_empty() {
        return changes.create_on.push(node.to_owned());
    }
    let live = pods.iter().filter(|pod| !is_deleting(&pod.metadata));
    if !placement.stay {
        return changes.delete.extend(live.cloned());
    }
    let mut running: Vec<&Arc<PodView>> = Vec::new();
    for pod in live {
        match pod.status.phase.as_str() {
            "Failed" => changes.ended.push(("FailedDaemonPod", Arc::clone(pod))),
            "Succeeded" => changes.ended.push(("SucceededDaemonPod", Arc::clone(pod))),
            _ => running.push(pod),
        }
    }
    if !surges {
        return changes.delete.extend(running.into_iter().skip(1).cloned());
    }
    if running.is_empty() && placement.run {
        return changes.create_on.push(node.to_owned());
    }
    let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| snapshot.is_new(pod));
    changes.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)).map(|pod| Arc::clone(pod)));
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!old.is_ready() || snapshot.is_available(new))
    {
        changes.delete.push(Arc::clone(old));
    }
}

/// How far a rolling update may go now.
pub fn roll(snapshot: &Snapshot<'_>) -> Changes {
    let (surge, unavailable) = snapshot.limits();
    let mut rolling = Rolling::new(snapshot);
    for (node, pods) in snapshot.by_node() {
        let live = pods.iter().filter(|pod| !is_deleting(&pod.metadata));
        let (new, old): (Vec<_>, Vec<_>) = live.cloned().partition(|pod| snapshot.is_new(pod));
        if new.len() > 1 || old.len() > 1 {
            // Not settled yet; `manage` is at it.
            rolling.busy += 1;
        } else if surge > 0 {
            rolling.surge_on(&node, new.into_iter().next(), old.into_iter().next(), surge);
        } else {
            rolling.replace(new.into_iter().next(), old.into_iter().next(), &node);
        }
    }
    rolling.leave_forsaken_nodes();
    let allowed = if surge > 0 { surge } else { unavailable };
    let more = usize::try_from(allowed - rolling.busy).unwrap_or(0);
    let chosen = rolling.at_once.into_iter().chain(rolling.candidates.into_iter().take(more));
    let mut changes = Changes { delete: rolling.delete, ..Changes::default() };
    for (node, pod) in chosen {
        match (surge > 0, pod) {
            (false, Some(pod)) => changes.delete.push(pod),
            _ => changes.create_on.push(node),
        }
    }
    changes
}

struct Rolling<'a> {
    snapshot: &'a Snapshot<'a>,
    /// The nodes where a pod should run.
    wanted_on: BTreeSet<&'a str>,
    busy: i32,
    /// Nodes with a pod that serves.
    serving: usize,
    at_once: Vec<(String, Option<Arc<PodView>>)>,
    candidates: Vec<(String, Option<Arc<PodView>>)>,
    delete: Vec<Arc<PodView>>,
    /// Pods that serve where none should be.
    forsaken: Vec<Arc<PodView>>,
}

impl<'a> Rolling<'a> {
    fn new(snapshot: &'a Snapshot<'a>) -> Self {
        let wanted = snapshot.nodes.iter().filter(|node| place(node, &snapshot.set.spec.template).run);
        Self {
            snapshot,
            wanted_on: wanted.map(|node| node.metadata.name.as_str()).collect(),
            busy: 0,
            serving: 0,
            at_once: Vec::new(),
            candidates: Vec::new(),
            delete: Vec::new(),
            forsaken: Vec::new(),
        }
    }

    /// Pods where none should be go once as many serve elsewhere.
    fn leave_forsaken_nodes(&mut self) {
        let spare = self.serving.saturating_sub(self.wanted_on.len());
        self.delete.extend(self.forsaken.drain(..).take(spare));
    }

    /// Without surge the old pod goes first; what does not serve may go at once.
    fn replace(&mut self, new: Option<Arc<PodView>>, old: Option<Arc<PodView>>, node: &str) {
        match (new, old) {
            (None, None) | (Some(_), Some(_)) => self.busy += 1,
            (Some(new), None) => self.busy += i32::from(!self.snapshot.is_available(&new)),
            (None, Some(old)) if !self.snapshot.is_available(&old) => {
                self.busy += 1;
                self.at_once.push((node.to_owned(), Some(old)));
            }
            (None, Some(old)) => self.candidates.push((node.to_owned(), Some(old))),
        }
    }

    /// With surge the new pod comes first, and the old one goes when the new one serves.
    fn surge_on(&mut self, node: &str, new: Option<Arc<PodView>>, old: Option<Arc<PodView>>, surge: i32) {
        let serves = |pod: &Arc<PodView>| self.snapshot.is_available(pod);
        self.serving += usize::from(old.as_ref().or(new.as_ref()).is_some_and(serves));
        let wanted = self.wanted_on.contains(node);
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) if !wanted && serves(&old) => self.forsaken.push(old),
            (None, Some(old)) if !wanted => self.delete.push(old),
            (None, Some(old)) if !serves(&old) => self.at_once.push((node.to_owned(), None)),
            (None, Some(_)) if self.busy < surge => self.candidates.push((node.to_owned(), None)),
            (None, Some(_)) => {}
            (Some(new), Some(old)) if serves(&new) => self.delete.push(old),
            (Some(_), Some(_)) => self.busy += 1,
        }
    }
}

/// The pod for one node.
pub fn pod_for(set: &DaemonSetView, subject: &Subject, hash: &str, node: &str) -> Value {
    let mut pod = pod_from_template(&set.spec.template, subject);
    pod["metadata"]["labels"][HASH_LABEL] = json!(hash);
    if let Some(generation) = set.metadata.annotations.get(GENERATION) {
        pod["metadata"]["labels"][GENERATION_LABEL] = json!(generation);
    }
    pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}],
    });
    pod["spec"]["tolerations"] = Value::Array(tolerations(&pod["spec"]));
    pod
}

/// The status to write; None when it is what is stored. The generation counts as seen only when the step acted on it.
pub fn status_change(snapshot: &Snapshot<'_>, acted: bool) -> Option<Value> {
    let by_node = snapshot.by_node();
    let stored = &snapshot.set.status;
    let mut status = DaemonSetStatus {
        observed_generation: if acted { snapshot.set.metadata.generation } else { stored.observed_generation },
        collision_count: stored.collision_count,
        ..DaemonSetStatus::default()
    };
    for node in snapshot.nodes {
        let pods = by_node.get(&node.metadata.name).map(Vec::as_slice).unwrap_or_default();
        if !place(node, &snapshot.set.spec.template).run {
            status.number_misscheduled += i32::from(!pods.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = pods.first() else { continue };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(pod.is_ready());
        status.number_available += i32::from(snapshot.is_available(pod));
        status.updated_number_scheduled += i32::from(snapshot.is_new(pod));
    }
    status.number_unavailable = status.desired_number_scheduled - status.number_available;
    (status != *stored).then(|| {
        json!({"status": {
            "observedGeneration": status.observed_generation,
            "currentNumberScheduled": status.current_number_scheduled,
            "numberMisscheduled": status.number_misscheduled,
            "desiredNumberScheduled": status.desired_number_scheduled,
            "numberReady": status.number_ready,
            "updatedNumberScheduled": status.updated_number_scheduled,
            "numberAvailable": status.number_available,
            "numberUnavailable": status.number_unavailable,
        }})
    })
}

/// The annotations of a new revision.
pub fn revision_annotations(set: &DaemonSetView) -> Value {
    let generation = set.metadata.annotations.get(GENERATION);
    generation.map_or(json!({}), |generation| json!({GENERATION: to_value(generation)}))
}

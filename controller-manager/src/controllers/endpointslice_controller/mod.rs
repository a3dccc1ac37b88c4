//! `endpointslice-controller`: keeps the EndpointSlices of services that select pods.

pub mod hints;
pub mod reconcile;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use client::informer::Delta;

use self::reconcile::{MANAGER, slice_labels, wanted};
use super::slices::{Family, Pace, PortGroup, managed_by, plan};
use super::trigger_time::{TriggerTimes, stamp};
use crate::framework::Action;
use crate::framework::{
    Controller, EventKind, Executor, Expectations, Key, Plan, Queue, Setup, Store, Subject, SyncError, SyncResult, View,
};
use crate::views::discovery::{BY_SERVICE, EndpointSliceView, SERVICE_NAME};
use crate::views::meta::is_deleting;
use crate::views::node::NodeView;
use crate::views::pod::{self, PodView};
use crate::views::service::{self, ServiceView};

/// Registers `endpointslice-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("endpoint_slice");
    let services = setup.stores.of::<ServiceView>();
    let pods = setup.stores.of::<PodView>();
    let nodes = setup.stores.of::<NodeView>();
    let slices = setup.stores.of::<EndpointSliceView>();
    let expectations = Arc::new(Expectations::default());
    services.wakes(&queue);
    watch_pods_of_services(&services, &pods, &queue, setup.config.endpointslice_batch_period);
    watch_slices(&slices, &queue, &expectations, MANAGER);
    watch_nodes(&services, &nodes, &queue);
    let executor = setup.executor("endpointslice-controller");
    let max_endpoints = setup.config.max_endpoints_per_slice;
    let workers = setup.config.concurrent.service_endpoint;
    let (triggers, pace) = (TriggerTimes::default(), Pace::default());
    let controller = Slices { services, pods, nodes, slices, expectations, triggers, pace, executor, max_endpoints };
    setup.workers(queue, workers, controller);
}

/// Pods lead to the services that select them, before and after the change. A batch period collects changes.
pub fn watch_pods_of_services(
    services: &Store<ServiceView>,
    pods: &Store<PodView>,
    queue: &Queue,
    batch_period: std::time::Duration,
) {
    let (services, queue) = (services.clone(), queue.clone());
    pods.on(move |delta| {
        let (old, new) = match delta {
            Delta::Added(new) | Delta::Deleted(new) => (new, new),
            Delta::Updated { old, new } => (old, new),
        };
        if matches!(delta, Delta::Updated { .. }) && !matters(old, new) {
            return;
        }
        for service in services.by_index(service::BY_NAMESPACE, &new.metadata.namespace) {
            let selector = &service.spec.selector;
            let selects = |pod: &PodView| !selector.is_absent() && selector.matches(&pod.metadata.labels);
            if selects(old) || selects(new) {
                queue.add_after(Key::of(&service.metadata), batch_period);
            }
        }
    });
}

/// Whether the change of a pod can change endpoints.
fn matters(old: &PodView, new: &PodView) -> bool {
    let addresses = |pod: &PodView| pod.status.pod_ips.iter().map(|address| address.ip.clone()).collect::<Vec<_>>();
    old.metadata.labels != new.metadata.labels
        || old.spec.node_name != new.spec.node_name
        || (&old.spec.hostname, &old.spec.subdomain) != (&new.spec.hostname, &new.spec.subdomain)
        || is_deleting(&old.metadata) != is_deleting(&new.metadata)
        || old.is_ready() != new.is_ready()
        || old.is_terminal() != new.is_terminal()
        || addresses(old) != addresses(new)
}

/// Slices that somebody else changed or removed are put right again.
pub fn watch_slices(
    slices: &Store<EndpointSliceView>,
    queue: &Queue,
    expectations: &Arc<Expectations>,
    manager: &'static str,
) {
    let (queue, expectations) = (queue.clone(), Arc::clone(expectations));
    slices.on(move |delta| {
        let slice = delta.object();
        let before = match delta {
            Delta::Updated { old, .. } => old,
            Delta::Added(_) | Delta::Deleted(_) => slice,
        };
        if !managed_by(slice, manager) && !managed_by(before, manager) {
            return;
        }
        for name in [before, slice].iter().filter_map(|slice| slice.metadata.labels.get(SERVICE_NAME)) {
            let key = Key::new(slice.metadata.namespace.as_str(), name.as_str());
            match delta {
                Delta::Added(_) => expectations.creation_observed(&key),
                Delta::Deleted(_) => expectations.deletion_observed(&key, &slice.metadata.uid),
                Delta::Updated { .. } => {}
            }
            queue.add(key);
            if matches!(delta, Delta::Added(_) | Delta::Deleted(_)) {
                break;
            }
        }
    });
}

/// A node's arrival brings the endpoints of pods on it; any other change matters to hints only. Endpoints that are
/// there keep their zone, as upstream's do.
fn watch_nodes(services: &Store<ServiceView>, nodes: &Store<NodeView>, queue: &Queue) {
    let (services, queue) = (services.clone(), queue.clone());
    nodes.on(move |delta| {
        let zone = |node: &NodeView| node.metadata.labels.get("topology.kubernetes.io/zone").cloned();
        let same = |same: bool| matches!(delta, Delta::Updated { .. }) && same;
        let (old, new) = match delta {
            Delta::Updated { old, new } => (old, new),
            Delta::Added(node) | Delta::Deleted(node) => (node, node),
        };
        if same(zone(old) == zone(new) && hints::contribution(old) == hints::contribution(new)) {
            return;
        }
        let everywhere = matches!(delta, Delta::Added(_));
        for service in services.list().iter().filter(|service| everywhere || hints::is_wanted(service)) {
            queue.add(Key::of(&service.metadata));
        }
    });
}

struct Slices {
    services: Store<ServiceView>,
    pods: Store<PodView>,
    nodes: Store<NodeView>,
    slices: Store<EndpointSliceView>,
    expectations: Arc<Expectations>,
    triggers: TriggerTimes,
    pace: Pace,
    executor: Executor,
    max_endpoints: usize,
}

impl Controller for Slices {
    async fn sync(&self, key: &Key) -> SyncResult {
        // Slices of a service that is gone go with it: they are owned by it.
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            self.triggers.forget(key);
            return Ok(None);
        };
        if service.spec.selector.is_absent() || is_deleting(&service.metadata) || !self.expectations.satisfied(key) {
            return Ok(None);
        }
        let began = Instant::now();
        if let Some(rest) = self.pace.rest(key, began) {
            return Ok(Some(rest));
        }
        let mut pods = self.pods.by_index(pod::BY_NAMESPACE, &key.namespace);
        pods.retain(|pod| service.spec.selector.matches(&pod.metadata.labels));
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let (mut groups, missing_nodes) = wanted(&service, &pods, |name| self.nodes.get("", name));
        let mut existing = self.slices.by_index(BY_SERVICE, &key.to_string());
        existing.retain(|slice| managed_by(slice, MANAGER) && !is_deleting(&slice.metadata));
        let owner = service.subject();
        self.share_out(&service, &owner, &mut groups, &existing);
        let family =
            Family { owner, labels: slice_labels(&service), annotations: None, max_endpoints: self.max_endpoints };
        let mut actions = plan(&family, groups, &existing);
        let cause = self.triggers.changed(key, &service, &pods);
        actions.iter_mut().for_each(|action| stamp(action, cause));
        if !actions.is_empty() {
            self.pace.wrote(key, actions.len(), began);
        }
        run_expected(&self.executor, &self.expectations, key, actions).await?;
        match missing_nodes.first() {
            None => Ok(None),
            Some(node) => Err(SyncError::Waiting(format!("node {node} of a pod of service {key} does not exist yet"))),
        }
    }
}

impl Slices {
    /// Gives endpoints zones by the service's topology mode, and tells when that begins, ends or is impossible.
    fn share_out(
        &self,
        service: &ServiceView,
        about: &Subject,
        groups: &mut [PortGroup],
        existing: &[Arc<EndpointSliceView>],
    ) {
        let disabled = |why: &str| self.executor.event(about, EventKind::Warning, "TopologyAwareHintsDisabled", why);
        let hinted = |family: &str| {
            let mut endpoints =
                existing.iter().filter(|slice| slice.address_type == family).flat_map(|slice| &slice.endpoints);
            endpoints.any(|endpoint| endpoint.hints.is_some())
        };
        if !hints::is_wanted(service) {
            if service.spec.traffic_distribution.is_none() && (hinted("IPv4") || hinted("IPv6")) {
                disabled("Topology Aware Hints has been disabled");
            }
            return;
        }
        let shares = hints::shares(&self.nodes.list());
        for groups in groups.chunk_by_mut(|a, b| a.address_type == b.address_type) {
            let family = groups[0].address_type.clone();
            match hints::assign(groups, shares.as_ref().map_err(|why| *why)) {
                Err(why) => disabled(&format!("{why}, addressType: {family}")),
                Ok(()) if hinted(&family) => {}
                Ok(()) => {
                    let note = format!("Topology Aware Hints has been enabled, addressType: {family}");
                    self.executor.event(about, EventKind::Normal, "TopologyAwareHintsEnabled", note);
                }
            }
        }
    }
}

/// Runs slice writes so that the next step waits until the cache shows them.
pub async fn run_expected(
    executor: &Executor,
    expectations: &Expectations,
    key: &Key,
    actions: Vec<Action>,
) -> Result<(), SyncError> {
    let creations = actions.iter().filter(|action| matches!(action, Action::Create { .. })).count();
    let deletions = actions.iter().filter_map(|action| match action {
        Action::Delete { uid, .. } => Some(uid.clone()),
        _ => None,
    });
    if actions.is_empty() {
        return Ok(());
    }
    expectations.expect(key, creations, deletions);
    let result = executor.run(Plan { actions, again_after: None }).await;
    if result.is_err() {
        expectations.forget(key);
    }
    result
}

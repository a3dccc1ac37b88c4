//! `endpoints-controller`: keeps the classic Endpoints of services that select pods.

pub mod reconcile;

use client::informer::Delta;
use futures::future::BoxFuture;

use self::reconcile::{MANAGED_BY, MANAGER, reconcile};
use super::endpointslice_controller::watch_pods_of_services;
use crate::framework::{Action, Controller, Executor, Key, Setup, Store, SyncResult, Target, View};
use crate::views::meta::is_deleting;
use crate::views::pod::{self, PodView};
use crate::views::service::{EndpointsView, ServiceView};

/// Registers `endpoints-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("endpoint");
    let services = setup.stores.of::<ServiceView>();
    let pods = setup.stores.of::<PodView>();
    let endpoints = setup.stores.of::<EndpointsView>();
    let wake = queue.clone();
    services.on(move |delta| wake.add(Key::of(&delta.object().metadata)));
    watch_pods_of_services(&services, &pods, &queue, setup.config.endpoints_batch_period);
    let wake = queue.clone();
    endpoints.on(move |delta| {
        // Only what was kept here is put right when it is removed; leftovers are looked at once, at the start.
        if matches!(delta, Delta::Deleted(_) | Delta::Added(_)) {
            wake.add(Key::of(&delta.object().metadata));
        }
    });
    let executor = setup.executor("endpoint-controller");
    let workers = setup.config.concurrent.endpoint;
    setup.workers(queue, workers, EndpointsOf { services, pods, endpoints, executor });
}

struct EndpointsOf {
    services: Store<ServiceView>,
    pods: Store<PodView>,
    endpoints: Store<EndpointsView>,
    executor: Executor,
}

impl EndpointsOf {
    async fn step(&self, key: &Key) -> SyncResult {
        let current = self.endpoints.get(&key.namespace, &key.name);
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            // A service's Endpoints have no owner reference: they go with it here. Those of others are left alone.
            if let Some(current) =
                current.filter(|current| current.metadata.labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER))
            {
                let target = Target::of(&EndpointsView::RESOURCE, &current.metadata);
                let uid = current.metadata.uid.clone();
                let delete = Action::Delete { target, uid, grace_period_seconds: None, propagation: None };
                self.executor.apply(delete).await?;
            }
            return Ok(None);
        };
        if service.spec.selector.is_absent() || is_deleting(&service.metadata) {
            return Ok(None);
        }
        let mut pods = self.pods.by_index(pod::BY_NAMESPACE, &key.namespace);
        pods.retain(|pod| service.spec.selector.matches(&pod.metadata.labels));
        if let Some(action) = reconcile(&service, &pods, current.as_deref()) {
            match self.executor.apply(action).await {
                Err(error) if error.is_namespace_terminating() => {}
                result => result?,
            }
        }
        Ok(None)
    }
}

impl Controller for EndpointsOf {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.step(key))
    }
}

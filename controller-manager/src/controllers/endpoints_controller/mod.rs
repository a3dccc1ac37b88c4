//! `endpoints-controller`: keeps the classic Endpoints of services that select pods.

pub mod reconcile;

use std::time::Instant;

use client::informer::Delta;

use self::reconcile::{MANAGED_BY, MANAGER, reconcile};
use super::endpointslice_controller::watch_pods_of_services;
use super::slices::Pace;
use super::trigger_time::{TriggerTimes, stamp};
use crate::framework::{Controller, Executor, Key, Setup, Store, SyncResult, View};
use crate::views::meta::is_deleting;
use crate::views::pod::{self, PodView};
use crate::views::service::{EndpointsView, ServiceView};

/// Registers `endpoints-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("endpoint");
    let services = setup.stores.of::<ServiceView>();
    let pods = setup.stores.of::<PodView>();
    let endpoints = setup.stores.of::<EndpointsView>();
    services.wakes(&queue);
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
    setup.workers(
        queue,
        workers,
        EndpointsOf { services, pods, endpoints, triggers: TriggerTimes::default(), pace: Pace::default(), executor },
    );
}

struct EndpointsOf {
    services: Store<ServiceView>,
    pods: Store<PodView>,
    endpoints: Store<EndpointsView>,
    triggers: TriggerTimes,
    pace: Pace,
    executor: Executor,
}

/// Endpoints of so many addresses rest as long as a slice.
const ADDRESSES_PER_REST: usize = 100;

impl Controller for EndpointsOf {
    async fn sync(&self, key: &Key) -> SyncResult {
        let current = self.endpoints.get(&key.namespace, &key.name);
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            self.triggers.forget(key);
            // A service's Endpoints have no owner reference: they go with it here. Those of others are left alone.
            if let Some(current) =
                current.filter(|current| current.metadata.labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER))
            {
                self.executor.apply(current.target().delete(&current.metadata.uid)).await?;
            }
            return Ok(None);
        };
        if service.spec.selector.is_absent() || is_deleting(&service.metadata) {
            return Ok(None);
        }
        let began = Instant::now();
        if let Some(rest) = self.pace.rest(key, began) {
            return Ok(Some(rest));
        }
        let mut pods = self.pods.by_index(pod::BY_NAMESPACE, &key.namespace);
        pods.retain(|pod| service.spec.selector.matches(&pod.metadata.labels));
        let cause = self.triggers.changed(key, &service, &pods);
        if let Some(mut action) = reconcile(&service, &pods, current.as_deref()) {
            stamp(&mut action, cause);
            self.pace.wrote(key, 1 + pods.len() / ADDRESSES_PER_REST, began);
            match self.executor.apply(action).await {
                Err(error) if error.is_namespace_terminating() => {}
                result => result?,
            }
        }
        Ok(None)
    }
}

//! `endpointslice-mirroring-controller`: EndpointSlices for Endpoints that somebody keeps by hand, for services without a
//! selector. Addresses with the same ports make one slice, of at most `--mirroring-max-endpoints-per-subset` addresses; that
//! others are left out is said in an event.

use std::sync::Arc;

use super::endpointslice_controller::{run_expected, watch_slices};
use super::slices::{Family, PortGroup, deletion, managed_by, plan};
use crate::framework::{Action, Controller, EventKind, Executor, Expectations, Key, Setup, Store, SyncResult, View};
use crate::views::discovery::{BY_SERVICE, Endpoint, EndpointConditions, EndpointSliceView, MANAGED_BY, SERVICE_NAME};
use crate::views::meta::is_deleting;
use crate::views::service::{EndpointAddress, EndpointPort, EndpointsView, ServiceView};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that describe the Endpoints object itself.
const NOT_COPIED: &[&str] =
    &["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];

/// Registers `endpointslice-mirroring-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("endpoint_slice_mirroring");
    let services = setup.stores.of::<ServiceView>();
    let endpoints = setup.stores.of::<EndpointsView>();
    let slices = setup.stores.of::<EndpointSliceView>();
    let expectations = Arc::new(Expectations::default());
    services.wakes(&queue);
    let (wake, period) = (queue.clone(), setup.config.mirroring_batch_period);
    endpoints.on(move |delta| wake.add_after(Key::of(&delta.object().metadata), period));
    watch_slices(&slices, &queue, &expectations, MANAGER);
    let executor = setup.executor("endpointslicemirroring-controller");
    let max_endpoints = setup.config.mirroring_max_endpoints;
    let workers = setup.config.concurrent.mirroring;
    setup.workers(queue, workers, Mirroring { services, endpoints, slices, expectations, executor, max_endpoints });
}

/// Whether the Endpoints are to be mirrored for this service.
pub fn is_mirrored(endpoints: &EndpointsView, service: &ServiceView) -> bool {
    service.spec.selector.is_absent()
        && endpoints.metadata.labels.get(SKIP).is_none_or(|skip| skip != "true")
        && !endpoints.metadata.annotations.contains_key(LEADER)
        && !is_deleting(&endpoints.metadata)
}

/// What the slices are to hold: one group per ports and family, at most `max_endpoints` addresses in it; and how many
/// addresses that leaves out.
pub fn wanted(endpoints: &EndpointsView, max_endpoints: usize) -> (Vec<PortGroup>, usize) {
    let (mut groups, mut skipped) = (Vec::<PortGroup>::new(), 0);
    for subset in &endpoints.subsets {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .map(|port| EndpointPort { name: Some(port.name.clone().unwrap_or_default()), ..port.clone() })
            .collect();
        let ready = subset.addresses.iter().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().map(|address| (address, false));
        skipped += (subset.addresses.len() + subset.not_ready_addresses.len()).saturating_sub(max_endpoints);
        for (address, ready) in ready.chain(not_ready).take(max_endpoints) {
            let family = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            let endpoint = endpoint(address, ready);
            match groups.iter_mut().find(|group| group.address_type == family && group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(PortGroup {
                    address_type: family.to_owned(),
                    ports: ports.clone(),
                    endpoints: vec![endpoint],
                }),
            }
        }
    }
    // Upstream takes subsets of the same ports for one.
    for group in &mut groups {
        skipped += group.endpoints.len().saturating_sub(max_endpoints);
        group.endpoints.truncate(max_endpoints);
    }
    (groups, skipped)
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: EndpointConditions { ready: Some(ready), ..EndpointConditions::default() },
        hostname: (!address.hostname.is_empty()).then(|| address.hostname.clone()),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        ..Endpoint::default()
    }
}

fn family(endpoints: &EndpointsView, max_endpoints: usize) -> Family {
    let mut labels = endpoints.metadata.labels.clone();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.metadata.name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone();
    annotations.retain(|name, _| !NOT_COPIED.contains(&name.as_str()));
    Family { owner: endpoints.subject(), labels, annotations: Some(annotations), max_endpoints }
}

struct Mirroring {
    services: Store<ServiceView>,
    endpoints: Store<EndpointsView>,
    slices: Store<EndpointSliceView>,
    expectations: Arc<Expectations>,
    executor: Executor,
    max_endpoints: usize,
}

impl Controller for Mirroring {
    async fn sync(&self, key: &Key) -> SyncResult {
        if !self.expectations.satisfied(key) {
            return Ok(None);
        }
        let mut existing = self.slices.by_index(BY_SERVICE, &key.to_string());
        existing.retain(|slice| managed_by(slice, MANAGER) && !is_deleting(&slice.metadata));
        let endpoints = self.endpoints.get(&key.namespace, &key.name);
        let service = self.services.get(&key.namespace, &key.name);
        let actions: Vec<Action> = match (endpoints, service) {
            (Some(endpoints), Some(service)) if is_mirrored(&endpoints, &service) => {
                let (groups, skipped) = wanted(&endpoints, self.max_endpoints);
                if skipped > 0 {
                    let note = format!(
                        "A max of {} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses \
                         were skipped",
                        self.max_endpoints
                    );
                    self.executor.event(&endpoints.subject(), EventKind::Warning, "TooManyAddressesToMirror", note);
                }
                plan(&family(&endpoints, self.max_endpoints), groups, &existing)
            }
            _ => existing.iter().map(|slice| deletion(slice)).collect(),
        };
        run_expected(&self.executor, &self.expectations, key, actions).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn subsets_become_groups_per_family_with_their_state() {
        let endpoints: EndpointsView = serde_json::from_value(json!({"metadata": {"name": "e"}, "subsets": [{
            "addresses": [{"ip": "203.0.113.1"}, {"ip": "2001:db8::1", "hostname": "h"}],
            "notReadyAddresses": [{"ip": "203.0.113.3"}],
            "ports": [{"port": 80, "protocol": "TCP"}],
        }]}))
        .unwrap();
        let (groups, skipped) = wanted(&endpoints, 1000);
        let shape: Vec<(&str, Vec<Option<bool>>)> = groups
            .iter()
            .map(|group| (group.address_type.as_str(), group.endpoints.iter().map(|e| e.conditions.ready).collect()))
            .collect();
        assert_eq!(shape, [("IPv4", vec![Some(true), Some(false)]), ("IPv6", vec![Some(true)])]);
        assert_eq!(groups[0].ports[0].name.as_deref(), Some(""));
        assert_eq!(skipped, 0);
        let (groups, skipped) = wanted(&endpoints, 1);
        assert_eq!((groups.len(), skipped), (1, 2));
    }

    #[test]
    fn one_slice_of_many_addresses_that_keeps_no_annotation_of_its_own() {
        let many: Vec<_> = (0..300).map(|i| json!({"ip": format!("203.0.{}.{}", i / 250, i % 250)})).collect();
        let endpoints: EndpointsView = serde_json::from_value(json!({"metadata": {"name": "e", "uid": "u"},
            "subsets": [{"addresses": many, "ports": [{"port": 80}]}]}))
        .unwrap();
        let actions = plan(&family(&endpoints, 1000), wanted(&endpoints, 1000).0, &[]);
        let [Action::Create { body, .. }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(body["endpoints"].as_array().map(Vec::len), Some(300));
        let mut body = body.clone();
        body["metadata"]["ownerReferences"][0]["uid"] = json!("u");
        let slice = |body: &serde_json::Value| vec![Arc::new(serde_json::from_value(body.clone()).unwrap())];
        assert_eq!(plan(&family(&endpoints, 1000), wanted(&endpoints, 1000).0, &slice(&body)), []);
        body["metadata"]["annotations"] = json!({"gone": "from the Endpoints"});
        let actions = plan(&family(&endpoints, 1000), wanted(&endpoints, 1000).0, &slice(&body));
        let [Action::Change { change, .. }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(change["metadata"]["annotations"], json!({"gone": null}));
    }
}

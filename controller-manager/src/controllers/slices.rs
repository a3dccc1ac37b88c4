//! Spreading endpoints over slices with as few writes as possible; used for services and for mirrored Endpoints.
//!
//! Endpoints that are where they were stay there. Changed slices are topped up first; what is left goes into the fullest
//! slice that has room for all of it, otherwise into new slices, for which those are taken that would be deleted.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::framework::{Action, Key, Subject, View};
use crate::views::discovery::{Endpoint, EndpointSliceView, MANAGED_BY};
use crate::views::meta::to_value;
use crate::views::service::EndpointPort;

/// Endpoints of one family that serve the same ports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortGroup {
    /// `IPv4` or `IPv6`.
    pub address_type: String,
    /// What they serve.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// What all slices of one owner look like.
#[derive(Clone, Debug)]
pub struct Family {
    /// Who owns them.
    pub owner: Subject,
    /// Their labels.
    pub labels: BTreeMap<String, String>,
    /// All of their annotations; None leaves them alone.
    pub annotations: Option<BTreeMap<String, String>>,
    /// At most so many endpoints in one slice.
    pub max_endpoints: usize,
}

struct Slot<'a> {
    slice: &'a EndpointSliceView,
    endpoints: Vec<Endpoint>,
    dirty: bool,
}

/// The writes that turn `existing` into `wanted`.
pub fn plan(family: &Family, wanted: Vec<PortGroup>, existing: &[Arc<EndpointSliceView>]) -> Vec<Action> {
    let mut unclaimed: Vec<&EndpointSliceView> = existing.iter().map(AsRef::as_ref).collect();
    unclaimed.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let (mut new, mut updates) = (Vec::new(), Vec::new());
    for group in wanted {
        let ports = sorted(&group.ports);
        let (mine, rest): (Vec<_>, Vec<_>) = unclaimed
            .into_iter()
            .partition(|slice| slice.address_type == group.address_type && sorted(&slice.ports) == ports);
        unclaimed = rest;
        let keep_placeholder = group.endpoints.is_empty();
        let (slots, more) = spread(family, &group, mine);
        for (index, slot) in slots.into_iter().enumerate() {
            if slot.endpoints.is_empty() && !(keep_placeholder && index == 0) {
                unclaimed.push(slot.slice);
            } else if slot.dirty {
                updates.push(update(family, slot.slice, &slot.endpoints, None));
            }
        }
        new.extend(more.into_iter().map(|endpoints| PortGroup { endpoints, ..group.clone() }));
    }
    let mut creations = Vec::new();
    for group in new {
        let free = |slice: &&EndpointSliceView| slice.address_type == group.address_type && is_owned(family, slice);
        match unclaimed.iter().position(free) {
            Some(at) => updates.push(update(family, unclaimed.remove(at), &group.endpoints, Some(&group.ports))),
            None => creations.push(creation(family, &group)),
        }
    }
    // New information first, so that no moment has less than before or after.
    creations.into_iter().chain(updates).chain(unclaimed.into_iter().map(deletion)).collect()
}

fn sorted(ports: &[EndpointPort]) -> Vec<EndpointPort> {
    let mut ports = ports.to_vec();
    ports.sort();
    ports
}

/// What makes two entries the same endpoint, perhaps in another state.
fn identity(endpoint: &Endpoint) -> (Option<&str>, &[String], Option<&str>) {
    let uid = endpoint.target_ref.as_ref().map(|target| target.uid.as_str());
    (uid, &endpoint.addresses, endpoint.hostname.as_deref())
}

fn spread<'a>(
    family: &Family,
    group: &PortGroup,
    mine: Vec<&'a EndpointSliceView>,
) -> (Vec<Slot<'a>>, Vec<Vec<Endpoint>>) {
    let mut places: HashMap<_, Vec<usize>> = HashMap::new();
    for (index, endpoint) in group.endpoints.iter().enumerate().rev() {
        places.entry(identity(endpoint)).or_default().push(index);
    }
    let mut slots: Vec<Slot<'a>> = Vec::new();
    for slice in mine {
        let stays = |endpoint| places.get_mut(&identity(endpoint)).and_then(Vec::pop);
        let kept: Vec<Endpoint> =
            slice.endpoints.iter().filter_map(stays).map(|index| group.endpoints[index].clone()).collect();
        let dirty = kept != slice.endpoints || has_other_metadata(family, slice);
        slots.push(Slot { slice, endpoints: kept, dirty });
    }
    let mut left: Vec<usize> = places.into_values().flatten().collect();
    left.sort_unstable();
    let mut left: Vec<Endpoint> = left.into_iter().map(|index| group.endpoints[index].clone()).collect();
    for slot in slots.iter_mut().filter(|slot| slot.dirty && !slot.endpoints.is_empty()) {
        let room = family.max_endpoints.saturating_sub(slot.endpoints.len()).min(left.len());
        slot.endpoints.extend(left.drain(..room));
    }
    let fits = |slot: &Slot<'_>| slot.endpoints.len() + left.len() <= family.max_endpoints;
    if !left.is_empty()
        && let Some(slot) = slots.iter_mut().filter(|slot| fits(slot)).max_by_key(|slot| slot.endpoints.len())
    {
        slot.endpoints.append(&mut left);
        slot.dirty = true;
    }
    let mut new: Vec<Vec<Endpoint>> = left.chunks(family.max_endpoints.max(1)).map(<[Endpoint]>::to_vec).collect();
    if group.endpoints.is_empty() && slots.is_empty() {
        new.push(Vec::new());
    }
    (slots, new)
}

fn is_owned(family: &Family, slice: &EndpointSliceView) -> bool {
    slice.metadata.owner_references.iter().any(|owner| owner.uid == family.owner.uid)
}

fn has_other_metadata(family: &Family, slice: &EndpointSliceView) -> bool {
    slice.metadata.labels != family.labels
        || !is_owned(family, slice)
        || family.annotations.as_ref().is_some_and(|all| *all != slice.metadata.annotations)
}

fn creation(family: &Family, group: &PortGroup) -> Action {
    let mut body = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", family.owner.key.name),
            "namespace": family.owner.key.namespace,
            "labels": family.labels,
            "ownerReferences": [family.owner.controller_reference()],
        },
        "addressType": group.address_type,
        "endpoints": group.endpoints.iter().map(to_value).collect::<Vec<_>>(),
        "ports": group.ports.iter().map(to_value).collect::<Vec<_>>(),
    });
    if let Some(annotations) = &family.annotations {
        body["metadata"]["annotations"] = json!(annotations);
    }
    Action::Create { resource: EndpointSliceView::RESOURCE, namespace: family.owner.key.namespace.clone(), body }
}

/// A slice with other endpoints, and perhaps other ports.
fn update(
    family: &Family,
    slice: &EndpointSliceView,
    endpoints: &[Endpoint],
    ports: Option<&Vec<EndpointPort>>,
) -> Action {
    let meta = &slice.metadata;
    let mut change = json!({
        "metadata": {
            "resourceVersion": meta.resource_version,
            "labels": replaced(&meta.labels, &family.labels),
            "ownerReferences": [family.owner.controller_reference()],
        },
        "endpoints": endpoints.iter().map(to_value).collect::<Vec<_>>(),
    });
    if let Some(ports) = ports {
        change["ports"] = ports.iter().map(to_value).collect();
    }
    if let Some(annotations) = &family.annotations {
        change["metadata"]["annotations"] = replaced(&meta.annotations, annotations);
    }
    slice.target().change(change)
}

/// A merge that leaves `new` of `old`.
fn replaced(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Value {
    let mut merge = json!(new);
    for stale in old.keys().filter(|name| !new.contains_key(*name)) {
        merge[stale] = Value::Null;
    }
    merge
}

/// The end of a slice.
pub fn deletion(slice: &EndpointSliceView) -> Action {
    slice.target().delete(&slice.metadata.uid)
}

/// Whether `slice` is kept by the controller called `manager`.
pub fn managed_by(slice: &EndpointSliceView, manager: &str) -> bool {
    slice.metadata.labels.get(MANAGED_BY).is_some_and(|value| value == manager)
}

/// How long a service's slices rest after each of their writes, and at most after all of them.
const REST_PER_WRITE: Duration = Duration::from_millis(100);
const MAX_REST: Duration = Duration::from_secs(1);

/// The pace at which services' slices are written. A change after a while of peace is written at once; while pods come and
/// go without pause, changes are collected for as long as the last ones' writes take at the default limit of requests (20 a
/// second, and a write is a GET and a PUT), but no longer than kube-proxy collects them. So the number of writes does
/// not grow with higher limits.
#[derive(Default)]
pub struct Pace(Mutex<HashMap<Key, Instant>>);

impl Pace {
    /// How long after `now` the slices of `key` still rest.
    pub fn rest(&self, key: &Key, now: Instant) -> Option<Duration> {
        let until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.get(key)?.checked_duration_since(now).filter(|rest| !rest.is_zero())
    }

    /// `writes` slices of `key` are written from `now` on.
    pub fn wrote(&self, key: &Key, writes: usize, now: Instant) {
        let rest = REST_PER_WRITE.saturating_mul(u32::try_from(writes).unwrap_or(u32::MAX)).min(MAX_REST);
        let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.retain(|_, end| *end > now);
        until.insert(key.clone(), now + rest);
    }
}

//! Spreading endpoints over slices with as few writes as possible; used for services and for mirrored Endpoints.
//!
//! Endpoints that are where they were stay there. Changed slices are topped up first; what is left goes into the fullest
//! slice that has room for all of it, otherwise into new slices.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::framework::{Action, Subject, View};
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
    let (mut creations, mut updates) = (Vec::new(), Vec::new());
    for group in wanted {
        let ports = sorted(&group.ports);
        let (mine, rest): (Vec<_>, Vec<_>) = unclaimed
            .into_iter()
            .partition(|slice| slice.address_type == group.address_type && sorted(&slice.ports) == ports);
        unclaimed = rest;
        let (slots, new) = spread(family, &group, mine);
        let keep_placeholder = group.endpoints.is_empty();
        for (index, slot) in slots.into_iter().enumerate() {
            if slot.endpoints.is_empty() && !(keep_placeholder && index == 0) {
                unclaimed.push(slot.slice);
            } else if slot.dirty {
                updates.push(update(family, &slot));
            }
        }
        creations.extend(new.into_iter().map(|endpoints| creation(family, &group, &endpoints)));
    }
    // New information first, so that no moment has less than before or after.
    creations.into_iter().chain(updates).chain(unclaimed.into_iter().map(deletion)).collect()
}

fn sorted(ports: &[EndpointPort]) -> Vec<EndpointPort> {
    let mut ports = ports.to_vec();
    ports.sort();
    ports
}

/// Whether two entries describe the same endpoint, perhaps in another state.
fn same(a: &Endpoint, b: &Endpoint) -> bool {
    let uid = |endpoint: &Endpoint| endpoint.target_ref.as_ref().map(|target| target.uid.clone());
    uid(a) == uid(b) && a.addresses == b.addresses && a.hostname == b.hostname
}

fn spread<'a>(
    family: &Family,
    group: &PortGroup,
    mine: Vec<&'a EndpointSliceView>,
) -> (Vec<Slot<'a>>, Vec<Vec<Endpoint>>) {
    let mut left = group.endpoints.clone();
    let mut slots: Vec<Slot<'a>> = Vec::new();
    for slice in mine {
        let mut kept = Vec::new();
        for endpoint in &slice.endpoints {
            if let Some(index) = left.iter().position(|wanted| same(wanted, endpoint)) {
                kept.push(left.swap_remove(index));
            }
        }
        let dirty = kept != slice.endpoints || has_other_metadata(family, slice);
        slots.push(Slot { slice, endpoints: kept, dirty });
    }
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

fn has_other_metadata(family: &Family, slice: &EndpointSliceView) -> bool {
    slice.metadata.labels != family.labels
        || slice.metadata.owner_references.iter().all(|owner| owner.uid != family.owner.uid)
        || family.annotations.as_ref().is_some_and(|all| *all != slice.metadata.annotations)
}

fn creation(family: &Family, group: &PortGroup, endpoints: &[Endpoint]) -> Action {
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
        "endpoints": endpoints.iter().map(to_value).collect::<Vec<_>>(),
        "ports": group.ports.iter().map(to_value).collect::<Vec<_>>(),
    });
    if let Some(annotations) = &family.annotations {
        body["metadata"]["annotations"] = json!(annotations);
    }
    Action::Create { resource: EndpointSliceView::RESOURCE, namespace: family.owner.key.namespace.clone(), body }
}

fn update(family: &Family, slot: &Slot<'_>) -> Action {
    let meta = &slot.slice.metadata;
    let mut change = json!({
        "metadata": {
            "resourceVersion": meta.resource_version,
            "labels": replaced(&meta.labels, &family.labels),
            "ownerReferences": [family.owner.controller_reference()],
        },
        "endpoints": slot.endpoints.iter().map(to_value).collect::<Vec<_>>(),
    });
    if let Some(annotations) = &family.annotations {
        change["metadata"]["annotations"] = replaced(&meta.annotations, annotations);
    }
    let target = slot.slice.target();
    target.change(change)
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

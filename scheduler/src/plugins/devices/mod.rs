//! DynamicResources: claims of devices.
//!
//! [`Devices::prepare`] looks at a pod's claims once: allocated ones pin the pod to nodes, of the others it resolves
//! classes and selectors. [`Devices::filter`] then searches each node for devices for all claims at once, with bounded
//! effort. What was promised to a pod that is being bound counts as taken. Capacity that several claims share
//! (`allowMultipleAllocations`) is not divided: such a device is given as a whole.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::{Plugin, Rejection};
use crate::cluster::world::ByName;
use crate::model::node::NodeInfo;
use crate::model::template::Template;
use crate::objects::device::{
    Allocation, DeviceClass, DeviceRequest, ExactRequest, Place, ResourceClaim, ResourceSlice,
};
use crate::objects::selector::NodeSelector;

mod allocate;
mod selector;
#[cfg(test)]
mod tests;

pub use allocate::Grant;
use selector::Selector;

/// Users that one claim may have.
const MAX_USERS: usize = 256;
/// Alternatives that a request may have.
const MAX_ALTERNATIVES: i64 = 8;

/// A device by driver, pool and name.
type DeviceId<'a> = (&'a str, &'a str, &'a str);

/// Claims, what drivers offer, and classes.
#[derive(Debug, Default)]
pub struct Devices {
    /// ResourceClaims.
    pub claims: ByName<ResourceClaim>,
    /// ResourceSlices by name.
    pub slices: HashMap<String, ResourceSlice>,
    /// DeviceClasses by name.
    pub classes: HashMap<String, DeviceClass>,
    /// What pods that are being bound get for their claims (namespace, name).
    pub promised: HashMap<(String, String), Allocation>,
}

/// One way to satisfy a request.
#[derive(Debug)]
struct Way<'a> {
    /// Name of the request, with that of the alternative.
    name: String,
    request: &'a ExactRequest,
    class: &'a DeviceClass,
    selectors: Vec<Selector>,
}

/// A claim to allocate.
#[derive(Debug)]
struct Ask<'a> {
    name: &'a str,
    claim: &'a ResourceClaim,
    /// Per request, its ways in order of preference.
    requests: Vec<Vec<Way<'a>>>,
}

/// What a pod needs of devices.
#[derive(Debug, Default)]
pub struct Need<'a> {
    /// Where claims that are allocated can be used.
    pinned: Vec<&'a NodeSelector>,
    asks: Vec<Ask<'a>>,
    taken: HashSet<DeviceId<'a>>,
    pools: Vec<allocate::Pool<'a>>,
}

impl Devices {
    /// A claim.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&ResourceClaim> {
        self.claims.get(namespace)?.get(name)
    }

    /// Notes what a pod that is being bound gets.
    pub fn promise(&mut self, namespace: &str, grants: &[Grant]) {
        for grant in grants {
            // An allocation that was made here is one that can be read.
            let allocation = Allocation::deserialize(&grant.allocation).unwrap_or_default();
            self.promised.insert((namespace.to_owned(), grant.claim.clone()), allocation);
        }
    }

    /// Forgets such a promise.
    pub fn take_back(&mut self, namespace: &str, grants: &[Grant]) {
        for grant in grants {
            self.promised.remove(&(namespace.to_owned(), grant.claim.clone()));
        }
    }

    /// Whether all claims of a pod are there; without, it is not worth an attempt.
    pub fn has_all(&self, t: &Template) -> bool {
        t.claims.iter().all(|c| c.as_ref().is_some_and(|name| self.claim(&t.namespace, name).is_some()))
    }

    fn allocation<'a>(&'a self, claim: &'a ResourceClaim) -> Option<&'a Allocation> {
        let key = (claim.metadata.namespace.clone(), claim.metadata.name.clone());
        claim.status.allocation.as_ref().or_else(|| self.promised.get(&key))
    }

    /// What a pod needs; `None` when it has no claims.
    ///
    /// # Errors
    /// When a claim is absent, being deleted or has too many users, or its class is absent or unusable.
    pub fn prepare<'a>(&'a self, t: &'a Template) -> Result<Option<Need<'a>>, String> {
        if t.claims.is_empty() {
            return Ok(None);
        }
        let mut need = Need::default();
        for name in &t.claims {
            let name = name.as_deref().ok_or("a resourceclaim has not been created for the pod yet")?;
            let claim = self.claim(&t.namespace, name).ok_or_else(|| format!("resourceclaim {name:?} not found"))?;
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("resourceclaim {name:?} is being deleted"));
            }
            match self.allocation(claim) {
                Some(_) if claim.status.reserved_for.len() >= MAX_USERS => return Err("resourceclaim in use".into()),
                Some(allocation) => need.pinned.extend(&allocation.node_selector),
                None => need.asks.push(self.ask(name, claim)?),
            }
        }
        if !need.asks.is_empty() {
            need.taken = self.taken();
            need.pools = allocate::pools(self.slices.values());
        }
        Ok(Some(need))
    }

    fn ask<'a>(&'a self, name: &'a str, claim: &'a ResourceClaim) -> Result<Ask<'a>, String> {
        let mut requests = Vec::new();
        for request in &claim.spec.devices.requests {
            let exactly = request.exactly.iter().map(|e| (request.name.clone(), e));
            let others = request.first_available.iter().map(|e| (format!("{}/{}", request.name, e.name), e));
            let ways: Result<Vec<_>, String> = exactly.chain(others).map(|(name, e)| self.way(name, e)).collect();
            requests.push(ways?);
        }
        Ok(Ask { name, claim, requests })
    }

    fn way<'a>(&'a self, name: String, request: &'a ExactRequest) -> Result<Way<'a>, String> {
        let wanted = &request.device_class_name;
        let class =
            self.classes.get(wanted).ok_or_else(|| format!("request {name}: device class {wanted} does not exist"))?;
        let selectors = class.spec.selectors.iter().chain(&request.selectors).map(Selector::new);
        let selectors = selectors.collect::<Result<_, _>>().map_err(|why| format!("request {name}: {why}"))?;
        Ok(Way { name, request, class, selectors })
    }

    /// Devices that some claim has to itself.
    fn taken(&self) -> HashSet<DeviceId<'_>> {
        let allocations = self.claims.values().flat_map(|m| m.values()).filter_map(|c| c.status.allocation.as_ref());
        let results = allocations.chain(self.promised.values()).flat_map(|a| &a.devices.results);
        let own = results.filter(|d| !d.admin_access);
        own.map(|d| (d.driver.as_str(), d.pool.as_str(), d.device.as_str())).collect()
    }

    /// Judges a node, and says what the pod's claims would get there.
    ///
    /// # Errors
    /// When a claim cannot be used from there, or there are not the devices for all of them.
    pub fn filter(&self, need: &Need<'_>, node: &NodeInfo) -> Result<Vec<Grant>, Rejection> {
        if !need.pinned.iter().all(|s| s.matches(&node.name, &node.labels)) {
            let why = "resourceclaim not available on the node";
            return Err(Rejection::unresolvable(Plugin::DynamicResources, why));
        }
        if need.asks.is_empty() {
            return Ok(Vec::new());
        }
        allocate::search(need, node)
            .ok_or_else(|| Rejection::unresolvable(Plugin::DynamicResources, "cannot allocate all claims"))
    }

    /// How well a node that takes the pod serves its wishes: of each request's alternatives the earlier count for more.
    pub fn score(&self, need: &Need<'_>, node: &NodeInfo) -> i64 {
        let grants = self.filter(need, node).unwrap_or_default();
        let of_claim = |(ask, grant): (&Ask<'_>, &Grant)| {
            let given = grant.allocation["devices"]["results"].as_array().map(Vec::as_slice).unwrap_or_default();
            let worth = |request: &DeviceRequest| {
                let wishes = request.first_available.iter().zip((1..=MAX_ALTERNATIVES).rev());
                let is_given = |wish: &str| given.iter().any(|d| d["request"] == format!("{}/{wish}", request.name));
                wishes.filter(|(wish, _)| is_given(&wish.name)).map(|(_, worth)| worth).sum::<i64>()
            };
            ask.claim.spec.devices.requests.iter().map(worth).sum::<i64>()
        };
        need.asks.iter().zip(&grants).map(of_claim).sum()
    }

    /// The claim of a pod that keeps it from a node and may be given back, so that devices are found elsewhere: it is
    /// allocated, and nobody but the pod has it.
    pub fn returnable<'a>(
        &self,
        t: &'a Template,
        uid: &str,
        mut nodes: impl Iterator<Item = &'a NodeInfo>,
    ) -> Option<&'a str> {
        let may = |claim: &ResourceClaim, node: &NodeInfo| {
            let selector = claim.status.allocation.as_ref().and_then(|a| a.node_selector.as_ref());
            selector.is_some_and(|s| !s.matches(&node.name, &node.labels))
                && claim.status.reserved_for.iter().all(|user| user["uid"] == uid)
        };
        nodes.find_map(|node| {
            let names = t.claims.iter().flatten().map(|name| &**name);
            names.into_iter().find(|name| self.claim(&t.namespace, name).is_some_and(|claim| may(claim, node)))
        })
    }
}

impl Place {
    fn reaches(&self, node: &NodeInfo) -> bool {
        self.all_nodes
            || self.node_name.as_deref().is_some_and(|name| name == &*node.name)
            || self.node_selector.as_ref().is_some_and(|s| s.matches(&node.name, &node.labels))
    }
}

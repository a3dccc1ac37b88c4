//! The search for devices on one node: depth first over claims, requests, their alternatives and devices, in order, so
//! that the first preference that works out is taken. Bounded in steps.

use std::collections::{BTreeMap, HashMap, HashSet};

use apimachinery::quantity::Quantity;
use serde_json::{Value, json};

use super::selector::{attribute, config};
use super::{Ask, DeviceId, Need, Way};
use crate::model::node::NodeInfo;
use crate::objects::device::{Attribute, CounterSet, Device, Place, ResourceSlice};
use crate::plugins::taints::tolerates;

/// Devices that may be tried on one node.
const MAX_STEPS: usize = 20_000;

/// What a claim gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// The claim.
    pub claim: String,
    /// `status.allocation`.
    pub allocation: Value,
}

/// The slices of a pool that count.
#[derive(Debug)]
pub(super) struct Pool<'a> {
    slices: Vec<&'a ResourceSlice>,
    complete: bool,
}

/// All pools: of each its newest generation. A pool in which a name occurs twice is left out.
pub(super) fn pools<'a>(slices: impl Iterator<Item = &'a ResourceSlice>) -> Vec<Pool<'a>> {
    let mut by_name = BTreeMap::<(&str, &str), Vec<&ResourceSlice>>::new();
    for slice in slices {
        by_name.entry((&slice.spec.driver, &slice.spec.pool.name)).or_default().push(slice);
    }
    let newest = |mut slices: Vec<&'a ResourceSlice>| {
        let generation = slices.iter().map(|s| s.spec.pool.generation).max();
        slices.retain(|s| Some(s.spec.pool.generation) == generation);
        slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let complete = slices.first().is_some_and(|s| s.spec.pool.resource_slice_count == slices.len());
        let mut seen = HashSet::new();
        let unique = slices.iter().flat_map(|s| &s.spec.devices).all(|d| seen.insert(d.name.as_str()));
        unique.then_some(Pool { slices, complete })
    };
    by_name.into_values().filter_map(newest).collect()
}

/// A device that the node reaches.
struct Offer<'a> {
    id: DeviceId<'a>,
    device: &'a Device,
    place: &'a Place,
}

struct Search<'a> {
    asks: &'a [Ask<'a>],
    offers: Vec<Offer<'a>>,
    /// An incomplete pool has devices that are not known: not all can be had.
    incomplete: bool,
    /// What is left, by driver, pool, set and counter.
    counters: HashMap<[&'a str; 4], Quantity>,
    taken: HashSet<DeviceId<'a>>,
    /// Chosen so far: claim, way and offer.
    chosen: Vec<(usize, &'a Way<'a>, usize)>,
    steps: usize,
}

/// Devices of a node for all claims, if there are.
pub(super) fn search<'a>(need: &'a Need<'a>, node: &NodeInfo) -> Option<Vec<Grant>> {
    let (mut offers, mut incomplete, mut counters) = (Vec::new(), false, HashMap::new());
    for pool in &need.pools {
        let before = offers.len();
        for slice in &pool.slices {
            let spec = &slice.spec;
            let (driver, name) = (spec.driver.as_str(), spec.pool.name.as_str());
            for (set, counter, amount) in amounts(&spec.shared_counters) {
                counters.insert([driver, name, set, counter], amount);
            }
            for device in &spec.devices {
                let place = if spec.per_device_node_selection { &device.place } else { &spec.place };
                if place.reaches(node) {
                    offers.push(Offer { id: (driver, name, &device.name), device, place });
                }
            }
        }
        incomplete |= !pool.complete && offers.len() > before;
        if !pool.complete {
            offers.truncate(before);
        }
        for slice in &pool.slices {
            for device in &slice.spec.devices {
                let id = (slice.spec.driver.as_str(), slice.spec.pool.name.as_str(), device.name.as_str());
                if need.taken.contains(&id) {
                    consume(&mut counters, id, device, false);
                }
            }
        }
    }
    let taken = need.taken.clone();
    let mut search = Search { asks: &need.asks, offers, incomplete, counters, taken, chosen: Vec::new(), steps: 0 };
    search.request(0, 0).then(|| search.grants(node))
}

fn amounts(sets: &[CounterSet]) -> impl Iterator<Item = (&str, &str, Quantity)> {
    sets.iter().flat_map(|set| {
        let counters = set.counters.iter();
        counters
            .filter_map(|(name, amount)| Some((set.name.as_str(), name.as_str(), Quantity::parse(&amount.value).ok()?)))
    })
}

/// Takes what a device consumes from what is shared, or gives it back. False when that is too much.
fn consume<'a>(
    counters: &mut HashMap<[&'a str; 4], Quantity>,
    id: DeviceId<'a>,
    device: &'a Device,
    give_back: bool,
) -> bool {
    let mut enough = true;
    for (set, counter, amount) in amounts(&device.consumes_counters) {
        match counters.get_mut(&[id.0, id.1, set, counter]) {
            Some(left) if give_back => *left = *left + amount,
            Some(left) => {
                *left = *left - amount;
                enough &= left.sign() >= 0;
            }
            None => enough = false,
        }
    }
    enough
}

impl<'a> Search<'a> {
    /// Satisfies request `r` of claim `c` and all after it.
    fn request(&mut self, c: usize, r: usize) -> bool {
        let asks = self.asks;
        let Some(ask) = asks.get(c) else { return true };
        let Some(ways) = ask.requests.get(r) else { return self.request(c + 1, 0) };
        ways.iter().any(|way| {
            let candidates: Vec<usize> = (0..self.offers.len()).filter(|o| self.suits(way, *o)).collect();
            let all = way.request.allocation_mode == "All";
            let count =
                if all { candidates.len() } else { usize::try_from(way.request.count.max(1)).unwrap_or(usize::MAX) };
            let possible = count > 0 && count <= candidates.len() && !(all && self.incomplete);
            possible && self.pick(c, r, way, &candidates, count)
        })
    }

    /// Chooses `count` of the candidates, and satisfies what comes after.
    fn pick(&mut self, c: usize, r: usize, way: &'a Way<'a>, candidates: &[usize], count: usize) -> bool {
        if count == 0 {
            return self.request(c, r + 1);
        }
        for (i, offer) in candidates.iter().enumerate().take((candidates.len() + 1).saturating_sub(count)) {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return false;
            }
            if self.take(c, way, *offer) {
                if self.pick(c, r, way, &candidates[i + 1..], count - 1) {
                    return true;
                }
                self.release(way, *offer);
            }
        }
        false
    }

    fn suits(&self, way: &Way<'_>, offer: usize) -> bool {
        let Offer { id, device, .. } = &self.offers[offer];
        let hard = device.taints.iter().filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute");
        let mut untolerated = hard.filter(|t| !way.request.tolerations.iter().any(|own| tolerates(own, t)));
        (way.request.admin_access || untolerated.next().is_none())
            && way.selectors.iter().all(|s| s.matches(id.0, device))
    }

    fn take(&mut self, c: usize, way: &'a Way<'a>, offer: usize) -> bool {
        let Offer { id, device, .. } = self.offers[offer];
        if !self.meets_constraints(c, way, offer) {
            return false;
        }
        if !way.request.admin_access {
            if !self.taken.insert(id) {
                return false;
            }
            if !consume(&mut self.counters, id, device, false) {
                consume(&mut self.counters, id, device, true);
                self.taken.remove(&id);
                return false;
            }
        }
        self.chosen.push((c, way, offer));
        true
    }

    fn release(&mut self, way: &Way<'_>, offer: usize) {
        let Offer { id, device, .. } = self.offers[offer];
        if !way.request.admin_access {
            self.taken.remove(&id);
            consume(&mut self.counters, id, device, true);
        }
        self.chosen.pop();
    }

    /// Whether a device goes with those that are chosen for the claim already.
    fn meets_constraints(&self, c: usize, way: &Way<'_>, offer: usize) -> bool {
        let value = |o: usize, name: &str| -> Option<&Attribute> {
            let Offer { id, device, .. } = &self.offers[o];
            attribute(id.0, device, name)
        };
        self.asks[c].claim.spec.devices.constraints.iter().all(|constraint| {
            let covers = |name: &str| {
                let base = name.split('/').next();
                constraint.requests.is_empty()
                    || constraint.requests.iter().any(|r| r == name || Some(r.as_str()) == base)
            };
            let others = || self.chosen.iter().filter(|(other, w, _)| *other == c && covers(&w.name));
            let agrees = |name: &String, same: bool| {
                value(offer, name).is_some_and(|mine| others().all(|(_, _, o)| (value(*o, name) == Some(mine)) == same))
            };
            !covers(&way.name)
                || (constraint.match_attribute.as_ref().is_none_or(|name| agrees(name, true))
                    && constraint.distinct_attribute.as_ref().is_none_or(|name| agrees(name, false)))
        })
    }

    fn grants(&self, node: &NodeInfo) -> Vec<Grant> {
        let grant = |(c, ask): (usize, &Ask<'_>)| {
            let chosen: Vec<_> = self.chosen.iter().filter(|(of, ..)| *of == c).collect();
            let results: Vec<Value> = chosen.iter().map(|(_, way, o)| result(way, &self.offers[*o])).collect();
            let mut names: Vec<&str> = chosen.iter().map(|(_, way, _)| way.name.as_str()).collect();
            names.dedup();
            let mut configs = Vec::new();
            for name in &names {
                let way = chosen.iter().find(|(_, way, _)| way.name == *name).map(|(_, way, _)| way);
                for c in way.iter().flat_map(|w| &w.class.spec.config) {
                    configs.extend(c.opaque.as_ref().map(|o| config("FromClass", &[(*name).to_owned()], o)));
                }
            }
            for c in &ask.claim.spec.devices.config {
                configs.extend(c.opaque.as_ref().map(|o| config("FromClaim", &c.requests, o)));
            }
            let mut devices = json!({ "results": results });
            if !configs.is_empty() {
                devices["config"] = json!(configs);
            }
            let mut allocation = json!({ "devices": devices });
            if let Some(selector) = reach(chosen.iter().map(|(_, _, o)| self.offers[*o].place), node) {
                allocation["nodeSelector"] = selector;
            }
            Grant { claim: ask.name.to_owned(), allocation }
        };
        self.asks.iter().enumerate().map(grant).collect()
    }
}

fn result(way: &Way<'_>, offer: &Offer<'_>) -> Value {
    let (driver, pool, device) = offer.id;
    let mut result = json!({"request": way.name, "driver": driver, "pool": pool, "device": device});
    if way.request.admin_access {
        result["adminAccess"] = json!(true);
    }
    if !way.request.tolerations.is_empty() {
        let one = |t: &crate::objects::pod::Toleration| {
            let fields = [("key", &t.key), ("operator", &t.operator), ("value", &t.value), ("effect", &t.effect)];
            fields.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), json!(v))).collect::<Value>()
        };
        result["tolerations"] = way.request.tolerations.iter().map(one).collect();
    }
    result
}

/// From where a claim can be used: the node, when one of its devices belongs to it; else what all of them require.
fn reach<'a>(places: impl Iterator<Item = &'a Place>, node: &NodeInfo) -> Option<Value> {
    let (mut expressions, mut fields) = (Vec::new(), Vec::new());
    for place in places {
        if place.node_name.is_some() {
            let me = json!({"key": "metadata.name", "operator": "In", "values": [&*node.name]});
            return Some(json!({"nodeSelectorTerms": [{"matchFields": [me]}]}));
        }
        let term = |s: &'a crate::objects::selector::NodeSelector| s.node_selector_terms.first();
        if let Some(term) = place.node_selector.as_ref().and_then(term) {
            let each = |r: &crate::objects::selector::Requirement| json!({"key": r.key, "operator": r.operator, "values": r.values});
            let new = |list: &[Value], r: &Value| !list.contains(r);
            for r in term.match_expressions.iter().map(each) {
                if new(&expressions, &r) {
                    expressions.push(r);
                }
            }
            for r in term.match_fields.iter().map(each) {
                if new(&fields, &r) {
                    fields.push(r);
                }
            }
        }
    }
    let mut term = json!({});
    for (name, list) in [("matchExpressions", expressions), ("matchFields", fields)] {
        if !list.is_empty() {
            term[name] = json!(list);
        }
    }
    (term != json!({})).then(|| json!({"nodeSelectorTerms": [term]}))
}

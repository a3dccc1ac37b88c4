//! `service.kubernetes.io/topology-mode: Auto`: endpoints are shared out among zones in proportion to the CPUs of their
//! nodes, as far as possible each to its own. Upstream's conditions: every node says its zone and CPUs, there are two
//! zones, at least one endpoint for each, and no zone gets less than it can bear (a fifth over its share).

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::quantity::Quantity;

use super::reconcile::ZONE;
use crate::controllers::slices::PortGroup;
use crate::views::discovery::{Endpoint, Hints, Named};
use crate::views::meta::condition;
use crate::views::node::NodeView;
use crate::views::service::ServiceView;

/// How far a zone may be asked beyond its share.
const OVERLOAD: f64 = 0.2;
const ANNOTATIONS: [&str; 2] = ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];
/// Nodes with one of these labels carry no load.
const EXCLUDED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// Each zone's share of the CPUs.
pub type Shares = BTreeMap<String, f64>;

/// Whether the service wants it.
pub fn is_wanted(service: &ServiceView) -> bool {
    let annotation = ANNOTATIONS.iter().find_map(|name| service.metadata.annotations.get(*name));
    annotation.is_some_and(|mode| mode == "Auto" || mode == "auto")
}

/// What a node contributes: its zone and thousandths of CPUs; None for nodes that carry no load.
pub fn contribution(node: &NodeView) -> Option<(Option<&String>, i64)> {
    let labels = &node.metadata.labels;
    let ready = condition(&node.status.conditions, "Ready").is_some_and(|ready| ready.status == "True");
    if !ready || EXCLUDED.iter().any(|label| labels.contains_key(*label)) {
        return None;
    }
    let cpus = node.status.allocatable.get("cpu").and_then(|text| Quantity::parse(text).ok());
    Some((labels.get(ZONE), cpus.map_or(0, |cpus| cpus.milli())))
}

/// The zones' shares, or why there are none.
pub fn shares(nodes: &[Arc<NodeView>]) -> Result<Shares, &'static str> {
    let mut cpus: BTreeMap<String, i64> = BTreeMap::new();
    for (zone, milli) in nodes.iter().filter_map(|node| contribution(node)) {
        match zone {
            Some(zone) if milli > 0 => *cpus.entry(zone.clone()).or_default() += milli,
            _ => {
                return Err(
                    "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes",
                );
            }
        }
    }
    if cpus.len() < 2 {
        return Err("Nodes only ready in one zone");
    }
    let all: i64 = cpus.values().sum();
    Ok(cpus.into_iter().map(|(zone, milli)| (zone, milli as f64 / all as f64)).collect())
}

/// For which zone each endpoint is, given where each is; or why that cannot be said.
fn distribute(zones: &[String], shares: &Shares) -> Result<Vec<String>, &'static str> {
    let total = zones.len() as f64;
    if shares.len() > zones.len() {
        return Err("Insufficient number of endpoints");
    }
    let least = |share: f64| (share * total / (1.0 + OVERLOAD)).ceil();
    if shares.values().map(|share| least(*share)).sum::<f64>() > total {
        return Err("The minimum number of endpoints per zone exceeds the overload threshold");
    }
    let mut hints = zones.to_vec();
    loop {
        let count = |zone: &str| hints.iter().filter(|hint| *hint == zone).count() as f64;
        // Zones without nodes give away all that they have, the others what is beyond their share.
        let strayed = hints.iter().position(|hint| !shares.contains_key(hint));
        let needs = |(zone, share): (&String, &f64)| (zone.clone(), least(*share) - count(zone));
        let surplus = |(zone, share): (&String, &f64)| (zone.clone(), count(zone) - share * total);
        let largest = |(zone, n): (String, f64), best: Option<(String, f64)>| match best {
            Some(best) if best.1 >= n => Some(best),
            _ => Some((zone, n)),
        };
        let fold = |list: Vec<(String, f64)>| list.into_iter().fold(None, |best, one| largest(one, best));
        let Some((to, missing)) = fold(shares.iter().map(needs).collect()) else { return Ok(hints) };
        let from = match strayed {
            Some(index) => Some(index),
            None if missing <= 0.0 => return Ok(hints),
            None => fold(shares.iter().map(surplus).collect())
                .and_then(|(zone, _)| hints.iter().rposition(|hint| *hint == zone)),
        };
        let Some(from) = from else { return Ok(hints) };
        hints[from] = to;
    }
}

/// Gives the endpoints of one family their hints, or takes all away and says why.
pub fn assign(groups: &mut [PortGroup], shares: Result<&Shares, &'static str>) -> Result<(), &'static str> {
    let assigned = || {
        let ready = |endpoint: &&Endpoint| endpoint.conditions.ready == Some(true);
        let endpoints = groups.iter().flat_map(|group| &group.endpoints).filter(ready);
        let zones: Option<Vec<String>> = endpoints.map(|endpoint| endpoint.zone.clone()).collect();
        distribute(&zones.ok_or("One or more endpoints do not have a zone specified")?, shares?)
    };
    let assigned = assigned();
    let mut next = assigned.as_ref().map(|hints| hints.clone().into_iter()).unwrap_or_default();
    for endpoint in groups.iter_mut().flat_map(|group| &mut group.endpoints) {
        let zone = if endpoint.conditions.ready == Some(true) { next.next() } else { None };
        endpoint.hints = zone.map(|name| Hints { for_zones: vec![Named { name }], ..Hints::default() });
    }
    assigned.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(zone: &str, cpu: &str) -> Arc<NodeView> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"labels": {(ZONE): zone}},
                "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn endpoints_are_shared_out_by_cpus() {
        let even = shares(&[node("a", "4"), node("b", "2"), node("b", "2")]).unwrap();
        let zones = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (at, wanted) in [
            ("a b", Ok("a b")),
            ("a a a b", Ok("a a b b")),
            ("a a a a", Ok("a a b b")),
            ("a b c c", Ok("a b a b")),
            ("a", Err("Insufficient number of endpoints")),
        ] {
            assert_eq!(distribute(&zones(at), &even), wanted.map(zones), "{at}");
        }
        let skewed = shares(&[node("a", "9"), node("b", "1")]).unwrap();
        assert!(distribute(&zones("a b"), &skewed).is_err(), "both zones need more than there is");
        assert!(shares(&[node("a", "4")]).is_err());
        assert!(shares(&[node("a", "4"), node("b", "0")]).is_err());
    }
}

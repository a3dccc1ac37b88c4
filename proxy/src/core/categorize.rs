//! Which endpoints may take which traffic: readiness, termination, traffic policies, topology hints.
//!
//! Upstream's rules: traffic goes to ready endpoints; if there is none, to those that still serve while they end. Hints count
//! only when every ready endpoint has them and some endpoint is meant for this node or zone; they never narrow local traffic.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::desired::{Endpoint, NodeView, ServicePort};
use super::objects::SliceEndpoint;

/// An endpoint with what decides about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidate {
    ready: bool,
    serving: bool,
    terminating: bool,
    node: String,
    zones: Vec<String>,
    nodes: Vec<String>,
}

impl Candidate {
    /// From the slice; absent conditions take the API's meaning (ready unless said otherwise, serving as ready).
    pub fn of(endpoint: &SliceEndpoint) -> Self {
        let conditions = &endpoint.conditions;
        let ready = conditions.ready.unwrap_or(true);
        let names = |list: &[super::objects::Named]| list.iter().map(|n| n.name.clone()).collect();
        let hints = endpoint.hints.clone().unwrap_or_default();
        Self {
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
            node: endpoint.node_name.clone().unwrap_or_default(),
            zones: names(&hints.for_zones),
            nodes: names(&hints.for_nodes),
        }
    }

    /// Takes over the other's state if that is the better one.
    pub fn merge(&mut self, other: &Self) {
        if (other.ready, other.serving) > (self.ready, self.serving) {
            *self = other.clone();
        }
    }

    fn falls_back(&self) -> bool {
        self.serving && self.terminating
    }
}

/// Sets the endpoint lists of a service port.
pub fn fill(port: &mut ServicePort, node: &NodeView, candidates: &BTreeMap<(IpAddr, u16), Candidate>) {
    // with policy Local too: the node's own traffic to the external addresses may go anywhere
    let uses_cluster = !port.internal_local || port.is_external();
    let uses_local = port.internal_local || (port.is_external() && port.external_local);
    port.has_endpoints = candidates.values().any(|c| c.ready || c.falls_back());
    let ready_here = |c: &Candidate| c.ready && c.node == node.name;
    if port.health_check_node_port != 0 {
        port.ready_here = pick(node, candidates, ready_here).into_iter().map(|e| e.ip).collect();
    }
    if uses_cluster {
        let hint = usable_hint(node, candidates);
        let meant = |c: &Candidate| match hint {
            Some(Hint::Node) => c.nodes.contains(&node.name),
            Some(Hint::Zone) => c.zones.contains(&node.zone),
            None => true,
        };
        port.cluster_endpoints = pick(node, candidates, |c| c.ready && meant(c));
        if port.cluster_endpoints.is_empty() {
            port.cluster_endpoints = pick(node, candidates, Candidate::falls_back);
        }
    }
    if uses_local {
        port.local_endpoints = pick(node, candidates, ready_here);
        if port.local_endpoints.is_empty() {
            port.local_endpoints = pick(node, candidates, |c| c.falls_back() && c.node == node.name);
        }
    }
}

fn pick(
    node: &NodeView,
    candidates: &BTreeMap<(IpAddr, u16), Candidate>,
    wanted: impl Fn(&Candidate) -> bool,
) -> Vec<Endpoint> {
    let chosen = candidates.iter().filter(|(_, c)| wanted(c));
    chosen.map(|((ip, port), c)| Endpoint { ip: *ip, port: *port, local: c.node == node.name }).collect()
}

enum Hint {
    Node,
    Zone,
}

fn usable_hint(node: &NodeView, candidates: &BTreeMap<(IpAddr, u16), Candidate>) -> Option<Hint> {
    let ready = || candidates.values().filter(|c| c.ready);
    if ready().all(|c| !c.nodes.is_empty()) && ready().any(|c| c.nodes.contains(&node.name)) {
        return Some(Hint::Node);
    }
    let zoned = !node.zone.is_empty() && ready().all(|c| !c.zones.is_empty());
    (zoned && ready().any(|c| c.zones.contains(&node.zone))).then_some(Hint::Zone)
}

//! Quality-of-service class and the sum of what a pod asks for. Follows upstream's `ComputePodQOS` and
//! `AggregateContainerRequests`.

use apimachinery::quantity::Quantity;
use serde_json::Value;

use super::Amounts;
use crate::resources::check::{At, quantity};

const SUPPORTED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`, from the spec.
pub fn class(pod: &Value) -> &'static str {
    let root = At::root(pod);
    let spec = root.get("spec");
    let of_pod = spec.get("resources");
    let holders: Vec<At> = if !of_pod.is_set() {
        ["containers", "initContainers"]
            .iter()
            .flat_map(|l| spec.get(l).items().collect::<Vec<_>>())
            .map(|c| c.get("resources"))
            .collect()
    } else {
        vec![of_pod]
    };
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    let mut guaranteed = true;
    for holder in &holders {
        sum(&mut requests, &holder.get("requests"));
        let found = sum(&mut limits, &holder.get("limits"));
        guaranteed &= found == SUPPORTED.len();
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    guaranteed &=
        requests.len() == limits.len() && requests.iter().all(|(name, amount)| limits.get(name) == Some(amount));
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// Adds the non-zero cpu and memory of `list`; returns how many of the two it has.
fn sum(total: &mut Amounts, list: &At) -> usize {
    let mut found = 0;
    for name in SUPPORTED {
        let amount = list.entry(name).quantity();
        if amount > Quantity::default() {
            found += 1;
            let entry = total.entry(name.to_owned()).or_default();
            *entry = *entry + amount;
        }
    }
    found
}

/// What the containers ask for together: running ones add up, init containers count by their peak, and restartable
/// init containers stay while the later ones run.
pub fn container_requests(spec: &At) -> Amounts {
    let mut total = Amounts::new();
    for container in spec.get("containers").items() {
        add(&mut total, &container.get("resources.requests"));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.get("initContainers").items() {
        let requests = container.get("resources.requests");
        if container.get("restartPolicy").str() == "Always" {
            add(&mut total, &requests);
            add(&mut sidecars, &requests);
            raise(&mut peak, &sidecars);
        } else {
            let mut now = sidecars.clone();
            add(&mut now, &requests);
            raise(&mut peak, &now);
        }
    }
    raise(&mut total, &peak);
    total
}

fn add(total: &mut Amounts, list: &At) {
    for (name, amount) in list.entries() {
        let entry = total.entry(name.to_owned()).or_default();
        *entry = *entry + quantity(amount.value);
    }
}

fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = total.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

//! Which node ports a service gets. Pure: what is taken comes in, what is wanted goes out.
//!
//! Follows upstream's port allocator: ports that are asked for may lie anywhere in the range; ports that are chosen come
//! from its upper band first, so that the lower band stays free for those who ask.

use apimachinery::field::{ErrorList, FieldError};
use serde_json::Value;

use crate::resources::check::At;
use crate::resources::core::service::{families, needs_health_check};
use crate::resources::edit::{array_mut, set};

/// Why no port could be had.
#[derive(Debug)]
pub enum PortError {
    /// A port that was asked for cannot be given.
    Refused(ErrorList),
    /// None is free.
    Full,
}

/// The range and what is taken in it.
pub struct Ports<'a> {
    /// Both ends included.
    pub range: (u16, u16),
    /// Is this port in use by another service, or reserved?
    pub taken: &'a dyn Fn(u16) -> bool,
    /// Where to begin choosing; any number.
    pub seed: u64,
}

impl Ports<'_> {
    fn check(&self, port: i64, path: &At) -> Result<u16, PortError> {
        let refuse = |why: String| PortError::Refused(vec![FieldError::invalid(path.path.clone(), port, why)]);
        let (low, high) = self.range;
        match u16::try_from(port) {
            Ok(port) if (low..=high).contains(&port) => {
                if (self.taken)(port) {
                    Err(refuse("provided port is already allocated".to_owned()))
                } else {
                    Ok(port)
                }
            }
            _ => Err(refuse(format!(
                "provided port is not in the valid range. The range of valid ports is {low}-{high}"
            ))),
        }
    }

    /// A free port that is not among `mine`.
    fn choose(&self, mine: &[u16]) -> Result<u16, PortError> {
        let (low, high) = self.range;
        let size = u64::from(high - low) + 1;
        let band = reserved_band(size);
        let free = |port: &u16| !mine.contains(port) && !(self.taken)(*port);
        let dynamic = size - band;
        let upper = (0..dynamic).map(|i| band + (self.seed + i) % dynamic.max(1));
        let lower = (0..band).map(|i| (self.seed + i) % band.max(1));
        let mut offsets = upper.chain(lower).filter_map(|offset| u16::try_from(u64::from(low) + offset).ok());
        offsets.find(free).ok_or(PortError::Full)
    }
}

/// How many ports at the lower end are left to those who ask for one.
fn reserved_band(size: u64) -> u64 {
    const STEP: u64 = 32;
    if size < 16 { 0 } else { (size / STEP).clamp(16, 128) }
}

/// The node ports that a service holds, its health check's included.
pub fn held(service: &Value) -> Vec<u16> {
    let spec = At::root(service).get("spec");
    let numbers = spec.get("ports").items().map(|port| port.get("nodePort").number());
    let all = numbers.chain(Some(spec.get("healthCheckNodePort").number()));
    all.filter_map(|port| u16::try_from(port).ok().filter(|port| *port != 0)).collect()
}

/// Fills in the node ports that the service needs and returns the ones it did not hold before.
///
/// # Errors
/// A port that was asked for is taken or out of range, or none is free.
pub fn assign(service: &mut Value, old: Option<&Value>, ports: &Ports) -> Result<Vec<u16>, PortError> {
    let before = old.map(held).unwrap_or_default();
    let mut new: Vec<u16> = Vec::new();
    if families::has_node_ports(service) {
        node_ports(service, &before, ports, &mut new)?;
    }
    let root = At::root(service);
    if needs_health_check(&root) {
        let at = root.get("spec.healthCheckNodePort");
        let mine = [before.clone(), new.clone()].concat();
        match at.number() {
            0 => {
                let port = ports.choose(&mine)?;
                set(&mut service["spec"], "healthCheckNodePort", port);
                new.push(port);
            }
            port if u16::try_from(port).is_ok_and(|port| mine.contains(&port)) => {}
            port => new.push(ports.check(port, &at)?),
        }
    }
    Ok(new)
}

fn node_ports(service: &mut Value, before: &[u16], ports: &Ports, new: &mut Vec<u16>) -> Result<(), PortError> {
    let spec = At::root(service).get("spec");
    let choose = spec.get("type").str() != "LoadBalancer"
        || spec.get("allocateLoadBalancerNodePorts").value.as_bool() != Some(false);
    let mut wanted: Vec<(i64, i64)> = Vec::new();
    for port in spec.get("ports").items() {
        let (number, at) = (port.get("port").number(), port.get("nodePort"));
        let node_port = at.number();
        let mine = |port: i64, new: &[u16]| u16::try_from(port).is_ok_and(|p| before.contains(&p) || new.contains(&p));
        if node_port != 0 && !mine(node_port, new) {
            new.push(ports.check(node_port, &at)?);
        }
        wanted.push((number, node_port));
    }
    // The same port in two protocols shares a node port.
    let given = wanted.clone();
    for (number, node_port) in wanted.iter_mut().filter(|(_, node_port)| *node_port == 0 && choose) {
        let shared = given.iter().find(|(n, p)| n == number && *p != 0).map(|(_, p)| *p);
        *node_port = match shared {
            Some(port) => port,
            None => {
                let port = ports.choose(&[before, new].concat())?;
                new.push(port);
                i64::from(port)
            }
        };
    }
    for (port, (_, node_port)) in array_mut(&mut service["spec"], "ports").iter_mut().zip(wanted) {
        if node_port != 0 {
            set(port, "nodePort", node_port);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(ty: &str, ports: &Value) -> Value {
        json!({"spec": {"type": ty, "ports": ports}})
    }

    fn all<'a>(taken: &'a dyn Fn(u16) -> bool) -> Ports<'a> {
        Ports { range: (30_000, 32_767), taken, seed: 7 }
    }

    #[test]
    fn chosen_ports_come_from_the_upper_band() {
        let mut s = service("NodePort", &json!([{"port": 80}, {"port": 81}]));
        let new = assign(&mut s, None, &all(&|_| false)).unwrap();
        assert_eq!(new.len(), 2);
        assert!(new.iter().all(|port| *port >= 30_000 + 86) && new[0] != new[1]);
        assert_eq!(held(&s), new);
    }

    #[test]
    fn asked_for_ports_must_be_free_and_in_range() {
        for (port, taken) in [(30_001, true), (80, false)] {
            let mut s = service("NodePort", &json!([{"port": 80, "nodePort": port}]));
            let Err(PortError::Refused(errors)) = assign(&mut s, None, &all(&|_| taken)) else { panic!("refused") };
            assert_eq!(errors[0].path.to_string(), "spec.ports[0].nodePort");
        }
    }

    #[test]
    fn held_ports_are_not_asked_for_again_and_types_without_them_get_none() {
        let old = service("NodePort", &json!([{"port": 80, "nodePort": 30_500}]));
        let mut s = old.clone();
        assert_eq!(assign(&mut s, Some(&old), &all(&|_| true)).unwrap(), Vec::<u16>::new());
        let mut s = service("ClusterIP", &json!([{"port": 80}]));
        assert_eq!(assign(&mut s, None, &all(&|_| true)).unwrap(), Vec::<u16>::new());
    }

    #[test]
    fn two_protocols_of_a_port_share_a_node_port() {
        let mut s = service(
            "NodePort",
            &json!([{"port": 53, "protocol": "TCP", "nodePort": 30_053}, {"port": 53, "protocol": "UDP"}]),
        );
        assign(&mut s, None, &all(&|_| false)).unwrap();
        assert_eq!(s["spec"]["ports"][1]["nodePort"], 30_053);
    }

    #[test]
    fn a_full_range_says_so() {
        let mut s = service("NodePort", &json!([{"port": 80}]));
        assert!(matches!(assign(&mut s, None, &all(&|_| true)), Err(PortError::Full)));
    }
}

//! Which cluster IPs a service gets. Pure: ranges and what is taken come in, a plan goes out.
//!
//! Follows upstream's IP allocator: the first address of a range (and the last of an IPv4 range) is nobody's; addresses
//! that are chosen come from the upper band first.

use std::net::IpAddr;

use component_base::net::Cidr;
use serde_json::{Value, json};

use crate::resources::check::{At, parse_ip};
use crate::resources::core::service::{families, is_headless};
use crate::resources::edit::set;

/// An address that the service needs and does not hold yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Need {
    /// Place in `clusterIPs`.
    pub index: usize,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Asked for by the client; else any.
    pub wanted: Option<IpAddr>,
}

fn has_addresses(service: &Value) -> bool {
    ["ClusterIP", "NodePort", "LoadBalancer"].iter().any(|ty| service["spec"]["type"] == *ty)
        && !is_headless(&At::root(service))
}

/// The addresses that a service holds.
pub fn held(service: &Value) -> Vec<IpAddr> {
    if !has_addresses(service) {
        return Vec::new();
    }
    At::root(service).get("spec.clusterIPs").strings().filter_map(parse_ip).collect()
}

/// What the (settled) service still needs, given what it held before.
pub fn needs(service: &Value, old: Option<&Value>) -> Vec<Need> {
    if !has_addresses(service) || families::keeps_its_stack(service, old) {
        return Vec::new();
    }
    let before = old.map(held).unwrap_or_default();
    let root = At::root(service);
    let given: Vec<&str> = root.get("spec.clusterIPs").strings().collect();
    let families = root.get("spec.ipFamilies");
    let wanted = families.strings().enumerate().map(|(index, family)| Need {
        index,
        family: family.to_owned(),
        wanted: given.get(index).and_then(|ip| parse_ip(ip)),
    });
    wanted.filter(|need| need.wanted.is_none_or(|ip| !before.contains(&ip))).collect()
}

/// Writes an address into its place; the first is also `clusterIP`.
pub fn place(service: &mut Value, index: usize, ip: IpAddr) {
    let mut ips = service["spec"]["clusterIPs"].as_array().cloned().unwrap_or_default();
    while ips.len() <= index {
        ips.push(Value::Null);
    }
    ips[index] = ip.to_string().into();
    if index == 0 {
        set(&mut service["spec"], "clusterIP", ip.to_string());
    }
    set(&mut service["spec"], "clusterIPs", ips);
}

/// Offsets of the first and the last address that may be given out, and where the upper band begins.
fn bounds(range: &Cidr) -> Option<(u128, u128, u128)> {
    let size = range.size();
    let last = if range.is_ipv6() { size.saturating_sub(1) } else { size.saturating_sub(2) };
    let band = if size < 16 { 0 } else { (size / 16).clamp(16, 256) };
    (last >= 1).then_some((1, last, band.max(1)))
}

/// May this address of the range be given out?
pub fn usable(range: &Cidr, ip: IpAddr) -> bool {
    let Some((first, last, _)) = bounds(range) else { return false };
    range.contains(ip) && Some(ip) >= range.nth(first) && Some(ip) <= range.nth(last)
}

/// Addresses to try, in order: the upper band from a random place on, then the lower one.
pub fn candidates(range: &Cidr, seed: u64) -> impl Iterator<Item = IpAddr> + use<'_> {
    /// Nobody waits for more tries than this.
    const MAX_TRIES: u128 = 70_000;
    let (first, last, band) = bounds(range).unwrap_or((1, 0, 1));
    let upper = (last + 1).saturating_sub(band);
    let lower = band.saturating_sub(first);
    let high = (0..upper.min(MAX_TRIES)).map(move |i| band + (u128::from(seed) + i) % upper.max(1));
    let low = (0..lower).map(move |i| first + (u128::from(seed) + i) % lower.max(1));
    high.chain(low).filter_map(|offset| range.nth(offset))
}

/// The object that makes an address a service's.
pub fn record(ip: IpAddr, namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": ip.to_string(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": families::family(ip),
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": parent(namespace, name)},
    })
}

/// The reference to a service that holds something.
pub fn parent(namespace: &str, name: &str) -> Value {
    json!({"group": "", "resource": "services", "namespace": namespace, "name": name})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn network_and_broadcast_are_nobodys() {
        let range: Cidr = "10.0.0.0/16".parse().unwrap();
        assert!(
            !usable(&range, ip("10.0.0.0")) && !usable(&range, ip("10.0.255.255")) && !usable(&range, ip("10.1.0.1"))
        );
        assert!(usable(&range, ip("10.0.0.1")) && usable(&range, ip("10.0.255.254")));
    }

    #[test]
    fn every_usable_address_is_tried_once_and_the_lower_band_last() {
        let range: Cidr = "10.0.0.0/24".parse().unwrap();
        let all: Vec<IpAddr> = candidates(&range, 1234).collect();
        let mut unique = all.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!((all.len(), unique.len()), (254, 254));
        assert!(all[..238].iter().all(|a| *a >= ip("10.0.0.16")));
        assert!(all.iter().all(|a| usable(&range, *a)));
    }

    #[test]
    fn needs_what_it_does_not_hold() {
        let new = json!({"spec": {"type": "ClusterIP", "ipFamilies": ["IPv4"]}});
        assert_eq!(needs(&new, None), [Need { index: 0, family: "IPv4".to_owned(), wanted: None }]);
        let mut old = new.clone();
        place(&mut old, 0, ip("10.0.0.9"));
        assert_eq!(old["spec"]["clusterIP"], "10.0.0.9");
        assert_eq!(needs(&old, Some(&old)), []);
        let external = json!({"spec": {"type": "ExternalName"}});
        assert_eq!((needs(&external, Some(&old)), held(&external)), (vec![], vec![]));
    }
}

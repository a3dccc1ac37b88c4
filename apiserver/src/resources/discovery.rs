//! Endpoint slices and leases: what the cluster writes most. Follows upstream's `ValidateEndpointSlice*`,
//! `ValidateLease*` and their printers.

use apimachinery::validation as names;
use serde_json::Value;

use super::check::{At, Check, odd_ip, same, strict_ip};
use super::printing::{UNSET, age, name, text};
use super::{HookContext, NameRule, Strategy, meta};

/// The endpointslices resource.
pub const ENDPOINT_SLICE: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |slice, cx| {
        let mut check = meta::checked(slice, cx);
        slice_rules(&mut check, &At::root(slice), None);
        check.errors
    },
    validate_update: |slice, old, cx| {
        let mut check = meta::checked(slice, cx);
        let (new, old) = (At::root(slice), At::root(old));
        slice_rules(&mut check, &new, Some(&old));
        check.immutable(&new.get("addressType"), &old.get("addressType"));
        check.errors
    },
    warnings: |slice, old| {
        let fqdn = slice["addressType"] == "FQDN";
        let mut out: Vec<String> = (fqdn && old.is_none())
            .then(|| "addressType: FQDN endpoints are deprecated".to_owned())
            .into_iter()
            .collect();
        for (i, endpoint) in At::root(slice).get("endpoints").items().enumerate().filter(|_| !fqdn) {
            let addresses = endpoint.get("addresses");
            out.extend(
                addresses
                    .strings()
                    .enumerate()
                    .filter_map(|(j, address)| odd_ip(&format!("endpoints[{i}].addresses[{j}]"), address)),
            );
        }
        out
    },
    cells: Some(slice_cells),
    ..Strategy::DEFAULT
};

/// Endpoints that an update leaves alone are not looked at again.
fn slice_rules(check: &mut Check, slice: &At, old: Option<&At>) {
    let ty = slice.get("addressType");
    check.present_one_of(&ty, &["FQDN", "IPv4", "IPv6"]);
    let endpoints = slice.get("endpoints");
    let unchanged = old.is_some_and(|old| same(old.get("endpoints").value, endpoints.value));
    if !unchanged && check.at_most(&endpoints, 1000) {
        for endpoint in endpoints.items() {
            endpoint_rules(check, &endpoint, ty.str());
        }
    }
    let ports = slice.get("ports");
    if !check.at_most(&ports, 20_000) {
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for port in ports.items() {
        let (port_name, protocol) = (port.get("name"), port.get("protocol"));
        check.format_if_set(&port_name, names::dns1123_label);
        if seen.contains(&port_name.str()) {
            check.duplicate(&port_name);
        }
        seen.push(port_name.str());
        if protocol.is_set() {
            check.one_of(&protocol, &["SCTP", "TCP", "UDP"]);
        } else {
            check.required(&protocol, "");
        }
        if port.get("appProtocol").is_set() {
            check.format(&port.get("appProtocol"), names::qualified_name);
        }
    }
}

fn endpoint_rules(check: &mut Check, endpoint: &At, ty: &str) {
    let addresses = endpoint.get("addresses");
    if addresses.is_empty() {
        check.required(&addresses, "must contain at least 1 address");
    } else if check.at_most(&addresses, 100) {
        for address in addresses.items() {
            match (ty, strict_ip(address.str())) {
                ("IPv4" | "IPv6", Some(ip)) => {
                    if ip.is_ipv4() != (ty == "IPv4") {
                        check.invalid(&address.under(addresses.path.clone()), format!("must be an {ty} address"));
                    }
                    check.non_special_ip(&address);
                }
                ("IPv4" | "IPv6", _) => check.invalid(&address, format!("must be a valid {ty} address")),
                ("FQDN", _) => fqdn(check, &address),
                _ => {}
            }
        }
    }
    if endpoint.get("nodeName").is_set() {
        check.format(&endpoint.get("nodeName"), names::dns1123_subdomain);
    }
    if endpoint.get("hostname").is_set() {
        check.format(&endpoint.get("hostname"), names::dns1123_label);
    }
    for list in ["forZones", "forNodes"] {
        let hints = endpoint.get("hints").get(list);
        if !check.at_most(&hints, 8) {
            continue;
        }
        let mut seen: Vec<&str> = Vec::new();
        for hint in hints.items() {
            let at = hint.get("name");
            if seen.contains(&at.str()) {
                check.duplicate(&at);
            }
            seen.push(at.str());
            check.format(&at, if list == "forZones" { names::label_value } else { names::dns1123_subdomain });
        }
    }
}

fn fqdn(check: &mut Check, at: &At) {
    let name = at.str().strip_suffix('.').unwrap_or(at.str());
    if !names::dns1123_subdomain(name).is_empty() || !name.contains('.') {
        check.invalid(at, "must be a fully qualified domain name with at least two segments");
    }
}

fn slice_cells(slice: &Value, cx: &HookContext) -> Vec<Value> {
    let slice = At::root(slice);
    let ports = slice.get("ports").items().map(|p| match (p.get("port").int(), p.get("name")) {
        (Some(number), _) => number.to_string(),
        (None, name) if name.is_set() => name.str().to_owned(),
        (None, _) => "*".to_owned(),
    });
    let addresses: Vec<String> = slice
        .get("endpoints")
        .items()
        .flat_map(|e| e.get("addresses").strings().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    vec![
        name(&slice),
        text(&slice.get("addressType")),
        first_three(&ports.collect::<Vec<_>>()).into(),
        first_three(&addresses).into(),
        age(&slice, cx.request.now),
    ]
}

fn first_three(list: &[String]) -> String {
    match list.len() {
        0 => UNSET.to_owned(),
        1 if list[0].is_empty() => UNSET.to_owned(),
        more @ 4.. => format!("{} + {} more...", list[..3].join(","), more - 3),
        _ => list.join(","),
    }
}

/// The leases resource.
pub const LEASE: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |lease, cx| {
        let mut check = meta::checked(lease, cx);
        lease_rules(&mut check, &At::root(lease).get("spec"));
        check.errors
    },
    validate_update: |lease, old, _| {
        let mut check = Check::new();
        let new = At::root(lease);
        meta::update(&mut check, &new, &At::root(old));
        lease_rules(&mut check, &new.get("spec"));
        check.errors
    },
    cells: Some(|lease, cx| {
        let lease = At::root(lease);
        vec![name(&lease), text(&lease.get("spec.holderIdentity")), age(&lease, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

fn lease_rules(check: &mut Check, spec: &At) {
    if spec.get("leaseDurationSeconds").is_set() {
        check.positive(&spec.get("leaseDurationSeconds"));
    }
    check.non_negative(&spec.get("leaseTransitions"));
}

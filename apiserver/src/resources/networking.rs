//! The networking group. Follows upstream's networking validation and printers.

use std::net::IpAddr;

use apimachinery::field::ErrorList;
use apimachinery::field::Path;
use apimachinery::validation as names;
use serde_json::Value;

use super::check::{At, Check, dual_stack, parse_cidr, parse_ip};
use super::printing::{NONE, age, name, or_none, selector, text};
use super::{HookContext, NameRule, Strategy, meta};

/// The ingresses resource.
pub const INGRESS: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |ingress, cx| {
        let mut check = meta::checked(ingress, cx);
        let at = At::root(ingress);
        ingress_spec(&mut check, &at.get("spec"));
        let annotation = at.get("metadata.annotations").entry(CLASS);
        let (class, annotation) =
            (at.get("spec.ingressClassName"), annotation.under(Path::new("annotations").child(CLASS)));
        if class.is_set() && annotation.is_set() && class.str() != annotation.str() {
            check.invalid(&annotation, "must match `ingressClassName` when both are specified");
        }
        check.errors
    },
    validate_update: |ingress, old, cx| {
        let mut check = meta::checked(ingress, cx);
        let new = At::root(ingress);
        meta::update(&mut check, &new, &At::root(old));
        ingress_spec(&mut check, &new.get("spec"));
        check.errors
    },
    warnings: |ingress, old| {
        let annotated = |ingress: &Value| ingress["metadata"]["annotations"][CLASS].is_string();
        let new = annotated(ingress) && !old.is_some_and(annotated);
        let sentence =
            "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead";
        new.then(|| sentence.to_owned()).into_iter().collect()
    },
    cells: Some(ingress_cells),
    ..Strategy::DEFAULT
};

const CLASS: &str = "kubernetes.io/ingress.class";

/// `ingresses/status`.
pub const INGRESS_STATUS: Strategy = Strategy {
    validate_update: |ingress, old, _| {
        let mut check = Check::new();
        let new = At::root(ingress);
        meta::update(&mut check, &new, &At::root(old));
        for entry in new.get("status.loadBalancer.ingress").items() {
            let (ip, hostname) = (entry.get("ip"), entry.get("hostname"));
            if !ip.is_empty() {
                check.ip(&ip);
            }
            check.format_if_set(&hostname, names::dns1123_subdomain);
            if parse_ip(hostname.str()).is_some() {
                check.invalid(&hostname, "must be a DNS name, not an IP address");
            }
        }
        check.errors
    },
    ..Strategy::DEFAULT
};

fn ingress_spec(check: &mut Check, spec: &At) {
    let (rules, backend) = (spec.get("rules"), spec.get("defaultBackend"));
    if rules.is_empty() && !backend.is_set() {
        check.invalid(&rules.under(spec.path.clone()), "either `defaultBackend` or `rules` must be specified");
    }
    if backend.is_set() {
        ingress_backend(check, &backend);
    }
    for rule in rules.items() {
        host(check, &rule.get("host"));
        let paths = rule.get("http.paths");
        if rule.get("http").is_set() && paths.is_empty() {
            check.required(&paths, "");
        }
        for path in paths.items() {
            ingress_path(check, &path);
        }
    }
    for tls in spec.get("tls").items() {
        for name in tls.get("hosts").items() {
            let rule =
                if name.str().contains('*') { names::wildcard_dns1123_subdomain } else { names::dns1123_subdomain };
            check.format(&name, rule);
        }
        check.format_if_set(&tls.get("secretName"), names::dns1123_subdomain);
    }
    let class = spec.get("ingressClassName");
    if class.is_set() {
        check.format(&class, names::dns1123_subdomain);
    }
}

fn host(check: &mut Check, at: &At) {
    if at.is_empty() {
        return;
    }
    if parse_ip(at.str()).is_some() {
        check.invalid(at, "must be a DNS name, not an IP address");
    }
    check.format(at, if at.str().contains('*') { names::wildcard_dns1123_subdomain } else { names::dns1123_subdomain });
}

fn ingress_path(check: &mut Check, at: &At) {
    let (path, ty) = (at.get("path"), at.get("pathType"));
    match ty.str() {
        _ if !ty.is_set() => return check.required(&ty, "pathType must be specified"),
        "Exact" | "Prefix" => {
            const FORBIDDEN: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
            if !path.str().starts_with('/') {
                check.invalid(&path, "must be an absolute path");
            }
            if !path.is_empty() {
                for found in FORBIDDEN.iter().filter(|f| path.str().contains(**f)) {
                    check.invalid(&path, format!("must not contain '{found}'"));
                }
                for found in ["/..", "/."].iter().filter(|f| path.str().ends_with(**f)) {
                    check.invalid(&path, format!("cannot end with '{found}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.str().starts_with('/') {
                check.invalid(&path, "must be an absolute path");
            }
        }
        _ => check.not_supported(&ty, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    ingress_backend(check, &at.get("backend"));
}

/// An object's group, kind and name.
fn typed_reference(check: &mut Check, at: &At) {
    if at.get("apiGroup").is_set() {
        check.format(&at.get("apiGroup"), names::dns1123_subdomain);
    }
    check.present_format(&at.get("kind"), names::path_segment_name);
    check.present_format(&at.get("name"), names::path_segment_name);
}

fn ingress_backend(check: &mut Check, at: &At) {
    let (service, resource) = (at.get("service"), at.get("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => return check.invalid(at, "cannot set both resource and service backends"),
        (false, false) => return check.invalid(at, "resource or service backend is required"),
        (false, true) => {
            return typed_reference(check, &resource);
        }
        (true, false) => {}
    }
    check.present_format(&service.get("name"), names::dns1123_label);
    let (port_name, number) = (service.get("port.name"), service.get("port.number"));
    match (port_name.is_empty(), number.number() != 0) {
        (false, true) => check.invalid(at, "cannot set both port name & port number"),
        (false, false) => check.format(&port_name, names::port_name),
        (true, true) => check.port_number(&number),
        (true, false) => check.required(at, "port name or number is required"),
    }
}

fn ingress_cells(ingress: &Value, cx: &HookContext) -> Vec<Value> {
    let ingress = At::root(ingress);
    let spec = ingress.get("spec");
    let all: Vec<&str> = spec.get("rules").items().map(|r| r.get("host").str()).filter(|h| !h.is_empty()).collect();
    let hosts = match all.len() {
        0 => "*".to_owned(),
        more @ 4.. => format!("{} + {} more...", all[..3].join(","), more - 3),
        _ => all.join(","),
    };
    let mut addresses: Vec<&str> = Vec::new();
    for entry in ingress.get("status.loadBalancer.ingress").items() {
        addresses.extend([entry.get("ip").str(), entry.get("hostname").str()].into_iter().find(|a| !a.is_empty()));
    }
    let ports = if spec.get("tls").is_empty() { "80" } else { "80, 443" };
    vec![
        name(&ingress),
        or_none(spec.get("ingressClassName").str()),
        hosts.into(),
        addresses.join(",").into(),
        ports.into(),
        age(&ingress, cx.request.now),
    ]
}

/// The ingressclasses resource.
pub const INGRESS_CLASS: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |class, cx| {
        let mut check = meta::checked(class, cx);
        ingress_class(&mut check, &At::root(class).get("spec"));
        check.errors
    },
    validate_update: |class, old, cx| {
        let mut check = meta::checked(class, cx);
        let (new, old) = (At::root(class), At::root(old));
        meta::update(&mut check, &new, &old);
        check.immutable(&new.get("spec.controller"), &old.get("spec.controller"));
        ingress_class(&mut check, &new.get("spec"));
        check.errors
    },
    cells: Some(|class, cx| {
        let class = At::root(class);
        let parameters = class.get("spec.parameters");
        let shown = if parameters.is_set() {
            let group = parameters.get("apiGroup").str();
            let kind = if group.is_empty() { String::new() } else { format!(".{group}") };
            format!("{}{kind}/{}", parameters.get("kind").str(), parameters.get("name").str())
        } else {
            NONE.to_owned()
        };
        vec![name(&class), text(&class.get("spec.controller")), shown.into(), age(&class, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

fn ingress_class(check: &mut Check, spec: &At) {
    let controller = spec.get("controller");
    if controller.len() > 250 {
        check.too_long(&controller, 250);
    }
    let fits = controller
        .str()
        .split_once('/')
        .is_some_and(|(domain, path)| names::dns1123_subdomain(domain).is_empty() && !path.is_empty());
    if controller.is_empty() {
        check.required(&controller, "");
    } else if !fits {
        check.invalid(&controller, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
    let parameters = spec.get("parameters");
    if !parameters.is_set() {
        return;
    }
    typed_reference(check, &parameters);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    check.present_one_of(&scope, &["Cluster", "Namespace"]);
    if scope.str() == "Namespace" {
        if namespace.is_set() {
            check.format(&namespace, names::dns1123_label);
        } else {
            check.required(&namespace, "`parameters.scope` is set to 'Namespace'");
        }
    } else if namespace.is_set() && scope.str() == "Cluster" {
        check.forbidden(&namespace, "`parameters.scope` is set to 'Cluster'");
    }
}

/// The networkpolicies resource.
pub const NETWORK_POLICY: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |policy, cx| {
        let mut check = meta::checked(policy, cx);
        network_policy(&mut check, &At::root(policy).get("spec"));
        check.errors
    },
    validate_update: |policy, old, _| {
        let mut check = Check::new();
        let new = At::root(policy);
        meta::update(&mut check, &new, &At::root(old));
        network_policy(&mut check, &new.get("spec"));
        check.errors
    },
    cells: Some(|policy, cx| {
        let policy = At::root(policy);
        vec![name(&policy), selector(&policy.get("spec.podSelector")), age(&policy, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

fn network_policy(check: &mut Check, spec: &At) {
    check.label_selector(&spec.get("podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(direction).items() {
            for port in rule.get("ports").items() {
                policy_port(check, &port);
            }
            for peer in rule.get(peers).items() {
                policy_peer(check, &peer);
            }
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        return check.invalid(&types, "may not specify more than two policyTypes");
    }
    for ty in types.items() {
        check.one_of(&ty, &["Egress", "Ingress"]);
    }
}

fn policy_port(check: &mut Check, at: &At) {
    let (port, end) = (at.get("port"), at.get("endPort"));
    check.one_of(&at.get("protocol"), &["SCTP", "TCP", "UDP"]);
    if port.is_set() {
        check.port_number_or_name(&port);
    }
    if !end.is_set() {
        return;
    }
    match port.int() {
        Some(first) => {
            if end.number() < first {
                check.invalid(&end, "must be greater than or equal to `port`");
            }
            check.port_number(&end);
        }
        None => check.invalid(&end, "may only be specified with a numeric `port`"),
    }
}

fn policy_peer(check: &mut Check, at: &At) {
    let selectors: Vec<At> =
        ["podSelector", "namespaceSelector"].iter().map(|f| at.get(f)).filter(At::is_set).collect();
    for selector in &selectors {
        check.label_selector(selector);
    }
    let block = at.get("ipBlock");
    if block.is_set() {
        ip_block(check, &block);
    }
    if selectors.is_empty() && !block.is_set() {
        check.required(at, "must specify a peer");
    } else if !selectors.is_empty() && block.is_set() {
        check.forbidden(at, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(check: &mut Check, at: &At) {
    let cidr = at.get("cidr");
    if cidr.is_empty() {
        return check.required(&cidr, "");
    }
    check.cidr(&cidr);
    let Some(outer) = parse_cidr(cidr.str()) else { return };
    for except in at.get("except").items() {
        check.cidr(&except);
        match parse_cidr(except.str()) {
            Some(inner) if inner.1 <= outer.1 || !contains(outer, inner.0) => {
                check.invalid(&except, "must be a strict subset of `cidr`");
            }
            _ => {}
        }
    }
}

/// Does the range hold the address?
pub fn contains((network, prefix): (IpAddr, u8), ip: IpAddr) -> bool {
    let shifted = |bits: u128, width: u32| bits.checked_shr(width - u32::from(prefix)).unwrap_or_default();
    match (network, ip) {
        (IpAddr::V4(n), IpAddr::V4(i)) => shifted(u128::from(n.to_bits()), 32) == shifted(u128::from(i.to_bits()), 32),
        (IpAddr::V6(n), IpAddr::V6(i)) => shifted(n.to_bits(), 128) == shifted(i.to_bits(), 128),
        _ => false,
    }
}

/// The ipaddresses resource: the name is the address in its canonical form.
pub const IP_ADDRESS: Strategy = Strategy {
    names: NameRule(|name| match name.parse::<IpAddr>() {
        Ok(ip) if ip.to_string() == name => Vec::new(),
        _ => vec!["must be a valid IP address in canonical form".to_owned()],
    }),
    validate: |address, cx| {
        let mut check = meta::checked(address, cx);
        parent(&mut check, &At::root(address));
        check.errors
    },
    validate_update: |address, old, cx| {
        let mut check = meta::checked(address, cx);
        let (new, old) = (At::root(address), At::root(old));
        parent(&mut check, &new);
        meta::update(&mut check, &new, &old);
        check.immutable(&new.get("spec.parentRef"), &old.get("spec.parentRef"));
        check.errors
    },
    // Upstream prints an age that no column is named for.
    cells: Some(|address, cx| {
        let address = At::root(address);
        let parent = address.get("spec.parentRef");
        let [group, resource, namespace, own] = ["group", "resource", "namespace", "name"].map(|f| parent.get(f).str());
        let kind =
            if group.is_empty() { resource.to_lowercase() } else { format!("{resource}.{group}").to_lowercase() };
        let parts = [kind.as_str(), namespace, own];
        let shown = parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/");
        vec![name(&address), if parent.is_set() { shown.into() } else { NONE.into() }, age(&address, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

fn parent(check: &mut Check, address: &At) {
    let parent = address.get("spec.parentRef");
    if !parent.is_set() {
        return check.required(&parent, "");
    }
    check.format_if_set(&parent.get("group"), names::dns1123_subdomain);
    check.present_format(&parent.get("resource"), names::path_segment_name);
    check.present_format(&parent.get("name"), names::path_segment_name);
    check.format_if_set(&parent.get("namespace"), names::path_segment_name);
}

/// The servicecidrs resource.
pub const SERVICE_CIDR: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |range, cx| {
        let mut check = meta::checked(range, cx);
        check.errors.extend(cidrs(range));
        check.errors
    },
    validate_update: |range, old, _| {
        let mut check = Check::new();
        let (new, old) = (At::root(range), At::root(old));
        meta::update(&mut check, &new, &old);
        let (now, before) = (new.get("spec.cidrs"), old.get("spec.cidrs"));
        let grows = before.len() == 1 && now.len() == 2;
        if grows || before.len() == now.len() {
            for (now, before) in now.items().zip(before.items()) {
                check.immutable(&now, &before);
            }
        } else {
            check.immutable(&now, &before);
        }
        if grows {
            check.errors.extend(cidrs(range));
        }
        check.errors
    },
    cells: Some(|range, cx| {
        let range = At::root(range);
        vec![
            name(&range),
            range.get("spec.cidrs").strings().collect::<Vec<_>>().join(",").into(),
            age(&range, cx.request.now),
        ]
    }),
    ..Strategy::DEFAULT
};

fn cidrs(range: &Value) -> ErrorList {
    let mut check = Check::new();
    let at = At::root(range).get("spec.cidrs");
    if at.is_empty() {
        check.required(&at, "at least one CIDR required");
        return check.errors;
    }
    if at.len() > 2 {
        check.invalid(&at, "may only hold up to 2 values");
        return check.errors;
    }
    let parsed: Vec<IpAddr> = at.strings().filter_map(parse_cidr).map(|(ip, _)| ip).collect();
    if parsed.len() == 2 && !dual_stack(&parsed) {
        check.invalid(&at, "may specify no more than one range of each IP family");
    }
    for cidr in at.items() {
        let canonical = parse_cidr(cidr.str())
            .is_some_and(|(ip, prefix)| format!("{ip}/{prefix}") == cidr.str() && masked(ip, prefix) == ip);
        if !canonical {
            check.invalid(&cidr, "must be a CIDR in canonical form");
        }
    }
    check.errors
}

/// The address with the bits beyond the prefix cleared.
pub fn masked(ip: IpAddr, prefix: u8) -> IpAddr {
    let mask = |width: u32| u128::MAX.checked_shl(width - u32::from(prefix)).unwrap_or_default();
    match ip {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & mask(32) as u32).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & mask(128)).into()),
    }
}

//! Services. Follows upstream's `ValidateService`, `ValidateServiceUpdate` and the service strategy.
//!
//! The life of a write: `defaults` (fields by type), `families::prepare` (what the client left out is kept from before),
//! allocation (addresses and ports, by `registry::allocators`), then the rules here.

pub mod families;
mod update;
pub mod view;

use apimachinery::field::ErrorList;
use apimachinery::validation as names;
use serde_json::{Value, json};

use crate::registry::allocators;
use crate::resources::check::{At, Check, dual_stack, parse_ip, strict_ip};
use crate::resources::edit::{array_mut, at_mut, remove, set, set_absent, set_default};
use crate::resources::{HookContext, meta};
use crate::resources::{NameRule, Strategy};

/// The services resource.
pub const STRATEGY: Strategy = Strategy {
    names: NameRule(names::dns1123_label),
    default: defaults,
    prepare_create: |service, _| families::prepare(service, None),
    prepare_update,
    validate,
    validate_update,
    warnings: view::warnings,
    cells: Some(view::cells),
    allocate: Some(allocators::allocate),
    release: Some(allocators::release),
    ..Strategy::DEFAULT
};

/// `services/status`.
pub const STATUS: Strategy = Strategy { default: defaults, validate_update: validate_status, ..Strategy::DEFAULT };

/// Can it be reached from outside the cluster by node port, load balancer or external address?
pub fn externally_accessible(service: &At) -> bool {
    let spec = service.get("spec");
    match spec.get("type").str() {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !spec.get("externalIPs").is_empty(),
        _ => false,
    }
}

/// A load balancer that must learn on which nodes the endpoints are.
pub fn needs_health_check(service: &At) -> bool {
    service.get("spec.type").str() == "LoadBalancer" && service.get("spec.externalTrafficPolicy").str() == "Local"
}

/// `clusterIP: None`.
pub fn is_headless(service: &At) -> bool {
    let ips = service.get("spec.clusterIPs");
    ips.len() == 1 && ips.strings().next() == Some("None")
}

fn defaults(service: &mut Value, cx: &HookContext) {
    (Strategy::DEFAULT.default)(service, cx);
    set_default(service, "spec", json!({}));
    let spec = &mut service["spec"];
    set_default(spec, "type", "ClusterIP");
    set_default(spec, "sessionAffinity", "None");
    match spec["sessionAffinity"].as_str() {
        Some("None") => drop(remove(spec, "sessionAffinityConfig")),
        Some("ClientIP")
            if spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds").is_none_or(Value::is_null) =>
        {
            set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10_800}}));
        }
        _ => {}
    }
    for port in array_mut(spec, "ports") {
        set_default(port, "protocol", "TCP");
        if port.get("targetPort").is_none_or(|t| t.is_null() || *t == 0 || *t == "") {
            let number = port["port"].as_i64().unwrap_or_default();
            set(port, "targetPort", number);
        }
    }
    let ty = spec["type"].as_str().unwrap_or_default().to_owned();
    if ["ClusterIP", "NodePort", "LoadBalancer"].contains(&ty.as_str()) {
        set_absent(spec, "internalTrafficPolicy", "Cluster");
    }
    if ty == "LoadBalancer" {
        set_absent(spec, "allocateLoadBalancerNodePorts", true);
    }
    if externally_accessible(&At::root(service)) {
        at_mut(service, "spec", |spec| set_default(spec, "externalTrafficPolicy", "Cluster"));
    }
    if ty == "LoadBalancer" {
        at_mut(service, "status.loadBalancer", |status| {
            for ingress in
                array_mut(status, "ingress").iter_mut().filter(|i| i["ip"].as_str().is_some_and(|ip| !ip.is_empty()))
            {
                set_absent(ingress, "ipMode", "VIP");
            }
        });
    }
}

fn prepare_update(service: &mut Value, old: &Value, _: &HookContext) {
    families::prepare(service, Some(old));
    families::drop_what_the_type_no_longer_has(service, old);
    if service["spec"]["type"] != "LoadBalancer" {
        at_mut(service, "status", |status| set(status, "loadBalancer", json!({})));
    }
}

fn validate(service: &Value, cx: &HookContext) -> ErrorList {
    let mut check = meta::checked(service, cx);
    rules(&mut check, &At::root(service));
    check.errors
}

fn validate_update(service: &Value, old: &Value, _: &HookContext) -> ErrorList {
    let mut check = Check::new();
    let (new, old) = (At::root(service), At::root(old));
    meta::update(&mut check, &new, &old);
    update::rules(&mut check, &new, &old);
    rules(&mut check, &new);
    check.errors
}

fn rules(check: &mut Check, service: &At) {
    let spec = service.get("spec");
    let (ty, headless) = (spec.get("type").str(), is_headless(service));
    topology_annotations(check, &service.get("metadata.annotations"));
    if spec.get("ports").is_empty() && !headless && ty != "ExternalName" {
        check.required(&spec.get("ports"), "");
    }
    match ty {
        "LoadBalancer" | "NodePort" if headless => {
            let none = spec.get("clusterIPs").items().next();
            none.iter().for_each(|at| check.invalid(at, "may not be set to 'None' for services of this type"));
        }
        "ExternalName" => external_name(check, &spec),
        _ => {}
    }
    ports(check, &spec);
    check.labels(&spec.get("selector"));
    affinity(check, &spec);
    cluster_ips(check, service);
    for ip in spec.get("externalIPs").items() {
        if strict_ip(ip.str()).is_none() {
            check.ip(&ip);
        } else {
            check.non_special_ip(&ip);
        }
    }
    check.present_one_of(&spec.get("type"), &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    port_numbers(check, &spec);
    source_ranges(check, service);
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    if allocate.is_set() && ty != "LoadBalancer" {
        check.forbidden(&allocate, "may only be used when `type` is 'LoadBalancer'");
    }
    load_balancer_class(check, &spec);
    traffic(check, service);
}

/// Updates are asked this twice, as upstream does.
fn load_balancer_class(check: &mut Check, spec: &At) {
    let class = spec.get("loadBalancerClass");
    if class.is_set() {
        if spec.get("type").str() == "LoadBalancer" {
            check.format(&class, names::qualified_name);
        } else {
            check.forbidden(&class, "may only be used when `type` is 'LoadBalancer'");
        }
    }
}

fn topology_annotations(check: &mut Check, at: &At) {
    let (hints, mode) =
        (at.entry("service.kubernetes.io/topology-aware-hints"), at.entry("service.kubernetes.io/topology-mode"));
    if hints.is_set() && mode.is_set() && hints.str() != mode.str() {
        check.invalid(
            &mode,
            "must match annotations[service.kubernetes.io/topology-aware-hints] when both are specified",
        );
    }
}

fn external_name(check: &mut Check, spec: &At) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"].map(|f| spec.get(f)).iter().filter(|f| !f.is_empty()) {
        check.forbidden(field, "may not be set for ExternalName services");
    }
    let name = spec.get("externalName");
    let cname = name.str().strip_suffix('.').unwrap_or(name.str());
    if cname.is_empty() {
        return check.required(&name, "");
    }
    for complaint in names::dns1123_subdomain(cname) {
        check.invalid(&name, complaint);
    }
}

fn ports(check: &mut Check, spec: &At) {
    let ports = spec.get("ports");
    let mut seen: Vec<&str> = Vec::new();
    for port in ports.items() {
        let name = port.get("name");
        if name.is_empty() {
            if ports.len() > 1 {
                check.required(&name, "");
            }
        } else {
            check.format(&name, names::dns1123_label);
            if seen.contains(&name.str()) {
                check.duplicate(&name);
            }
            seen.push(name.str());
        }
        check.port_number(&port.get("port"));
        check.present_one_of(&port.get("protocol"), &["SCTP", "TCP", "UDP"]);
        check.port_number_or_name(&port.get("targetPort"));
        let app = port.get("appProtocol");
        if app.is_set() {
            check.format(&app, names::qualified_name);
        }
    }
}

fn port_numbers(check: &mut Check, spec: &At) {
    let ports = spec.get("ports");
    if spec.get("type").str() == "ClusterIP" {
        for port in ports.items().filter(|p| p.get("nodePort").number() != 0) {
            check.forbidden(&port.get("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
    for field in ["nodePort", "port"] {
        let mut seen: Vec<(&str, i64)> = Vec::new();
        for port in ports.items() {
            let key = (port.get("protocol").str(), port.get(field).number());
            if field == "nodePort" && key.1 == 0 {
                continue;
            }
            if seen.contains(&key) {
                check.duplicate(&if field == "nodePort" { port.get(field) } else { port });
            }
            seen.push(key);
        }
    }
}

fn affinity(check: &mut Check, spec: &At) {
    let (affinity, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    check.present_one_of(&affinity, &["ClientIP", "None"]);
    let timeout = config.get("clientIP.timeoutSeconds");
    match affinity.str() {
        "ClientIP" if timeout.is_set() => check.range(&timeout, 1, 86_400),
        "ClientIP" => {
            let missing = [config.clone(), config.get("clientIP"), timeout].into_iter().find(|at| !at.is_set());
            missing.iter().for_each(|at| check.required(at, "when session affinity type is ClientIP"));
        }
        "None" if config.is_set() => check.forbidden(&config, "must not be set when session affinity is None"),
        _ => {}
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` among themselves; allocation asks for this first.
pub fn cluster_ips(check: &mut Check, service: &At) {
    let spec = service.get("spec");
    if spec.get("type").str() == "ExternalName" {
        return;
    }
    let (single, ips, families) = (spec.get("clusterIP"), spec.get("clusterIPs"), spec.get("ipFamilies"));
    match (single.is_empty(), ips.strings().next()) {
        (false, None) => check.required(&ips, ""),
        (false, Some(first)) if first != single.str() => check.invalid(&ips, "first value must match `clusterIP`"),
        (true, Some(_)) => check.invalid(&ips, "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    let mut seen: Vec<&str> = Vec::new();
    for family in families.items() {
        check.one_of(&family, &["IPv4", "IPv6"]);
        if seen.contains(&family.str()) {
            check.duplicate(&family);
        }
        seen.push(family.str());
    }
    check.one_of(&spec.get("ipFamilyPolicy"), &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    let mut malformed = false;
    for (i, ip) in ips.items().enumerate() {
        if i == 0 && ip.str() == "None" {
            if ips.len() > 1 {
                malformed = true;
                check.invalid(&ips, "'None' must be the first and only value");
            }
        } else if strict_ip(ip.str()).is_none() {
            malformed = true;
            check.ip(&ip);
        }
    }
    if ips.len() > 2 {
        check.invalid(&ips, "may only hold up to 2 values");
    }
    if malformed {
        return;
    }
    let parsed: Vec<_> = ips.strings().filter_map(parse_ip).collect();
    if ips.len() > 1 && !dual_stack(&parsed) {
        check.invalid(&ips, "may specify no more than one IP for each IP family");
    }
    for (ip, family) in ips.items().zip(families.strings()) {
        if parse_ip(ip.str()).is_some_and(|ip| ip.is_ipv6() != (family == "IPv6")) {
            check.invalid(&ip, "must be of the family that `ipFamilies` has at this place");
        }
    }
}

fn source_ranges(check: &mut Check, service: &At) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    const WRONG_TYPE: &str = "may only be used when `type` is 'LoadBalancer'";
    let spec = service.get("spec");
    let ranges = spec.get("loadBalancerSourceRanges").under(spec.path.child("LoadBalancerSourceRanges"));
    let annotation = service.get("metadata.annotations").entry(ANNOTATION);
    let balanced = spec.get("type").str() == "LoadBalancer";
    if !ranges.is_empty() {
        if !balanced {
            check.forbidden(&ranges, WRONG_TYPE);
        }
        for range in ranges.items() {
            check.cidr(&range);
        }
    } else if annotation.is_set() {
        if !balanced {
            check.forbidden(&annotation, WRONG_TYPE);
        }
        for range in annotation.str().trim().split(',').filter(|_| !annotation.str().trim().is_empty()) {
            let value = Value::from(range);
            check.cidr(&At { value: &value, path: annotation.path.clone() });
        }
    }
}

fn traffic(check: &mut Check, service: &At) {
    let spec = service.get("spec");
    let (external, health) = (spec.get("externalTrafficPolicy"), spec.get("healthCheckNodePort"));
    if externally_accessible(service) {
        check.present_one_of(&external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        check.invalid(&external, "may only be set for externally-accessible services");
    }
    if !needs_health_check(service) {
        if health.number() != 0 {
            check.invalid(
                &health,
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            );
        }
    } else if health.number() == 0 {
        check.required(&health, "");
    } else {
        check.port_number(&health);
    }
    let internal = spec.get("internalTrafficPolicy");
    if !internal.is_set() && ["ClusterIP", "NodePort", "LoadBalancer"].contains(&spec.get("type").str()) {
        check.required(&internal, "");
    }
    check.one_of(&internal, &["Cluster", "Local"]);
    check.one_of(&spec.get("trafficDistribution"), &["PreferClose", "PreferSameNode", "PreferSameZone"]);
}

fn validate_status(service: &Value, old: &Value, _: &HookContext) -> ErrorList {
    let mut check = Check::new();
    let new = At::root(service);
    meta::update(&mut check, &new, &At::root(old));
    load_balancer(&mut check, &new.get("status.loadBalancer"), new.get("spec.type").str() == "LoadBalancer");
    check.errors
}

/// The addresses that a load balancer reports.
fn load_balancer(check: &mut Check, at: &At, balanced: bool) {
    let ingress = at.get("ingress");
    if !balanced && !ingress.is_empty() {
        return check.forbidden(&ingress, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for entry in ingress.items() {
        let (ip, mode, hostname) = (entry.get("ip"), entry.get("ipMode"), entry.get("hostname"));
        if !ip.is_empty() {
            check.ip(&ip);
        }
        match (mode.is_set(), ip.is_empty()) {
            (false, false) => check.required(&mode, "must be specified when `ip` is set"),
            (true, true) => check.forbidden(&mode, "may not be specified when `ip` is not set"),
            (true, false) => check.one_of(&mode, &["Proxy", "VIP"]),
            (false, true) => {}
        }
        check.format_if_set(&hostname, names::dns1123_subdomain);
        if parse_ip(hostname.str()).is_some() {
            check.invalid(&hostname, "must be a DNS name, not an IP address");
        }
    }
}

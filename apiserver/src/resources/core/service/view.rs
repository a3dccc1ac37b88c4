//! How services look in a table, and what is worth a warning.

use serde_json::Value;

use crate::resources::HookContext;
use crate::resources::check::{At, odd_cidr, odd_ip};
use crate::resources::printing::{NONE, age, labels, name, or_none, text};

/// Name, type, addresses, ports, age, selector.
pub fn cells(service: &Value, cx: &HookContext) -> Vec<Value> {
    let service = At::root(service);
    let spec = service.get("spec");
    vec![
        name(&service),
        text(&spec.get("type")),
        or_none(spec.get("clusterIPs").strings().next().unwrap_or_default()),
        external_ip(&service).into(),
        ports(&spec).into(),
        age(&service, cx.request.now),
        labels(&spec.get("selector")),
    ]
}

fn external_ip(service: &At) -> String {
    let spec = service.get("spec");
    let external: Vec<&str> = spec.get("externalIPs").strings().collect();
    match spec.get("type").str() {
        "ClusterIP" | "NodePort" if external.is_empty() => NONE.to_owned(),
        "ClusterIP" | "NodePort" => external.join(","),
        "ExternalName" => spec.get("externalName").str().to_owned(),
        "LoadBalancer" => {
            let mut all: Vec<&str> = Vec::new();
            for ingress in service.get("status.loadBalancer.ingress").items() {
                let (ip, hostname) = (ingress.get("ip").str(), ingress.get("hostname").str());
                all.extend([ip, hostname].into_iter().find(|s| !s.is_empty()));
            }
            all.sort_unstable();
            all.dedup();
            all.extend(&external);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => "<unknown>".to_owned(),
    }
}

fn ports(spec: &At) -> String {
    let pieces: Vec<String> = spec
        .get("ports")
        .items()
        .map(|p| {
            let (port, node, protocol) = (p.get("port").number(), p.get("nodePort").number(), p.get("protocol").str());
            if node > 0 { format!("{port}:{node}/{protocol}") } else { format!("{port}/{protocol}") }
        })
        .collect();
    if pieces.is_empty() { NONE.to_owned() } else { pieces.join(",") }
}

/// Deprecated annotations and fields, and addresses not written the canonical way.
pub fn warnings(service: &Value, _: Option<&Value>) -> Vec<String> {
    let service = At::root(service);
    let (spec, annotations) = (service.get("spec"), service.get("metadata.annotations"));
    let mut out = Vec::new();
    if annotations.entry("service.kubernetes.io/topology-aware-hints").is_set() {
        out.push("metadata.annotations[service.kubernetes.io/topology-aware-hints]: deprecated in v1.27+, use service.kubernetes.io/topology-mode instead".to_owned());
    }
    let external = spec.get("externalIPs");
    let single = spec.get("clusterIP").str();
    let (ty, headless) = (spec.get("type").str(), spec.get("type").str() == "ClusterIP" && single == "None");
    if !external.is_empty() && !headless && ty != "ExternalName" {
        out.push("spec.externalIPs is deprecated in v1.36+ and will be removed in a future release".to_owned());
    }
    if single != "None" {
        for (i, ip) in spec.get("clusterIPs").strings().enumerate() {
            out.extend(odd_ip(&format!("spec.clusterIPs[{i}]"), ip));
        }
    }
    for (i, ip) in external.strings().enumerate() {
        out.extend(odd_ip(&format!("spec.externalIPs[{i}]"), ip));
    }
    if !spec.get("loadBalancerIP").is_empty() {
        out.extend(odd_ip("spec.loadBalancerIP", spec.get("loadBalancerIP").str()));
    }
    for (i, range) in spec.get("loadBalancerSourceRanges").strings().enumerate() {
        out.extend(odd_cidr(&format!("spec.loadBalancerSourceRanges[{i}]"), range));
    }
    if ty == "ExternalName" && !external.is_empty() {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if ty != "ExternalName" && !spec.get("externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.get("trafficDistribution").str() == "PreferClose" {
        out.push(
            "spec.trafficDistribution: PreferClose is deprecated in v1.34+, use PreferSameZone instead".to_owned(),
        );
    }
    if headless && !spec.get("loadBalancerIP").is_empty() {
        out.push("spec.loadBalancerIP is ignored when spec.clusterIP is \"None\"".to_owned());
    }
    if headless && !external.is_empty() {
        out.push("spec.externalIPs is ignored when spec.clusterIP is \"None\"".to_owned());
    }
    if headless && spec.get("sessionAffinity").str() != "None" {
        out.push("spec.SessionAffinity is ignored for headless services".to_owned());
    }
    out
}

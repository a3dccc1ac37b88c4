//! From Services and EndpointSlices to the desired state of one node and one address family.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use component_base::net::Cidr;

use super::categorize::{self, Candidate};
use super::objects::{EndpointSlice, Port, Service};
use super::{Family, Protocol};

/// Names the Service that a slice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Services and slices that another proxy serves carry this label (upstream's `service.kubernetes.io/service-proxy-name`).
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Slices of headless Services carry this label and make no rules.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// What is known of the node the rules are for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    /// Its name: endpoints on it are local.
    pub name: String,
    /// Its `topology.kubernetes.io/zone`, empty when unknown.
    pub zone: String,
}

/// Where a connection may be sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address.
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
    /// Whether it runs on this node.
    pub local: bool,
}

impl Endpoint {
    /// `10.0.0.1:80` or `[fd00::1]:80`.
    pub fn socket(&self) -> String {
        std::net::SocketAddr::new(self.ip, self.port).to_string()
    }
}

/// One port of one Service with everything that rules need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `namespace/name:port`, or `namespace/name` for an unnamed port.
    pub name: String,
    /// Namespace and name of the Service.
    pub service: ServiceKey,
    /// Protocol.
    pub protocol: Protocol,
    /// Cluster address.
    pub cluster_ip: IpAddr,
    /// Port at the cluster, external and load balancer addresses.
    pub port: u16,
    /// Port on every node, 0 for none.
    pub node_port: u16,
    /// External addresses.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses whose packets arrive with that destination.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer addresses; empty: everybody.
    pub source_ranges: Vec<Cidr>,
    /// Client affinity in seconds.
    pub affinity_seconds: Option<u32>,
    /// Traffic from outside stays on the node it came to.
    pub external_local: bool,
    /// Traffic from pods stays on their node.
    pub internal_local: bool,
    /// Where load balancers ask for local endpoints, 0 for none.
    pub health_check_node_port: u16,
    /// For traffic that may go anywhere.
    pub cluster_endpoints: Vec<Endpoint>,
    /// For traffic that must stay on the node.
    pub local_endpoints: Vec<Endpoint>,
    /// Whether any endpoint of the Service could take traffic, on whatever node.
    pub has_endpoints: bool,
    /// Addresses of ready endpoints on this node, where load balancers ask for them. Those that only still serve do not
    /// count: the balancer is to send new connections elsewhere.
    pub ready_here: BTreeSet<IpAddr>,
}

impl ServicePort {
    /// Whether it is reachable by other than its cluster address.
    pub fn is_external(&self) -> bool {
        self.node_port != 0 || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    /// The name of the port, empty when the Service has but one.
    pub fn port_name(&self) -> &str {
        self.name.split_once(':').map_or("", |(_, port)| port)
    }

    /// Endpoints that traffic may reach from this node, whichever the policy.
    pub fn reachable(&self) -> BTreeSet<&Endpoint> {
        self.cluster_endpoints.iter().chain(&self.local_endpoints).collect()
    }

    /// Whether a packet from this node may use the load balancer's addresses in spite of source ranges.
    pub fn admits(&self, node_ip: Option<IpAddr>) -> bool {
        node_ip.is_some_and(|ip| self.source_ranges.iter().any(|range| range.contains(ip)))
    }

    /// Endpoints for traffic from pods and the node to the cluster address.
    pub fn internal_endpoints(&self) -> &[Endpoint] {
        if self.internal_local { &self.local_endpoints } else { &self.cluster_endpoints }
    }

    /// Endpoints for traffic from outside.
    pub fn external_endpoints(&self) -> &[Endpoint] {
        if self.external_local { &self.local_endpoints } else { &self.cluster_endpoints }
    }
}

/// Namespace and name of a Service.
pub type ServiceKey = (String, String);

/// The service ports of one Service, sorted by name and protocol; shared between what is and what was written.
pub type Ports = Arc<[ServicePort]>;

/// All service ports of one family; a Service without any is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired(BTreeMap<ServiceKey, Ports>);

impl Desired {
    /// The ports of one Service, none when there is no such Service.
    pub fn get(&self, service: &ServiceKey) -> Ports {
        self.0.get(service).cloned().unwrap_or_default()
    }

    /// Puts what a Service has now in the place of what it had.
    pub fn take_over(&mut self, change: &Change) {
        if let Some(port) = change.new.first() {
            self.0.insert(port.service.clone(), Arc::clone(&change.new));
        } else if let Some(port) = change.old.first() {
            self.0.remove(&port.service);
        }
    }

    /// All Services.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.0.keys()
    }

    /// All ports.
    pub fn ports(&self) -> impl Iterator<Item = &ServicePort> {
        self.0.values().flat_map(|ports| ports.iter())
    }
}

/// What changed of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub old: Ports,
    /// Now.
    pub new: Ports,
}

/// The ports of one Service, given the slices that carry its name.
pub fn service_ports<'a>(
    family: Family,
    node: &NodeView,
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> Ports {
    let Some(cluster_ip) = proxied(family, service) else { return Ports::default() };
    let endpoints = index(family, slices);
    let port = |port| service_port(family, node, service, cluster_ip, port, &endpoints);
    let mut ports: Vec<ServicePort> = service.spec.ports.iter().map(port).collect();
    ports.sort_by(|a, b| (&a.name, a.protocol).cmp(&(&b.name, b.protocol)));
    ports.into()
}

/// The cluster address of the family, if this proxy has to serve the Service at all.
fn proxied(family: Family, service: &Service) -> Option<IpAddr> {
    let meta = &service.metadata;
    if service.spec.ty == "ExternalName" || meta.labels.contains_key(PROXY_NAME_LABEL) {
        return None;
    }
    service.spec.cluster_ips.iter().filter_map(|ip| ip.parse().ok()).find(|ip| family.has(ip))
}

/// By port name and protocol.
type Candidates = BTreeMap<(String, Protocol), BTreeMap<(IpAddr, u16), Candidate>>;

fn index<'a>(family: Family, slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Candidates {
    let wanted = if family == Family::V4 { "IPv4" } else { "IPv6" };
    let mut out = Candidates::new();
    for slice in slices {
        let labels = &slice.metadata.labels;
        if slice.address_type != wanted || labels.contains_key(PROXY_NAME_LABEL) || labels.contains_key(HEADLESS_LABEL)
        {
            continue;
        }
        for slice_port in &slice.ports {
            let Some(number) = slice_port.port else { continue };
            let protocol = Protocol::parse(slice_port.protocol.as_deref().unwrap_or("TCP"));
            let port = out.entry((slice_port.name.clone().unwrap_or_default(), protocol)).or_default();
            for endpoint in &slice.endpoints {
                let Some(ip) = endpoint.addresses.first() else { continue };
                let candidate = Candidate::of(endpoint);
                // an endpoint that moves between slices is in both for a moment: the better state wins
                port.entry((*ip, number)).and_modify(|c| c.merge(&candidate)).or_insert(candidate);
            }
        }
    }
    out
}

fn service_port(
    family: Family,
    node: &NodeView,
    service: &Service,
    cluster_ip: IpAddr,
    port: &Port,
    endpoints: &Candidates,
) -> ServicePort {
    let (meta, spec) = (&service.metadata, &service.spec);
    let protocol = Protocol::parse(&port.protocol);
    let of_family = |ips: &mut dyn Iterator<Item = &String>| -> Vec<IpAddr> {
        let mut out: Vec<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).filter(|ip| family.has(ip)).collect();
        out.sort();
        out.dedup();
        out
    };
    let vips = service.status.load_balancer.ingress.iter().filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    let ranges = spec.load_balancer_source_ranges.iter().filter_map(|range| range.parse::<Cidr>().ok());
    let affinity = spec.session_affinity_config.client_ip.timeout_seconds.unwrap_or(DEFAULT_AFFINITY_SECONDS);
    let full_name = match port.name.as_str() {
        "" => format!("{}/{}", meta.namespace, meta.name),
        port => format!("{}/{}:{port}", meta.namespace, meta.name),
    };
    let mut out = ServicePort {
        name: full_name,
        service: (meta.namespace.clone(), meta.name.clone()),
        protocol,
        cluster_ip,
        port: port.port,
        node_port: port.node_port,
        external_ips: of_family(&mut spec.external_ips.iter()),
        load_balancer_ips: of_family(&mut vips.map(|i| &i.ip)),
        source_ranges: ranges.filter(|range| family.has(&range.network())).collect(),
        affinity_seconds: (spec.session_affinity == "ClientIP").then_some(affinity),
        external_local: spec.external_traffic_policy == "Local",
        internal_local: spec.internal_traffic_policy == "Local",
        health_check_node_port: spec.health_check_node_port,
        cluster_endpoints: Vec::new(),
        local_endpoints: Vec::new(),
        has_endpoints: false,
        ready_here: BTreeSet::new(),
    };
    if let Some(candidates) = endpoints.get(&(port.name.clone(), protocol)) {
        categorize::fill(&mut out, node, candidates);
    }
    out
}

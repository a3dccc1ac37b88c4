//! The objects that depend on this server's flags: the `kubernetes` Service and its endpoints, namespaces, the service range,
//! what extension servers must know to believe this server's front proxy. Pure.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use apimachinery::time::{format_micro_time, format_time};
use component_base::reload::Reloading;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::Config;

/// What the objects are made of.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `--advertise-address`
    pub advertise_address: IpAddr,
    /// `--secure-port` as others reach it.
    pub secure_port: u16,
    /// First address of the first service range.
    pub service_address: IpAddr,
    /// `--service-cluster-ip-range`
    pub service_ranges: Vec<String>,
    /// `--kubernetes-service-node-port`; 0 for none.
    pub service_node_port: u16,
    /// Whether this server is one of the endpoints of the `kubernetes` Service (`--endpoint-reconciler-type`).
    pub is_endpoint: bool,
    /// This machine's name.
    pub hostname: String,
    /// PEM of `--client-ca-file`, as it is now.
    pub client_ca: Option<Arc<Reloading<String>>>,
    /// The front proxy's part of the same.
    pub request_header: Option<RequestHeaderFacts>,
}

/// What extension servers must know of the front proxy.
#[derive(Clone, Debug)]
pub struct RequestHeaderFacts {
    /// PEM of `--requestheader-client-ca-file`, as it is now.
    pub client_ca: Arc<Reloading<String>>,
    /// `--requestheader-allowed-names`
    pub allowed_names: Vec<String>,
    /// `--requestheader-username-headers`
    pub username_headers: Vec<String>,
    /// `--requestheader-uid-headers`
    pub uid_headers: Vec<String>,
    /// `--requestheader-group-headers`
    pub group_headers: Vec<String>,
    /// `--requestheader-extra-headers-prefix`
    pub extra_headers_prefix: Vec<String>,
}

/// A file that others must get to know cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("--{flag}: cannot read {path}: {source}")]
pub struct UnreadableFile {
    flag: &'static str,
    path: String,
    source: std::io::Error,
}

fn read(flag: &'static str, path: &Path) -> Result<Arc<Reloading<String>>, UnreadableFile> {
    let file = path.to_owned();
    let load = move || {
        let fail = |source| UnreadableFile { flag, path: file.display().to_string(), source };
        std::fs::read_to_string(&file).map_err(fail)
    };
    Reloading::new(format!("--{flag} for extension servers"), vec![path.to_owned()], load).map(Arc::new)
}

impl Facts {
    /// From the configuration. `secure_port` is the port that is listened on.
    ///
    /// # Errors
    /// A file of authorities cannot be read.
    pub fn of(config: &Config, secure_port: u16) -> Result<Self, UnreadableFile> {
        let ranges = &config.options.service_cidrs;
        let client_ca = config.authn.client_ca_file.as_deref().map(|path| read("client-ca-file", path)).transpose()?;
        let request_header = match &config.authn.request_header {
            Some(header) => Some(RequestHeaderFacts {
                client_ca: read("requestheader-client-ca-file", &header.client_ca_file)?,
                allowed_names: header.allowed_names.clone(),
                username_headers: header.username_headers.clone(),
                uid_headers: header.uid_headers.clone(),
                group_headers: header.group_headers.clone(),
                extra_headers_prefix: header.extra_headers_prefix.clone(),
            }),
            None => None,
        };
        Ok(Self {
            advertise_address: config.advertise_address,
            secure_port,
            service_address: ranges.first().and_then(|range| range.nth(1)).unwrap_or(config.advertise_address),
            service_ranges: ranges.iter().map(ToString::to_string).collect(),
            service_node_port: config.service_node_port,
            is_endpoint: config.is_endpoint,
            hostname: hostname(),
            client_ca,
            request_header,
        })
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase()
}

/// Namespaces that must always be there.
pub const NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "default"];

/// One of [`NAMESPACES`].
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}

/// The `kubernetes` Service.
pub fn service(facts: &Facts) -> Value {
    let address = facts.service_address.to_string();
    let mut port = json!({"name": "https", "port": 443, "protocol": "TCP", "targetPort": facts.secure_port});
    let mut kind = "ClusterIP";
    if facts.service_node_port != 0 {
        crate::admission::set(&mut port, "nodePort", facts.service_node_port);
        kind = "NodePort";
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ipFamilies": [family(facts.service_address)],
            "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "type": kind, "ports": [port]},
    })
}

/// What differs between the Service and how it should be; `None` when nothing does.
pub fn repair_service(existing: &Value, facts: &Facts) -> Option<Value> {
    let wanted = service(facts);
    let ports_of = |service: &Value| -> Vec<Value> {
        let all = service["spec"]["ports"].as_array().into_iter().flatten();
        all.map(|port| json!([port["name"], port["port"], port["protocol"], port["targetPort"]])).collect()
    };
    if ports_of(existing) == ports_of(&wanted) && existing["spec"]["type"] == wanted["spec"]["type"] {
        return None;
    }
    let mut updated = existing.clone();
    for field in ["ports", "type", "sessionAffinity"] {
        crate::admission::set(&mut updated["spec"], field, wanted["spec"][field].clone());
    }
    Some(updated)
}

/// The Service's Endpoints: every API server that is alive.
pub fn endpoints(addresses: &[IpAddr], facts: &Facts) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": addresses, "ports": [{"name": "https", "port": facts.secure_port, "protocol": "TCP"}]}],
    })
}

/// The same as an EndpointSlice.
pub fn endpoint_slice(addresses: &[IpAddr], facts: &Facts) -> Value {
    let of_family = addresses.iter().filter(|address| address.is_ipv6() == facts.advertise_address.is_ipv6());
    let endpoints: Vec<Value> =
        of_family.map(|address| json!({"addresses": [address.to_string()], "conditions": {"ready": true}})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family(facts.advertise_address),
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": facts.secure_port, "protocol": "TCP"}],
    })
}

/// The existing object with the given fields of the wanted one; `None` when they are equal already.
pub fn adopt(existing: &Value, wanted: &Value, fields: &[&str]) -> Option<Value> {
    let labels_there = wanted["metadata"]["labels"]
        .as_object()
        .is_none_or(|labels| labels.iter().all(|(key, value)| existing["metadata"]["labels"][key] == *value));
    if labels_there && fields.iter().all(|field| existing[*field] == wanted[*field]) {
        return None;
    }
    let mut updated = existing.clone();
    for field in fields {
        crate::admission::set(&mut updated, field, wanted[*field].clone());
    }
    for (key, value) in wanted["metadata"]["labels"].as_object().into_iter().flatten() {
        apimachinery::meta::set_label(&mut updated, key, value.as_str().unwrap_or_default());
    }
    Some(updated)
}

/// The default ServiceCIDR.
pub fn service_range(facts: &Facts) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": facts.service_ranges},
    })
}

/// Its status: ready from the start.
pub fn service_range_status(now: Timestamp) -> Value {
    json!({"conditions": [{
        "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": format_time(now),
        "message": "Kubernetes default Service CIDR is ready",
    }]})
}

/// The ConfigMap by which extension servers learn whom this server believes.
pub fn extension_authentication(facts: &Facts) -> Value {
    let list = |names: &[String]| Value::from(Value::from(names.to_vec()).to_string());
    let mut data = serde_json::Map::new();
    if let Some(pem) = &facts.client_ca {
        data.insert("client-ca-file".to_owned(), pem.get().as_str().into());
    }
    if let Some(header) = &facts.request_header {
        data.insert("requestheader-client-ca-file".to_owned(), header.client_ca.get().as_str().into());
        let lists = [
            ("allowed-names", &header.allowed_names),
            ("extra-headers-prefix", &header.extra_headers_prefix),
            ("group-headers", &header.group_headers),
            ("username-headers", &header.username_headers),
        ];
        for (name, names) in lists {
            data.insert(format!("requestheader-{name}"), list(names));
        }
        if !header.uid_headers.is_empty() {
            data.insert("requestheader-uid-headers".to_owned(), list(&header.uid_headers));
        }
    }
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": data,
    })
}

/// Since when use of legacy tokens is recorded.
pub fn legacy_token_tracking(now: Timestamp) -> Value {
    let since = format_time(now).chars().take("2006-01-02".len()).collect::<String>();
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
        "data": {"since": since},
    })
}

/// Name of this server's identity: the same after a restart on the same host and port.
pub fn identity(facts: &Facts) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = Sha256::digest(format!("{}:{}", facts.hostname, facts.secure_port));
    let mut text = String::new();
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in digest.iter().take(16) {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[((held >> bits) & 31) as usize]));
        }
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[((held << (5 - bits)) & 31) as usize]));
    }
    format!("apiserver-{text}")
}

/// Seconds that an identity lease is good for.
pub const IDENTITY_SECONDS: i64 = 3600;
const IDENTITY_LABEL: &str = "apiserver.kubernetes.io/identity";

/// Whether a lease is the identity of an API server that is gone.
pub fn is_stale_identity(lease: &Value, now: Timestamp) -> bool {
    let renewed = lease["spec"]["renewTime"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
    let seconds = lease["spec"]["leaseDurationSeconds"].as_i64();
    let ours = lease["metadata"]["labels"][IDENTITY_LABEL] == "kube-apiserver";
    let over = renewed.zip(seconds).is_none_or(|(renewed, seconds)| now.as_second() - renewed.as_second() > seconds);
    ours && over
}

/// The identity lease, renewed at `now` by the holder.
pub fn identity_lease(facts: &Facts, holder: &str, now: Timestamp) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": identity(facts), "namespace": "kube-system",
            "labels": {IDENTITY_LABEL: "kube-apiserver", "kubernetes.io/hostname": facts.hostname},
            "annotations": {"kubernetes.io/peer-advertise-address": std::net::SocketAddr::new(facts.advertise_address, facts.secure_port).to_string()}},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": IDENTITY_SECONDS, "renewTime": format_micro_time(now)},
    })
}

/// What stands under `/registry/masterleases/ADDRESS`.
pub fn master_lease(address: IpAddr) -> Value {
    json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {}, "subsets": [{"addresses": [{"ip": address.to_string()}]}]})
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn text(text: &'static str) -> Arc<Reloading<String>> {
        let load = || Ok::<_, std::convert::Infallible>(text.to_owned());
        Arc::new(Reloading::new("text", Vec::new(), load).unwrap())
    }

    pub(crate) fn facts() -> Facts {
        Facts {
            advertise_address: "192.0.2.2".parse().unwrap(),
            secure_port: 16443,
            service_address: "10.0.0.1".parse().unwrap(),
            service_ranges: vec!["10.0.0.0/16".into()],
            service_node_port: 0,
            is_endpoint: true,
            hostname: "m1".into(),
            client_ca: Some(text("PEM")),
            request_header: Some(RequestHeaderFacts {
                client_ca: text("PROXY"),
                allowed_names: vec!["front-proxy".into()],
                username_headers: Vec::new(),
                uid_headers: Vec::new(),
                group_headers: Vec::new(),
                extra_headers_prefix: Vec::new(),
            }),
        }
    }

    #[test]
    fn identities_of_servers_that_are_gone() {
        let made: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let lease = identity_lease(&facts(), "me", made);
        let after = |seconds| made + jiff::SignedDuration::from_secs(seconds);
        assert!(!is_stale_identity(&lease, after(IDENTITY_SECONDS)));
        assert!(is_stale_identity(&lease, after(IDENTITY_SECONDS + 1)));
        let mut other = lease.clone();
        other["metadata"]["labels"] = json!({});
        assert!(!is_stale_identity(&other, after(IDENTITY_SECONDS + 1)));
    }

    #[test]
    fn repair_only_what_is_wrong() {
        let facts = facts();
        let mut stored = service(&facts);
        assert_eq!(repair_service(&stored, &facts), None);
        stored["spec"]["ports"][0]["targetPort"] = 6443.into();
        stored["metadata"]["uid"] = "u".into();
        let repaired = repair_service(&stored, &facts).unwrap();
        assert_eq!(
            (&repaired["metadata"]["uid"], &repaired["spec"]["ports"][0]["targetPort"]),
            (&"u".into(), &16443.into())
        );
    }

    #[test]
    fn adopting() {
        let facts = facts();
        let wanted = endpoints(&[facts.advertise_address], &facts);
        assert_eq!(adopt(&wanted, &wanted, &["subsets"]), None);
        let stale = endpoints(&[], &facts);
        assert_eq!(adopt(&stale, &wanted, &["subsets"]).unwrap()["subsets"], wanted["subsets"]);
    }

    #[test]
    fn names() {
        let facts = facts();
        let name = identity(&facts);
        assert_eq!(name, identity(&facts));
        assert_eq!(name.len(), "apiserver-".len() + 26);
        let data = extension_authentication(&facts)["data"].clone();
        assert_eq!(data["requestheader-allowed-names"], r#"["front-proxy"]"#);
    }
}

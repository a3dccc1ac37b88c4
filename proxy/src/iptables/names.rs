//! Chain names: a prefix and sixteen characters of a hash, so that they fit iptables' 28 and stay the same across restarts.

use sha2::{Digest as _, Sha256};

use crate::core::{Endpoint, ServicePort};

/// Prefixes of chains made per service port or endpoint.
const SERVICE_PREFIXES: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"];

const HASH_CHARS: usize = 16;

/// Chains of the iptables and IPVS modes that are not per Service. Not KUBE-FIREWALL, which the kubelet makes too.
const FIXED: [&str; 15] = [
    "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL",
    "KUBE-POSTROUTING", "KUBE-MARK-MASQ", CANARY, "KUBE-NODE-PORT", "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER", "KUBE-MARK-DROP", "KUBE-FIRE-WALL",
];

/// A chain that holds nothing; when it is gone, somebody flushed the table.
pub const CANARY: &str = "KUBE-PROXY-CANARY";

/// Whether a chain is this daemon's, in whatever mode it made it.
pub fn is_ours(chain: &str) -> bool {
    FIXED.contains(&chain) || SERVICE_PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

/// Cluster-wide endpoints of a service port.
pub fn cluster(port: &ServicePort) -> String {
    format!("KUBE-SVC-{}", hash(&[&port.name, port.protocol.lower()]))
}

/// Endpoints of a service port on this node.
pub fn local(port: &ServicePort) -> String {
    format!("KUBE-SVL-{}", hash(&[&port.name, port.protocol.lower()]))
}

/// Traffic from outside to a service port.
pub fn external(port: &ServicePort) -> String {
    format!("KUBE-EXT-{}", hash(&[&port.name, port.protocol.lower()]))
}

/// Source filter of a service port's load balancer.
pub fn firewall(port: &ServicePort) -> String {
    format!("KUBE-FW-{}", hash(&[&port.name, port.protocol.lower()]))
}

/// One endpoint of a service port.
pub fn endpoint(port: &ServicePort, endpoint: &Endpoint) -> String {
    format!("KUBE-SEP-{}", hash(&[&port.name, port.protocol.lower(), &endpoint.socket()]))
}

/// The first characters of the base32 (RFC 4648) form of SHA-256.
fn hash(parts: &[&str]) -> String {
    base32_of_sha256(&parts.concat(), HASH_CHARS)
}

/// The first `chars` (at most 40) characters of the base32 form of a text's SHA-256.
pub fn base32_of_sha256(text: &str, chars: usize) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bytes = Sha256::digest(text.as_bytes());
    (0..chars)
        .map(|i| {
            let (byte, shift) = (i * 5 / 8, i * 5 % 8);
            let pair = u16::from(bytes[byte]) << 8 | u16::from(bytes[byte + 1]);
            char::from(ALPHABET[usize::from(pair >> (11 - shift) & 31)])
        })
        .collect()
}

//! Chain names: a prefix and sixteen characters of a hash, so that they fit iptables' 28 and stay the same across restarts.

use sha2::{Digest as _, Sha256};

use crate::core::{Endpoint, ServicePort};

/// Prefixes of chains made per service port or endpoint.
pub const SERVICE_PREFIXES: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"];

const HASH_CHARS: usize = 16;

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
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.as_bytes());
    }
    let bytes = digest.finalize();
    (0..HASH_CHARS)
        .map(|i| {
            let (byte, shift) = (i * 5 / 8, i * 5 % 8);
            let pair = u16::from(bytes[byte]) << 8 | u16::from(bytes[byte + 1]);
            char::from(ALPHABET[usize::from(pair >> (11 - shift) & 31)])
        })
        .collect()
}

//! Kubeconfig files with embedded credentials, as `kubectl config` writes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// How a client proves who it is.
pub enum Credentials<'a> {
    /// A certificate and its key, both PEM.
    Certificate {
        /// Certificate.
        cert_pem: &'a str,
        /// Key.
        key_pem: &'a str,
    },
    /// A certificate and key kept in files (for a kubelet that rotates them).
    Files {
        /// Certificate file.
        cert: &'a str,
        /// Key file.
        key: &'a str,
    },
    /// A bearer token (bootstrap).
    Token(&'a str),
}

/// The file's text: JSON, which is YAML too, one cluster, one user, one context.
pub fn render(cluster: &str, server: &str, ca_pem: &str, user: &str, credentials: &Credentials<'_>) -> String {
    let user_entry = match credentials {
        Credentials::Certificate { cert_pem, key_pem } => json!({
            "client-certificate-data": STANDARD.encode(cert_pem),
            "client-key-data": STANDARD.encode(key_pem),
        }),
        Credentials::Files { cert, key } => json!({"client-certificate": cert, "client-key": key}),
        Credentials::Token(token) => json!({"token": token}),
    };
    let context = format!("{user}@{cluster}");
    let file = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {
            "server": server, "certificate-authority-data": STANDARD.encode(ca_pem)}}],
        "users": [{"name": user, "user": user_entry}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
        "current-context": context,
    });
    format!("{file:#}\n")
}

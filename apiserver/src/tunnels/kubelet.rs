//! How a node's kubelet is reached: which address, which port, whose certificate.
//!
//! The kubelet's certificate is verified against `--kubelet-certificate-authority`; without it, as upstream, any is accepted,
//! which is said once at start. The own identity is read again when its files change.

use std::net::IpAddr;
use std::path::Path;

use apimachinery::status::Status;
use component_base::reload::Reloading;
use component_base::tls::{ClientTlsOptions, TlsError, client_config};
use rustls::pki_types::ServerName;
use serde_json::Value;

use super::relay::{Security, Target};
use crate::config::KubeletConfig;

/// Where a kubelet listens unless its node says otherwise.
const DEFAULT_PORT: u16 = 10250;

/// Why kubelets cannot be reached at all.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{flag}: cannot read {path}: {source}")]
    Read {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// What is in the files cannot be used.
    #[error("--kubelet-client-certificate, --kubelet-client-key, --kubelet-certificate-authority: {0}")]
    Tls(#[from] TlsError),
}

/// All kubelets.
pub struct Kubelets {
    config: KubeletConfig,
    tls: Reloading<rustls::ClientConfig>,
}

fn load(config: &KubeletConfig) -> Result<rustls::ClientConfig, ConfigError> {
    let read = |flag: &'static str, path: &Path| {
        let fail = |source| ConfigError::Read { flag, path: path.display().to_string(), source };
        std::fs::read(path).map_err(fail)
    };
    let identity_pem = match &config.client {
        Some((certificate, key)) => {
            Some((read("--kubelet-client-certificate", certificate)?, read("--kubelet-client-key", key)?))
        }
        None => None,
    };
    let ca_pem = match &config.ca_file {
        Some(path) => Some(read("--kubelet-certificate-authority", path)?),
        None => None,
    };
    let insecure_skip_verify = ca_pem.is_none();
    let alpn = vec![b"http/1.1".to_vec()];
    Ok(client_config(&ClientTlsOptions { ca_pem, identity_pem, insecure_skip_verify, alpn })?)
}

impl Kubelets {
    /// Reads the files.
    ///
    /// # Errors
    /// A file is missing or cannot be used.
    pub fn new(config: KubeletConfig) -> Result<Self, ConfigError> {
        if config.ca_file.is_none() {
            tracing::warn!("Certificates of kubelets are not verified; set --kubelet-certificate-authority");
        }
        let pair = config.client.iter().flat_map(|(certificate, key)| [certificate, key]);
        let files = pair.chain(&config.ca_file).cloned().collect();
        let settings = config.clone();
        let tls = Reloading::new("identity towards kubelets", files, move || load(&settings))?;
        Ok(Self { config, tls })
    }

    /// The address of a node, by preference.
    ///
    /// # Errors
    /// The node has none of the preferred types.
    pub fn host(&self, node: &Value) -> Result<String, Status> {
        host(node, &self.config.address_types).map(str::to_owned).ok_or_else(|| {
            let name = apimachinery::meta::name(node);
            let types = self.config.address_types.join(", ");
            Status::internal(format!("no preferred addresses found for node {name:?}; known types: [{types}]"))
        })
    }

    /// A path (with its query) on a node's kubelet.
    ///
    /// # Errors
    /// The node has no usable address.
    pub fn target(&self, node: &Value, path_and_query: String) -> Result<Target, Status> {
        let host = self.host(node)?;
        let name = ServerName::try_from(host.clone())
            .map_err(|_| Status::internal(format!("{host:?} is neither an address nor a DNS name")))?;
        Ok(Target {
            authority: join(&host, port(node)),
            security: Some(Security { tls: self.tls.get(), name }),
            path_and_query,
            connect_timeout: self.config.timeout,
            identity: http::HeaderMap::new(),
        })
    }
}

/// `host:port`, with brackets around IPv6 addresses.
pub(crate) fn join(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{host}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// The kubelet's port of a node.
pub(super) fn port(node: &Value) -> u16 {
    let given = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    given.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).unwrap_or(DEFAULT_PORT)
}

fn host<'a>(node: &'a Value, preferred: &[String]) -> Option<&'a str> {
    let addresses = node["status"]["addresses"].as_array()?;
    preferred.iter().find_map(|wanted| {
        let found = addresses.iter().find(|address| address["type"].as_str() == Some(wanted.as_str()))?;
        found["address"].as_str().filter(|address| !address.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses() {
        let node = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 20250}}}});
        let types = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        assert_eq!(host(&node, &types(&["Hostname", "InternalIP"])), Some("n1"));
        assert_eq!(host(&node, &types(&["InternalDNS", "InternalIP"])), Some("10.0.0.1"));
        assert_eq!(host(&node, &types(&["ExternalIP"])), None);
        assert_eq!((port(&node), port(&json!({}))), (20250, DEFAULT_PORT));
        assert_eq!(join("fd00::1", 1), "[fd00::1]:1");
    }
}

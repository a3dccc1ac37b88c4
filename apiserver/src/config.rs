//! The validated configuration: no Option that must be Some, no string that must still parse.

mod identity;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use component_base::net::Cidr;
use component_base::tls::{ClientCa, ServerTls, ServerTlsOptions, SniCert, TlsError};

use crate::admission::AdmissionConfig;
use crate::audit::log::LogConfig;
use crate::audit::{AuditConfig, WebhookConfig};
use crate::authn::AuthnConfig;
use crate::authz::AuthzConfig;
use crate::flags::Flags;
use crate::storage::transform::FormConfig;

/// What per-kind rules may know of the server's configuration.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// `--allow-privileged`
    pub allow_privileged: bool,
    /// `--service-cluster-ip-range`; the first one is the primary family.
    pub service_cidrs: Vec<Cidr>,
    /// `--service-node-port-range`, both ends included.
    pub node_port_range: (u16, u16),
    /// Cluster domain of a service account's issuer and of DNS names in defaults.
    pub cluster_domain: String,
}

/// Why the command line cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// A flag has a wrong value.
    #[error("--{flag}={value:?}: {remedy}")]
    Value {
        /// Which.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        remedy: String,
    },
    /// A flag is missing.
    #[error("--{flag} must be given: {why}")]
    Missing {
        /// Which.
        flag: &'static str,
        /// What it is needed for.
        why: &'static str,
    },
    /// A certificate or key.
    #[error("--{flag}: {source}")]
    Tls {
        /// Which flag names the file.
        flag: &'static str,
        /// What is wrong.
        source: TlsError,
    },
}

/// How etcd is reached and used.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// URLs.
    pub servers: Vec<String>,
    /// Authorities of its certificate; empty for the system's.
    pub ca_file: String,
    /// Our certificate; empty for none.
    pub cert_file: String,
    /// Our key.
    pub key_file: String,
    /// Prefix of all keys, with a leading and without a trailing slash.
    pub prefix: String,
    /// How often history is compacted.
    pub compaction_interval: Option<Duration>,
    /// How long start-up waits for etcd.
    pub start_timeout: Duration,
    /// How long a readiness check waits for it.
    pub ready_timeout: Duration,
    /// How objects are written.
    pub form: FormConfig,
}

/// How kubelets are reached.
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    /// Authorities of their certificates; without them any certificate is accepted, as upstream does.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Which of a node's addresses, in order.
    pub address_types: Vec<String>,
    /// For connecting.
    pub timeout: Duration,
}

/// How service account tokens are issued.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// The first one issues.
    pub issuers: Vec<String>,
    /// Without it no tokens are issued.
    pub signing_key_file: Option<PathBuf>,
    /// Keys that verify.
    pub key_files: Vec<PathBuf>,
    /// Audiences that tokens get when none are asked for.
    pub api_audiences: Vec<String>,
    /// Longest life.
    pub max_expiration: Option<Duration>,
    /// Whether admission's tokens live longer.
    pub extend_expiration: bool,
    /// URL of the keys, or derived from the external host.
    pub jwks_uri: String,
}

/// Bounds of requests.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Reading requests at once, `usize::MAX` for no limit.
    pub max_reading: usize,
    /// Priority levels share the two bounds, instead of each being one for all.
    pub fair: bool,
    /// Mutating requests at once, `usize::MAX` for no limit.
    pub max_mutating: usize,
    /// For a request that is not long-running.
    pub timeout: Duration,
    /// Shortest life of a watch without `timeoutSeconds`; the longest is twice that.
    pub min_watch: Duration,
}

/// How serving ends.
#[derive(Clone, Copy, Debug)]
pub struct ShutdownConfig {
    /// Between "not ready" and the end of taking requests.
    pub delay: Duration,
    /// Then refuse new requests with 429 until those under way have ended, instead of closing the port at once.
    pub refuse_with_retry: bool,
}

/// The configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub bind_address: IpAddr,
    /// Port to listen on.
    pub secure_port: u16,
    /// Serving certificate.
    pub tls: ServerTls,
    /// What the `kubernetes` Service leads to.
    pub advertise_address: IpAddr,
    /// Host in generated URLs.
    pub external_host: String,
    /// Storage.
    pub etcd: EtcdConfig,
    /// Who may come in.
    pub authn: AuthnConfig,
    /// Who may do what.
    pub authz: AuthzConfig,
    /// What is recorded of requests.
    pub audit: AuditConfig,
    /// What objects may look like.
    pub admission: AdmissionConfig,
    /// Tokens.
    pub tokens: TokenConfig,
    /// Per-kind rules.
    pub options: ServerOptions,
    /// Kubelets.
    pub kubelet: KubeletConfig,
    /// Our identity towards extension servers.
    pub proxy_client: Option<(PathBuf, PathBuf)>,
    /// Bounds.
    pub limits: RequestLimits,
    /// How long events live.
    pub event_ttl: Duration,
    /// `--endpoint-reconciler-type` is not `none`.
    pub is_endpoint: bool,
    /// Node port of the `kubernetes` Service; 0 for none.
    pub service_node_port: u16,
    /// How it ends.
    pub shutdown: ShutdownConfig,
    /// HTTP/2 streams per connection.
    pub max_streams: Option<u32>,
}

impl Config {
    /// Checks the flags; every one of them is used here or named as having no effect.
    ///
    /// # Errors
    /// Names the flag, the file, and what would be right.
    pub fn from_flags(flags: &Flags) -> Result<Self, InvalidConfig> {
        warn_without_effect(flags);
        let tls = serving_tls(flags)?;
        let etcd = etcd(flags)?;
        let issuers = identity::issuers(flags)?;
        let api_audiences = if flags.api_audiences.is_empty() { issuers.clone() } else { flags.api_audiences.clone() };
        let key_files = match (&flags.service_account_key_file, &flags.service_account_signing_key_file) {
            (files, Some(signing)) if files.is_empty() => vec![signing.clone()],
            (files, _) => files.clone(),
        };
        let advertise_address = match flags.advertise_address {
            Some(address) => address,
            None if !flags.bind_address.is_unspecified() && !flags.bind_address.is_loopback() => flags.bind_address,
            None => outward_address()?,
        };
        Ok(Self {
            authn: identity::authn(flags, &issuers, &api_audiences, &key_files)?,
            authz: identity::authz(flags)?,
            audit: audit(flags),
            admission: AdmissionConfig {
                enable: flags.enable_admission_plugins.clone(),
                disable: flags.disable_admission_plugins.clone(),
                not_ready_toleration_seconds: flags.default_not_ready_toleration_seconds,
                unreachable_toleration_seconds: flags.default_unreachable_toleration_seconds,
            },
            options: ServerOptions {
                allow_privileged: flags.allow_privileged,
                service_cidrs: service_cidrs(&flags.service_cluster_ip_range)?,
                node_port_range: port_range(&flags.service_node_port_range)?,
                cluster_domain: "cluster.local".to_owned(),
            },
            tokens: TokenConfig {
                issuers,
                signing_key_file: flags.service_account_signing_key_file.clone(),
                key_files,
                api_audiences,
                max_expiration: non_zero(flags.service_account_max_token_expiration.0),
                extend_expiration: flags.service_account_extend_token_expiration,
                jwks_uri: flags.service_account_jwks_uri.clone(),
            },
            kubelet: KubeletConfig {
                ca_file: flags.kubelet_certificate_authority.clone(),
                client: pair(
                    ("kubelet-client-certificate", &flags.kubelet_client_certificate),
                    ("kubelet-client-key", &flags.kubelet_client_key),
                )?,
                address_types: flags.kubelet_preferred_address_types.clone(),
                timeout: flags.kubelet_timeout.0,
            },
            proxy_client: pair(
                ("proxy-client-cert-file", &flags.proxy_client_cert_file),
                ("proxy-client-key-file", &flags.proxy_client_key_file),
            )?,
            limits: RequestLimits {
                max_reading: unlimited_if_zero(flags.max_requests_inflight),
                fair: flags.enable_priority_and_fairness,
                max_mutating: unlimited_if_zero(flags.max_mutating_requests_inflight),
                timeout: flags.request_timeout.0,
                min_watch: Duration::from_secs(flags.min_request_timeout),
            },
            external_host: flags.external_hostname.clone(),
            event_ttl: flags.event_ttl.0,
            is_endpoint: flags.endpoint_reconciler_type != "none",
            service_node_port: flags.kubernetes_service_node_port,
            shutdown: ShutdownConfig {
                delay: flags.shutdown_delay_duration.0,
                refuse_with_retry: flags.shutdown_send_retry_after,
            },
            max_streams: (flags.http2_max_streams_per_connection > 0).then_some(flags.http2_max_streams_per_connection),
            bind_address: flags.bind_address,
            secure_port: flags.secure_port,
            tls,
            advertise_address,
            etcd,
        })
    }
}

/// Flags that are read by upstream's server and mean nothing here say so once, when they are not at their default.
fn warn_without_effect(flags: &Flags) {
    for (gate, value) in &flags.feature_gates.0 {
        tracing::warn!("feature gate {gate}={value} has no effect: features are at v1.36's defaults");
    }
    for (api, value) in &flags.runtime_config.0 {
        tracing::warn!("--runtime-config {api}={value} has no effect: v1.36's default APIs are served");
    }
    if flags.delete_collection_workers > 1 {
        tracing::info!("--delete-collection-workers has no effect: deletions are pipelined");
    }
}

fn audit(flags: &Flags) -> AuditConfig {
    let log = (!flags.audit_log_path.is_empty()).then(|| LogConfig {
        path: flags.audit_log_path.clone(),
        legacy: flags.audit_log_format == "legacy",
        batch: flags.audit_log_mode == "batch",
        strict: flags.audit_log_mode == "blocking-strict",
        max_waiting: flags.audit_log_batch_buffer_size,
        max_event_bytes: flags.audit_log_truncate_enabled.then_some(flags.audit_log_truncate_max_event_size),
        max_age_days: flags.audit_log_maxage,
        max_backups: flags.audit_log_maxbackup,
        max_megabytes: flags.audit_log_maxsize,
    });
    let webhook = flags.audit_webhook_config_file.as_ref().map(|file| WebhookConfig {
        file: file.clone(),
        max_waiting: flags.audit_webhook_batch_buffer_size,
        max_batch: flags.audit_webhook_batch_max_size,
        max_wait: flags.audit_webhook_batch_max_wait.0,
        backoff: flags.audit_webhook_initial_backoff.0,
        max_event_bytes: flags.audit_webhook_truncate_enabled.then_some(flags.audit_webhook_truncate_max_event_size),
    });
    AuditConfig { policy_file: flags.audit_policy_file.clone(), log, webhook }
}

fn serving_tls(flags: &Flags) -> Result<ServerTls, InvalidConfig> {
    let sni = flags.tls_sni_cert_key.iter().map(|text| sni(text)).collect::<Result<_, _>>()?;
    let authorities: Vec<PathBuf> =
        flags.client_ca_file.iter().chain(&flags.requestheader_client_ca_file).cloned().collect();
    let client_ca =
        match authorities.is_empty() {
            true => None,
            false => Some(ClientCa::from_files(&authorities).map_err(|source| InvalidConfig::Tls {
                flag: "client-ca-file, --requestheader-client-ca-file",
                source,
            })?),
        };
    let options = ServerTlsOptions {
        min_version: flags.tls_min_version.clone(),
        cipher_suites: flags.tls_cipher_suites.clone(),
        client_ca,
        sni,
        ..ServerTlsOptions::default()
    };
    match pair(("tls-cert-file", &flags.tls_cert_file), ("tls-private-key-file", &flags.tls_private_key_file))? {
        Some((cert, key)) => ServerTls::from_files(&cert, &key, options)
            .map_err(|source| InvalidConfig::Tls { flag: "tls-cert-file, --tls-private-key-file", source }),
        None => {
            tracing::warn!("no --tls-cert-file: serving with a self-signed certificate that clients cannot verify");
            let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1"];
            ServerTls::self_signed(&names.map(str::to_owned), options)
                .map_err(|source| InvalidConfig::Tls { flag: "tls-cert-file", source })
        }
    }
}

/// `cert,key` or `cert,key:name,name`.
fn sni(text: &str) -> Result<SniCert, InvalidConfig> {
    let (files, names) = text.split_once(':').unwrap_or((text, ""));
    let Some((cert, key)) = files.split_once(',') else {
        let remedy = "write it as cert.pem,key.pem or cert.pem,key.pem:name,*.name".to_owned();
        return Err(InvalidConfig::Value { flag: "tls-sni-cert-key", value: text.to_owned(), remedy });
    };
    let names = names.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect();
    Ok(SniCert { cert: cert.into(), key: key.into(), names })
}

type Named<'a> = (&'static str, &'a Option<PathBuf>);

/// Both or none.
fn pair(cert: Named<'_>, key: Named<'_>) -> Result<Option<(PathBuf, PathBuf)>, InvalidConfig> {
    match (cert.1, key.1) {
        (Some(cert), Some(key)) => Ok(Some((cert.clone(), key.clone()))),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(InvalidConfig::Missing { flag: cert.0, why: "its key was given" }),
        (Some(_), None) => Err(InvalidConfig::Missing { flag: key.0, why: "its certificate was given" }),
    }
}

fn etcd(flags: &Flags) -> Result<EtcdConfig, InvalidConfig> {
    if flags.etcd_servers.is_empty() {
        return Err(InvalidConfig::Missing { flag: "etcd-servers", why: "all state is in etcd" });
    }
    for server in &flags.etcd_servers {
        if !server.starts_with("https://") && !server.starts_with("http://") {
            let remedy = "write it like https://10.0.0.1:2379".to_owned();
            return Err(InvalidConfig::Value { flag: "etcd-servers", value: server.clone(), remedy });
        }
    }
    Ok(EtcdConfig {
        servers: flags.etcd_servers.clone(),
        ca_file: flags.etcd_cafile.clone(),
        cert_file: flags.etcd_certfile.clone(),
        key_file: flags.etcd_keyfile.clone(),
        prefix: format!("/{}", flags.etcd_prefix.trim_matches('/')),
        compaction_interval: non_zero(flags.etcd_compaction_interval.0),
        start_timeout: flags.storage_initialization_timeout.0,
        ready_timeout: flags.etcd_readycheck_timeout.0,
        form: FormConfig {
            plain: flags.storage_media_type == "application/json",
            file: flags.encryption_provider_config.clone(),
            reload: flags.encryption_provider_config_automatic_reload,
        },
    })
}

fn service_cidrs(text: &str) -> Result<Vec<Cidr>, InvalidConfig> {
    const DEFAULT: &str = "10.0.0.0/24";
    let value = |remedy: &str| InvalidConfig::Value {
        flag: "service-cluster-ip-range",
        value: text.to_owned(),
        remedy: remedy.to_owned(),
    };
    let given = if text.is_empty() { DEFAULT } else { text };
    let parsed: Result<Vec<Cidr>, _> = given.split(',').map(|part| part.trim().parse()).collect();
    let ranges = parsed.map_err(|_| value("use a range like 10.96.0.0/16, or one per address family"))?;
    match ranges.as_slice() {
        [_] => Ok(ranges),
        [first, second] if first.is_ipv6() != second.is_ipv6() => Ok(ranges),
        [_, _] => Err(value("two ranges must be of different address families")),
        _ => Err(value("at most two ranges")),
    }
}

/// `30000-32767`.
fn port_range(text: &str) -> Result<(u16, u16), InvalidConfig> {
    let parse = || {
        let (first, last) = text.split_once('-')?;
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (0 < first && first <= last).then_some((first, last))
    };
    parse().ok_or_else(|| InvalidConfig::Value {
        flag: "service-node-port-range",
        value: text.to_owned(),
        remedy: "use a range like 30000-32767".to_owned(),
    })
}

fn non_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn unlimited_if_zero(limit: usize) -> usize {
    if limit == 0 { usize::MAX } else { limit }
}

/// The source address that the kernel would use towards the outside; no packet is sent.
fn outward_address() -> Result<IpAddr, InvalidConfig> {
    let ask = || -> std::io::Result<IpAddr> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip())
    };
    ask().map_err(|_| InvalidConfig::Missing {
        flag: "advertise-address",
        why: "this machine has no default route to take its address from",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(port_range("30000-32767").unwrap(), (30000, 32767));
        for wrong in ["", "30000", "2-1", "0-5", "x-y"] {
            assert!(port_range(wrong).unwrap_err().to_string().contains("service-node-port-range"));
        }
        assert_eq!(service_cidrs("").unwrap().len(), 1);
        assert_eq!(service_cidrs("10.96.0.0/16, fd00::/108").unwrap().len(), 2);
        for wrong in ["10.96.0.0", "10.0.0.0/16,10.1.0.0/16", "a,b,c"] {
            assert!(service_cidrs(wrong).unwrap_err().to_string().contains("service-cluster-ip-range"));
        }
    }
}

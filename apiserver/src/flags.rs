//! Every flag of kube-apiserver, defined and documented in one place.
//!
//! Three kinds: the fields of [`Flags`] do what upstream's do; [`LEGACY`] has those that upstream removed; and those that
//! exist upstream and not here. Of the last kind, a flag whose being ignored would make the server less safe or behave
//! otherwise than its operator believes is refused; the rest get one warning line.

use std::net::IpAddr;
use std::path::PathBuf;

use component_base::duration::GoDuration;
use component_base::flags::{Fate, KeyValueMap, LegacyFlag};
use component_base::logging::LoggingFlags;

const fn refused(name: &'static str, why: &'static str) -> LegacyFlag {
    LegacyFlag { name, takes_value: true, fate: Fate::Refused(why) }
}

const fn without_effect(name: &'static str, takes_value: bool) -> LegacyFlag {
    LegacyFlag { name, takes_value, fate: Fate::Ignored("it has no effect in this server") }
}

const fn removed(name: &'static str, takes_value: bool, why: &'static str) -> LegacyFlag {
    LegacyFlag { name, takes_value, fate: Fate::Ignored(why) }
}

const NOT_THERE: &str = "it is not implemented, and ignoring it would change who may do what or what is kept secret";
const INSECURE: &str = "the unauthenticated port was removed in v1.20; clients use --secure-port with credentials";

/// Flags that upstream removed, and those of upstream's that this server does not have.
pub const LEGACY: &[LegacyFlag] = &[
    refused("insecure-port", INSECURE),
    refused("insecure-bind-address", INSECURE),
    refused("address", INSECURE),
    refused("port", INSECURE),
    refused("basic-auth-file", "passwords were removed in v1.19; use --token-auth-file or client certificates"),
    removed("kubelet-https", false, "removed in v1.22: kubelets are always talked to over TLS"),
    removed("enable-swagger-ui", false, "removed in v1.24: there is no such page"),
    removed("runtime-config-emulation-forward-compatible", false, "only the one version is there"),
    LegacyFlag { name: "admission-control", takes_value: true, fate: Fate::Renamed("enable-admission-plugins") },
    refused("admission-control-config-file", NOT_THERE),
    refused("authorization-policy-file", NOT_THERE),
    refused("egress-selector-config-file", NOT_THERE),
    refused("service-account-signing-endpoint", NOT_THERE),
    without_effect("aggregator-reject-forwarding-redirect", false),
    without_effect("allow-metric-labels", true),
    without_effect("allow-metric-labels-manifest", true),
    without_effect("apiserver-count", true),
    without_effect("audit-log-batch-max-size", true),
    without_effect("audit-log-batch-max-wait", true),
    without_effect("audit-log-batch-throttle-burst", true),
    without_effect("audit-log-batch-throttle-enable", false),
    without_effect("audit-log-batch-throttle-qps", true),
    without_effect("audit-log-compress", false),
    without_effect("audit-log-truncate-max-batch-size", true),
    without_effect("audit-log-version", true),
    without_effect("audit-webhook-batch-throttle-burst", true),
    without_effect("audit-webhook-batch-throttle-enable", false),
    without_effect("audit-webhook-batch-throttle-qps", true),
    without_effect("audit-webhook-truncate-max-batch-size", true),
    without_effect("audit-webhook-version", true),
    without_effect("contention-profiling", false),
    without_effect("coordinated-leadership-lease-duration", true),
    without_effect("coordinated-leadership-renew-deadline", true),
    without_effect("coordinated-leadership-retry-period", true),
    without_effect("cors-allowed-origins", true),
    without_effect("debug-socket-path", true),
    without_effect("default-watch-cache-size", true),
    without_effect("disable-http2-serving", false),
    without_effect("disabled-metrics", true),
    without_effect("emulated-version", true),
    without_effect("emulation-forward-compatible", false),
    without_effect("enable-aggregator-routing", false),
    without_effect("enable-garbage-collector", false),
    without_effect("enable-logs-handler", false),
    without_effect("etcd-count-metric-poll-period", true),
    without_effect("etcd-db-metric-poll-interval", true),
    without_effect("etcd-servers-overrides", true),
    without_effect("goaway-chance", true),
    without_effect("kubelet-read-only-port", true),
    without_effect("lease-reuse-duration-seconds", true),
    without_effect("max-connection-bytes-per-sec", true),
    without_effect("min-compatibility-version", true),
    without_effect("peer-advertise-ip", true),
    without_effect("peer-advertise-port", true),
    without_effect("peer-ca-file", true),
    without_effect("permit-address-sharing", false),
    without_effect("permit-port-sharing", false),
    without_effect("profiling", false),
    without_effect("show-hidden-metrics-for-version", true),
    without_effect("strict-transport-security-directives", true),
    without_effect("tls-curve-preferences", true),
    without_effect("tracing-config-file", true),
    without_effect("watch-cache", false),
    without_effect("watch-cache-sizes", true),
];

/// The command line.
#[derive(clap::Parser, Debug)]
#[command(about = "Serves the Kubernetes API from etcd")]
pub struct Flags {
    /// The address on which to advertise the API server to members of the cluster
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Allow privileged containers
    #[arg(long)]
    pub allow_privileged: bool,
    /// Let requests that no authentication method refused come in as system:anonymous
    #[arg(long)]
    pub anonymous_auth: Option<bool>,
    /// Audiences that tokens must be for; the issuers when not given
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Format of the audit log: json or legacy
    #[arg(long, default_value = "json", value_parser = ["json", "legacy"])]
    pub audit_log_format: String,
    /// Days after which rotated audit logs are removed
    #[arg(long, default_value_t = 366)]
    pub audit_log_maxage: u32,
    /// How many rotated audit logs are kept
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxbackup: u32,
    /// Size in megabytes at which the audit log is rotated
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxsize: u32,
    /// Where to write the audit log; `-` is standard output
    #[arg(long, default_value = "")]
    pub audit_log_path: String,
    /// Lines that wait to be written in batch mode
    #[arg(long, default_value_t = 10000)]
    pub audit_log_batch_buffer_size: usize,
    /// Whether requests wait until their events are written (blocking), fail when they cannot (blocking-strict), or neither
    /// (batch)
    #[arg(long, default_value = "blocking", value_parser = ["blocking", "blocking-strict", "batch"])]
    pub audit_log_mode: String,
    /// Leave the objects out of events that are too large for the log
    #[arg(long)]
    pub audit_log_truncate_enabled: bool,
    /// Largest event of the log in bytes; one that is larger even without its objects is left out
    #[arg(long, default_value_t = 102_400)]
    pub audit_log_truncate_max_event_size: usize,
    /// Events that may wait for the audit webhook
    #[arg(long, default_value_t = 10000)]
    pub audit_webhook_batch_buffer_size: usize,
    /// Events in one call of the audit webhook
    #[arg(long, default_value_t = 400)]
    pub audit_webhook_batch_max_size: usize,
    /// How long an event waits for others
    #[arg(long, default_value = "30s")]
    pub audit_webhook_batch_max_wait: GoDuration,
    /// A kubeconfig that says where audit events are sent
    #[arg(long)]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Pause before a failed call of the audit webhook is made again
    #[arg(long, default_value = "10s")]
    pub audit_webhook_initial_backoff: GoDuration,
    /// Only batch: requests never wait for the audit webhook
    #[arg(long, default_value = "batch", value_parser = ["batch"])]
    pub audit_webhook_mode: String,
    /// Leave the objects out of events that are too large for the webhook
    #[arg(long)]
    pub audit_webhook_truncate_enabled: bool,
    /// Largest event for the webhook in bytes; one that is larger even without its objects is left out
    #[arg(long, default_value_t = 102_400)]
    pub audit_webhook_truncate_max_event_size: usize,
    /// File that says what is audited
    #[arg(long)]
    pub audit_policy_file: Option<PathBuf>,
    /// File that configures authentication: OpenID issuers without expressions, and anonymous requests
    #[arg(long)]
    pub authentication_config: Option<PathBuf>,
    /// How long answers of the token webhook are remembered
    #[arg(long, default_value = "2m0s")]
    pub authentication_token_webhook_cache_ttl: GoDuration,
    /// A kubeconfig that says who knows bearer tokens
    #[arg(long)]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of the TokenReviews that are sent to it
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authentication_token_webhook_version: String,
    /// File that configures authorization, instead of the other flags of it
    #[arg(long)]
    pub authorization_config: Option<PathBuf>,
    /// How long a yes of the authorization webhook is remembered
    #[arg(long, default_value = "5m0s")]
    pub authorization_webhook_cache_authorized_ttl: GoDuration,
    /// How long another answer of it is remembered
    #[arg(long, default_value = "30s")]
    pub authorization_webhook_cache_unauthorized_ttl: GoDuration,
    /// A kubeconfig that says who is asked by mode Webhook
    #[arg(long)]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// Version of the SubjectAccessReviews that are sent to it
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authorization_webhook_version: String,
    /// Ordered list of authorizers: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny
    #[arg(long, value_delimiter = ',')]
    pub authorization_mode: Vec<String>,
    /// The address on which to listen
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Accepted for compatibility: a server without a certificate makes one that lives as long as it runs
    #[arg(long, default_value = "/var/run/kubernetes")]
    pub cert_dir: String,
    /// Authorities whose certificates authenticate clients
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Seconds that pods tolerate a node that is not ready
    #[arg(long, default_value_t = 300)]
    pub default_not_ready_toleration_seconds: i64,
    /// Seconds that pods tolerate a node that cannot be reached
    #[arg(long, default_value_t = 300)]
    pub default_unreachable_toleration_seconds: i64,
    /// Workers of a deletecollection
    #[arg(long, default_value_t = 1)]
    pub delete_collection_workers: u32,
    /// Admission plugins to leave out of the default ones
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// Admission plugins to run besides the default ones
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Authenticate with bootstrap tokens (secrets in kube-system)
    #[arg(long)]
    pub enable_bootstrap_token_auth: bool,
    /// Let priority levels share the request limits fairly
    #[arg(long, default_value_t = true)]
    pub enable_priority_and_fairness: bool,
    /// Whether this server is one of the endpoints of the kubernetes Service, as long as its lease lasts: lease or none
    #[arg(long, default_value = "lease", value_parser = ["lease", "none"])]
    pub endpoint_reconciler_type: String,
    /// File that says how resources are encrypted in etcd
    #[arg(long)]
    pub encryption_provider_config: Option<PathBuf>,
    /// Read that file again when it changes
    #[arg(long)]
    pub encryption_provider_config_automatic_reload: bool,
    /// Authorities of etcd's certificate
    #[arg(long, default_value = "")]
    pub etcd_cafile: String,
    /// Client certificate for etcd
    #[arg(long, default_value = "")]
    pub etcd_certfile: String,
    /// How often etcd's history is compacted; 0 for never
    #[arg(long, default_value = "5m0s")]
    pub etcd_compaction_interval: GoDuration,
    /// Timeout of etcd in health checks
    #[arg(long, default_value = "2s")]
    pub etcd_healthcheck_timeout: GoDuration,
    /// Client key for etcd
    #[arg(long, default_value = "")]
    pub etcd_keyfile: String,
    /// Prefix of all keys in etcd
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
    /// Timeout of etcd in readiness checks
    #[arg(long, default_value = "2s")]
    pub etcd_readycheck_timeout: GoDuration,
    /// etcd's servers (scheme://host:port), comma separated
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// How long events are kept
    #[arg(long, default_value = "1h0m0s")]
    pub event_ttl: GoDuration,
    /// The host name in generated URLs
    #[arg(long, default_value = "")]
    pub external_hostname: String,
    /// Feature gates; those that are locked or unknown here are warnings
    #[arg(long, default_value = "")]
    pub feature_gates: KeyValueMap,
    /// HTTP/2 streams per connection; 0 for the default
    #[arg(long, default_value_t = 0)]
    pub http2_max_streams_per_connection: u32,
    /// Authorities of kubelets' serving certificates
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// Client certificate for kubelets
    #[arg(long)]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// Client key for kubelets
    #[arg(long)]
    pub kubelet_client_key: Option<PathBuf>,
    /// Deprecated: kubelets say their port in the Node object
    #[arg(long, default_value_t = 10250)]
    pub kubelet_port: u16,
    /// Which of a node's addresses to use
    #[arg(long, value_delimiter = ',', default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP")]
    pub kubelet_preferred_address_types: Vec<String>,
    /// Timeout of kubelet connections
    #[arg(long, default_value = "5s")]
    pub kubelet_timeout: GoDuration,
    /// Node port of the kubernetes Service; 0 for none
    #[arg(long, default_value_t = 0)]
    pub kubernetes_service_node_port: u16,
    /// How long liveness is reported although start-up is not done
    #[arg(long, default_value = "0s")]
    pub livez_grace_period: GoDuration,
    /// Logging
    #[command(flatten)]
    pub logging: LoggingFlags,
    /// Mutating requests at once; 0 for no limit
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// Other requests at once; 0 for no limit
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// Seconds that a watch lasts at least
    #[arg(long, default_value_t = 1800)]
    pub min_request_timeout: u64,
    /// Authorities of the OpenID issuer's certificate; the system's when not given
    #[arg(long)]
    pub oidc_ca_file: Option<PathBuf>,
    /// The audience that ID tokens must be for
    #[arg(long, default_value = "")]
    pub oidc_client_id: String,
    /// Claim with the user's groups
    #[arg(long, default_value = "")]
    pub oidc_groups_claim: String,
    /// Put before the groups
    #[arg(long, default_value = "")]
    pub oidc_groups_prefix: String,
    /// An OpenID issuer whose tokens are believed, an https URL
    #[arg(long, default_value = "")]
    pub oidc_issuer_url: String,
    /// Claims that a token must have: claim=value
    #[arg(long, value_delimiter = ',')]
    pub oidc_required_claim: Vec<String>,
    /// Algorithms that tokens may be signed with
    #[arg(long, value_delimiter = ',', default_value = "RS256")]
    pub oidc_signing_algs: Vec<String>,
    /// Claim with the user's name
    #[arg(long, default_value = "sub")]
    pub oidc_username_claim: String,
    /// Put before the name; `-` for nothing, the issuer when not given and the claim is not the e-mail address
    #[arg(long, default_value = "")]
    pub oidc_username_prefix: String,
    /// Certificate that proves the server's identity to extension servers
    #[arg(long)]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long)]
    pub proxy_client_key_file: Option<PathBuf>,
    /// How long a request may take
    #[arg(long, default_value = "1m0s")]
    pub request_timeout: GoDuration,
    /// Common names of front proxies; empty: any that the authority signed
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Authority of front proxies
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Start of headers with further attributes
    #[arg(long, value_delimiter = ',')]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// Headers with groups
    #[arg(long, value_delimiter = ',')]
    pub requestheader_group_headers: Vec<String>,
    /// Headers with the uid
    #[arg(long, value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers with the user name
    #[arg(long, value_delimiter = ',')]
    pub requestheader_username_headers: Vec<String>,
    /// Which API versions are served; all of v1.36's defaults are, and cannot be turned off
    #[arg(long, default_value = "")]
    pub runtime_config: KeyValueMap,
    /// The port on which to serve HTTPS
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// Let tokens injected by admission live a year while clients learn to renew them
    #[arg(long, default_value_t = true)]
    pub service_account_extend_token_expiration: bool,
    /// Issuers of service account tokens; the first one issues
    #[arg(long)]
    pub service_account_issuer: Vec<String>,
    /// URL of the keys in the discovery document
    #[arg(long, default_value = "")]
    pub service_account_jwks_uri: String,
    /// Keys that verify service account tokens
    #[arg(long)]
    pub service_account_key_file: Vec<PathBuf>,
    /// Look up whether the token's objects still exist
    #[arg(long, default_value_t = true)]
    pub service_account_lookup: bool,
    /// Longest life of a token; 0 for no bound
    #[arg(long, default_value = "0s")]
    pub service_account_max_token_expiration: GoDuration,
    /// Key that signs service account tokens
    #[arg(long)]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Address ranges of Services, one or one per family
    #[arg(long, default_value = "")]
    pub service_cluster_ip_range: String,
    /// Ports of node port Services, first and last
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// How long the server keeps serving after it said that it is not ready any more
    #[arg(long, default_value = "0s")]
    pub shutdown_delay_duration: GoDuration,
    /// Refuse requests with 429 and Retry-After while those under way end, instead of closing the port
    #[arg(long)]
    pub shutdown_send_retry_after: bool,
    /// How long watches get to end at shutdown
    #[arg(long, default_value = "0s")]
    pub shutdown_watch_termination_grace_period: GoDuration,
    /// etcd3 is all there is
    #[arg(long, default_value = "", value_parser = ["", "etcd3"])]
    pub storage_backend: String,
    /// How long start-up waits for storage
    #[arg(long, default_value = "1m0s")]
    pub storage_initialization_timeout: GoDuration,
    /// application/json stores objects as plain JSON; otherwise those of 1 KiB and more are stored as compressed JSON
    #[arg(long, default_value = "application/vnd.kubernetes.protobuf",
          value_parser = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"])]
    pub storage_media_type: String,
    /// Serving certificate, with its chain
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// Cipher suites for TLS 1.2
    #[arg(long, value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,
    /// VersionTLS12 or VersionTLS13
    #[arg(long, default_value = "")]
    pub tls_min_version: String,
    /// Serving key
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    /// Further certificates by server name: cert,key or cert,key:name,name
    #[arg(long)]
    pub tls_sni_cert_key: Vec<String>,
    /// File of tokens: token,user,uid,"group,group"
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
}

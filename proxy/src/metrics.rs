//! kube-proxy's metric families, with upstream's names and labels.

use std::sync::LazyLock;

use component_base::metrics::{Counter, Family as Metrics, Gauge, Histogram, counter, gauge, histogram};

const SYNC_SECONDS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

/// Quarter seconds at first, then seconds to one minute, then growing steps to five minutes.
const PROGRAMMING_SECONDS: &[f64] = &[
    0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 19.0,
    20.0, 21.0, 22.0, 23.0, 24.0, 25.0, 26.0, 27.0, 28.0, 29.0, 30.0, 31.0, 32.0, 33.0, 34.0, 35.0, 36.0, 37.0, 38.0,
    39.0, 40.0, 41.0, 42.0, 43.0, 44.0, 45.0, 46.0, 47.0, 48.0, 49.0, 50.0, 51.0, 52.0, 53.0, 54.0, 55.0, 56.0, 57.0,
    58.0, 59.0, 60.0, 65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0, 100.0, 105.0, 110.0, 115.0, 120.0, 150.0, 180.0, 210.0,
    240.0, 270.0, 300.0,
];

const BY_FAMILY: &[&str] = &["ip_family"];

macro_rules! families {
    ($($doc:literal $name:ident: $kind:ident = $make:expr;)*) => {
        $(#[doc = $doc] pub static $name: LazyLock<Metrics<$kind>> = LazyLock::new(|| $make);)*

        /// Registers all of them, so that they are exposed before the first event.
        pub fn register() {
            $(LazyLock::force(&$name);)*
        }
    };
}

families! {
    "Duration of a sync." SYNC: Histogram =
        histogram("kubeproxy_sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", BY_FAMILY, SYNC_SECONDS);
    "Duration of a sync that wrote everything." SYNC_FULL: Histogram = histogram(
        "kubeproxy_sync_full_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for full resyncs", BY_FAMILY, SYNC_SECONDS);
    "Duration of a sync that wrote a difference." SYNC_PARTIAL: Histogram = histogram(
        "kubeproxy_sync_partial_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for partial resyncs", BY_FAMILY, SYNC_SECONDS);
    "When rules were last in order." LAST_SYNC: Gauge = gauge(
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced", BY_FAMILY);
    "When a change last came." LAST_QUEUED: Gauge = gauge(
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "The last time a sync of proxy rules was queued", BY_FAMILY);
    "From the change of a pod or Service to the rules." PROGRAMMING: Histogram = histogram(
        "kubeproxy_network_programming_duration_seconds", "In Cluster Network Programming Latency in seconds", BY_FAMILY, PROGRAMMING_SECONDS);
    "Changes of EndpointSlices." ENDPOINT_CHANGES: Counter =
        counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes", &[]);
    "Changes of EndpointSlices not yet in the rules." ENDPOINT_CHANGES_PENDING: Gauge =
        gauge("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "Pending proxy rules Endpoint changes", &[]);
    "Changes of Services." SERVICE_CHANGES: Counter =
        counter("kubeproxy_sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes", &[]);
    "Changes of Services not yet in the rules." SERVICE_CHANGES_PENDING: Gauge =
        gauge("kubeproxy_sync_proxy_rules_service_changes_pending", "Pending proxy rules Service changes", &[]);
    "Rules in the kernel." RULES: Gauge = gauge(
        "kubeproxy_sync_proxy_rules_iptables_total", "Total number of iptables rules owned by kube-proxy", &["table", "ip_family"]);
    "Rules of the last write." RULES_WRITTEN: Gauge = gauge(
        "kubeproxy_sync_proxy_rules_iptables_last", "Number of iptables rules written by kube-proxy in last sync", &["table", "ip_family"]);
    "Failed writes." FAILURES: Counter = counter(
        "kubeproxy_sync_proxy_rules_iptables_restore_failures_total", "Cumulative proxy iptables restore failures", BY_FAMILY);
    "Failed writes of a difference." PARTIAL_FAILURES: Counter = counter(
        "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total", "Cumulative proxy iptables partial restore failures", BY_FAMILY);
    "Failed writes of nftables." NFT_FAILURES: Counter = counter(
        "kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "Cumulative proxy nftables sync failures", BY_FAMILY);
    "Failed deletions of chains." NFT_CLEANUP_FAILURES: Counter = counter(
        "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total", "Cumulative proxy nftables cleanup failures", BY_FAMILY);
    "Duration of looking for stale flows." CONNTRACK_SYNC: Histogram = histogram(
        "kubeproxy_conntrack_reconciler_sync_duration_seconds", "ReconcileConntrackFlowsLatency latency in seconds", BY_FAMILY, SYNC_SECONDS);
    "Services whose policy is Local and that have no endpoint here." NO_LOCAL_ENDPOINTS: Gauge = gauge(
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "Number of services with a Local traffic policy and no endpoints", &["ip_family", "traffic_policy"]);
    "Answers of the health server." HEALTHZ: Counter =
        counter("kubeproxy_proxy_healthz_total", "Cumulative proxy healthz HTTP status", &["code"]);
    "Answers of the liveness endpoint." LIVEZ: Counter =
        counter("kubeproxy_proxy_livez_total", "Cumulative proxy livez HTTP status", &["code"]);
    "Deleted conntrack entries." CONNTRACK_DELETED: Counter = counter(
        "kubeproxy_conntrack_reconciler_deleted_entries_total", "Cumulative conntrack flows deleted by conntrack reconciler", BY_FAMILY);
}

/// A number of things as a gauge's value.
pub fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

//! What an operator sees of the API server: health checks by name and metrics, under upstream's names.

use std::collections::{BTreeMap, BTreeSet};

use tests::{ControlPlane, Options, eventually};

/// Name, type and labels of upstream's families.
const UPSTREAM: &str = include_str!("../data/apiserver-metrics.tsv");

/// Families that must be there once the server has worked a little.
const EXPECTED: [&str; 16] = [
    "apiserver_admission_step_admission_duration_seconds",
    "apiserver_authorization_decisions_total",
    "apiserver_client_certificate_expiration_seconds",
    "apiserver_current_inflight_requests",
    "apiserver_flowcontrol_dispatched_requests_total",
    "apiserver_longrunning_requests",
    "apiserver_request_duration_seconds",
    "apiserver_request_total",
    "apiserver_storage_objects",
    "authenticated_user_requests",
    "authentication_attempts",
    "authentication_duration_seconds",
    "authorization_attempts_total",
    "authorization_duration_seconds",
    "etcd_request_duration_seconds",
    "kubernetes_build_info",
];

/// Labels of every family in the text form, and their types.
fn families(text: &str) -> (BTreeMap<&str, &str>, BTreeMap<String, BTreeSet<String>>) {
    let mut types = BTreeMap::new();
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            types.extend(rest.split_once(' '));
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|base| types.get(base) == Some(&"histogram"))
                .unwrap_or(name);
            let inside =
                line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(inside, _)| inside);
            // no value of ours holds an equals sign before a quote
            let names = inside.split("=\"").filter_map(|part| part.rsplit([',', '"']).next());
            let found = labels.entry(family.to_owned()).or_default();
            found.extend(names.filter(|name| !name.is_empty() && *name != "le").map(str::to_owned));
        }
    }
    (types, labels)
}

#[test]
fn metrics_are_named_as_upstreams() {
    let plane = ControlPlane::start(Options::default());
    plane.kubectl(&["create", "configmap", "one", "-n", "default"]).unwrap();
    plane.kubectl(&["get", "--raw", "/api/v1/configmaps?watch=1&timeoutSeconds=1"]).unwrap();
    let text = plane.kubectl(&["get", "--raw", "/metrics"]).unwrap();
    let upstream: BTreeMap<&str, (&str, BTreeSet<&str>)> = UPSTREAM
        .lines()
        .filter_map(|line| {
            let mut columns = line.split('\t');
            let (name, kind, labels) = (columns.next()?, columns.next()?, columns.next()?);
            Some((name, (kind, labels.split(',').filter(|label| !label.is_empty()).collect())))
        })
        .collect();
    let (types, labels) = families(&text);
    for (name, kind) in &types {
        if name.starts_with("hardway_") {
            continue;
        }
        let Some((wanted, wanted_labels)) = upstream.get(name) else { panic!("{name} is none of upstream's") };
        assert_eq!(kind, wanted, "{name}");
        let found = labels.get(*name).cloned().unwrap_or_default();
        let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
        assert!(found.is_subset(wanted_labels), "{name} has {found:?}, upstream {wanted_labels:?}");
    }
    let missing: Vec<_> = EXPECTED.iter().filter(|name| !types.contains_key(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn health_checks_have_upstreams_names() {
    let plane = ControlPlane::start(Options::default());
    let ready = eventually("all checks", || plane.kubectl(&["get", "--raw", "/readyz?verbose"]));
    for check in [
        "ping",
        "log",
        "etcd",
        "etcd-readiness",
        "informer-sync",
        "poststarthook/rbac/bootstrap-roles",
        "poststarthook/bootstrap-controller",
        "poststarthook/start-service-ip-repair-controllers",
        "poststarthook/start-kube-apiserver-identity-lease-controller",
        "autoregister-completion",
        "shutdown",
    ] {
        assert!(ready.contains(&format!("[+]{check} ok\n")), "{check}: {ready}");
    }
    assert!(ready.ends_with("readyz check passed\n"));
    let live = plane.kubectl(&["get", "--raw", "/livez?verbose&exclude=etcd"]).unwrap();
    assert!(live.contains("[+]etcd excluded: ok\n") && !live.contains("shutdown") && !live.contains("etcd-readiness"));
    assert_eq!(plane.kubectl(&["get", "--raw", "/livez/ping"]).unwrap(), "ok");
    assert!(plane.kubectl(&["get", "--raw", "/readyz/nonesuch"]).is_err());
}

//! The table of controllers: upstream's names and aliases, which are on by default, and how each is put together.

use std::collections::BTreeSet;

use super::{
    bootstrap, certificates, clusterrole_aggregation_controller, cronjob_controller, daemonset_controller,
    deployment_controller, device_taint_eviction_controller, disruption_controller, endpoints_controller,
    endpointslice_controller, endpointslice_mirroring_controller, ephemeral_volume_controller,
    garbage_collector_controller, horizontalpodautoscaler_controller, job_controller, namespace_controller,
    node_ipam_controller, node_lifecycle_controller, persistentvolume_attach_detach_controller,
    persistentvolume_binder_controller, persistentvolume_expander_controller, pod_garbage_collector_controller,
    protection, replicaset_controller, resourceclaim_controller, resourcequota_controller,
    root_ca_certificate_publisher_controller, service_cidr_controller, serviceaccount_controller,
    serviceaccount_tokens, statefulset_controller, taint_eviction_controller, ttl_after_finished_controller,
    ttl_controller, validatingadmissionpolicy_status_controller,
};
use crate::framework::Setup;

/// One controller.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Upstream's name.
    pub name: &'static str,
    /// Its older name.
    pub alias: &'static str,
    /// Whether `*` means it too.
    pub on_by_default: bool,
    /// Puts it together; None where it is not implemented, which only those are that are off by default.
    pub register: Option<fn(&mut Setup<'_>)>,
}

const fn on(name: &'static str, alias: &'static str, register: fn(&mut Setup<'_>)) -> Entry {
    Entry { name, alias, on_by_default: true, register: Some(register) }
}

const fn off(name: &'static str, alias: &'static str, register: fn(&mut Setup<'_>)) -> Entry {
    Entry { name, alias, on_by_default: false, register: Some(register) }
}

const fn missing_off(name: &'static str, alias: &'static str) -> Entry {
    Entry { name, alias, on_by_default: false, register: None }
}

/// All of upstream's controllers that may run here, in its order.
pub const TABLE: &[Entry] = &[
    off("bootstrap-signer-controller", "bootstrapsigner", bootstrap::signer),
    on("certificatesigningrequest-approving-controller", "csrapproving", certificates::approving::register),
    on("certificatesigningrequest-cleaner-controller", "csrcleaner", certificates::cleaner::register),
    on("certificatesigningrequest-signing-controller", "csrsigning", certificates::signing::register),
    on("clusterrole-aggregation-controller", "clusterrole-aggregation", clusterrole_aggregation_controller::register),
    on("cronjob-controller", "cronjob", cronjob_controller::register),
    on("daemonset-controller", "daemonset", daemonset_controller::register),
    on("deployment-controller", "deployment", deployment_controller::register),
    on("device-taint-eviction-controller", "", device_taint_eviction_controller::register),
    on("disruption-controller", "disruption", disruption_controller::register),
    on("endpoints-controller", "endpoint", endpoints_controller::register),
    on("endpointslice-controller", "endpointslice", endpointslice_controller::register),
    on("endpointslice-mirroring-controller", "endpointslicemirroring", endpointslice_mirroring_controller::register),
    on("ephemeral-volume-controller", "ephemeral-volume", ephemeral_volume_controller::register),
    on("garbage-collector-controller", "garbagecollector", garbage_collector_controller::register),
    on(
        "horizontal-pod-autoscaler-controller",
        "horizontalpodautoscaling",
        horizontalpodautoscaler_controller::register,
    ),
    on("job-controller", "job", job_controller::register),
    missing_off("kube-apiserver-serving-clustertrustbundle-publisher-controller", ""),
    on(
        "legacy-serviceaccount-token-cleaner-controller",
        "legacy-service-account-token-cleaner",
        serviceaccount_tokens::cleaner::register,
    ),
    on("namespace-controller", "namespace", namespace_controller::register),
    on("node-ipam-controller", "nodeipam", node_ipam_controller::register),
    on("node-lifecycle-controller", "nodelifecycle", node_lifecycle_controller::register),
    on(
        "persistentvolume-attach-detach-controller",
        "attachdetach",
        persistentvolume_attach_detach_controller::register,
    ),
    on("persistentvolume-binder-controller", "persistentvolume-binder", persistentvolume_binder_controller::register),
    on(
        "persistentvolume-expander-controller",
        "persistentvolume-expander",
        persistentvolume_expander_controller::register,
    ),
    on("persistentvolume-protection-controller", "pv-protection", protection::volumes),
    on("persistentvolumeclaim-protection-controller", "pvc-protection", protection::claims),
    on("pod-garbage-collector-controller", "podgc", pod_garbage_collector_controller::register),
    missing_off("podcertificaterequest-cleaner-controller", ""),
    missing_off("podgroup-protection-controller", ""),
    on("replicaset-controller", "replicaset", replicaset_controller::replicaset),
    on("replicationcontroller-controller", "replicationcontroller", replicaset_controller::replicationcontroller),
    on("resourceclaim-controller", "resource-claim-controller", resourceclaim_controller::register),
    missing_off("resourcepoolstatusrequest-controller", ""),
    on("resourcequota-controller", "resourcequota", resourcequota_controller::register),
    on(
        "root-ca-certificate-publisher-controller",
        "root-ca-cert-publisher",
        root_ca_certificate_publisher_controller::register,
    ),
    missing_off("selinux-warning-controller", ""),
    on("service-cidr-controller", "", service_cidr_controller::register),
    on("serviceaccount-controller", "serviceaccount", serviceaccount_controller::register),
    on("serviceaccount-token-controller", "serviceaccount-token", serviceaccount_tokens::secrets::register),
    on("statefulset-controller", "statefulset", statefulset_controller::register),
    missing_off("storage-version-migrator-controller", "svm"),
    missing_off("storageversion-garbage-collector-controller", "storage-version-gc"),
    on("taint-eviction-controller", "", taint_eviction_controller::register),
    off("token-cleaner-controller", "tokencleaner", bootstrap::cleaner),
    on("ttl-after-finished-controller", "ttl-after-finished", ttl_after_finished_controller::register),
    on("ttl-controller", "ttl", ttl_controller::register),
    on("validatingadmissionpolicy-status-controller", "", validatingadmissionpolicy_status_controller::register),
    on("volumeattributesclass-protection-controller", "", protection::attributes_classes),
];

/// Upstream's names of loops that belong to a cloud controller manager; naming one here is not an error.
const CLOUD: &[&str] = &[
    "cloud-node-lifecycle-controller", "cloud-node-lifecycle", "node-route-controller", "route",
    "service-lb-controller", "service",
];

/// The controllers that run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    running: BTreeSet<&'static str>,
}

impl Selection {
    /// Leaves a controller out.
    pub fn disable(&mut self, name: &str) {
        self.running.retain(|running| *running != name);
    }

    /// The entries of what runs, in the table's order.
    pub fn entries(&self) -> impl Iterator<Item = &'static Entry> + '_ {
        TABLE.iter().filter(|entry| self.running.contains(entry.name))
    }
}

/// What `--controllers` asks for: `*` all that are on by default, `name` one more, `-name` one less; the first mention of
/// a name counts, and a name beats `*`.
pub fn select(wishes: &[String]) -> Result<Selection, String> {
    let find = |name: &str| TABLE.iter().find(|entry| entry.name == name || (!name.is_empty() && entry.alias == name));
    for wish in wishes.iter().filter(|wish| *wish != "*") {
        let name = wish.trim_start_matches(['-', '+']);
        match find(name) {
            None if CLOUD.contains(&name) => {}
            None => {
                return Err(format!("--controllers: {name:?} is not a controller; see --help of v1.36 for the names"));
            }
            Some(entry) if entry.register.is_none() && !wish.starts_with('-') => {
                return Err(format!("--controllers: {} is not implemented", entry.name));
            }
            Some(_) => {}
        }
    }
    let star = wishes.iter().any(|wish| wish == "*");
    let mut selection = Selection::default();
    for entry in TABLE {
        let named = wishes.iter().find_map(|wish| {
            let name = wish.trim_start_matches(['-', '+']);
            (name == entry.name || (!entry.alias.is_empty() && name == entry.alias)).then(|| !wish.starts_with('-'))
        });
        if named.unwrap_or(star && entry.on_by_default) {
            selection.running.insert(entry.name);
        }
    }
    Ok(selection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(list: &[&str]) -> Vec<String> {
        list.iter().map(|wish| (*wish).to_owned()).collect()
    }

    fn names(selection: &Selection) -> Vec<&'static str> {
        selection.entries().map(|entry| entry.name).collect()
    }

    #[test]
    fn star_names_aliases_and_exclusions() {
        let all = select(&wishes(&["*"])).unwrap();
        assert!(names(&all).contains(&"deployment-controller"));
        let some = select(&wishes(&["*", "-deployment", "-ttl-controller"])).unwrap();
        assert_eq!(names(&some).len() + 2, names(&all).len());
        assert_eq!(
            names(&select(&wishes(&["namespace", "podgc"])).unwrap()),
            ["namespace-controller", "pod-garbage-collector-controller"]
        );
        assert!(select(&wishes(&["*", "-route"])).is_ok());
        assert!(select(&wishes(&["nonsense"])).unwrap_err().contains("is not a controller"));
        assert!(select(&wishes(&["selinux-warning-controller"])).unwrap_err().contains("is not implemented"));
    }
}

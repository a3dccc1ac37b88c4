//! Which strategy belongs to which resource: the one list of kinds with a file of their own. A kind without a line does
//! what the facts alone say.

use super::{Conversion, Strategy};
use super::{apps, batch, certificates, core, discovery, rbac};

/// The strategy of a resource.
pub fn strategy(group: &str, plural: &str) -> Strategy {
    match (group, plural) {
        ("", "configmaps") => core::simple::CONFIG_MAP,
        ("", "endpoints") => core::simple::ENDPOINTS,
        ("" | "events.k8s.io", "events") => core::event::STRATEGY,
        ("", "namespaces") => core::simple::NAMESPACE,
        ("", "nodes") => core::node::STRATEGY,
        ("", "persistentvolumeclaims") => core::claims::CLAIM,
        ("", "persistentvolumes") => core::claims::VOLUME,
        ("", "pods") => core::pod::strategy::STRATEGY,
        ("", "podtemplates") => apps::revision::POD_TEMPLATE,
        ("", "replicationcontrollers") => apps::replication_controller::STRATEGY,
        ("", "secrets") => core::simple::SECRET,
        ("", "serviceaccounts") => core::simple::SERVICE_ACCOUNT,
        ("", "services") => core::service::STRATEGY,
        ("apps", "controllerrevisions") => apps::revision::CONTROLLER_REVISION,
        ("apps", "daemonsets") => apps::daemon_set::STRATEGY,
        ("apps", "deployments") => apps::deployment::STRATEGY,
        ("apps", "replicasets") => apps::replica_set::STRATEGY,
        ("apps", "statefulsets") => apps::stateful_set::STRATEGY,
        ("batch", "cronjobs") => batch::cron::CRON_JOB,
        ("batch", "jobs") => batch::JOB,
        ("certificates.k8s.io", "certificatesigningrequests") => certificates::REQUEST,
        ("coordination.k8s.io", "leases") => discovery::LEASE,
        ("discovery.k8s.io", "endpointslices") => discovery::ENDPOINT_SLICE,
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => rbac::ROLE,
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => rbac::BINDING,
        _ => Strategy::DEFAULT,
    }
}

/// The strategy of a subresource that is a view of its object.
pub fn subresource_strategy(group: &str, plural: &str, subresource: &str) -> Strategy {
    match (group, plural, subresource) {
        ("", "namespaces", "finalize") => core::simple::NAMESPACE_FINALIZE,
        ("", "namespaces", "status") => core::simple::NAMESPACE_STATUS,
        ("", "nodes", "status") => core::node::STATUS,
        ("", "persistentvolumeclaims", "status") => core::claims::CLAIM_STATUS,
        ("", "persistentvolumes", "status") => core::claims::VOLUME_STATUS,
        ("", "pods", "ephemeralcontainers") => core::pod::strategy::EPHEMERAL_CONTAINERS,
        ("", "pods", "resize") => core::pod::strategy::RESIZE,
        ("", "pods", "status") => core::pod::strategy::STATUS,
        ("", "replicationcontrollers", "status") => apps::replication_controller::STATUS,
        ("", "services", "status") => core::service::STATUS,
        ("apps", "daemonsets", "status") => apps::daemon_set::STATUS,
        ("apps", "deployments", "status") => apps::deployment::STATUS,
        ("apps", "replicasets", "status") => apps::replica_set::STATUS,
        ("apps", "statefulsets", "status") => apps::stateful_set::STATUS,
        ("batch", "jobs", "status") => batch::JOB_STATUS,
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => certificates::APPROVAL,
        ("certificates.k8s.io", "certificatesigningrequests", "status") => certificates::STATUS,
        _ => Strategy::DEFAULT,
    }
}

/// The conversion of a served version that is not what is stored.
pub fn conversion(group: &str, _version: &str, plural: &str) -> Option<Conversion> {
    match (group, plural) {
        ("events.k8s.io", "events") => {
            Some(Conversion { from_storage: core::event::from_core, to_storage: core::event::to_core })
        }
        _ => None,
    }
}

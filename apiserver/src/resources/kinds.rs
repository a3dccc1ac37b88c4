//! Which strategy belongs to which resource: the one list of kinds with a file of their own. A kind without a line does
//! what the facts alone say.

use super::{Conversion, NameRule, Strategy};
use super::{
    admission_registration, apps, autoscaling, batch, certificates, core, discovery, dra, flowcontrol, networking,
    policy, quota, rbac, storage,
};
use crate::extension;

/// The strategy of a resource.
pub fn strategy(group: &str, plural: &str) -> Strategy {
    match (group, plural) {
        ("", "componentstatuses") => core::simple::COMPONENT_STATUS,
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
        ("apiregistration.k8s.io", "apiservices") => {
            Strategy { names: NameRule(apimachinery::validation::path_segment_name), ..Strategy::DEFAULT }
        }
        extension::DEFINITIONS => extension::definition::STRATEGY,
        ("apps", "controllerrevisions") => apps::revision::CONTROLLER_REVISION,
        ("apps", "daemonsets") => apps::daemon_set::STRATEGY,
        ("apps", "deployments") => apps::deployment::STRATEGY,
        ("apps", "replicasets") => apps::replica_set::STRATEGY,
        ("apps", "statefulsets") => apps::stateful_set::STRATEGY,
        ("", "limitranges") => quota::LIMIT_RANGE,
        ("", "resourcequotas") => quota::QUOTA,
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => {
            admission_registration::WEBHOOKS
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies" | "validatingadmissionpolicies") => {
            admission_registration::POLICY
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings" | "validatingadmissionpolicybindings") => {
            admission_registration::BINDING
        }
        ("autoscaling", "horizontalpodautoscalers") => autoscaling::STRATEGY,
        ("batch", "cronjobs") => batch::cron::CRON_JOB,
        ("batch", "jobs") => batch::JOB,
        ("certificates.k8s.io", "certificatesigningrequests") => certificates::REQUEST,
        ("coordination.k8s.io", "leases") => discovery::LEASE,
        ("discovery.k8s.io", "endpointslices") => discovery::ENDPOINT_SLICE,
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => flowcontrol::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => flowcontrol::PRIORITY_LEVEL,
        ("networking.k8s.io", "ingressclasses") => networking::INGRESS_CLASS,
        ("networking.k8s.io", "ingresses") => networking::INGRESS,
        ("networking.k8s.io", "ipaddresses") => networking::IP_ADDRESS,
        ("networking.k8s.io", "networkpolicies") => networking::NETWORK_POLICY,
        ("networking.k8s.io", "servicecidrs") => networking::SERVICE_CIDR,
        ("node.k8s.io", "runtimeclasses") => policy::RUNTIME_CLASS,
        ("policy", "poddisruptionbudgets") => policy::BUDGET,
        ("resource.k8s.io", "deviceclasses") => dra::DEVICE_CLASS,
        ("resource.k8s.io", "resourceclaims") => dra::CLAIM,
        ("resource.k8s.io", "resourceclaimtemplates") => dra::CLAIM_TEMPLATE,
        ("resource.k8s.io", "resourceslices") => dra::SLICE,
        ("scheduling.k8s.io", "priorityclasses") => policy::PRIORITY_CLASS,
        ("storage.k8s.io", "csidrivers") => storage::CSI_DRIVER,
        ("storage.k8s.io", "csinodes") => storage::CSI_NODE,
        ("storage.k8s.io", "csistoragecapacities") => storage::CSI_STORAGE_CAPACITY,
        ("storage.k8s.io", "storageclasses") => storage::STORAGE_CLASS,
        ("storage.k8s.io", "volumeattachments") => storage::VOLUME_ATTACHMENT,
        ("storage.k8s.io", "volumeattributesclasses") => storage::VOLUME_ATTRIBUTES_CLASS,
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => rbac::ROLE,
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => rbac::BINDING,
        _ => Strategy::DEFAULT,
    }
}

/// The strategy of a subresource that is a view of its object.
pub fn subresource_strategy(group: &str, plural: &str, subresource: &str) -> Strategy {
    match (group, plural, subresource) {
        ("apiextensions.k8s.io", _, "status") => extension::definition::STATUS,
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
        ("", "resourcequotas", "status") => quota::QUOTA_STATUS,
        ("autoscaling", "horizontalpodautoscalers", "status") => autoscaling::STATUS,
        ("batch", "jobs", "status") => batch::JOB_STATUS,
        ("flowcontrol.apiserver.k8s.io", _, "status") => flowcontrol::STATUS,
        ("networking.k8s.io", "ingresses", "status") => networking::INGRESS_STATUS,
        ("policy", "poddisruptionbudgets", "status") => policy::BUDGET_STATUS,
        ("resource.k8s.io", "resourceclaims", "status") => dra::CLAIM_STATUS,
        ("storage.k8s.io", "volumeattachments", "status") => storage::VOLUME_ATTACHMENT_STATUS,
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => certificates::APPROVAL,
        ("certificates.k8s.io", "certificatesigningrequests", "status") => certificates::STATUS,
        _ => Strategy::DEFAULT,
    }
}

/// The conversion of a served version that is not what is stored.
pub fn conversion(group: &str, version: &str, plural: &str) -> Option<Conversion> {
    match (group, version, plural) {
        ("autoscaling", "v1", "horizontalpodautoscalers") => {
            Some(Conversion { from_storage: autoscaling::to_v1, to_storage: autoscaling::from_v1 })
        }
        ("events.k8s.io", _, "events") => {
            Some(Conversion { from_storage: core::event::from_core, to_storage: core::event::to_core })
        }
        _ => None,
    }
}

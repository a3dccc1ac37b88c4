//! The controllers, one folder or file each, named as `--controllers` names them. Which there are is in [`table`].

pub mod bootstrap;
pub mod certificates;
pub mod clusterrole_aggregation_controller;
pub mod cronjob_controller;
pub mod daemonset_controller;
pub mod deletion_order;
pub mod deployment_controller;
pub mod device_taint_eviction_controller;
pub mod disruption_controller;
pub mod endpoints_controller;
pub mod endpointslice_controller;
pub mod endpointslice_mirroring_controller;
pub mod ephemeral_volume_controller;
pub mod garbage_collector_controller;
pub mod history;
pub mod horizontalpodautoscaler_controller;
pub mod job_controller;
pub mod namespace_controller;
pub mod node_ipam_controller;
pub mod node_lifecycle_controller;
pub mod node_taints;
pub mod persistentvolume_attach_detach_controller;
pub mod persistentvolume_binder_controller;
pub mod persistentvolume_expander_controller;
pub mod pod_garbage_collector_controller;
pub mod pod_template;
pub mod protection;
pub mod replicaset_controller;
pub mod resourceclaim_controller;
pub mod resourcequota_controller;
pub mod revision;
pub mod root_ca_certificate_publisher_controller;
pub mod service_cidr_controller;
pub mod serviceaccount_controller;
pub mod serviceaccount_tokens;
pub mod slices;
pub mod statefulset_controller;
pub mod table;
pub mod taint_eviction_controller;
pub mod trigger_time;
pub mod ttl_after_finished_controller;
pub mod ttl_controller;
pub mod validatingadmissionpolicy_status_controller;
pub mod wake;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::views::meta::{Condition, to_value};
use crate::views::pod::PodView;

/// A status patch that says why the control plane ends a pod (`DisruptionTarget`).
pub fn disruption_condition(pod: &PodView, reason: &str, message: &str, now: Timestamp) -> Value {
    let condition = Condition {
        kind: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: now.into(),
        ..Condition::default()
    };
    json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [to_value(&condition)]}})
}

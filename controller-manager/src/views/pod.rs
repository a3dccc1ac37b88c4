//! Pods, as all controllers see them, and the questions they ask about one.

use std::collections::BTreeMap;

use apimachinery::meta::ObjectMeta;
use client::resources;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::meta::{Condition, Time, condition, is_deleting};
use super::{namespace_index, owner_index};

/// Pods by the uid of their controller, or by namespace for orphans.
pub const BY_OWNER: &str = "owner";
/// Pods by namespace.
pub const BY_NAMESPACE: &str = "namespace";
/// Pods by `spec.nodeName`.
pub const BY_NODE: &str = "node";

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What should run.
    pub spec: PodSpec,
    /// What the kubelet says.
    pub status: PodStatus,
}

crate::view!(
    PodView,
    resources::PODS,
    [
        (BY_OWNER, owner_index),
        (BY_NAMESPACE, namespace_index),
        (BY_NODE, |pod: &PodView| vec![pod.spec.node_name.clone()])
    ]
);

/// The parts of the spec that controllers read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Empty until scheduled.
    pub node_name: String,
    /// Shares the node's network.
    pub host_network: bool,
    /// DNS name below the subdomain.
    pub hostname: String,
    /// Headless service.
    pub subdomain: String,
    /// `Always`, `OnFailure`, `Never`.
    pub restart_policy: String,
    /// Scheduler that is responsible.
    pub scheduler_name: String,
    /// Containers.
    pub containers: Vec<Container>,
    /// Init containers and sidecars.
    pub init_containers: Vec<Container>,
    /// Taints it bears.
    pub tolerations: Vec<Toleration>,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Where it must go.
    pub affinity: Affinity,
    /// Requests and limits of the pod as a whole.
    pub resources: Resources,
    /// What it needs besides its containers.
    pub overhead: BTreeMap<String, String>,
    /// How important it is.
    pub priority_class_name: String,
    /// How long it may run.
    pub active_deadline_seconds: Option<i64>,
    /// Devices.
    pub resource_claims: Vec<PodResourceClaim>,
}

/// A claim of devices, by name or to be made from a template.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodResourceClaim {
    /// Its name within the pod.
    pub name: String,
    /// The claim.
    pub resource_claim_name: Option<String>,
    /// The template.
    pub resource_claim_template_name: Option<String>,
}

/// Which claim was made for one of a pod's claims.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceClaimStatus {
    /// The name within the pod.
    pub name: String,
    /// The claim; none when the pod needs none.
    pub resource_claim_name: Option<String>,
}

/// The parts of the affinity that name a node (daemon sets' pods are bound by it) or other namespaces (quotas).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    node_affinity: NodeAffinity,
    pod_affinity: PodAffinity,
    pod_anti_affinity: PodAffinity,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodAffinity {
    required_during_scheduling_ignored_during_execution: Vec<PodTerm>,
    preferred_during_scheduling_ignored_during_execution: Vec<WeightedPodTerm>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodTerm {
    namespaces: Vec<String>,
    namespace_selector: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WeightedPodTerm {
    pod_affinity_term: PodTerm,
}

impl Affinity {
    /// Whether it looks at pods of other namespaces.
    pub fn crosses_namespaces(&self) -> bool {
        [&self.pod_affinity, &self.pod_anti_affinity].into_iter().any(|affinity| {
            let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter();
            let preferred = preferred.map(|weighted| &weighted.pod_affinity_term);
            let mut terms = affinity.required_during_scheduling_ignored_during_execution.iter().chain(preferred);
            terms.any(|term| !term.namespaces.is_empty() || term.namespace_selector.is_some())
        })
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: NodeSelector,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSelector {
    node_selector_terms: Vec<NodeSelectorTerm>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSelectorTerm {
    match_fields: Vec<MatchField>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct MatchField {
    key: String,
    operator: String,
    values: Vec<String>,
}

/// A container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// `Always` makes an init container a sidecar.
    pub restart_policy: String,
    /// Ports it declares.
    pub ports: Vec<ContainerPort>,
    /// Requests and limits.
    pub resources: Resources,
}

/// Requests and limits, as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Reserved.
    pub requests: BTreeMap<String, String>,
    /// At most.
    pub limits: BTreeMap<String, String>,
}

/// A declared port.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Its name, if any.
    pub name: String,
    /// The number.
    pub container_port: i32,
    /// `TCP` when empty.
    pub protocol: String,
}

/// A toleration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// Empty with `Exists` tolerates every key.
    pub key: String,
    /// `Equal` when empty, or `Exists`.
    pub operator: String,
    /// For `Equal`.
    pub value: String,
    /// Empty tolerates every effect.
    pub effect: String,
    /// How long `NoExecute` is borne; None for ever.
    pub toleration_seconds: Option<i64>,
}

/// A volume: its name and the sources that controllers care about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// A claim.
    pub persistent_volume_claim: Option<ClaimSource>,
    /// A claim made for the pod.
    pub ephemeral: Option<Value>,
    /// A secret.
    pub secret: SecretSource,
}

/// A reference to a secret; empty for volumes of other kinds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretSource {
    /// Its name, in the pod's namespace.
    pub secret_name: String,
}

/// A reference to a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSource {
    /// Its name, in the pod's namespace.
    pub claim_name: String,
}

/// The parts of the status that controllers read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
    pub phase: String,
    /// Why, in one word.
    pub reason: String,
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// First address.
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// All addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    /// When the kubelet took it.
    pub start_time: Time,
    /// Containers.
    pub container_statuses: Vec<ContainerStatus>,
    /// Init containers and sidecars.
    pub init_container_statuses: Vec<ContainerStatus>,
    /// Claims made from templates.
    pub resource_claim_statuses: Vec<ResourceClaimStatus>,
}

/// One address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// IPv4 or IPv6.
    pub ip: String,
}

/// A container's state.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Container's name.
    pub name: String,
    /// How often it was restarted.
    pub restart_count: i32,
    /// Now.
    pub state: ContainerState,
}

/// Where a container is in its life.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// Set when it has ended.
    pub terminated: Option<Terminated>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    /// Its exit code.
    pub exit_code: i32,
    /// When.
    pub finished_at: Time,
}

impl PodView {
    /// Not ended and not asked to end.
    pub fn is_active(&self) -> bool {
        !self.is_terminal() && !is_deleting(&self.metadata)
    }

    /// Succeeded or failed.
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Asked to end but not ended.
    pub fn is_terminating(&self) -> bool {
        !self.is_terminal() && is_deleting(&self.metadata)
    }

    /// The condition `kind`.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        condition(&self.status.conditions, kind)
    }

    /// Whether it serves.
    pub fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|ready| ready.status == "True")
    }

    /// Since when it serves.
    pub fn ready_since(&self) -> Option<Timestamp> {
        self.condition("Ready").filter(|ready| ready.status == "True").and_then(|ready| ready.last_transition_time.0)
    }

    /// Whether it has been ready for `min_ready_seconds`.
    pub fn is_available(&self, min_ready_seconds: i32, now: Timestamp) -> bool {
        self.is_ready()
            && (min_ready_seconds == 0
                || self.ready_since().is_some_and(|since| {
                    super::super::framework::backoff::remaining(since, i64::from(min_ready_seconds), now).is_zero()
                }))
    }

    /// When it will have been ready for `min_ready_seconds`, if it is ready but not yet for so long.
    pub fn available_in(&self, min_ready_seconds: i32, now: Timestamp) -> Option<std::time::Duration> {
        let since = self.ready_since()?;
        let left = crate::framework::backoff::remaining(since, i64::from(min_ready_seconds), now);
        (!left.is_zero()).then_some(left)
    }

    /// The node it runs on, or the only one it may run on; empty when neither is known.
    pub fn target_node(&self) -> &str {
        if !self.spec.node_name.is_empty() {
            return &self.spec.node_name;
        }
        let required = &self.spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution;
        required
            .node_selector_terms
            .iter()
            .flat_map(|term| &term.match_fields)
            .find(|field| field.key == "metadata.name" && field.operator == "In" && field.values.len() == 1)
            .map_or("", |field| field.values[0].as_str())
    }

    /// Names of the secrets that it mounts as volumes.
    pub fn secrets(&self) -> impl Iterator<Item = &str> + '_ {
        self.spec.volumes.iter().map(|volume| volume.secret.secret_name.as_str()).filter(|name| !name.is_empty())
    }

    /// Names of the claims it uses; claims made for the pod are called `POD-VOLUME`.
    pub fn claims(&self) -> impl Iterator<Item = String> + '_ {
        self.spec.volumes.iter().filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{}-{}", self.metadata.name, volume.name)),
            (None, None) => None,
        })
    }
}

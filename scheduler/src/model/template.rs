//! The template of a pod: everything that its placement depends on, and nothing else.
//!
//! Pods with equal templates are one equivalence class. Keys of `matchLabelKeys` are merged into selectors here, so that
//! the plugins see plain selectors only.

use std::collections::{BTreeMap, BTreeSet};

use super::resources::{self, Resources};
use crate::objects::pod::{
    NodeAffinity, Pod, PodAffinity, PodAffinityTerm, PodResourceClaim, Toleration, TopologySpreadConstraint, Volume,
};
use crate::objects::selector::{LabelSelector, Labels, NodeSelectorTerm};
use crate::plugins::features;

/// Labels of every namespace.
pub type NamespaceLabels = BTreeMap<String, Labels>;

/// The controller that owns a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// `apiVersion` of the owner.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
}

/// A host port that a pod takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Address; `0.0.0.0` stands for all.
    pub ip: Box<str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// Port number.
    pub port: i32,
}

impl HostPort {
    /// Whether two pods cannot hold these ports on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        const ANY: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || &*self.ip == ANY || &*other.ip == ANY)
    }
}

/// Which pods a rule is about: in named namespaces or those selected by labels, with matching labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PodMatch {
    /// Namespaces by name.
    pub namespaces: BTreeSet<String>,
    /// Namespaces by label; an empty selector means all.
    pub namespace_selector: Option<LabelSelector>,
    /// Pods by label; absent means none.
    pub selector: Option<LabelSelector>,
}

impl PodMatch {
    /// Whether a pod of this namespace and these labels is meant.
    pub fn matches(&self, namespace: &str, labels: &Labels, namespaces: &NamespaceLabels) -> bool {
        let in_namespace = self.namespaces.contains(namespace)
            || self.namespace_selector.as_ref().is_some_and(|s| match namespaces.get(namespace) {
                Some(ns_labels) => s.matches(ns_labels),
                None => s.matches(&Labels::new()),
            });
        in_namespace && self.selector.as_ref().is_some_and(|s| s.matches(labels))
    }
}

/// A pod (anti-)affinity term.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Term {
    /// The pods it is about.
    pub pods: PodMatch,
    /// The node label whose equal values make a domain.
    pub topology_key: Box<str>,
}

/// A preferred term with its weight.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WeightedTerm {
    /// 1 to 100; negative for anti-affinity.
    pub weight: i64,
    /// The term.
    pub term: Term,
}

/// What placement depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Template {
    /// Namespace of the pod.
    pub namespace: String,
    /// Labels of the pod.
    pub labels: Labels,
    /// Its controller, for default spreading.
    pub owner: Option<Owner>,
    /// The profile that places it.
    pub scheduler_name: String,
    /// Priority.
    pub priority: i32,
    /// True when it must not preempt others.
    pub never_preempts: bool,
    /// What it requests.
    pub requests: Resources,
    /// CPU (milli) and memory (bytes) with assumed minimums, as its node holds them.
    pub nonzero: (i64, i64),
    /// The same as NodeResourcesFit scores it: of its containers alone, as upstream does.
    pub scored: (i64, i64),
    /// Host ports.
    pub ports: Vec<HostPort>,
    /// Node labels it needs.
    pub node_selector: Labels,
    /// Node affinity.
    pub node_affinity: NodeAffinity,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Spread constraints, keys merged.
    pub spread: Vec<TopologySpreadConstraint>,
    /// Required affinity terms.
    pub affinity: Vec<Term>,
    /// Required anti-affinity terms.
    pub anti_affinity: Vec<Term>,
    /// Preferred terms; anti-affinity has negative weights.
    pub preferred: Vec<WeightedTerm>,
    /// Normalised images of its containers, init containers and image volumes, with repetitions.
    pub images: Vec<String>,
    /// Its containers and init containers.
    pub containers: usize,
    /// Volumes with a source that restricts placement.
    pub volumes: Vec<Volume>,
    /// Name of the pod where volumes need it (generic ephemeral volumes), else empty.
    pub volume_owner: String,
    /// Features that the node must declare.
    pub features: Vec<&'static str>,
    /// Claims of devices; `None` for one that has not been made from its template yet.
    pub claims: Vec<Option<String>>,
}

/// The pod's claims of devices, by name; those that it turned out not to need are left out.
fn claims(pod: &Pod) -> Vec<Option<String>> {
    let one = |c: &PodResourceClaim| match &c.resource_claim_name {
        Some(name) => Some(Some(name.clone())),
        None => match pod.status.resource_claim_statuses.iter().find(|s| s.name == c.name) {
            Some(made) => made.resource_claim_name.clone().map(Some),
            None => Some(None),
        },
    };
    pod.spec.resource_claims.iter().filter_map(one).collect()
}

impl Template {
    /// The template of a pod.
    pub fn of(pod: &Pod) -> Self {
        let (spec, meta) = (&pod.spec, &pod.metadata);
        let (requests, nonzero, scored) = resources::of_pod(pod);
        let labels: Labels = meta.labels.clone();
        let term = |t: &PodAffinityTerm| term_of(t, &meta.namespace, &labels);
        let required = |a: &PodAffinity| a.required.iter().map(term).collect::<Vec<_>>();
        let weighted = |a: &PodAffinity, sign: i64| {
            let one = |w: &crate::objects::pod::WeightedPodAffinityTerm| WeightedTerm {
                weight: sign * i64::from(w.weight),
                term: term(&w.pod_affinity_term),
            };
            a.preferred.iter().map(one).collect::<Vec<_>>()
        };
        let mut preferred = weighted(&spec.affinity.pod_affinity, 1);
        preferred.extend(weighted(&spec.affinity.pod_anti_affinity, -1));
        let volumes: Vec<Volume> = spec.volumes.iter().filter(|v| restricts(v)).cloned().collect();
        let ephemeral = volumes.iter().any(|v| v.ephemeral.is_some());
        Self {
            namespace: meta.namespace.clone(),
            owner: owner_of(pod),
            scheduler_name: spec.scheduler_name.clone(),
            priority: spec.priority,
            never_preempts: spec.preemption_policy == "Never",
            requests,
            nonzero,
            scored,
            ports: ports_of(pod),
            node_selector: spec.node_selector.clone(),
            node_affinity: spec.affinity.node_affinity.clone(),
            tolerations: spec.tolerations.clone(),
            spread: spread_of(&spec.topology_spread_constraints, &labels),
            affinity: required(&spec.affinity.pod_affinity),
            anti_affinity: required(&spec.affinity.pod_anti_affinity),
            preferred,
            images: images_of(pod),
            containers: pod.spec.init_containers.len() + pod.spec.containers.len(),
            volume_owner: if ephemeral { meta.name.clone() } else { String::new() },
            volumes,
            features: features::needed(spec),
            claims: claims(pod),
            labels,
        }
    }

    /// True when the pod has any pod (anti-)affinity term, which makes it matter to others.
    pub fn has_affinity(&self) -> bool {
        !(self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred.is_empty())
    }

    /// The only nodes that required node affinity allows by name; `None` when it does not restrict by name.
    pub fn allowed_names(&self) -> Option<BTreeSet<String>> {
        let required = self.node_affinity.required.as_ref()?;
        let mut names = BTreeSet::new();
        for term in &required.node_selector_terms {
            names.extend(NodeSelectorTerm::names(term)?.into_iter().map(String::from));
        }
        (!required.node_selector_terms.is_empty()).then_some(names)
    }
}

/// Merges `matchLabelKeys` of each constraint into its selector.
pub fn spread_of(constraints: &[TopologySpreadConstraint], labels: &Labels) -> Vec<TopologySpreadConstraint> {
    let merged = |c: &TopologySpreadConstraint| {
        let mut c = c.clone();
        if let Some(s) = &mut c.label_selector {
            s.merge_keys(&c.match_label_keys, labels, "In");
        }
        c
    };
    constraints.iter().map(merged).collect()
}

fn term_of(t: &PodAffinityTerm, namespace: &str, labels: &Labels) -> Term {
    let mut selector = t.label_selector.clone();
    if let Some(s) = &mut selector {
        s.merge_keys(&t.match_label_keys, labels, "In");
        s.merge_keys(&t.mismatch_label_keys, labels, "NotIn");
    }
    let mut namespaces: BTreeSet<String> = t.namespaces.iter().cloned().collect();
    if namespaces.is_empty() && t.namespace_selector.is_none() {
        namespaces.insert(namespace.to_string());
    }
    let pods = PodMatch { namespaces, namespace_selector: t.namespace_selector.clone(), selector };
    Term { pods, topology_key: t.topology_key.as_str().into() }
}

fn owner_of(pod: &Pod) -> Option<Owner> {
    let owner = pod.metadata.owner_references.iter().find(|o| o.controller == Some(true))?;
    Some(Owner { api_version: owner.api_version.clone(), kind: owner.kind.clone(), name: owner.name.clone() })
}

fn ports_of(pod: &Pod) -> Vec<HostPort> {
    let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy == "Always");
    let mut ports = Vec::new();
    for p in pod.spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports).filter(|p| p.host_port > 0) {
        let or = |s: &str, default: &str| Box::from(if s.is_empty() { default } else { s });
        let port = HostPort { ip: or(&p.host_ip, "0.0.0.0"), protocol: or(&p.protocol, "TCP"), port: p.host_port };
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

fn images_of(pod: &Pod) -> Vec<String> {
    let spec = &pod.spec;
    let containers = spec.init_containers.iter().chain(&spec.containers).map(|c| c.image.as_str());
    let volumes = spec.volumes.iter().filter_map(|v| v.image.as_ref()).map(|i| i.reference.as_str());
    containers.chain(volumes).map(normalised_image).collect()
}

/// An image name with `:latest` when it has no tag; digests stay.
pub fn normalised_image(name: &str) -> String {
    let tagged = match (name.rfind(':'), name.rfind('/')) {
        (Some(colon), Some(slash)) => colon > slash,
        (Some(_), None) => true,
        (None, _) => false,
    };
    if tagged { name.to_string() } else { format!("{name}:latest") }
}

fn restricts(v: &Volume) -> bool {
    v.persistent_volume_claim.is_some()
        || v.ephemeral.is_some()
        || v.gce_persistent_disk.is_some()
        || v.aws_elastic_block_store.is_some()
        || v.iscsi.is_some()
        || v.rbd.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names() {
        for (given, want) in [
            ("nginx", "nginx:latest"),
            ("nginx:1", "nginx:1"),
            ("host:5000/nginx", "host:5000/nginx:latest"),
            ("host:5000/nginx:2", "host:5000/nginx:2"),
            ("a/b@sha256:00", "a/b@sha256:00"),
        ] {
            assert_eq!(normalised_image(given), want);
        }
    }

    #[test]
    fn restricted_by_name_only_when_every_term_is() {
        let affinity = |terms: serde_json::Value| -> Template {
            let pod = serde_json::json!({"metadata": {"name": "p"}, "spec": {"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}});
            Template::of(&serde_json::from_value(pod).unwrap())
        };
        let by_name =
            serde_json::json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]});
        let by_label = serde_json::json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]});
        assert_eq!(affinity(serde_json::json!([by_name])).allowed_names(), Some(BTreeSet::from(["n1".to_string()])));
        assert_eq!(affinity(serde_json::json!([by_name, by_label])).allowed_names(), None);
        assert_eq!(affinity(serde_json::json!([])).allowed_names(), None);
    }
}

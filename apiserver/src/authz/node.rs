//! The Node authorizer: a kubelet may read only what its own pods use.
//!
//! What a node's pods use is read out of them when the node asks; of persistent volumes, volume attachments and resource
//! slices an index is kept.
//! Follows upstream's rules per resource; what is left is answered by the fixed rules of the `system:node` cluster role.
//! Static (mirror) pods give a node nothing, otherwise a kubelet could read any secret by inventing a pod.

use std::collections::{HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use futures::future::BoxFuture;
use serde_json::Value;

use super::pod_uses::PodUses;
use super::rules::{PolicyRule, rules_of};
use super::{Attributes, Authorizer, Decision};
use crate::bootstrap::policy;
use crate::http::request::UserInfo;
use crate::storage::cache::ResourceCache;

const NODE_USER_PREFIX: &str = "system:node:";
const NODES_GROUP: &str = "system:nodes";

/// The node that a user is: `Some("")` when it is in the group of nodes but its name is not a node's; `None` otherwise.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    let in_group = user.groups.iter().any(|group| group == NODES_GROUP);
    let name = user.name.strip_prefix(NODE_USER_PREFIX)?;
    in_group.then_some(name)
}

/// Pods made from files on the node carry this annotation; they give their node nothing.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Which kinds of object a node may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vertex {
    /// `secrets`
    Secret,
    /// `configmaps`
    ConfigMap,
    /// `persistentvolumeclaims`
    Claim,
    /// `serviceaccounts`
    ServiceAccount,
    /// `resourceclaims.resource.k8s.io`
    ResourceClaim,
    /// `pods`
    Pod,
}

/// Kind, and `namespace/name`.
type Key = (Vertex, Arc<str>);

fn key(vertex: Vertex, namespace: &str, name: &str) -> Key {
    (vertex, [namespace, "/", name].concat().into())
}

/// Which of the watched resources an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// `persistentvolumes`
    Volume,
    /// `volumeattachments`
    Attachment,
    /// `resourceslices`
    Slice,
}

/// Who uses what.
#[derive(Debug, Default)]
pub struct Graph {
    /// All pods, indexed by node.
    pods: Option<Arc<ResourceCache>>,
    /// volume → the claim that holds it (`namespace/name`) and the secrets its driver needs.
    volumes: HashMap<String, (String, Vec<Key>)>,
    /// secret → volumes that name it.
    volume_secrets: HashMap<Key, HashSet<String>>,
    attachments: HashMap<String, String>,
    slices: HashMap<String, String>,
}

impl Graph {
    /// Takes in one object, or its absence.
    pub fn apply(&mut self, kind: NodeKind, name: &str, object: Option<&Value>) {
        match kind {
            NodeKind::Volume => self.apply_volume(name, object),
            NodeKind::Attachment => apply_name(&mut self.attachments, name, object),
            NodeKind::Slice => apply_name(&mut self.slices, name, object),
        }
    }

    fn apply_volume(&mut self, name: &str, volume: Option<&Value>) {
        if let Some((_, secrets)) = self.volumes.remove(name) {
            for secret in secrets {
                if let Some(names) = self.volume_secrets.get_mut(&secret) {
                    names.remove(name);
                    if names.is_empty() {
                        self.volume_secrets.remove(&secret);
                    }
                }
            }
        }
        let Some(spec) = volume.map(|volume| &volume["spec"]) else { return };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let claim = &spec["claimRef"];
        let (claim_namespace, claim_name) = (text(&claim["namespace"]), text(&claim["name"]));
        if claim_name.is_empty() {
            return;
        }
        let secrets = volume_secrets(spec, &claim_namespace);
        for secret in &secrets {
            self.volume_secrets.entry(secret.clone()).or_default().insert(name.to_owned());
        }
        self.volumes.insert(name.to_owned(), ([&claim_namespace, "/", &*claim_name].concat(), secrets));
    }

    /// Whether a pod on the node uses the object, directly or through a volume.
    pub fn reaches(&self, vertex: Vertex, namespace: &str, name: &str, node: &str) -> bool {
        let secret = || self.volume_secrets.get(&key(vertex, namespace, name));
        self.used_on(vertex, namespace, name, node)
            || vertex == Vertex::Secret
                && secret().is_some_and(|volumes| volumes.iter().any(|volume| self.reaches_volume(volume, node)))
    }

    fn used_on(&self, vertex: Vertex, namespace: &str, name: &str, node: &str) -> bool {
        let pods = self.pods.as_ref().map(|pods| pods.indexed_as(node)).unwrap_or_default();
        let within = [namespace, "/"].concat();
        if vertex == Vertex::Pod {
            return pods.contains_key([&within, name].concat().as_str());
        }
        let from = (Bound::Included(within.as_str()), Bound::Unbounded);
        let mut pods = pods.range::<_, str>(from).take_while(|(key, _)| key.starts_with(&within));
        pods.any(|(_, pod)| pod.memo(PodUses::read).contains(vertex, name))
    }

    fn reaches_volume(&self, volume: &str, node: &str) -> bool {
        let claim = self.volumes.get(volume).and_then(|(claim, _)| claim.split_once('/'));
        claim.is_some_and(|(namespace, name)| self.used_on(Vertex::Claim, namespace, name, node))
    }
}

fn apply_name(map: &mut HashMap<String, String>, name: &str, object: Option<&Value>) {
    match object.and_then(|object| object["spec"]["nodeName"].as_str()) {
        Some(node) => map.insert(name.to_owned(), node.to_owned()),
        None => map.remove(name),
    };
}

fn volume_secrets(spec: &Value, claim_namespace: &str) -> Vec<Key> {
    let mut secrets = Vec::new();
    let mut add = |reference: &Value| {
        if let Some(name) = reference["name"].as_str().filter(|name| !name.is_empty()) {
            let namespace = reference["namespace"].as_str().filter(|ns| !ns.is_empty()).unwrap_or(claim_namespace);
            secrets.push(key(Vertex::Secret, namespace, name));
        }
    };
    for field in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        add(&spec["csi"][field]);
    }
    for source in ["cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
        add(&spec[source]["secretRef"]);
    }
    if let Some(name) = spec["azureFile"]["secretName"].as_str() {
        let namespace = spec["azureFile"]["secretNamespace"].as_str().unwrap_or(claim_namespace);
        secrets.push(key(Vertex::Secret, namespace, name));
    }
    secrets
}

/// The graph and the fixed rules.
pub struct NodeAuthorizer {
    graph: RwLock<Graph>,
    rules: Vec<PolicyRule>,
}

impl Default for NodeAuthorizer {
    fn default() -> Self {
        Self::new()
    }
}

impl NodeAuthorizer {
    /// An empty graph.
    pub fn new() -> Self {
        let rules = policy::cluster_role("system:node").map(rules_of).unwrap_or_default();
        Self { graph: RwLock::default(), rules }
    }

    /// Takes in one object, or its absence.
    pub fn apply(&self, kind: NodeKind, name: &str, object: Option<&Value>) {
        self.graph.write().unwrap_or_else(PoisonError::into_inner).apply(kind, name, object);
    }

    /// Looks into these pods from now on.
    pub fn look_into(&self, pods: Arc<ResourceCache>) {
        self.graph.write().unwrap_or_else(PoisonError::into_inner).pods = Some(pods);
    }

    fn decide(&self, request: &Attributes) -> Decision {
        let Some(node) = node_of(&request.user) else { return no("") };
        if node.is_empty() {
            return no(&format!("unknown node for user {:?}", request.user.name));
        }
        let verb = request.verb.as_str();
        if request.resource_request {
            let graph = self.graph.read().unwrap_or_else(PoisonError::into_inner);
            match (request.group.as_str(), request.resource.as_str()) {
                ("", "secrets") => return read_used(&graph, node, Vertex::Secret, request),
                ("", "configmaps") => return read_used(&graph, node, Vertex::ConfigMap, request),
                ("", "persistentvolumeclaims") if request.subresource == "status" => {
                    return status_update(&graph, node, Vertex::Claim, request);
                }
                ("", "persistentvolumeclaims") => return get_used(&graph, node, Vertex::Claim, request),
                ("resource.k8s.io", "resourceclaims") => return get_used(&graph, node, Vertex::ResourceClaim, request),
                ("", "persistentvolumes") => {
                    return get_if(request, graph.reaches_volume(&request.name, node), node);
                }
                ("storage.k8s.io", "volumeattachments") => {
                    return get_if(request, graph.attachments.get(&request.name).is_some_and(|n| n == node), node);
                }
                ("", "serviceaccounts") if request.subresource == "token" => {
                    return create_token(&graph, node, request);
                }
                ("", "serviceaccounts") => return get_used(&graph, node, Vertex::ServiceAccount, request),
                ("coordination.k8s.io", "leases") => return own_lease(node, request),
                ("storage.k8s.io", "csinodes") => return own_csi_node(node, request),
                ("resource.k8s.io", "resourceslices") => return own_slices(&graph, node, request),
                ("", "nodes") => return own_node(node, request),
                ("", "pods") => return own_pods(&graph, node, request),
                _ => {}
            }
        }
        if self.rules.iter().any(|rule| rule.allows(request)) {
            yes()
        } else {
            no(&format!("node {node:?} cannot {verb} it"))
        }
    }
}

impl Authorizer for NodeAuthorizer {
    fn authorize<'a>(&'a self, request: &'a Attributes) -> BoxFuture<'a, Decision> {
        Box::pin(std::future::ready(self.decide(request)))
    }

    fn rules_missing(&self, user: &UserInfo) -> Option<&'static str> {
        node_of(user).map(|_| "node authorizer doesn't support user rule resolution")
    }
}

fn yes() -> Decision {
    Decision::Allow { reason: String::new() }
}

fn no(reason: &str) -> Decision {
    Decision::NoOpinion { reason: reason.to_owned() }
}

fn unrelated(node: &str) -> Decision {
    no(&format!("no relationship found between node '{node}' and this object"))
}

fn read_used(graph: &Graph, node: &str, vertex: Vertex, request: &Attributes) -> Decision {
    match request.verb.as_str() {
        "get" | "list" | "watch" if request.namespace.is_empty() => no("can only read namespaced object of this type"),
        "get" | "list" | "watch" => used(graph, node, vertex, request),
        _ => no("can only read resources of this type"),
    }
}

fn get_used(graph: &Graph, node: &str, vertex: Vertex, request: &Attributes) -> Decision {
    if request.verb != "get" {
        return no("can only get individual resources of this type");
    }
    used(graph, node, vertex, request)
}

fn get_if(request: &Attributes, related: bool, node: &str) -> Decision {
    match (request.verb.as_str(), request.subresource.as_str(), related) {
        ("get", "", true) => yes(),
        ("get", "", false) => unrelated(node),
        _ => no("can only get individual resources of this type"),
    }
}

fn used(graph: &Graph, node: &str, vertex: Vertex, request: &Attributes) -> Decision {
    if !request.subresource.is_empty() {
        return no("cannot get subresource");
    }
    if request.name.is_empty() {
        return no("No Object name found");
    }
    if graph.reaches(vertex, &request.namespace, &request.name, node) { yes() } else { unrelated(node) }
}

fn status_update(graph: &Graph, node: &str, vertex: Vertex, request: &Attributes) -> Decision {
    if !matches!(request.verb.as_str(), "update" | "patch") {
        return no("can only update/patch individual resources status");
    }
    if graph.reaches(vertex, &request.namespace, &request.name, node) { yes() } else { unrelated(node) }
}

fn create_token(graph: &Graph, node: &str, request: &Attributes) -> Decision {
    if request.verb != "create" || request.name.is_empty() {
        return no("can only create tokens for individual service accounts");
    }
    if graph.reaches(Vertex::ServiceAccount, &request.namespace, &request.name, node) { yes() } else { unrelated(node) }
}

fn own_lease(node: &str, request: &Attributes) -> Decision {
    if !matches!(request.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if request.namespace != "kube-node-lease" {
        return no("can only access leases in the kube-node-lease namespace");
    }
    // The name in a create's body is held to the node's by NodeRestriction.
    if request.verb != "create" && request.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    yes()
}

fn own_csi_node(node: &str, request: &Attributes) -> Decision {
    if !request.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if !matches!(request.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if request.verb != "create" && request.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    yes()
}

fn selects_only(request: &Attributes, field: &str, value: &str) -> bool {
    request.field_selector.split(',').any(|part| {
        let Some((key, wanted)) = part.split_once('=') else { return false };
        key == field && wanted.strip_prefix('=').unwrap_or(wanted) == value
    })
}

fn own_slices(graph: &Graph, node: &str, request: &Attributes) -> Decision {
    if !request.subresource.is_empty() {
        return no("cannot authorize ResourceSlice subresources");
    }
    match request.verb.as_str() {
        "create" => yes(),
        "get" | "update" | "patch" | "delete" => {
            if graph.slices.get(&request.name).is_some_and(|owner| owner == node) {
                yes()
            } else {
                unrelated(node)
            }
        }
        "list" | "watch" | "deletecollection" if selects_only(request, "spec.nodeName", node) => yes(),
        "list" | "watch" | "deletecollection" => {
            no("can only list/watch/deletecollection resourceslices with spec.nodeName field selector")
        }
        _ => no(
            "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
        ),
    }
}

fn own_node(node: &str, request: &Attributes) -> Decision {
    match (request.subresource.as_str(), request.verb.as_str()) {
        // NodeRestriction holds these to the own object; the object may not exist yet.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
        ("", "get" | "list" | "watch") if request.name == node => yes(),
        ("", "get" | "list" | "watch") => {
            no(&format!("node '{node}' cannot read '{}', only its own Node object", request.name))
        }
        _ => no(""),
    }
}

fn own_pods(graph: &Graph, node: &str, request: &Attributes) -> Decision {
    match (request.subresource.as_str(), request.verb.as_str()) {
        ("", "get") => used(graph, node, Vertex::Pod, request),
        ("", "list" | "watch") if selects_only(request, "spec.nodeName", node) => yes(),
        ("", "list" | "watch") if !request.name.is_empty() => used(graph, node, Vertex::Pod, request),
        ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
        // NodeRestriction holds these to the node's own (mirror) pods.
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => yes(),
        _ => no(""),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authz::tests::resource;
    use crate::storage::entry::Entry;
    use crate::storage::probe::{FieldPath, Probe, Zero};

    fn ask(verb: &str, namespace: &str, group: &str, res: &str, sub: &str, name: &str) -> Attributes {
        let mut request = resource("system:node:n1", verb, namespace, group, res, sub, name);
        request.user = Arc::new(UserInfo {
            name: "system:node:n1".into(),
            groups: vec!["system:nodes".into()],
            ..UserInfo::default()
        });
        request
    }

    fn put(pods: &ResourceCache, key: &str, pod: &Value) {
        let entry = Entry::new(key.into(), &serde_json::to_vec(pod).unwrap(), 1, pods.probe()).unwrap();
        pods.apply(key, Some(entry), 1);
    }

    fn authorizer() -> (NodeAuthorizer, Arc<ResourceCache>) {
        let auth = NodeAuthorizer::new();
        let field = FieldPath { name: "node".into(), paths: vec!["spec.nodeName".into()], zero: Zero::Empty };
        let pods = Arc::new(ResourceCache::new("/pods/".into(), Probe::new(vec![field]), Some("node")));
        auth.look_into(Arc::clone(&pods));
        let pod = json!({"metadata": {}, "spec": {"nodeName": "n1", "serviceAccountName": "sa",
            "volumes": [{"name": "a", "secret": {"secretName": "s1"}},
                {"name": "b", "persistentVolumeClaim": {"claimName": "c1"}},
                {"name": "k", "projected": {"sources": [{"configMap": {"name": "ca"}}]}}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "cm"}}]}]}});
        put(&pods, "ns/p1", &pod);
        let mut other = pod.clone();
        other["spec"]["nodeName"] = "n2".into();
        other["spec"]["volumes"][0]["secret"]["secretName"] = "s2".into();
        put(&pods, "ns/p2", &other);
        let volume = json!({"spec": {"claimRef": {"namespace": "ns", "name": "c1"},
            "csi": {"nodeStageSecretRef": {"name": "csi", "namespace": "kube-system"}}}});
        auth.apply(NodeKind::Volume, "pv1", Some(&volume));
        auth.apply(NodeKind::Attachment, "va1", Some(&json!({"spec": {"nodeName": "n1"}})));
        (auth, pods)
    }

    #[test]
    fn table() {
        let (auth, _) = authorizer();
        let cases = [
            (ask("get", "ns", "", "secrets", "", "s1"), true),
            (ask("get", "ns", "", "secrets", "", "s2"), false),
            (ask("list", "ns", "", "secrets", "", ""), false),
            (ask("watch", "ns", "", "configmaps", "", "cm"), true),
            (ask("get", "ns", "", "configmaps", "", "ca"), true),
            (ask("update", "ns", "", "configmaps", "", "cm"), false),
            (ask("get", "kube-system", "", "secrets", "", "csi"), true),
            (ask("get", "", "", "persistentvolumes", "", "pv1"), true),
            (ask("get", "", "", "persistentvolumes", "", "pv2"), false),
            (ask("get", "ns", "", "persistentvolumeclaims", "", "c1"), true),
            (ask("get", "", "storage.k8s.io", "volumeattachments", "", "va1"), true),
            (ask("create", "ns", "", "serviceaccounts", "token", "sa"), true),
            (ask("create", "ns", "", "serviceaccounts", "token", "other"), false),
            (ask("update", "kube-node-lease", "coordination.k8s.io", "leases", "", "n1"), true),
            (ask("update", "kube-node-lease", "coordination.k8s.io", "leases", "", "n2"), false),
            (ask("update", "default", "coordination.k8s.io", "leases", "", "n1"), false),
            (ask("get", "", "", "nodes", "", "n1"), true),
            (ask("get", "", "", "nodes", "", "n2"), false),
            (ask("create", "", "", "nodes", "", ""), true),
            (ask("delete", "", "", "nodes", "", "n1"), false),
            (ask("get", "ns", "", "pods", "", "p1"), true),
            (ask("get", "ns", "", "pods", "", "p2"), false),
            (ask("patch", "ns", "", "pods", "status", "p1"), true),
            (ask("list", "", "", "pods", "", ""), false),
            (ask("list", "", "", "services", "", ""), true),
            (ask("create", "", "authentication.k8s.io", "tokenreviews", "", ""), true),
            (ask("create", "", "certificates.k8s.io", "certificatesigningrequests", "", ""), true),
            (ask("delete", "ns", "apps", "deployments", "", "d"), false),
        ];
        for (request, allowed) in cases {
            assert_eq!(auth.decide(&request).is_allowed(), allowed, "{request:?}");
        }
        let mut list = ask("list", "", "", "pods", "", "");
        list.field_selector = "spec.nodeName=n1".into();
        assert!(auth.decide(&list).is_allowed());
        list.field_selector = "spec.nodeName=n2".into();
        assert!(!auth.decide(&list).is_allowed());
    }

    #[test]
    fn pod_gone_takes_its_secrets_along() {
        let (auth, pods) = authorizer();
        assert!(auth.decide(&ask("get", "ns", "", "secrets", "", "s1")).is_allowed());
        pods.apply("ns/p1", None, 2);
        assert!(!auth.decide(&ask("get", "ns", "", "secrets", "", "s1")).is_allowed());
        assert!(!auth.decide(&ask("get", "", "", "persistentvolumes", "", "pv1")).is_allowed());
        put(&pods, "ns/p1", &json!({"metadata": {}, "spec": {"nodeName": "n1", "serviceAccountName": "s1"}}));
        assert!(!auth.decide(&ask("get", "ns", "", "secrets", "", "s1")).is_allowed());
        assert!(auth.decide(&ask("get", "ns", "", "serviceaccounts", "", "s1")).is_allowed());
    }
}

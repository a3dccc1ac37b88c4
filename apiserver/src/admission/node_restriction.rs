//! NodeRestriction: what a kubelet writes, it writes about itself.
//!
//! Concerns only users that are nodes; the Node authorizer has let them this far. Follows upstream's rules per resource:
//! own node (no taints, owner references or reserved labels), mirror pods and the status of own pods, tokens bound to own
//! pods, own lease, CSINode, resource slices, and certificates for the own name.

use std::sync::Arc;

use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

use super::certificates::requested_subject;
use super::{ALL_CONTAINERS, Operation, Plugin, Request, containers};
use crate::authz::node::{MIRROR_ANNOTATION, node_of};
use crate::authz::{Attributes, Authorizer, Union};
use crate::objects::{Objects, find};

/// The plugin.
pub struct NodeRestriction {
    /// The cluster.
    pub objects: Arc<dyn Objects>,
    /// For audiences of tokens that no pod names.
    pub authz: Arc<Union>,
}

const KUBELET_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const KUBELET_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const RESTRICTED_DOMAIN: &str = "node-restriction.kubernetes.io";

fn in_domain(namespace: &str, domain: &str) -> bool {
    namespace.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a kubelet may set the label on its node.
fn label_allowed(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    if in_domain(namespace, RESTRICTED_DOMAIN) {
        return false;
    }
    let reserved = in_domain(namespace, "kubernetes.io") || in_domain(namespace, "k8s.io");
    !reserved || KUBELET_LABELS.contains(&label) || KUBELET_LABEL_DOMAINS.iter().any(|d| in_domain(namespace, d))
}

/// Labels that differ between old and new and that a kubelet may not touch.
fn forbidden_labels(old: Option<&Value>, new: &Value) -> Vec<String> {
    let empty = serde_json::Map::new();
    let labels = |node: &Value| node["metadata"]["labels"].as_object().cloned().unwrap_or_else(|| empty.clone());
    let (old, new) = (old.map(labels).unwrap_or_default(), labels(new));
    let changed = |key: &&String| old.get(*key) != new.get(*key);
    let mut found: Vec<String> =
        old.keys().chain(new.keys()).filter(changed).filter(|key| !label_allowed(key)).cloned().collect();
    found.sort();
    found.dedup();
    found
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl NodeRestriction {
    async fn check(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(node) = node_of(&request.ctx.user) else { return Ok(()) };
        let refuse = |why: &str| Err(request.forbidden(object, why));
        if node.is_empty() {
            return refuse(&format!("could not determine node from user {:?}", request.ctx.user.name));
        }
        match (request.group, request.resource, request.subresource) {
            ("", "pods", "") => self.pod(request, object, node).await,
            ("", "pods", "status") => pod_status(request, object, node),
            ("", "pods", "eviction") => self.eviction(request, object, node).await,
            ("", "pods", other) => {
                refuse(&format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
            }
            ("", "nodes", _) => own_node(request, object, node),
            ("", "persistentvolumeclaims", "status") => claim_status(request, object),
            ("", "persistentvolumeclaims", _) => refuse("may only update PVC status"),
            ("", "serviceaccounts", "token") => self.token(request, object, node).await,
            ("coordination.k8s.io", "leases", _) => own_named(request, object, node, "node lease"),
            ("storage.k8s.io", "csinodes", _) => own_named(request, object, node, "CSINode"),
            ("resource.k8s.io", "resourceslices", _) => own_slice(request, object, node),
            ("certificates.k8s.io", "certificatesigningrequests", "") => own_certificate(request, object, node),
            _ => Ok(()),
        }
    }

    async fn pod(&self, request: &Request<'_>, object: Option<&Value>, node: &str) -> Result<(), Status> {
        let refuse = |why: &str| Err(request.forbidden(object, why));
        match request.operation {
            Operation::Create => {
                let Some(pod) = object else { return refuse("the object is missing") };
                if let Some(why) = mirror_pod_refusal(pod, node) {
                    return refuse(&why);
                }
                let owner = &pod["metadata"]["ownerReferences"][0];
                let found = find(&*self.objects, ("", "nodes"), "", node).await?;
                match found {
                    Some(found) if found["metadata"]["uid"] == owner["uid"] => Ok(()),
                    Some(found) => refuse(&format!(
                        "node {node} UID mismatch: expected {} got {}",
                        text(&owner["uid"]),
                        text(&found["metadata"]["uid"])
                    )),
                    None => Err(Status::not_found(&GroupResource::new("", "nodes"), node)),
                }
            }
            Operation::Delete => match request.old {
                Some(pod) if pod["spec"]["nodeName"] == node => Ok(()),
                _ => refuse(&format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
            },
            Operation::Update | Operation::Connect => refuse(&format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                request.operation.as_str()
            )),
        }
    }

    async fn eviction(&self, request: &Request<'_>, object: Option<&Value>, node: &str) -> Result<(), Status> {
        let name = request.display_name(object);
        match find(&*self.objects, ("", "pods"), request.namespace, name).await? {
            Some(pod) if pod["spec"]["nodeName"] == node => Ok(()),
            Some(_) => {
                Err(request
                    .forbidden(object, &format!("node {node} can only evict pods with spec.nodeName set to itself")))
            }
            None => Ok(()),
        }
    }

    async fn token(&self, request: &Request<'_>, object: Option<&Value>, node: &str) -> Result<(), Status> {
        let refuse = |why: &str| Err(request.forbidden(object, why));
        let Some(review) = object else { return refuse("the object is missing") };
        let bound = &review["spec"]["boundObjectRef"];
        if text(&bound["kind"]) != "Pod" || text(&bound["apiVersion"]) != "v1" || text(&bound["name"]).is_empty() {
            return refuse("node requested token not bound to a pod");
        }
        if text(&bound["uid"]).is_empty() {
            return refuse("node requested token with a pod binding without a uid");
        }
        let Some(pod) = find(&*self.objects, ("", "pods"), request.namespace, text(&bound["name"])).await? else {
            return Err(Status::not_found(&GroupResource::new("", "pods"), text(&bound["name"])));
        };
        if pod["metadata"]["uid"] != bound["uid"] {
            return refuse(&format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                text(&bound["uid"])
            ));
        }
        if pod["spec"]["nodeName"] != node {
            return refuse("node requested token bound to a pod scheduled on a different node");
        }
        let audiences = review["spec"]["audiences"].as_array().map_or(&[][..], Vec::as_slice);
        let audience = match audiences {
            [] => "",
            [one] => text(one),
            _ => return refuse("node may only request 0 or 1 audiences"),
        };
        if self.pod_names_audience(&pod, audience) {
            return Ok(());
        }
        let ask = Attributes {
            user: Arc::clone(&request.ctx.user),
            verb: "request-serviceaccounts-token-audience".to_owned(),
            namespace: request.namespace.to_owned(),
            resource: audience.to_owned(),
            name: request.name.to_owned(),
            resource_request: true,
            ..Attributes::default()
        };
        if self.authz.authorize(&ask).await.is_allowed() {
            return Ok(());
        }
        refuse(&format!(
            "audience {audience:?} not found in pod spec volume, {node} is not authorized to request tokens for it"
        ))
    }

    fn pod_names_audience(&self, pod: &Value, audience: &str) -> bool {
        pod["spec"]["volumes"].as_array().into_iter().flatten().any(|volume| {
            let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
            let mut projected = sources.filter(|source| source["serviceAccountToken"].is_object());
            if projected.any(|source| text(&source["serviceAccountToken"]["audience"]) == audience) {
                return true;
            }
            let driver = self.csi_driver_of(pod, volume);
            let driver = driver.and_then(|name| self.objects.get(("storage.k8s.io", "csidrivers"), "", &name));
            driver.is_some_and(|driver| {
                let requests = driver["spec"]["tokenRequests"].as_array().into_iter().flatten();
                requests.into_iter().any(|request| text(&request["audience"]) == audience)
            })
        })
    }

    fn csi_driver_of(&self, pod: &Value, volume: &Value) -> Option<String> {
        if let Some(driver) = volume["csi"]["driver"].as_str() {
            return Some(driver.to_owned());
        }
        let claim = if volume["ephemeral"].is_object() {
            format!("{}-{}", text(&pod["metadata"]["name"]), text(&volume["name"]))
        } else {
            volume["persistentVolumeClaim"]["claimName"].as_str()?.to_owned()
        };
        let claim = self.objects.get(("", "persistentvolumeclaims"), text(&pod["metadata"]["namespace"]), &claim)?;
        let volume = self.objects.get(("", "persistentvolumes"), "", claim["spec"]["volumeName"].as_str()?)?;
        volume["spec"]["csi"]["driver"].as_str().map(str::to_owned)
    }
}

/// Why a node may not create this pod, but for the owner's uid.
fn mirror_pod_refusal(pod: &Value, node: &str) -> Option<String> {
    let spec = &pod["spec"];
    if pod["metadata"]["annotations"][MIRROR_ANNOTATION].is_null() {
        return Some(format!(
            "pod does not have {MIRROR_ANNOTATION:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if spec["nodeName"] != node {
        return Some(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
    let [owner] = owners else {
        let which = if owners.is_empty() { "an" } else { "a single" };
        return Some(format!("node {node:?} can only create pods with {which} owner reference set to itself"));
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Some(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return Some(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if owner["blockOwnerDeletion"] == true {
        return Some(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    if !text(&spec["serviceAccountName"]).is_empty() {
        return Some(format!("node {node:?} can not create pods that reference a service account"));
    }
    if let Some(kind) = api_reference(spec) {
        return Some(format!("node {node:?} can not create pods that reference {kind}"));
    }
    None
}

/// The first kind of API object that the pod names.
fn api_reference(spec: &Value) -> Option<&'static str> {
    if spec["resourceClaims"].as_array().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    for container in containers(spec, ALL_CONTAINERS) {
        let env = container["env"].as_array().into_iter().flatten().map(|e| &e["valueFrom"]);
        for source in env.chain(container["envFrom"].as_array().into_iter().flatten()) {
            if !source["secretKeyRef"].is_null() || !source["secretRef"].is_null() {
                return Some("secrets");
            }
            if !source["configMapKeyRef"].is_null() || !source["configMapRef"].is_null() {
                return Some("configmaps");
            }
        }
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let named = [
            ("secret", "secrets"),
            ("configMap", "configmaps"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("ephemeral", "persistentvolumeclaims"),
        ];
        if let Some((_, kind)) = named.iter().find(|(field, _)| !volume[*field].is_null()) {
            return Some(kind);
        }
        for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
            let named = [
                ("secret", "secrets"),
                ("configMap", "configmaps"),
                ("serviceAccountToken", "serviceaccounts"),
                ("clusterTrustBundle", "clustertrustbundles"),
            ];
            if let Some((_, kind)) = named.iter().find(|(field, _)| !source[*field].is_null()) {
                return Some(kind);
            }
        }
    }
    None
}

fn pod_status(request: &Request<'_>, object: Option<&Value>, node: &str) -> Result<(), Status> {
    let refuse = |why: &str| Err(request.forbidden(object, why));
    let (Operation::Update, Some(old), Some(new)) = (request.operation, request.old, object) else {
        return refuse("unexpected operation on pods/status");
    };
    if old["spec"]["nodeName"] != node {
        return refuse(&format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if old["metadata"]["labels"] != new["metadata"]["labels"] {
        return refuse(&format!("node {node:?} cannot update labels through pod status"));
    }
    for field in ["resourceClaimStatuses", "extendedResourceClaimStatus"] {
        if old["status"][field] != new["status"][field] {
            return refuse(&format!("node {node:?} cannot update resource claim statuses"));
        }
    }
    Ok(())
}

fn own_node(request: &Request<'_>, object: Option<&Value>, node: &str) -> Result<(), Status> {
    let refuse = |why: &str| Err(request.forbidden(object, why));
    // CONNECT (nodes/proxy) is the authorizer's alone.
    if request.operation == Operation::Connect {
        return Ok(());
    }
    if request.display_name(object) != node {
        let name = request.display_name(object);
        return refuse(&format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let Some(new) = object else { return Ok(()) };
    if request.operation == Operation::Create && !new["spec"]["configSource"].is_null() {
        return refuse(&format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
    }
    if request.operation == Operation::Update {
        let old = request.old.unwrap_or(&Value::Null);
        let source = &new["spec"]["configSource"];
        if !source.is_null() && *source != old["spec"]["configSource"] {
            return refuse(&format!(
                "node {node:?} is not allowed to update configSource to a new non-nil configSource"
            ));
        }
        if old["spec"]["taints"] != new["spec"]["taints"] {
            return refuse(&format!("node {node:?} is not allowed to modify taints"));
        }
        if old["metadata"]["ownerReferences"] != new["metadata"]["ownerReferences"] {
            return refuse(&format!("node {node:?} is not allowed to modify ownerReferences"));
        }
    }
    let labels = forbidden_labels(request.old, new);
    match labels.join(", ").as_str() {
        "" => Ok(()),
        labels if request.operation == Operation::Create => {
            refuse(&format!("node {node:?} is not allowed to set the following labels: {labels}"))
        }
        labels => refuse(&format!("is not allowed to modify labels: {labels}")),
    }
}

fn claim_status(request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
    let refuse = |why: &str| Err(request.forbidden(object, why));
    let (Some(old), Some(new)) = (request.old, object) else {
        return refuse("unexpected operation on persistentvolumeclaims/status");
    };
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        if let Some(metadata) = claim.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
            metadata.remove("managedFields");
        }
        if let Some(status) = claim.get_mut("status").and_then(Value::as_object_mut) {
            for field in ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"] {
                status.remove(field);
            }
            for field in ["currentVolumeAttributesClassName", "modifyVolumeStatus"] {
                status.remove(field);
            }
        }
        if claim["status"].as_object().is_some_and(serde_json::Map::is_empty) {
            super::set(&mut claim, "status", Value::Null);
        }
        claim
    };
    let (mut before, mut after) = (rest(old), rest(new));
    for claim in [&mut before, &mut after] {
        if claim["status"].is_null()
            && let Some(map) = claim.as_object_mut()
        {
            map.remove("status");
        }
    }
    if before == after {
        return Ok(());
    }
    refuse("is not allowed to update fields other than status.capacity and status.conditions")
}

fn own_named(request: &Request<'_>, object: Option<&Value>, node: &str, what: &str) -> Result<(), Status> {
    if what == "node lease" && request.namespace != "kube-node-lease" {
        return Err(request.forbidden(object, "can only access leases in the \"kube-node-lease\" system namespace"));
    }
    if request.display_name(object) == node {
        return Ok(());
    }
    Err(request.forbidden(object, &format!("can only access {what} with the same name as the requesting node")))
}

fn own_slice(request: &Request<'_>, object: Option<&Value>, node: &str) -> Result<(), Status> {
    match object.filter(|_| request.operation == Operation::Create) {
        Some(slice) if slice["spec"]["nodeName"] != node => {
            Err(request
                .forbidden(object, "can only create ResourceSlice with the same NodeName as the requesting node"))
        }
        _ => Ok(()),
    }
}

fn own_certificate(request: &Request<'_>, object: Option<&Value>, node: &str) -> Result<(), Status> {
    const NODE_SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
    let Some(csr) = object.filter(|_| request.operation == Operation::Create) else { return Ok(()) };
    if !NODE_SIGNERS.contains(&text(&csr["spec"]["signerName"])) {
        return Ok(());
    }
    match requested_subject(csr) {
        Some((name, _)) if name == request.ctx.user.name => Ok(()),
        Some(_) => Err(request.forbidden(object, &format!("can only create a node CSR with CN=system:node:{node}"))),
        None => Err(request.forbidden(object, "unable to parse csr")),
    }
}

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        node_of(&request.ctx.user).is_some()
    }

    /// Among the mutating plugins, as upstream: it judges what the node asked for, before the server fills in more.
    fn admit<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(self.check(request, object.map(|object| &*object)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authz::{AuthzConfig, build};
    use crate::http::request::{RequestContext, UserInfo};
    use crate::objects::fake::Fake;

    fn plugin() -> NodeRestriction {
        let cluster = Fake::default().with(("", "nodes"), json!({"metadata": {"name": "n1", "uid": "u1"}})).with(
            ("", "pods"),
            json!({"metadata": {"namespace": "ns", "name": "p", "uid": "up"}, "spec": {"nodeName": "n1",
                "volumes": [{"projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}]}}]}}),
        );
        let authz = build(&AuthzConfig { modes: vec!["RBAC".into()], ..AuthzConfig::default() }).unwrap();
        NodeRestriction { objects: Arc::new(cluster), authz: Arc::new(authz) }
    }

    fn ctx() -> RequestContext {
        let user =
            UserInfo { name: "system:node:n1".into(), groups: vec!["system:nodes".into()], ..UserInfo::default() };
        RequestContext { user: Arc::new(user), ..RequestContext::default() }
    }

    type Case = (
        &'static str,
        Operation,
        (&'static str, &'static str, &'static str),
        &'static str,
        Option<Value>,
        Option<Value>,
        bool,
    );

    #[tokio::test]
    async fn table() {
        let mirror = |node: &str, uid: &str| {
            json!({"metadata": {"name": "m", "annotations": {MIRROR_ANNOTATION: "h"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true}]},
            "spec": {"nodeName": node}})
        };
        let node = |name: &str, labels: Value, taints: Value| json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}});
        let token = |uid: &str, audiences: Value| {
            json!({"spec": {"audiences": audiences,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}}})
        };
        let own_pod = json!({"spec": {"nodeName": "n1"}});
        let other_pod = json!({"spec": {"nodeName": "n2"}});
        use Operation::{Create, Delete, Update};
        let cases: Vec<Case> = vec![
            ("mirror pod", Create, ("", "pods", ""), "", Some(mirror("n1", "u1")), None, true),
            ("wrong uid", Create, ("", "pods", ""), "", Some(mirror("n1", "u2")), None, false),
            ("on another node", Create, ("", "pods", ""), "", Some(mirror("n2", "u1")), None, false),
            ("ordinary pod", Create, ("", "pods", ""), "", Some(own_pod.clone()), None, false),
            ("delete own", Delete, ("", "pods", ""), "p", None, Some(own_pod.clone()), true),
            ("delete other", Delete, ("", "pods", ""), "p", None, Some(other_pod.clone()), false),
            ("status of own", Update, ("", "pods", "status"), "p", Some(own_pod.clone()), Some(own_pod.clone()), true),
            ("status of other", Update, ("", "pods", "status"), "p", Some(other_pod.clone()), Some(other_pod), false),
            ("binding", Create, ("", "pods", "binding"), "p", Some(json!({})), None, false),
            (
                "register",
                Create,
                ("", "nodes", ""),
                "",
                Some(node("n1", json!({"kubernetes.io/os": "linux", "x": "y"}), json!(null))),
                None,
                true,
            ),
            ("register other", Create, ("", "nodes", ""), "", Some(node("n2", json!({}), json!(null))), None, false),
            (
                "reserved label",
                Create,
                ("", "nodes", ""),
                "",
                Some(node("n1", json!({"node-restriction.kubernetes.io/a": "b"}), json!(null))),
                None,
                false,
            ),
            (
                "role label",
                Create,
                ("", "nodes", ""),
                "",
                Some(node("n1", json!({"node-role.kubernetes.io/x": ""}), json!(null))),
                None,
                false,
            ),
            (
                "taints",
                Update,
                ("", "nodes", ""),
                "n1",
                Some(node("n1", json!({}), json!([]))),
                Some(node("n1", json!({}), json!([{"key": "a"}]))),
                false,
            ),
            (
                "taints by the status",
                Update,
                ("", "nodes", "status"),
                "n1",
                Some(node("n1", json!({}), json!([{"key": "b"}]))),
                Some(node("n1", json!({}), json!([{"key": "a"}]))),
                false,
            ),
            (
                "a configuration source",
                Update,
                ("", "nodes", ""),
                "n1",
                Some(json!({"metadata": {"name": "n1"}, "spec": {"configSource": {}}})),
                Some(node("n1", json!({}), json!(null))),
                false,
            ),
            ("lease", Update, ("coordination.k8s.io", "leases", ""), "n2", Some(json!({})), None, false),
            ("token", Create, ("", "serviceaccounts", "token"), "sa", Some(token("up", json!(["vault"]))), None, true),
            (
                "token of an old pod",
                Create,
                ("", "serviceaccounts", "token"),
                "sa",
                Some(token("old", json!(["vault"]))),
                None,
                false,
            ),
            (
                "audience nobody named",
                Create,
                ("", "serviceaccounts", "token"),
                "sa",
                Some(token("up", json!(["bank"]))),
                None,
                false,
            ),
        ];
        let (plugin, ctx) = (plugin(), ctx());
        for (what, operation, (group, resource, subresource), name, object, old, allowed) in cases {
            let request = Request {
                ctx: &ctx,
                operation,
                group,
                resource,
                subresource,
                namespace: if resource == "nodes" { "" } else { "ns" },
                name,
                old: old.as_ref(),
            };
            let result = plugin.admit(&request, object.clone().as_mut()).await;
            assert_eq!(result.is_ok(), allowed, "{what}: {result:?}");
        }
    }

    #[test]
    fn labels() {
        for (label, allowed) in [
            ("example.com/x", true),
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/exclude", true),
            ("foo.node-restriction.kubernetes.io/x", false),
            ("kubernetes.io/x", false),
            ("foo.k8s.io/x", false),
            ("xkubernetes.io/x", true),
        ] {
            assert_eq!(label_allowed(label), allowed, "{label}");
        }
    }
}

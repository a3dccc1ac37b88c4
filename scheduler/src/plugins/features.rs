//! NodeDeclaredFeatures: pods that use what not every kubelet can do go to nodes that say they can.

use super::{Plugin, Rejection};
use crate::model::node::NodeInfo;
use crate::model::template::Template;
use crate::objects::pod::PodSpec;

/// The features that a pod needs its node to declare.
pub fn needed(spec: &PodSpec) -> Vec<&'static str> {
    let restarts_all = spec
        .containers
        .iter()
        .chain(&spec.init_containers)
        .flat_map(|c| &c.restart_policy_rules)
        .any(|r| r.action == "RestartAllContainers");
    let users_on_host_network = spec.host_network && spec.host_users == Some(false);
    [
        (restarts_all, "RestartAllContainersOnContainerExits"),
        (users_on_host_network, "UserNamespacesHostNetworkSupport"),
    ]
    .into_iter()
    .filter_map(|(needs, name)| needs.then_some(name))
    .collect()
}

/// Rejects a node that lacks one of them.
pub fn filter(template: &Template, node: &NodeInfo) -> Option<Rejection> {
    let has = |name: &&str| node.features.iter().any(|f| f == name);
    (!template.features.iter().all(has))
        .then(|| Rejection::unresolvable(Plugin::NodeDeclaredFeatures, "node(s) didn't match Pod's required features"))
}

//! PodTopologyLabels: a pod that is bound to a node, and the binding that does it, get the node's zone and region as
//! labels; what binds takes those of the binding over.

use std::sync::Arc;

use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Operation, Plugin, Request, done, map_mut};
use crate::objects::Objects;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// The plugin.
pub struct PodTopologyLabels(pub Arc<dyn Objects>);

impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let bindings = request.is("", "pods", "binding") || request.is("", "bindings", "");
        request.operation == Operation::Create && (request.is("", "pods", "") || bindings)
    }

    fn admit<'a>(&'a self, _: &'a Request<'_>, object: Option<&'a mut Value>) -> BoxFuture<'a, Result<(), Status>> {
        let Some(object) = object else { return done(Ok(())) };
        let bound = if object["target"].is_object() { &object["target"]["name"] } else { &object["spec"]["nodeName"] };
        let Some(node) = bound.as_str().filter(|node| !node.is_empty()) else { return done(Ok(())) };
        let Some(node) = self.0.get(("", "nodes"), "", node) else { return done(Ok(())) };
        let found: Vec<(&str, &str)> =
            LABELS.iter().filter_map(|label| Some((*label, node["metadata"]["labels"][*label].as_str()?))).collect();
        if !found.is_empty()
            && let Some(labels) = object.get_mut("metadata").and_then(|metadata| map_mut(metadata, "labels"))
        {
            labels.extend(found.into_iter().map(|(label, value)| (label.to_owned(), value.into())));
        }
        done(Ok(()))
    }
}

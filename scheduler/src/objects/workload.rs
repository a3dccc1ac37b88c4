//! Services and the workloads that own pods: their selectors, from which default spreading takes its own.

use apimachinery::meta::ObjectMeta;
use serde::Deserialize;

use super::selector::{LabelSelector, Labels};

/// A Service or a ReplicationController: both select by plain labels.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct LabelOwner {
    pub metadata: ObjectMeta,
    pub spec: LabelOwnerSpec,
}

/// The selector of a Service or ReplicationController.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct LabelOwnerSpec {
    pub selector: Labels,
}

/// A ReplicaSet or a StatefulSet.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct SelectorOwner {
    pub metadata: ObjectMeta,
    pub spec: SelectorOwnerSpec,
}

/// The selector of a ReplicaSet or StatefulSet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct SelectorOwnerSpec {
    pub selector: Option<LabelSelector>,
}

//! What the controllers keep of each resource: one small struct per resource, shared by all of them.
//!
//! Contract: a view holds only what some controller reads. Because a view is not the whole object it is never written
//! back; changes travel as patches. Templates that are copied into new objects are kept as plain JSON values.

pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod config;
pub mod crd;
pub mod devices;
pub mod discovery;
pub mod meta;
pub mod namespace;
pub mod network;
pub mod node;
pub mod pod;
pub mod policy;
pub mod quota;
pub mod rbac;
pub mod selector;
pub mod service;
pub mod volume;
pub mod workloads;

use client::informer::Cached;

/// Implements the informer's access to the metadata of a view, and its resource.
#[macro_export]
macro_rules! view {
    ($type:ty, $resource:expr) => {
        $crate::view!($type, $resource, []);
    };
    ($type:ty, $resource:expr, [$($index:tt),* $(,)?]) => {
        $crate::view!($type, $resource, [$($index),*], None);
    };
    ($type:ty, $resource:expr, [$(($name:expr, $index:expr)),* $(,)?], $fields:expr) => {
        impl client::informer::Cached for $type {
            fn meta(&self) -> &apimachinery::meta::ObjectMeta {
                &self.metadata
            }
        }
        impl $crate::framework::View for $type {
            const RESOURCE: client::ResourceRef = $resource;
            fn indexes() -> Vec<(&'static str, $crate::framework::store::IndexFn<Self>)> {
                vec![$(($name, $index)),*]
            }
            fn field_selector() -> Option<&'static str> {
                $fields
            }
        }
    };
}

/// The identity of the controlling owner, for indexes; empty without one, so that orphans of a namespace are found too.
pub fn owner_index<T: Cached>(object: &T) -> Vec<String> {
    let meta = object.meta();
    let owner = crate::framework::plan::controller_of(meta);
    vec![owner.map_or_else(|| orphans_of(&meta.namespace), |owner| owner.uid.clone())]
}

/// The index key under which [`owner_index`] files the objects of `namespace` that no controller owns.
pub fn orphans_of(namespace: &str) -> String {
    format!("orphans/{namespace}")
}

/// The namespace, for indexes.
pub fn namespace_index<T: Cached>(object: &T) -> Vec<String> {
    vec![object.meta().namespace.clone()]
}

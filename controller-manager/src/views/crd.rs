//! What is served beyond the built-in resources; only that it changed matters.

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::Deserialize;

/// A custom resource definition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CrdView {
    /// Metadata.
    pub metadata: ObjectMeta,
}

crate::view!(CrdView, resources::CUSTOM_RESOURCE_DEFINITIONS);

/// An API group served by another server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiServiceView {
    /// Metadata.
    pub metadata: ObjectMeta,
}

crate::view!(ApiServiceView, resources::API_SERVICES);

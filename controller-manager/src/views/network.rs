//! Ranges of service addresses, and the addresses in use.

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::Deserialize;

use super::meta::Condition;

/// A range of service addresses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidrView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// The range, per family.
    pub spec: ServiceCidrSpec,
    /// Whether addresses are taken from it.
    pub status: ServiceCidrStatus,
}

crate::view!(ServiceCidrView, resources::SERVICE_CIDRS);

/// The range of each family.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidrSpec {
    /// `10.0.0.0/16` …
    pub cidrs: Vec<String>,
}

/// What is said about a range.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidrStatus {
    /// `Ready`.
    pub conditions: Vec<Condition>,
}

/// An address in use; its name is the address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct IpAddressView {
    /// Metadata.
    pub metadata: ObjectMeta,
}

crate::view!(IpAddressView, resources::IP_ADDRESSES);

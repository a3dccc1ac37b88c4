//! Claims of devices, what drivers offer, and classes: what the DynamicResources plugin reads.

use std::collections::BTreeMap;

use apimachinery::meta::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::node::Taint;
use super::pod::Toleration;
use super::selector::NodeSelector;

/// A ResourceClaim.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ResourceClaim {
    pub metadata: ObjectMeta,
    pub spec: ResourceClaimSpec,
    pub status: ResourceClaimStatus,
}

/// Fields of a claim's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ResourceClaimSpec {
    pub devices: DeviceClaim,
}

/// What a claim asks for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct DeviceClaim {
    pub requests: Vec<DeviceRequest>,
    pub constraints: Vec<DeviceConstraint>,
    pub config: Vec<DeviceConfig>,
}

/// One request: exactly one thing, or the first of several that can be had.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct DeviceRequest {
    pub name: String,
    pub exactly: Option<ExactRequest>,
    pub first_available: Vec<ExactRequest>,
}

/// Devices of a class; the name is set in alternatives only.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ExactRequest {
    pub name: String,
    pub device_class_name: String,
    pub selectors: Vec<DeviceSelector>,
    pub allocation_mode: String,
    pub count: i64,
    pub admin_access: bool,
    pub tolerations: Vec<Toleration>,
    pub capacity: Option<Value>,
}

/// Which devices.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct DeviceSelector {
    pub cel: CelSelector,
}

/// An expression about a device.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct CelSelector {
    pub expression: String,
}

/// What devices of several requests must have in common, or not.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct DeviceConstraint {
    pub requests: Vec<String>,
    pub match_attribute: Option<String>,
    pub distinct_attribute: Option<String>,
}

/// A driver's parameters, for some requests or all.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct DeviceConfig {
    pub requests: Vec<String>,
    pub opaque: Option<Value>,
}

/// What has been given to a claim, and who uses it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ResourceClaimStatus {
    pub allocation: Option<Allocation>,
    pub reserved_for: Vec<Value>,
}

/// What has been given to a claim.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct Allocation {
    pub devices: AllocatedDevices,
    pub node_selector: Option<NodeSelector>,
}

/// The devices that have been given.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct AllocatedDevices {
    pub results: Vec<AllocatedDevice>,
}

/// A device that has been given.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct AllocatedDevice {
    pub driver: String,
    pub pool: String,
    pub device: String,
    pub admin_access: bool,
}

/// A DeviceClass.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct DeviceClass {
    pub metadata: ObjectMeta,
    pub spec: DeviceClassSpec,
}

/// Fields of a class's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct DeviceClassSpec {
    pub selectors: Vec<DeviceSelector>,
    pub config: Vec<DeviceConfig>,
}

/// A ResourceSlice: some of the devices of a pool.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ResourceSlice {
    pub metadata: ObjectMeta,
    pub spec: ResourceSliceSpec,
}

/// Fields of a slice's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ResourceSliceSpec {
    pub driver: String,
    pub pool: ResourcePool,
    #[serde(flatten)]
    pub place: Place,
    pub per_device_node_selection: bool,
    pub devices: Vec<Device>,
    pub shared_counters: Vec<CounterSet>,
}

/// From which nodes something can be used.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct Place {
    pub node_name: Option<String>,
    pub node_selector: Option<NodeSelector>,
    pub all_nodes: bool,
}

/// A pool, of which slices of the newest generation count.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct ResourcePool {
    pub name: String,
    pub generation: i64,
    pub resource_slice_count: usize,
}

/// A device.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct Device {
    pub name: String,
    pub attributes: BTreeMap<String, Attribute>,
    pub capacity: BTreeMap<String, Amount>,
    pub consumes_counters: Vec<CounterSet>,
    #[serde(flatten)]
    pub place: Place,
    pub taints: Vec<Taint>,
    pub allow_multiple_allocations: bool,
}

/// A device's attribute: one of these.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct Attribute {
    pub int: Option<Value>,
    pub bool: Option<Value>,
    pub string: Option<Value>,
    pub version: Option<String>,
}

/// An amount of something.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct Amount {
    pub value: String,
}

/// What devices share, or take of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the fields are the API's own
pub struct CounterSet {
    #[serde(alias = "counterSet")]
    pub name: String,
    pub counters: BTreeMap<String, Amount>,
}

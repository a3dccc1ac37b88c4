//! Claims of devices, and their templates.

use apimachinery::meta::ObjectMeta;
use client::resources;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::node::Taint;
use super::pod::Toleration;
use super::{namespace_index, owner_index};

/// Claims by the uid of the pod that they were made for.
pub const BY_OWNER: &str = "owner";

/// Slices by driver and pool.
pub const BY_POOL: &str = "pool";

/// Claims by namespace.
pub const BY_NAMESPACE: &str = "namespace";

/// A claim of devices.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceClaimView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is claimed.
    pub spec: ResourceClaimSpec,
    /// Who has what.
    pub status: ResourceClaimStatus,
}

crate::view!(ResourceClaimView, resources::RESOURCE_CLAIMS, [(BY_OWNER, owner_index), (BY_NAMESPACE, namespace_index)]);

/// What is claimed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceClaimSpec {
    /// Devices.
    pub devices: DeviceClaim,
}

/// Claimed devices.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeviceClaim {
    /// Each of them.
    pub requests: Vec<DeviceRequest>,
}

/// A request for devices of one kind, or for the first of several kinds that is to be had.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceRequest {
    /// One kind.
    pub exactly: Option<DeviceWish>,
    /// Several kinds.
    pub first_available: Vec<DeviceWish>,
}

/// Devices of a class.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceWish {
    /// The class.
    pub device_class_name: String,
    /// `ExactCount` or `All`.
    pub allocation_mode: String,
    /// How many, for `ExactCount`.
    pub count: usize,
}

/// Who has what.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceClaimStatus {
    /// The devices, once they are chosen.
    pub allocation: Option<Value>,
    /// Who uses them.
    pub reserved_for: Vec<Consumer>,
}

/// A device that a claim has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AllocatedDevice {
    /// Whose.
    pub driver: String,
    /// Which of its pools.
    pub pool: String,
    /// Which device there.
    pub device: String,
    /// Taints it is borne with.
    pub tolerations: Vec<Toleration>,
}

impl AllocatedDevice {
    /// Its pool, as [`BY_POOL`] files slices.
    pub fn pool(&self) -> String {
        pool_key(&self.driver, &self.pool)
    }
}

impl ResourceClaimView {
    /// The devices it has.
    pub fn devices(&self) -> Vec<AllocatedDevice> {
        let results = self.status.allocation.as_ref().and_then(|allocation| allocation.pointer("/devices/results"));
        let results = results.and_then(Value::as_array).into_iter().flatten();
        results.filter_map(|device| serde_json::from_value(device.clone()).ok()).collect()
    }
}

/// A part of a pool of devices, as far as it is tainted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceSliceView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// The devices.
    pub spec: ResourceSliceSpec,
}

crate::view!(
    ResourceSliceView,
    resources::RESOURCE_SLICES,
    [(BY_POOL, |slice: &ResourceSliceView| vec![slice.pool()])]
);

/// What a slice says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceSliceSpec {
    /// Whose devices.
    pub driver: String,
    /// Which pool.
    pub pool: SlicePool,
    /// The devices.
    pub devices: Vec<SliceDevice>,
}

/// The pool of a slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SlicePool {
    /// Its name.
    pub name: String,
    /// Slices of older generations do not count.
    pub generation: i64,
}

/// A device of a slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SliceDevice {
    /// Its name.
    pub name: String,
    /// What keeps users away.
    pub taints: Vec<Taint>,
}

/// A pool, as [`BY_POOL`] files slices.
pub fn pool_key(driver: &str, pool: &str) -> String {
    format!("{driver}/{pool}")
}

impl ResourceSliceView {
    /// Its pool, as [`BY_POOL`] files slices.
    pub fn pool(&self) -> String {
        pool_key(&self.spec.driver, &self.spec.pool.name)
    }

    /// Taints that end what uses the device, with its name.
    pub fn no_execute(&self) -> impl Iterator<Item = (&str, &Taint)> {
        let devices = self.spec.devices.iter();
        let taints = devices.flat_map(|device| device.taints.iter().map(move |taint| (device.name.as_str(), taint)));
        taints.filter(|(_, taint)| taint.effect == "NoExecute")
    }
}

/// A user of a claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Consumer {
    /// Empty for pods.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    /// `pods`.
    pub resource: String,
    /// Its name, in the claim's namespace.
    pub name: String,
    /// Its identity.
    pub uid: String,
}

/// A template of claims.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceClaimTemplateView {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Metadata and spec of the claims.
    pub spec: TemplateSpec,
}

crate::view!(ResourceClaimTemplateView, resources::RESOURCE_CLAIM_TEMPLATES);

/// Metadata and spec of the claims that a template makes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TemplateSpec {
    /// Labels and annotations.
    pub metadata: ObjectMeta,
    /// As the claims will have it.
    pub spec: Value,
}

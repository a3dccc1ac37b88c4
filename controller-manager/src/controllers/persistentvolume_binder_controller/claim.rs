//! What becomes of a claim.

use std::sync::Arc;

use client::events::EventType::{Normal, Warning};
use serde_json::json;

use super::{BIND_COMPLETED, BOUND_BY_CONTROLLER, MIGRATED_TO, SELECTED_NODE, external, matching, volume};
use crate::framework::{Plan, Subject, Target, View};
use crate::views::meta::created;
use crate::views::volume::{ClaimView, StorageClassView, VolumeView};

/// Names the provisioner that is asked for a volume, today and before.
const PROVISIONER: [&str; 2] =
    ["volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner"];
const IS_DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// What a claim's fate depends on.
pub(super) struct World<'a> {
    pub(super) volumes: &'a [Arc<VolumeView>],
    pub(super) classes: &'a [Arc<StorageClassView>],
    /// A pod that uses the claim and has no node yet.
    pub(super) waiting_pod: Option<&'a str>,
    /// Whether provisioners are asked at all.
    pub(super) provisions: bool,
}

impl World<'_> {
    fn volume(&self, name: &str) -> Option<&VolumeView> {
        self.volumes.iter().find(|v| v.metadata.name == name).map(|v| &**v)
    }

    fn class(&self, name: &str) -> Option<&StorageClassView> {
        self.classes.iter().find(|c| c.metadata.name == name).map(|c| &**c)
    }

    /// The newest of the classes that are called default.
    fn default_class(&self) -> Option<&str> {
        let default = |c: &&Arc<StorageClassView>| {
            IS_DEFAULT.iter().any(|key| c.metadata.annotations.get(*key).is_some_and(|v| v == "true"))
        };
        let newest = |a: &&Arc<StorageClassView>, b: &&Arc<StorageClassView>| {
            created(&a.metadata).cmp(&created(&b.metadata)).then_with(|| b.metadata.name.cmp(&a.metadata.name))
        };
        self.classes.iter().filter(default).max_by(newest).map(|c| c.metadata.name.as_str())
    }

    fn is_delayed(&self, claim: &ClaimView) -> bool {
        let class = claim.class().and_then(|name| self.class(name));
        class.is_some_and(|c| c.volume_binding_mode == "WaitForFirstConsumer")
            && !claim.metadata.annotations.contains_key(SELECTED_NODE)
    }
}

/// Brings a claim one step closer to being bound.
pub(super) fn reconcile(claim: &ClaimView, world: &World<'_>) -> Plan {
    let mut plan = Plan::default();
    if claim.metadata.annotations.contains_key(BIND_COMPLETED) {
        bound(&mut plan, claim, world);
    } else if claim.spec.volume_name.is_empty() {
        unbound(&mut plan, claim, world);
    } else {
        chosen(&mut plan, claim, world);
    }
    plan
}

fn subject(claim: &ClaimView) -> Subject {
    claim.subject()
}

fn target(claim: &ClaimView) -> Target {
    claim.target()
}

/// Gives a claim without a volume a phase; what it had of a volume goes.
fn set_phase(plan: &mut Plan, claim: &ClaimView, phase: &str) -> bool {
    let differs = claim.status.phase != phase;
    if differs {
        let status =
            json!({"phase": phase, "accessModes": null, "capacity": null, "currentVolumeAttributesClassName": null});
        plan.change(target(claim), Some("status"), json!({"status": status}));
    }
    differs
}

/// A claim that was bound: its volume must still be its own.
fn bound(plan: &mut Plan, claim: &ClaimView, world: &World<'_>) {
    let name = &claim.spec.volume_name;
    let lost = match world.volume(name) {
        _ if name.is_empty() => {
            ("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
        }
        None => ("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
        Some(v) if v.spec.claim_ref.as_ref().is_none_or(|r| r.uid == claim.metadata.uid) => {
            return bind(plan, claim, v);
        }
        Some(_) => ("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
    };
    if set_phase(plan, claim, "Lost") {
        plan.event(&subject(claim), Warning, lost.0, lost.1);
    }
}

/// A claim for which somebody chose a volume.
fn chosen(plan: &mut Plan, claim: &ClaimView, world: &World<'_>) {
    let name = &claim.spec.volume_name;
    match world.volume(name) {
        None => {}
        Some(v) if v.is_for(claim) => return bind(plan, claim, v),
        Some(v) if v.spec.claim_ref.is_none() => match matching::mismatch(claim, v) {
            None => return bind(plan, claim, v),
            Some(why) => {
                let note = format!("Cannot bind to requested volume \"{name}\": {why}");
                plan.event(&subject(claim), Warning, "VolumeMismatch", note);
            }
        },
        Some(_) => {
            let note = format!("volume \"{name}\" already bound to a different claim.");
            plan.event(&subject(claim), Warning, "FailedBinding", note);
        }
    }
    set_phase(plan, claim, "Pending");
}

fn unbound(plan: &mut Plan, claim: &ClaimView, world: &World<'_>) {
    let delayed = world.is_delayed(claim);
    if let Some(volume) = matching::best(claim, world.volumes, delayed) {
        return bind(plan, claim, volume);
    }
    if claim.class().is_none()
        && let Some(class) = world.default_class()
    {
        let change = json!({"metadata": {"resourceVersion": claim.metadata.resource_version},
            "spec": {"storageClassName": class}});
        return plan.change(target(claim), None, change);
    }
    let about = subject(claim);
    if delayed {
        match world.waiting_pod {
            Some(pod) => {
                plan.event(&about, Normal, "WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled"));
            }
            None => {
                let note = "waiting for first consumer to be created before binding";
                plan.event(&about, Normal, "WaitForFirstConsumer", note);
            }
        }
    } else if let Some(class) = claim.class().filter(|class| !class.is_empty()) {
        if world.provisions {
            return provision(plan, claim, class, world);
        }
    } else {
        let note = "no persistent volumes available for this claim and no storage class is set";
        plan.event(&about, Normal, "FailedBinding", note);
    }
    set_phase(plan, claim, "Pending");
}

/// Asks the class's provisioner for a volume.
fn provision(plan: &mut Plan, claim: &ClaimView, class: &str, world: &World<'_>) {
    let about = subject(claim);
    let why = match world.class(class) {
        None => format!("storageclass.storage.k8s.io \"{class}\" not found"),
        Some(class) => match external(&class.provisioner) {
            Some(driver) => {
                ask(plan, claim, &class.provisioner, driver);
                let note = format!(
                    "Waiting for a volume to be created either by the external provisioner '{driver}' or manually by the \
                     system administrator. If volume creation is delayed, please verify that the provisioner is running \
                     and correctly registered."
                );
                set_phase(plan, claim, "Pending");
                return plan.event(&about, Normal, "ExternalProvisioning", note);
            }
            None => format!("no volume plugin matched name: {}", class.provisioner),
        },
    };
    set_phase(plan, claim, "Pending");
    plan.event(&about, Warning, "ProvisioningFailed", why);
}

fn ask(plan: &mut Plan, claim: &ClaimView, provisioner: &str, driver: &str) {
    let mut annotations = serde_json::Map::new();
    let has = &claim.metadata.annotations;
    let migrated = (driver != provisioner).then_some((MIGRATED_TO, driver));
    let wanted = PROVISIONER.iter().map(|key| (*key, driver)).chain(migrated);
    for (key, value) in wanted.filter(|(key, value)| has.get(*key).is_none_or(|v| v != value)) {
        annotations.insert(key.to_owned(), json!(value));
    }
    if !annotations.is_empty() {
        let version = &claim.metadata.resource_version;
        let change = json!({"metadata": {"resourceVersion": version, "annotations": annotations}});
        plan.change(target(claim), None, change);
    }
}

/// Continues the binding of a claim and a volume from wherever it stands.
fn bind(plan: &mut Plan, claim: &ClaimView, volume: &VolumeView) {
    volume::reserve(plan, volume, claim);
    volume::set_phase(plan, volume, "Bound");
    let (meta, spec) = (&claim.metadata, &claim.spec);
    let mut change = json!({});
    if !meta.annotations.contains_key(BIND_COMPLETED) {
        change["metadata"]["annotations"][BIND_COMPLETED] = json!("yes");
    }
    if spec.volume_name != volume.metadata.name {
        change["spec"]["volumeName"] = json!(volume.metadata.name);
        change["metadata"]["annotations"][BOUND_BY_CONTROLLER] = json!("yes");
    }
    if change.get("metadata").is_some() {
        change["metadata"]["resourceVersion"] = json!(meta.resource_version);
        plan.change(target(claim), None, change);
    }
    let mut status = json!({});
    if claim.status.phase != "Bound" {
        status["phase"] = json!("Bound");
        // Later changes of size are told by who resizes.
        status["capacity"] = json!({"storage": volume.spec.capacity.get("storage")});
        let class = &volume.spec.volume_attributes_class_name;
        if !class.is_empty() {
            status["currentVolumeAttributesClassName"] = json!(class);
        }
    }
    let modes = |list: &[String]| list.iter().cloned().collect::<std::collections::BTreeSet<_>>();
    if modes(&claim.status.access_modes) != modes(&volume.spec.access_modes) {
        status["accessModes"] = json!(volume.spec.access_modes);
    }
    if status != json!({}) {
        plan.change(target(claim), Some("status"), json!({ "status": status }));
    }
}

//! Volumes: every kind is a plugin that turns a volume of a pod's spec into a path on the node.
//!
//! Layout below `--root-dir` is upstream's: `pods/UID/volumes/PLUGIN/NAME`. `set_up` is idempotent and also brings
//! changed config maps, secrets, fields and tokens into running pods; `tear_down` unmounts and deletes all of a pod's.
//! A kind without a plugin is a clear error that names the kind.

pub mod atomic;
pub mod claim;
pub mod csi;
pub mod empty_dir;
pub mod host_path;
pub mod mounts;
pub mod nfs;
pub mod ownership;
pub mod payload;
pub mod subpath;
pub mod usage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Volume;

use crate::context::Context;
use crate::images::{self, PullMemory};
use crate::pods::env::Lookups;
use crate::pods::types::Pod;

/// A volume that could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
pub struct VolumeError {
    /// Name in the pod's spec.
    pub volume: String,
    /// What is wrong, and what to do.
    pub message: String,
}

/// A volume on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounted {
    pub path: PathBuf,
    /// Containers may not write, whatever they ask for.
    pub read_only: bool,
    /// When to look at it again; none when nothing about it changes while the pod runs.
    pub refresh_at: Option<Timestamp>,
    /// An image instead of a path, which the runtime mounts, or why containers must wait for it.
    pub image: Option<Result<String, images::Refusal>>,
}

/// The pod's volumes by name.
pub type Volumes = BTreeMap<String, Mounted>;

/// Directory of everything the kubelet keeps for a pod.
pub fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

/// Directory of one volume.
pub fn volume_dir(root: &Path, uid: &str, plugin: &str, name: &str) -> PathBuf {
    pod_dir(root, uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
}

/// The kind of a volume: the name of its one set field.
fn kind(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let fields = value.as_object().into_iter().flatten().map(|(k, _)| k.clone());
    fields.into_iter().find(|k| k != "name").unwrap_or_else(|| "emptyDir".to_owned())
}

/// What setting a pod's volumes up needs.
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub lookups: &'a Lookups,
    /// Volumes set up by an earlier pass; those that never change are taken as they are.
    pub known: &'a Volumes,
    /// The pod's runtime handler, for images.
    pub handler: &'a str,
    pub now: Timestamp,
}

/// Makes the pod's volumes as its spec and the API now say.
///
/// # Errors
/// The first volume that cannot be set up.
pub async fn set_up(context: &Context, input: &Input<'_>, pulls: &mut PullMemory) -> Result<Volumes, VolumeError> {
    let mut volumes = Volumes::new();
    for volume in input.pod.spec.volumes.iter().flatten() {
        let mounted = match input.known.get(&volume.name).filter(|m| !may_change(volume, m)) {
            Some(known) => known.clone(),
            None => one(context, input, volume, pulls)
                .await
                .map_err(|message| VolumeError { volume: volume.name.clone(), message })?,
        };
        volumes.insert(volume.name.clone(), mounted);
    }
    Ok(volumes)
}

/// Whether a volume that is set up has to be looked at again: files change with the pod's own metadata too.
pub fn may_change(volume: &Volume, mounted: &Mounted) -> bool {
    mounted.refresh_at.is_some() || payload::plugin(volume).is_some()
}

async fn one(context: &Context, input: &Input<'_>, volume: &Volume, pulls: &mut PullMemory) -> Result<Mounted, String> {
    let (pod, now, root) = (input.pod, input.now, &context.dirs.root);
    if let Some(source) = &volume.host_path {
        return host_path::set_up(source);
    }
    if let Some(source) = &volume.empty_dir {
        return empty_dir::set_up(&volume_dir(root, pod.uid(), "empty-dir", &volume.name), source, pod);
    }
    if let Some(plugin) = payload::plugin(volume) {
        let payload = payload::collect(context, pod, volume, input.lookups, now).await?;
        return payload::write(&volume_dir(root, pod.uid(), plugin, &volume.name), plugin, &payload, pod);
    }
    if let Some(source) = &volume.persistent_volume_claim {
        return claim::set_up(context, pod, &source.claim_name, source.read_only == Some(true), false, now).await;
    }
    if volume.ephemeral.is_some() {
        return claim::set_up(context, pod, &claim::ephemeral_name(pod, &volume.name), false, true, now).await;
    }
    if let Some(source) = &volume.csi {
        return csi::set_up(context, pod, &csi::inline(pod, &volume.name, source), now).await;
    }
    if let Some(source) = &volume.nfs {
        return nfs::set_up(context, pod, &volume.name, source, &[]).await;
    }
    if let Some(source) = &volume.image {
        let wanted = images::Wanted {
            image: source.reference.as_deref().unwrap_or_default(),
            policy: source.pull_policy.as_deref(),
            container: "",
        };
        let present = images::ensure(context, pod, &wanted, input.handler, pulls).await;
        let refresh_at = present.is_err().then_some(now);
        let image = Some(present.map(|p| p.reference));
        return Ok(Mounted { read_only: true, image, refresh_at, ..Mounted::default() });
    }
    Err(format!("volumes of kind {} are not supported by this kubelet", kind(volume)))
}

/// Unmounts everything below the pod's directory and deletes the volumes. Idempotent.
///
/// # Errors
/// What cannot be unmounted or deleted.
pub fn tear_down(root: &Path, uid: &str) -> Result<(), String> {
    let dir = pod_dir(root, uid);
    mounts::unmount_below(&dir)?;
    for part in ["volumes", "volume-subpaths"] {
        let path = dir.join(part);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(|e| format!("cannot delete {}: {e}", path.display()))?;
        }
    }
    Ok(())
}

/// Deletes the pod's directory after `tear_down`. Idempotent.
///
/// # Errors
/// What cannot be deleted.
pub fn remove_pod_dir(root: &Path, uid: &str) -> Result<(), String> {
    tear_down(root, uid)?;
    let dir = pod_dir(root, uid);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(|e| format!("cannot delete {}: {e}", dir.display()))?;
    }
    Ok(())
}

//! Volumes: every kind is a plugin that turns a volume of a pod's spec into a path on the node.
//!
//! Layout below `--root-dir` is upstream's: `pods/UID/volumes/PLUGIN/NAME`. `set_up` is idempotent and also brings
//! changed config maps, secrets, fields and tokens into running pods; `tear_down` unmounts and deletes all of a pod's.
//! A kind without a plugin is a clear error that names the kind.

pub mod atomic;
pub mod empty_dir;
pub mod host_path;
pub mod mounts;
pub mod ownership;
pub mod payload;
pub mod subpath;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Volume;

use crate::context::Context;
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    pub path: PathBuf,
    /// The kind is never writable.
    pub read_only: bool,
}

/// The pod's volumes by name, and when they should be looked at again.
#[derive(Debug, Default)]
pub struct Volumes {
    pub mounted: BTreeMap<String, Mounted>,
    pub refresh_at: Option<Timestamp>,
}

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

/// Makes the pod's volumes as its spec and the API now say.
///
/// # Errors
/// The first volume that cannot be set up.
pub async fn set_up(context: &Context, pod: &Pod, lookups: &Lookups, now: Timestamp) -> Result<Volumes, VolumeError> {
    let mut volumes = Volumes::default();
    for volume in pod.spec.volumes.iter().flatten() {
        let fail = |message: String| VolumeError { volume: volume.name.clone(), message };
        let mounted = if let Some(source) = &volume.host_path {
            host_path::set_up(source).map_err(fail)?
        } else if let Some(source) = &volume.empty_dir {
            let dir = volume_dir(&context.dirs.root, pod.uid(), "empty-dir", &volume.name);
            empty_dir::set_up(&dir, source, pod).map_err(fail)?
        } else if let Some(plugin) = payload::plugin(volume) {
            let dir = volume_dir(&context.dirs.root, pod.uid(), plugin, &volume.name);
            let payload = payload::collect(context, pod, volume, lookups, now).await.map_err(fail)?;
            let refresh = payload.refresh_at;
            volumes.refresh_at = [volumes.refresh_at, refresh].into_iter().flatten().min();
            payload::write(&dir, plugin, &payload, pod).map_err(fail)?
        } else if let Some(source) = &volume.persistent_volume_claim {
            host_path::claim(context, pod, source).await.map_err(fail)?
        } else {
            let kind = kind(volume);
            return Err(fail(format!("volumes of kind {kind} are not supported by this kubelet")));
        };
        volumes.mounted.insert(volume.name.clone(), mounted);
    }
    Ok(volumes)
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

//! Claims: followed to their persistent volume, whose kind then decides.

use std::path::PathBuf;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;

use super::{Mounted, csi, host_path, nfs, ownership};
use crate::context::Context;
use crate::pods::types::Pod;

/// The claim that belongs to an ephemeral volume.
pub fn ephemeral_name(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.name())
}

/// Brings a claim's volume to the pod. `owned` is for an ephemeral volume's claim, which must belong to the pod.
///
/// # Errors
/// A claim that is not bound or not the pod's, or a volume that cannot be used.
pub async fn set_up(
    context: &Context,
    pod: &Pod,
    claim_name: &str,
    read_only: bool,
    owned: bool,
    now: Timestamp,
) -> Result<Mounted, String> {
    let claim = context.objects.claim(pod.namespace(), claim_name).await?;
    let owners = claim.metadata.owner_references.iter().flatten();
    if owned && !owners.clone().any(|o| o.uid == pod.uid() && o.controller == Some(true)) {
        return Err(format!("PVC {}/{claim_name} was not created for pod {}", pod.namespace(), pod.name()));
    }
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    let name = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| phase == "Bound" && !n.is_empty());
    let name = name.ok_or_else(|| format!("persistentvolumeclaim \"{claim_name}\" is not bound"))?;
    let object = context.objects.volume(&name).await?;
    let volume = object.spec.clone().unwrap_or_default();
    let holder = volume.claim_ref.as_ref().and_then(|r| r.uid.as_deref());
    if holder.is_some_and(|uid| Some(uid) != claim.metadata.uid.as_deref()) {
        return Err(format!("volume {name} is not bound to PVC: holds another claim than {claim_name}"));
    }
    if let Some(source) = &volume.csi {
        let source = persistent(&name, source, &volume, read_only);
        let mounted = csi::set_up(context, pod, &source, now).await?;
        csi::expand(context, &source, &mounted, &claim, &object).await?;
        return Ok(mounted);
    }
    if let Some(source) = &volume.host_path {
        return host_path::set_up(source).map(|m| Mounted { read_only, ..m });
    }
    if let Some(source) = &volume.nfs {
        let options = volume.mount_options.unwrap_or_default();
        return nfs::set_up(context, pod, &name, source, &options)
            .await
            .map(|m| Mounted { read_only: read_only || m.read_only, ..m });
    }
    if let Some(local) = &volume.local {
        let path = PathBuf::from(&local.path);
        if !path.exists() {
            return Err(format!("local volume \"{name}\": path {} does not exist on this node", local.path));
        }
        if !read_only && volume.volume_mode.as_deref() != Some("Block") {
            ownership::give(&path, pod)?;
        }
        return Ok(Mounted { path, read_only, ..Mounted::default() });
    }
    Err(format!(
        "persistent volume \"{name}\" is of a kind that this kubelet does not support (CSI, NFS, hostPath and local are)"
    ))
}

fn persistent(
    name: &str,
    source: &core::CSIPersistentVolumeSource,
    volume: &core::PersistentVolumeSpec,
    read_only: bool,
) -> csi::Source {
    let secret = |reference: &Option<core::SecretReference>| {
        let reference = reference.as_ref()?;
        Some((reference.namespace.clone().unwrap_or_default(), reference.name.clone().unwrap_or_default()))
    };
    csi::Source {
        name: name.to_owned(),
        driver: source.driver.clone(),
        handle: source.volume_handle.clone(),
        ephemeral: false,
        block: volume.volume_mode.as_deref() == Some("Block"),
        read_only: read_only || source.read_only == Some(true),
        fs_type: source.fs_type.clone().unwrap_or_default(),
        attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
        options: volume.mount_options.clone().unwrap_or_default(),
        access_modes: volume.access_modes.clone().unwrap_or_default(),
        stage_secret: secret(&source.node_stage_secret_ref),
        publish_secret: secret(&source.node_publish_secret_ref),
    }
}

//! One CSI volume of one pod: wait for its attachment, stage it once per node, publish it for the pod, and back.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use client::{ClientError, Patch, resources};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1::CSIDriverSpec;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::api::volume_capability::access_mode::Mode;
use super::api::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use super::driver::Driver;
use super::{PLUGIN, RECORD, Record, all_records, api, records};
use crate::context::Context;
use crate::pods::resources::amount;
use crate::pods::types::Pod;
use crate::volumes::{Mounted, mounts, ownership, pod_dir, volume_dir};

/// A volume of a driver, as a claim's persistent volume or the pod's spec describes it.
#[derive(Debug, Default)]
pub struct Source {
    /// The persistent volume's name, or the volume's in the pod's spec.
    pub name: String,
    pub driver: String,
    pub handle: String,
    pub ephemeral: bool,
    pub block: bool,
    pub read_only: bool,
    pub fs_type: String,
    pub attributes: HashMap<String, String>,
    pub options: Vec<String>,
    pub access_modes: Vec<String>,
    /// (namespace, name)
    pub stage_secret: Option<(String, String)>,
    pub publish_secret: Option<(String, String)>,
}

/// The source of a volume that the pod's spec describes itself.
pub fn inline(pod: &Pod, name: &str, source: &core::CSIVolumeSource) -> Source {
    let handle = format!("csi-{}", digest(&[pod.uid(), name]));
    let secret = source.node_publish_secret_ref.as_ref();
    Source {
        name: name.to_owned(),
        driver: source.driver.clone(),
        handle,
        ephemeral: true,
        read_only: source.read_only == Some(true),
        fs_type: source.fs_type.clone().unwrap_or_default(),
        attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
        publish_secret: secret.map(|s| (pod.namespace().to_owned(), s.name.clone())),
        ..Source::default()
    }
}

fn digest(parts: &[&str]) -> String {
    hex::encode(Sha256::digest(parts.concat()))
}

impl Source {
    /// Where the driver stages the volume, once for all pods.
    fn staging(&self, root: &Path) -> PathBuf {
        let plugin = root.join("plugins/kubernetes.io/csi");
        if self.block {
            plugin.join("volumeDevices/staging").join(&self.name)
        } else {
            plugin.join(&self.driver).join(digest(&[&self.handle])).join("globalmount")
        }
    }

    fn capability(&self, driver: &Driver, group: Option<u32>) -> api::VolumeCapability {
        let mode = match (self.access_modes.first().map_or("ReadWriteOnce", String::as_str), driver.multi_writer) {
            ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
            ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
            ("ReadWriteOnce", true) => Mode::SingleNodeMultiWriter,
            ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
            _ => Mode::SingleNodeWriter,
        };
        let access_type = if self.block {
            AccessType::Block(BlockVolume {})
        } else {
            AccessType::Mount(MountVolume {
                fs_type: self.fs_type.clone(),
                mount_flags: self.options.clone(),
                volume_mount_group: group.filter(|_| driver.mount_group).map(|g| g.to_string()).unwrap_or_default(),
            })
        };
        api::VolumeCapability { access_type: Some(access_type), access_mode: Some(AccessMode { mode: mode as i32 }) }
    }

    /// Whether the kubelet gives the files to the pod's group, by the driver's policy.
    fn group_applies(&self, policy: &str) -> bool {
        let once = self.access_modes.iter().any(|m| m == "ReadWriteOnce" || m == "ReadWriteOncePod");
        !self.read_only && !self.block && (policy == "File" || (policy != "None" && !self.fs_type.is_empty() && once))
    }
}

/// Brings the volume to the pod. Idempotent; a mounted one is published again only when its driver asks for that.
///
/// # Errors
/// What is not ready yet, or the driver's refusal.
pub async fn set_up(context: &Context, pod: &Pod, source: &Source, now: Timestamp) -> Result<Mounted, String> {
    let driver = Driver::connect(&context.csi, &source.driver).await?;
    let spec = context.objects.csi_driver(&source.driver).await?;
    check_mode(source, spec.as_ref())?;
    let spec = spec.unwrap_or_default();
    let root = &context.dirs.root;
    let dir = volume_dir(root, pod.uid(), PLUGIN, &source.name);
    let target = if source.block {
        let publish = root.join("plugins/kubernetes.io/csi/volumeDevices/publish").join(&source.name);
        publish.join(pod.uid())
    } else {
        dir.join("mount")
    };
    let republish = spec.requires_republish == Some(true);
    let refresh_at = (republish || driver.expands).then(|| now + context.sync_period);
    let mounted = Mounted { path: target.clone(), read_only: source.read_only, refresh_at, ..Mounted::default() };
    let already = if source.block { target.exists() } else { mounts::is_mount_point(&target)? };
    if already && !republish {
        return Ok(mounted);
    }
    keep_record(context, source, &dir, &target)?;
    let publish_context = if source.ephemeral || spec.attach_required == Some(false) {
        HashMap::new()
    } else {
        attached(context, source).await?
    };
    let group = ownership::fs_group(pod);
    let capability = source.capability(&driver, group);
    let lock = context.csi.lock_of(&source.handle);
    let guard = lock.lock().await;
    let staging = stage(context, source, &driver, &publish_context, &capability).await?;
    drop(guard);
    let (attributes, secrets) = pod_context(context, pod, source, &spec, now).await?;
    make_parent(&target)?;
    driver
        .node_publish_volume(api::NodePublishVolumeRequest {
            volume_id: source.handle.clone(),
            publish_context,
            staging_target_path: staging,
            target_path: target.to_string_lossy().into_owned(),
            volume_capability: Some(capability),
            readonly: source.read_only,
            secrets,
            volume_context: attributes,
        })
        .await?;
    let policy = spec.fs_group_policy.as_deref().unwrap_or("ReadWriteOnceWithFSType");
    if !driver.mount_group && !already && source.group_applies(policy) {
        ownership::give(&target, pod)?;
    }
    Ok(mounted)
}

/// A driver serves the modes that its CSIDriver names; without one it serves persistent volumes.
fn check_mode(source: &Source, spec: Option<&CSIDriverSpec>) -> Result<(), String> {
    let mode = if source.ephemeral { "Ephemeral" } else { "Persistent" };
    let modes = spec.and_then(|s| s.volume_lifecycle_modes.as_ref()).filter(|m| !m.is_empty());
    let fits = modes.map_or(!source.ephemeral, |modes| modes.iter().any(|m| m == mode));
    let error = || format!("volume mode \"{mode}\" not supported by driver {}", source.driver);
    if fits { Ok(()) } else { Err(error()) }
}

fn make_parent(path: &Path) -> Result<(), String> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(|e| format!("cannot make {}: {e}", parent.display()))
}

/// Writes down what is about to be mounted, before it is.
fn keep_record(context: &Context, source: &Source, dir: &Path, target: &Path) -> Result<(), String> {
    let record = Record {
        spec_vol_id: source.name.clone(),
        volume_handle: source.handle.clone(),
        driver_name: source.driver.clone(),
        node_name: context.node_name.clone(),
        attachment_id: attachment(context, source),
        volume_lifecycle_mode: if source.ephemeral { "Ephemeral" } else { "Persistent" }.to_owned(),
        device: if source.block { target.to_string_lossy().into_owned() } else { String::new() },
    };
    let file = dir.join(RECORD);
    make_parent(&file)?;
    let text = serde_json::to_vec(&record).map_err(|e| e.to_string())?;
    component_base::fs::write_atomic(&file, &text, 0o600).map_err(|e| e.to_string())
}

fn attachment(context: &Context, source: &Source) -> String {
    format!("csi-{}", digest(&[&source.handle, &source.driver, &context.node_name]))
}

/// The publish context of the volume's attachment to this node, once it is attached.
async fn attached(context: &Context, source: &Source) -> Result<HashMap<String, String>, String> {
    let api = context.objects.client().ok_or("attachments need an API server")?;
    let name = attachment(context, source);
    let found: Result<Value, ClientError> = api.get(&resources::VOLUME_ATTACHMENTS, None, &name).await;
    let object = found.map_err(|e| format!("volume \"{}\" is not attached yet: {e}", source.name))?;
    if object["status"]["attached"] != true {
        let why = object["status"]["attachError"]["message"].as_str().unwrap_or("waiting for the attacher");
        return Err(format!("volume \"{}\" is not attached yet: {why}", source.name));
    }
    Ok(texts(object["status"]["attachmentMetadata"].as_object()))
}

fn texts(map: Option<&Map<String, Value>>) -> HashMap<String, String> {
    let pairs = map.into_iter().flatten();
    pairs.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

/// Stages the volume where the driver does that; the path, or empty.
async fn stage(
    context: &Context,
    source: &Source,
    driver: &Driver,
    publish_context: &HashMap<String, String>,
    capability: &api::VolumeCapability,
) -> Result<String, String> {
    if source.ephemeral || !driver.stages {
        return Ok(String::new());
    }
    let staging = source.staging(&context.dirs.root);
    std::fs::create_dir_all(&staging).map_err(|e| format!("cannot make {}: {e}", staging.display()))?;
    let path = staging.to_string_lossy().into_owned();
    let request = api::NodeStageVolumeRequest {
        volume_id: source.handle.clone(),
        publish_context: publish_context.clone(),
        staging_target_path: path.clone(),
        volume_capability: Some(capability.clone()),
        secrets: secret(context, source.stage_secret.as_ref()).await?,
        volume_context: source.attributes.clone(),
    };
    driver.node_stage_volume(request).await?;
    Ok(path)
}

async fn secret(context: &Context, reference: Option<&(String, String)>) -> Result<HashMap<String, String>, String> {
    let Some((namespace, name)) = reference else { return Ok(HashMap::new()) };
    let secret = context.objects.secret(namespace, name, Timestamp::now()).await?;
    let data = secret.ok_or_else(|| format!("secret {namespace}/{name} not found"))?.data.unwrap_or_default();
    Ok(data.into_iter().map(|(k, v)| (k, String::from_utf8_lossy(&v.0).into_owned())).collect())
}

/// Attributes and secrets of a publish call, with what the driver asked to know of the pod.
async fn pod_context(
    context: &Context,
    pod: &Pod,
    source: &Source,
    spec: &CSIDriverSpec,
    now: Timestamp,
) -> Result<(HashMap<String, String>, HashMap<String, String>), String> {
    let mut attributes = source.attributes.clone();
    let mut secrets = secret(context, source.publish_secret.as_ref()).await?;
    let account = pod.spec.service_account_name.as_deref().unwrap_or_default();
    if spec.pod_info_on_mount == Some(true) {
        let ephemeral = if source.ephemeral { "true" } else { "false" };
        let facts = [
            ("pod.name", pod.name()),
            ("pod.namespace", pod.namespace()),
            ("pod.uid", pod.uid()),
            ("serviceAccount.name", account),
            ("ephemeral", ephemeral),
        ];
        attributes.extend(facts.map(|(k, v)| (format!("csi.storage.k8s.io/{k}"), v.to_owned())));
    }
    let mut tokens = Map::new();
    for request in spec.token_requests.iter().flatten() {
        let lifetime = request.expiration_seconds.unwrap_or(3600);
        let token = context.objects.token(pod, &request.audience, lifetime, now).await?;
        let end = token.expires_at.map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        tokens.insert(request.audience.clone(), json!({"token": token.token, "expirationTimestamp": end}));
    }
    if !tokens.is_empty() {
        let into = if spec.service_account_token_in_secrets == Some(true) { &mut secrets } else { &mut attributes };
        into.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), Value::Object(tokens).to_string());
    }
    Ok((attributes, secrets))
}

/// Grows the file system of a claim whose volume became larger, and says so in the claim's status.
///
/// # Errors
/// The driver's or the API's refusal.
pub async fn expand(
    context: &Context,
    source: &Source,
    mounted: &Mounted,
    claim: &core::PersistentVolumeClaim,
    wanted: &core::PersistentVolume,
) -> Result<(), String> {
    let has = claim.status.as_ref().and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage"));
    let wants = wanted.spec.as_ref().and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage"));
    let (Some(has), Some(wants)) = (has, wants) else { return Ok(()) };
    let bytes = amount("storage", wants);
    if bytes <= amount("storage", has) || source.read_only {
        return Ok(());
    }
    let driver = Driver::connect(&context.csi, &source.driver).await?;
    if driver.expands {
        let staging = source.staging(&context.dirs.root).to_string_lossy().into_owned();
        let request = api::NodeExpandVolumeRequest {
            volume_id: source.handle.clone(),
            volume_path: mounted.path.to_string_lossy().into_owned(),
            capacity_range: Some(api::CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            staging_target_path: if driver.stages { staging } else { String::new() },
            volume_capability: Some(source.capability(&driver, None)),
            ..Default::default()
        };
        driver.node_expand_volume(request).await?;
    }
    let Some(api) = context.objects.client() else { return Ok(()) };
    let over = ["FileSystemResizePending", "Resizing"].map(|t| json!({"$patch": "delete", "type": t}));
    let patch = Patch::Strategic(json!({"status": {"capacity": {"storage": wants.0}, "conditions": over,
        "allocatedResourceStatuses": {"storage": null}}}));
    let (namespace, name) = (claim.metadata.namespace.as_deref(), claim.metadata.name.as_deref().unwrap_or_default());
    let told = api.patch::<Value>(&resources::PERSISTENT_VOLUME_CLAIMS, namespace, name, Some("status"), &patch).await;
    told.map(|_| ()).map_err(|e| format!("cannot tell that claim {name} has grown: {e}"))
}

/// Takes all of a pod's volumes back, and unstages those that no other pod here uses.
///
/// # Errors
/// A driver that is gone or refuses; what is left is tried again.
pub async fn tear_down(context: &Context, uid: &str) -> Result<(), String> {
    let root = &context.dirs.root;
    for (dir, record) in records(&pod_dir(root, uid)) {
        let fail = |e: String| format!("cannot unmount volume \"{}\": {e}", record.spec_vol_id);
        let driver = Driver::connect(&context.csi, &record.driver_name).await.map_err(fail)?;
        let target = if record.device.is_empty() { dir.join("mount") } else { PathBuf::from(&record.device) };
        let request = api::NodeUnpublishVolumeRequest {
            volume_id: record.volume_handle.clone(),
            target_path: target.to_string_lossy().into_owned(),
        };
        driver.node_unpublish_volume(request).await.map_err(fail)?;
        let lock = context.csi.lock_of(&record.volume_handle);
        let _guard = lock.lock().await;
        let same = |r: &Record| r.driver_name == record.driver_name && r.volume_handle == record.volume_handle;
        let last = all_records(root).filter(|(_, r)| same(r)).count() <= 1;
        if record.volume_lifecycle_mode == "Persistent" && last && driver.stages {
            unstage(root, &driver, &record).await.map_err(fail)?;
        }
        let _ = if target.is_dir() { std::fs::remove_dir(&target) } else { std::fs::remove_file(&target) };
        std::fs::remove_dir_all(&dir).map_err(|e| fail(e.to_string()))?;
    }
    Ok(())
}

async fn unstage(root: &Path, driver: &Driver, record: &Record) -> Result<(), String> {
    let source = Source {
        name: record.spec_vol_id.clone(),
        driver: record.driver_name.clone(),
        handle: record.volume_handle.clone(),
        block: !record.device.is_empty(),
        ..Source::default()
    };
    let staging = source.staging(root);
    let request = api::NodeUnstageVolumeRequest {
        volume_id: record.volume_handle.clone(),
        staging_target_path: staging.to_string_lossy().into_owned(),
    };
    driver.node_unstage_volume(request).await?;
    // Only empty directories go: what a driver left behind is not ours to delete.
    let _ = std::fs::remove_dir(&staging);
    if let Some(parent) = staging.parent().filter(|_| !source.block) {
        let _ = std::fs::remove_dir(parent);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_groups() {
        let inline = Source { ephemeral: true, ..Source::default() };
        let spec = |modes: &[&str]| CSIDriverSpec {
            volume_lifecycle_modes: Some(modes.iter().map(|m| (*m).to_owned()).collect()),
            ..CSIDriverSpec::default()
        };
        assert!(check_mode(&inline, None).is_err());
        assert!(check_mode(&inline, Some(&spec(&["Persistent"]))).is_err());
        assert!(check_mode(&inline, Some(&spec(&["Persistent", "Ephemeral"]))).is_ok());
        let once = Source { access_modes: vec!["ReadWriteOnce".into()], fs_type: "ext4".into(), ..Source::default() };
        assert!(once.group_applies("ReadWriteOnceWithFSType") && !once.group_applies("None"));
        assert!(!Source::default().group_applies("ReadWriteOnceWithFSType") && Source::default().group_applies("File"));
        let staging = once.staging(Path::new("/r"));
        assert!(staging.starts_with("/r/plugins/kubernetes.io/csi") && staging.ends_with("globalmount"));
    }
}

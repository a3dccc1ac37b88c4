//! How much file systems, directories and volumes hold.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Volumes;
use crate::pods::types::Pod;

/// A file system as `statfs` tells of it, or the part of it that a directory takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub used_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
    pub inodes_used: u64,
}

/// A volume's use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUsage {
    /// Name in the pod's spec.
    pub name: String,
    /// The claim behind it.
    pub claim: Option<String>,
    pub usage: Usage,
}

/// The file system that a path is on.
///
/// # Errors
/// What the kernel says.
pub fn file_system(path: &Path) -> io::Result<Usage> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks * stat.f_frsize;
    Ok(Usage {
        capacity_bytes: bytes(stat.f_blocks),
        available_bytes: bytes(stat.f_bavail),
        used_bytes: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
        inodes_used: stat.f_files.saturating_sub(stat.f_ffree),
    })
}

/// What a directory takes of the file system it is on; other file systems mounted below do not count.
///
/// # Errors
/// What the kernel says of the directory itself; what vanishes meanwhile counts nothing.
pub fn directory(path: &Path) -> io::Result<Usage> {
    let root = path.symlink_metadata()?;
    let (mut used_bytes, mut inodes_used) = (root.blocks() * 512, 1);
    let mut open: Vec<PathBuf> = if root.is_dir() { vec![path.to_owned()] } else { Vec::new() };
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Some(meta) = entry.metadata().ok().filter(|m| m.dev() == root.dev()) else { continue };
            used_bytes += meta.blocks() * 512;
            inodes_used += 1;
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok(Usage { used_bytes, inodes_used, ..file_system(path)? })
}

/// Whether another file system begins at a directory.
fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| path.metadata().map(|m| m.dev()).ok();
    path.parent().is_some_and(|parent| device(parent) != device(path))
}

/// The use of a pod's volumes, without the node's own paths, images and block devices. Reads every file's metadata:
/// not for a hot path.
pub fn of_pod(root: &Path, pod: &Pod, volumes: &Volumes) -> Vec<VolumeUsage> {
    let own = super::pod_dir(root, pod.uid());
    let measure = |volume: &k8s_openapi::api::core::v1::Volume| {
        let path = &volumes.get(&volume.name).filter(|m| m.image.is_none())?.path;
        let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => Some(source.claim_name.clone()),
            (None, Some(_)) => Some(super::claim::ephemeral_name(pod, &volume.name)),
            (None, None) => None,
        };
        if volume.host_path.is_some() || !path.is_dir() {
            return None;
        }
        let whole = !path.starts_with(&own) || is_mount_point(path);
        let usage = if whole { file_system(path) } else { directory(path) };
        Some(VolumeUsage { name: volume.name.clone(), claim, usage: usage.ok()? })
    };
    pod.spec.volumes.iter().flatten().filter_map(measure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::types::tests::pod;
    use crate::volumes::Mounted;
    use serde_json::json;

    #[test]
    fn directories_count_what_is_in_them() {
        let root = tempfile::tempdir().unwrap();
        let pod = pod(json!({"metadata": {"uid": "u"}, "spec": {"containers": [], "volumes": [
            {"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/"}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "data"}}]}}));
        let path = crate::volumes::volume_dir(root.path(), "u", "empty-dir", "v");
        std::fs::create_dir_all(path.join("d")).unwrap();
        std::fs::write(path.join("d/f"), vec![1; 10_000]).unwrap();
        let mounted = |path: &Path| Mounted { path: path.to_owned(), ..Mounted::default() };
        let volumes = Volumes::from([
            ("v".into(), mounted(&path)),
            ("h".into(), mounted(Path::new("/"))),
            ("c".into(), mounted(root.path())),
        ]);
        let found = of_pod(root.path(), &pod, &volumes);
        let names: Vec<_> = found.iter().map(|v| (v.name.as_str(), v.claim.as_deref())).collect();
        assert_eq!(names, [("v", None), ("c", Some("data"))]);
        assert_eq!(found[0].usage.inodes_used, 3);
        assert!(found[0].usage.used_bytes >= 10_000 && found[0].usage.used_bytes < 100_000);
        assert!(found[1].usage.capacity_bytes >= found[1].usage.used_bytes);
    }
}

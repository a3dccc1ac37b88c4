//! emptyDir: a directory that lives as long as the pod, on the node's disk or in memory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;

use super::{Mounted, mounts, ownership};
use crate::pods::resources;
use crate::pods::types::Pod;

/// Makes the directory.
///
/// # Errors
/// The step that failed, or a medium this kubelet does not have.
pub fn set_up(dir: &Path, source: &EmptyDirVolumeSource, pod: &Pod) -> Result<Mounted, String> {
    let existed = dir.exists();
    make(dir, 0o777)?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => mounts::tmpfs(dir, size(source, pod))?,
        medium => return Err(format!("emptyDir medium {medium:?} is not supported by this kubelet")),
    }
    if let (false, Some(group)) = (existed, ownership::fs_group(pod)) {
        ownership::apply(dir, group, false)?;
    }
    Ok(Mounted { path: dir.to_owned(), ..Mounted::default() })
}

/// Bytes of a memory volume: its limit, but no more than the pod may use.
fn size(source: &EmptyDirVolumeSource, pod: &Pod) -> Option<i64> {
    let own = source.size_limit.as_ref().map(|q| resources::amount("memory", q)).filter(|s| *s > 0);
    let pod = resources::pod_limits(&pod.spec).get("memory").copied().filter(|s| *s > 0);
    [own, pod].into_iter().flatten().min()
}

/// Makes a directory with exactly this mode, whatever the umask.
///
/// # Errors
/// What the kernel says.
pub fn make(dir: &Path, mode: u32) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("cannot make {}: {e}", dir.display());
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(dir).map_err(fail)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).map_err(fail)
}

//! fsGroup: makes a volume's files readable and writable for the pod's group.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::pods::types::Pod;

/// The pod's fsGroup.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    pod.spec.security_context.as_ref().and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok())
}

/// Gives a volume to the pod's group, when it has one; with `OnRootMismatch` only when its root is not the group's yet.
///
/// # Errors
/// The path that cannot be changed.
pub fn give(path: &Path, pod: &Pod) -> Result<(), String> {
    let Some(group) = fs_group(pod) else { return Ok(()) };
    let policy = pod.spec.security_context.as_ref().and_then(|s| s.fs_group_change_policy.as_deref());
    let root = std::fs::metadata(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let fits = root.gid() == group && root.permissions().mode() & 0o2770 == 0o2770;
    if policy == Some("OnRootMismatch") && fits { Ok(()) } else { apply(path, group, false) }
}

/// Gives everything below `path` to the group: group rw (and x where the owner has it), setgid on directories.
///
/// # Errors
/// The path that cannot be changed.
pub fn apply(path: &Path, group: u32, read_only: bool) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("cannot give {} to group {group}: {e}", path.display());
    let metadata = std::fs::symlink_metadata(path).map_err(fail)?;
    if metadata.gid() != group {
        std::os::unix::fs::lchown(path, None, Some(group)).map_err(fail)?;
    }
    if metadata.is_symlink() {
        return Ok(());
    }
    let mask = match (metadata.is_dir(), read_only) {
        (true, true) => 0o2550,
        (true, false) => 0o2770,
        (false, true) => 0o440,
        (false, false) => 0o660,
    };
    let mode = metadata.permissions().mode() & 0o7777;
    if mode | mask != mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | mask)).map_err(fail)?;
    }
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).map_err(fail)? {
            apply(&entry.map_err(fail)?.path(), group, read_only)?;
        }
    }
    Ok(())
}

/// Gives one file to a user.
///
/// # Errors
/// What the kernel says.
pub fn to_user(path: &Path, user: u32) -> std::io::Result<()> {
    chown(path, Some(user), None)
}

//! subPath: a part of a volume, reached without ever following a link out of it.
//!
//! The path is opened by the kernel with "stay beneath the volume"; what was opened is bound to a place of the
//! kubelet's own, and that is what the runtime gets. So a pod that swaps a directory for a link gains nothing.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{mounts, pod_dir};

/// What to bind.
pub struct Request<'a> {
    pub root: &'a Path,
    pub uid: &'a str,
    pub volume: &'a str,
    pub volume_path: &'a Path,
    pub container: &'a str,
    /// Index of the mount in the container.
    pub index: usize,
    pub sub_path: &'a str,
}

/// Opens and binds the sub path; a missing directory is made.
///
/// # Errors
/// A path that leaves the volume, or the step that failed.
pub fn bind(request: &Request<'_>) -> Result<PathBuf, String> {
    let sub_path = request.sub_path;
    let fail = |e: Errno| format!("failed to prepare subPath for volumeMount \"{}\" ({sub_path}): {e}", request.volume);
    let volume = rustix::fs::open(request.volume_path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    let opened = match open_beneath(&volume, sub_path) {
        Err(Errno::NOENT) => {
            make_beneath(&volume, sub_path).map_err(fail)?;
            open_beneath(&volume, sub_path).map_err(fail)?
        }
        other => other.map_err(fail)?,
    };
    let place = pod_dir(request.root, request.uid)
        .join("volume-subpaths")
        .join(request.volume)
        .join(request.container)
        .join(request.index.to_string());
    let source = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    if mounts::is_mount_point(&place)? {
        mounts::unmount_below(&place)?;
    }
    let io = |e: std::io::Error| format!("cannot make {}: {e}", place.display());
    if let Some(parent) = place.parent() {
        std::fs::create_dir_all(parent).map_err(io)?;
    }
    if source.is_dir() {
        std::fs::create_dir_all(&place).map_err(io)?;
    } else if !place.exists() {
        std::fs::write(&place, "").map_err(io)?;
    }
    mounts::bind(&source, &place)?;
    Ok(place)
}

fn open_beneath(volume: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(volume, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn make_beneath(volume: &OwnedFd, path: &str) -> Result<(), Errno> {
    // Made directories get the volume's own mode, so that whoever may write there may write here.
    let mode = Mode::from_raw_mode(rustix::fs::fstat(volume)?.st_mode & 0o7777);
    let mut done = String::new();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        let parent = if done.is_empty() { "." } else { &done };
        let dir = open_beneath(volume, parent)?;
        match rustix::fs::mkdirat(&dir, part, mode) {
            Ok(()) => rustix::fs::chmodat(&dir, part, mode, AtFlags::empty())?,
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        done = if done.is_empty() { part.to_owned() } else { format!("{done}/{part}") };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_cannot_leave_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        std::os::unix::fs::symlink("in", dir.path().join("inside")).unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        let volume = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        assert!(open_beneath(&volume, "out").is_err());
        assert!(open_beneath(&volume, "../x").is_err());
        assert!(open_beneath(&volume, "inside").is_ok());
        make_beneath(&volume, "a/b").unwrap();
        assert!(dir.path().join("a/b").is_dir());
    }
}

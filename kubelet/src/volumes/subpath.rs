//! subPath: a part of a volume, reached without ever following a link out of it.
//!
//! The path is opened by the kernel with "stay beneath the volume"; what was opened is bound to a place of the
//! kubelet's own, and that is what the runtime gets. So a pod that swaps a directory for a link gains nothing.

use std::io::Read;
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

/// The text of a file inside a volume, never of one outside that a link leads to; none when it is not there.
///
/// # Errors
/// A path that leaves the volume, or a file that cannot be read or is too large.
pub fn read(volume: &Path, path: &str, max_bytes: u64) -> Result<Option<String>, String> {
    let fail = |e: &dyn std::fmt::Display| format!("cannot read {path} of the volume: {e}");
    let dir = match rustix::fs::open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(|e| fail(&e))?,
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // Without blocking: a pipe in place of the file must not hold the kubelet.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::openat2(&dir, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT) => return Ok(None),
        other => std::fs::File::from(other.map_err(|e| fail(&e))?),
    };
    let meta = file.metadata().map_err(|e| fail(&e))?;
    if !meta.is_file() || meta.len() > max_bytes {
        return Err(fail(&format_args!("it is no file of at most {max_bytes} bytes")));
    }
    let mut text = String::new();
    file.take(max_bytes).read_to_string(&mut text).map_err(|e| fail(&e))?;
    Ok(Some(text))
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
        std::fs::write(dir.path().join("in/f"), "x").unwrap();
        assert_eq!(read(dir.path(), "inside/f", 9).unwrap().as_deref(), Some("x"));
        assert_eq!(read(dir.path(), "none", 9).unwrap(), None);
        assert!(read(dir.path(), "out/passwd", 1 << 20).is_err() && read(dir.path(), "in", 9).is_err());
        make_beneath(&volume, "a/b").unwrap();
        assert!(dir.path().join("a/b").is_dir());
    }
}

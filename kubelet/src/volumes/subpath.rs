//! subPath: a part of a volume, reached without ever following a link out of it.
//!
//! The path is opened by the kernel with "stay beneath the volume"; what was opened is bound to a place of the
//! kubelet's own, and that is what the runtime gets. So a pod that swaps a directory for a link gains nothing.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::{mounts, pod_dir};
use crate::beneath;

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
    let volume = beneath::directory(request.volume_path).map_err(fail)?;
    let opened = match beneath::place(&volume, sub_path) {
        Err(Errno::NOENT) => {
            make_beneath(&volume, sub_path).map_err(fail)?;
            beneath::place(&volume, sub_path).map_err(fail)?
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

/// The text of a file inside a volume, never of one outside that a link leads to; none when it is not there.
///
/// # Errors
/// A path that leaves the volume, or a file that cannot be read or is too large.
pub fn read(volume: &Path, path: &str, max_bytes: u64) -> Result<Option<String>, String> {
    let fail = |e: &dyn std::fmt::Display| format!("cannot read {path} of the volume: {e}");
    let file = match beneath::file(volume, Path::new(path)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| fail(&e))?,
    };
    let meta = file.metadata().map_err(|e| fail(&e))?;
    if meta.len() > max_bytes {
        return Err(fail(&format_args!("it is larger than {max_bytes} bytes")));
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
        let dir = beneath::place(volume, parent)?;
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
        let volume = beneath::directory(dir.path()).unwrap();
        assert!(make_beneath(&volume, "out/x").is_err() && make_beneath(&volume, "../x").is_err());
        std::fs::write(dir.path().join("in/f"), "x").unwrap();
        assert_eq!(read(dir.path(), "inside/f", 9).unwrap().as_deref(), Some("x"));
        assert_eq!(read(dir.path(), "none", 9).unwrap(), None);
        assert!(read(dir.path(), "out/passwd", 1 << 20).is_err() && read(dir.path(), "in", 9).is_err());
        make_beneath(&volume, "a/b").unwrap();
        assert!(dir.path().join("a/b").is_dir());
    }

    /// A pod that swaps a directory for a link between the look and the mount (CVE-2017-1002101, CVE-2021-25741) gets
    /// what was looked at or a refusal, never what the link leads to.
    #[test]
    fn a_swap_while_binding_gains_nothing() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (real, evil) = (dir.path().join("d"), dir.path().join("evil"));
        std::fs::create_dir(&real).unwrap();
        symlink("/etc", &evil).unwrap();
        let inside = std::fs::metadata(&real).unwrap().ino();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let volume = beneath::directory(dir.path()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let exchange = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(rustix::fs::CWD, &real, rustix::fs::CWD, &evil, exchange).unwrap();
                }
            });
            let opened: Vec<_> = (0..5000).filter_map(|_| beneath::place(&volume, "d").ok()).collect();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(opened.iter().all(|fd| rustix::fs::fstat(fd).unwrap().st_ino == inside));
        });
    }
}

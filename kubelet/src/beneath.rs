//! Opening files without ever following a link out of the directory they must be in.
//!
//! What pods can write (volumes, log directories that are mounted into them) may hold links anywhere, and may change
//! between a look and the use of what was seen. The kernel resolves the path and refuses at the first step outside.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A directory (or whatever is at the path) as a place to open things beneath; links on the way to it are followed.
///
/// # Errors
/// What the kernel says.
pub fn directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// A place beneath a directory, for use by its descriptor.
///
/// # Errors
/// `XDEV` for a path that leaves the directory; else what the kernel says.
pub fn place(directory: &OwnedFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    open(directory, path, OFlags::PATH)
}

/// Opens a regular file below `root` for reading. A pipe or device in its place does not hold or feed the kubelet.
///
/// # Errors
/// A path that is not below `root` or leads out of it, something that is no file, or what the kernel says.
pub fn file(root: &Path, path: &Path) -> io::Result<File> {
    let outside = || io::Error::other(format!("{} is not below {}", path.display(), root.display()));
    let relative = if path.is_absolute() { path.strip_prefix(root).map_err(|_| outside())? } else { path };
    let file = File::from(open(&directory(root)?, relative, OFlags::RDONLY | OFlags::NONBLOCK)?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other(format!("{} is not a file", path.display())))
    }
}

fn open(directory: &OwnedFd, path: impl rustix::path::Arg, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("in")).unwrap();
        std::fs::write(at("in/f"), "x").unwrap();
        symlink("in", at("inside")).unwrap();
        symlink("/etc/passwd", at("in/0.log")).unwrap();
        symlink("/proc/self/root", at("magic")).unwrap();
        assert!(file(dir.path(), &at("inside/f")).is_ok());
        for bad in ["in/0.log", "../x", "magic/etc/passwd", "in"] {
            assert!(file(dir.path(), Path::new(bad)).is_err(), "{bad}");
        }
        assert!(file(dir.path(), Path::new("/etc/passwd")).unwrap_err().to_string().contains("is not below"));
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .unwrap();
        assert!(file(dir.path(), Path::new("pipe")).is_err());
    }
}

//! Files that must never be seen half written.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file could not be written; names the file and the step.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}: {source}", path.display())]
pub struct WriteError {
    /// What was tried.
    pub step: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// Why it failed.
    pub source: std::io::Error,
}

/// Writes `bytes` to `path` with `mode` so that a reader sees the old content or the new, also after a crash: temporary
/// file in the same directory, fsync, rename, fsync of the directory.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), WriteError> {
    let fail = |step: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| WriteError { step, path, source }
    };
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp-{}", std::process::id()));
    let temporary = dir.join(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(fail("create", &temporary))?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode)))
        .and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Best effort: the error that matters is the one of the write.
        let _ = std::fs::remove_file(&temporary);
        return Err(fail("write", &temporary)(error));
    }
    std::fs::rename(&temporary, path).map_err(fail("rename into place", path))?;
    std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(fail("sync directory", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_content_and_sets_mode() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomic(&path, b"one", 0o644).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

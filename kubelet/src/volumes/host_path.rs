//! hostPath: a path of the node itself, of the demanded type.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as core;

use super::Mounted;
/// Checks (and for the `OrCreate` types makes) the path.
///
/// # Errors
/// A path that is not of the demanded type.
pub fn set_up(source: &core::HostPathVolumeSource) -> Result<Mounted, String> {
    let path = PathBuf::from(&source.path);
    let type_ = source.type_.as_deref().unwrap_or_default();
    match type_ {
        "DirectoryOrCreate" if !path.exists() => make(&path, true)?,
        "FileOrCreate" if !path.exists() => make(&path, false)?,
        _ => {}
    }
    check(&path, type_)?;
    Ok(Mounted { path, ..Mounted::default() })
}

fn make(path: &Path, directory: bool) -> Result<(), String> {
    let result = if directory { std::fs::create_dir_all(path) } else { std::fs::write(path, "") };
    let mode = if directory { 0o755 } else { 0o644 };
    result
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)))
        .map_err(|e| format!("cannot make {}: {e}", path.display()))
}

fn check(path: &Path, type_: &str) -> Result<(), String> {
    let metadata = std::fs::metadata(path);
    let Ok(metadata) = metadata else {
        // Without a type the runtime makes a missing directory.
        return if type_.is_empty() { Ok(()) } else { Err(refusal(path, type_)) };
    };
    let kind = metadata.file_type();
    let fits = match type_ {
        "" => true,
        "Directory" | "DirectoryOrCreate" => kind.is_dir(),
        "File" | "FileOrCreate" => kind.is_file(),
        "Socket" => kind.is_socket(),
        "CharDevice" => kind.is_char_device(),
        "BlockDevice" => kind.is_block_device(),
        _ => false,
    };
    if fits { Ok(()) } else { Err(refusal(path, type_)) }
}

fn refusal(path: &Path, type_: &str) -> String {
    let what = match type_ {
        "Directory" | "DirectoryOrCreate" => "a directory",
        "File" | "FileOrCreate" => "a file",
        "Socket" => "a socket file",
        "CharDevice" => "a character device",
        "BlockDevice" => "a block device",
        other => return format!("hostPath type {other:?} is not known"),
    };
    format!("hostPath type check failed: {} is not {what}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let dir = tempfile::tempdir().unwrap();
        let source = |path: &Path, type_: &str| core::HostPathVolumeSource {
            path: path.to_str().unwrap().to_owned(),
            type_: Some(type_.to_owned()),
        };
        assert!(set_up(&source(dir.path(), "Directory")).is_ok());
        let error = set_up(&source(dir.path(), "File")).unwrap_err();
        assert!(error.ends_with("is not a file"), "{error}");
        let new = dir.path().join("new/dir");
        assert!(set_up(&source(&new, "DirectoryOrCreate")).is_ok());
        assert!(new.is_dir());
        assert!(set_up(&source(&dir.path().join("none"), "Socket")).is_err());
    }
}

//! The atomic writer: replaces a volume's files all at once.
//!
//! Upstream's layout: files are in a directory named by time, `..data` is a link to it, and each visible name is a
//! link through `..data`. Renaming a new `..data` over the old one is the one step that readers see. Unchanged content
//! is not written.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub content: Vec<u8>,
    pub mode: u32,
    /// The user who owns it; root when none.
    pub user: Option<u32>,
}

/// Relative path → file.
pub type Files = BTreeMap<String, File>;

/// Checks that a path stays inside the volume.
///
/// # Errors
/// An absolute path, or one with `..`.
pub fn check_path(path: &str) -> Result<(), String> {
    let ok = !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if ok { Ok(()) } else { Err(format!("invalid path in volume: {path:?}")) }
}

/// Brings the directory to hold exactly these files. True when something changed.
///
/// # Errors
/// The step that failed.
pub fn write(dir: &Path, files: &Files, finish: impl Fn(&Path) -> Result<(), String>) -> Result<bool, String> {
    for path in files.keys() {
        check_path(path)?;
    }
    let current = std::fs::read_link(dir.join(DATA)).ok().map(|target| dir.join(target));
    if current.as_deref().is_some_and(|c| same(c, files)) {
        return Ok(false);
    }
    replace(dir, files, current.as_deref(), finish)
        .map_err(|e| format!("cannot write {}: {e}", dir.display()))
        .map(|()| true)
}

fn same(data: &Path, files: &Files) -> bool {
    let mut found = BTreeSet::new();
    list(data, data, &mut found).is_ok()
        && found.iter().eq(files.keys())
        && files.iter().all(|(path, file)| std::fs::read(data.join(path)).is_ok_and(|c| c == file.content))
}

fn list(root: &Path, dir: &Path, found: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            list(root, &path, found)?;
        } else if let Ok(relative) = path.strip_prefix(root) {
            found.insert(relative.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn replace(
    dir: &Path,
    files: &Files,
    old: Option<&Path>,
    finish: impl Fn(&Path) -> Result<(), String>,
) -> io::Result<()> {
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
    let data = dir.join(&stamp);
    std::fs::create_dir(&data)?;
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        let target = data.join(path);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&target, &file.content)?;
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(file.mode))?;
        if let Some(user) = file.user {
            super::ownership::to_user(&target, user)?;
        }
    }
    finish(&data).map_err(io::Error::other)?;
    let _ = std::fs::remove_file(dir.join(NEW_DATA));
    symlink(&stamp, dir.join(NEW_DATA))?;
    std::fs::rename(dir.join(NEW_DATA), dir.join(DATA))?;
    links(dir, files)?;
    if let Some(old) = old {
        std::fs::remove_dir_all(old)?;
    }
    Ok(())
}

/// Makes the visible links of the first path components and removes those of files that are gone.
fn links(dir: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|p| p.split('/').next()).collect();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            std::fs::remove_file(dir.join(name))?;
        }
    }
    for name in wanted {
        let link = dir.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |content: &str| File { content: content.as_bytes().to_vec(), mode: 0o640, user: None };
        list.iter().map(|(p, c)| ((*p).to_owned(), file(c))).collect()
    }

    #[test]
    fn replaces_all_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name));
        let ok = |_: &Path| Ok(());
        assert!(write(dir.path(), &files(&[("a", "1"), ("d/b", "2")]), ok).unwrap());
        assert_eq!((read("a").unwrap(), read("d/b").unwrap()), ("1".into(), "2".into()));
        assert!(!write(dir.path(), &files(&[("a", "1"), ("d/b", "2")]), ok).unwrap());
        assert!(write(dir.path(), &files(&[("a", "3")]), ok).unwrap());
        assert_eq!(read("a").unwrap(), "3");
        assert!(read("d/b").is_err());
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 3, "one data directory, ..data and the visible link");
        let mode = std::fs::metadata(dir.path().join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn paths_stay_inside() {
        for path in ["../a", "/a", "a/../b", "", "..x"] {
            assert!(check_path(path).is_err(), "{path}");
        }
        assert!(check_path("a/b.c").is_ok());
    }
}

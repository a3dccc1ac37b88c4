//! Mount table and mount calls.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

/// Mount points at or below a path, innermost first.
///
/// # Errors
/// An unreadable mount table.
pub fn below(path: &Path) -> Result<Vec<PathBuf>, String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| format!("cannot read mountinfo: {e}"))?;
    let mut points: Vec<PathBuf> = mount_points(&table).filter(|p| p.starts_with(path)).collect();
    points.reverse();
    Ok(points)
}

/// The mount points of a mountinfo table, in its order.
fn mount_points(table: &str) -> impl Iterator<Item = PathBuf> {
    table.lines().filter_map(|l| l.split(' ').nth(4)).map(|p| PathBuf::from(unescape(p)))
}

/// Octal escapes of mountinfo (`\040` is a space).
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| *first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether something is mounted exactly here.
///
/// # Errors
/// An unreadable mount table.
pub fn is_mount_point(path: &Path) -> Result<bool, String> {
    Ok(below(path)?.iter().any(|p| p == path))
}

/// Unmounts everything at or below a path.
///
/// # Errors
/// The mount point that cannot be unmounted.
pub fn unmount_below(path: &Path) -> Result<(), String> {
    for point in below(path)? {
        rustix::mount::unmount(&point, UnmountFlags::DETACH)
            .map_err(|e| format!("cannot unmount {}: {e}", point.display()))?;
    }
    Ok(())
}

/// Mounts a tmpfs, unless something is mounted there already.
///
/// # Errors
/// What the kernel says.
pub fn tmpfs(path: &Path, size_bytes: Option<i64>) -> Result<(), String> {
    if is_mount_point(path)? {
        return Ok(());
    }
    // The kernel's mode, 1777, is what pods expect of memory volumes.
    let options = size_bytes.map_or_else(String::new, |s| format!("size={s}"));
    let options = std::ffi::CString::new(options).map_err(|e| e.to_string())?;
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
        .map_err(|e| format!("cannot mount a tmpfs at {}: {e}", path.display()))
}

/// Binds `from` onto `to`.
///
/// # Errors
/// What the kernel says.
pub fn bind(from: &Path, to: &Path) -> Result<(), String> {
    rustix::mount::mount_bind_recursive(from, to).map_err(|e| format!("cannot bind onto {}: {e}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let table = "22 1 0:20 / /sys rw - sysfs sysfs rw\n23 1 0:21 / /a\\040b rw - tmpfs t rw\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(points, [PathBuf::from("/sys"), PathBuf::from("/a b")]);
        assert_eq!(unescape("a\\x"), "a\\x");
    }
}

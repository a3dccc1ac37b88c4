//! cgroups as files: where each controller is mounted and which files hold the limits.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Limits;

/// Tries to remove a cgroup whose processes are just ending, 10 ms apart.
const REMOVE_TRIES: u32 = 50;

/// Where the kernel's controllers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchy {
    /// Mount point of each controller (several may share one).
    V1(BTreeMap<String, PathBuf>),
    V2(PathBuf),
}

impl Hierarchy {
    /// Reads the mount table; a hybrid machine counts as v1, since its controllers are there.
    pub fn detect() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    fn parse(table: &str) -> Self {
        const NAMES: [&str; 12] = [
            "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "net_cls",
            "net_prio", "perf_event",
        ];
        let mut controllers = BTreeMap::new();
        let mut unified = None;
        for line in table.lines() {
            let Some((mount, source)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4) else { continue };
            let mut source = source.split(' ');
            match source.next() {
                Some("cgroup2") => unified = Some(PathBuf::from(point)),
                Some("cgroup") => {
                    let options = source.nth(1).unwrap_or_default();
                    for name in options.split(',').filter(|o| NAMES.contains(o) || *o == "name=systemd") {
                        controllers.insert(name.to_owned(), PathBuf::from(point));
                    }
                }
                _ => {}
            }
        }
        if controllers.is_empty() {
            return Self::V2(unified.unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup")));
        }
        // A hybrid machine's second hierarchy has no controllers, but runc makes its cgroups there too.
        controllers.extend(unified.map(|point| ("unified".to_owned(), point)));
        Self::V1(controllers)
    }

    /// Version 2 only.
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    fn roots(&self) -> Vec<PathBuf> {
        match self {
            Self::V1(controllers) => {
                let mut roots: Vec<_> = controllers.values().cloned().collect();
                roots.sort();
                roots.dedup();
                roots
            }
            Self::V2(root) => vec![root.clone()],
        }
    }

    /// Makes a cgroup in all controllers and sets its limits.
    ///
    /// # Errors
    /// The directory that cannot be made.
    pub fn make(&self, names: &[String], limits: &Limits) -> Result<(), String> {
        for root in self.roots() {
            let dir = below(&root, names);
            if let Err(e) = std::fs::create_dir_all(&dir) {
                return Err(format!("cannot make the cgroup {}: {e}", dir.display()));
            }
        }
        match self {
            Self::V1(controllers) => {
                if let Some(root) = controllers.get("cpuset") {
                    inherit_cpuset(root, names);
                }
                let dir = |name: &str| controllers.get(name).map(|root| below(root, names));
                for (file, value) in v1_files(limits) {
                    let controller = file.split('.').next().unwrap_or_default();
                    set(dir(controller).as_deref(), file, &value);
                }
            }
            Self::V2(root) => {
                enable_controllers(root, names);
                for (file, value) in v2_files(limits) {
                    set(Some(&below(root, names)), file, &value);
                }
            }
        }
        Ok(())
    }

    /// Kills what is left in a cgroup and removes it with everything below.
    ///
    /// # Errors
    /// A directory that stays busy.
    pub fn remove(&self, names: &[String]) -> Result<(), String> {
        for root in self.roots() {
            let dir = below(&root, names);
            if dir.is_dir() {
                remove_tree(&dir).map_err(|e| format!("cannot remove the cgroup {}: {e}", dir.display()))?;
            }
        }
        Ok(())
    }
}

fn below(root: &Path, names: &[String]) -> PathBuf {
    names.iter().fold(root.to_owned(), |path, name| path.join(name))
}

/// Writes one file; a controller that refuses is not ours to change.
fn set(dir: Option<&Path>, file: &str, value: &str) {
    let Some(dir) = dir else { return };
    if let Err(error) = std::fs::write(dir.join(file), value) {
        tracing::debug!(cgroup = %dir.display(), file, value, %error, "Cannot set the cgroup's limit");
    }
}

fn v1_files(limits: &Limits) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    if limits.cpu_shares > 0 {
        files.push(("cpu.shares", limits.cpu_shares.to_string()));
    }
    if limits.cpu_quota_microseconds > 0 {
        files.push(("cpu.cfs_period_us", limits.cpu_period_microseconds.to_string()));
        files.push(("cpu.cfs_quota_us", limits.cpu_quota_microseconds.to_string()));
    }
    if limits.memory_bytes > 0 {
        files.push(("memory.limit_in_bytes", limits.memory_bytes.to_string()));
    }
    files.extend(limits.pids.map(|p| ("pids.max", p.to_string())));
    files
}

fn v2_files(limits: &Limits) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    if limits.cpu_shares > 0 {
        // The kernel's conversion of shares (2..262144) to weight (1..10000).
        let weight = 1 + (limits.cpu_shares.max(2) - 2) * 9999 / 262_142;
        files.push(("cpu.weight", weight.to_string()));
    }
    if limits.cpu_quota_microseconds > 0 {
        files.push(("cpu.max", format!("{} {}", limits.cpu_quota_microseconds, limits.cpu_period_microseconds)));
    }
    if limits.memory_bytes > 0 {
        files.push(("memory.max", limits.memory_bytes.to_string()));
    }
    files.extend(limits.pids.map(|p| ("pids.max", p.to_string())));
    files
}

/// A v1 cpuset is empty until told otherwise, and an empty one takes no process.
fn inherit_cpuset(root: &Path, names: &[String]) {
    let mut dir = root.to_owned();
    for name in names {
        let parent = dir.clone();
        dir.push(name);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
            if own.trim().is_empty() {
                let inherited = std::fs::read_to_string(parent.join(file)).unwrap_or_default();
                set(Some(&dir), file, inherited.trim());
            }
        }
    }
}

/// A v2 cgroup's children get only the controllers that it hands down.
fn enable_controllers(root: &Path, names: &[String]) {
    let mut dir = root.to_owned();
    for name in names {
        let available = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        for controller in available.split_whitespace() {
            set(Some(&dir), "cgroup.subtree_control", &format!("+{controller}"));
        }
        dir.push(name);
    }
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        }
    }
    for try_number in 0..REMOVE_TRIES {
        match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && try_number + 1 < REMOVE_TRIES => {
                kill_members(dir);
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn kill_members(dir: &Path) {
    let members = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|l| l.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(Hierarchy::parse(v2), Hierarchy::V2("/sys/fs/cgroup".into()));
        let hybrid = "31 23 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            32 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:1 - cgroup cgroup rw,cpu,cpuacct\n";
        let Hierarchy::V1(controllers) = Hierarchy::parse(hybrid) else { panic!("not v1") };
        assert_eq!((controllers.len(), controllers.contains_key("unified")), (3, true));
        assert_eq!(controllers["cpu"], controllers["cpuacct"]);
    }

    #[test]
    fn files() {
        let limits = Limits { cpu_shares: 1024, memory_bytes: 5, pids: Some(9), ..Limits::default() };
        let v2: Vec<_> = v2_files(&limits);
        assert_eq!(v2, [("cpu.weight", "39".into()), ("memory.max", "5".into()), ("pids.max", "9".into())]);
        assert_eq!(v1_files(&limits)[0], ("cpu.shares", "1024".into()));
    }
}

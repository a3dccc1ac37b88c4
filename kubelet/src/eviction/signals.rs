//! Eviction signals: their names, thresholds, and how they are read.

use std::collections::BTreeMap;
use std::path::Path;

use crate::node::machine::meminfo;

/// What runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    Memory,
    Disk,
    Pid,
}

impl Resource {
    /// As messages name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Pid => "pids",
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    MemoryAvailable,
    NodefsAvailable,
    NodefsInodesFree,
    PidAvailable,
}

impl Signal {
    /// The signals of imagefs are those of nodefs while both are one file system.
    fn parse(name: &str) -> Option<Self> {
        match name {
            "memory.available" | "allocatableMemory.available" => Some(Self::MemoryAvailable),
            "nodefs.available" | "imagefs.available" | "containerfs.available" => Some(Self::NodefsAvailable),
            "nodefs.inodesFree" | "imagefs.inodesFree" | "containerfs.inodesFree" => Some(Self::NodefsInodesFree),
            "pid.available" => Some(Self::PidAvailable),
            _ => None,
        }
    }

    /// What runs short when it is crossed.
    pub fn resource(self) -> Resource {
        match self {
            Self::MemoryAvailable => Resource::Memory,
            Self::NodefsAvailable | Self::NodefsInodesFree => Resource::Disk,
            Self::PidAvailable => Resource::Pid,
        }
    }
}

/// Less than this is too little.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    /// As it was written.
    pub text: String,
    amount: Amount,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Amount {
    Units(u64),
    /// Hundredths of the capacity.
    Percent(f64),
}

impl Threshold {
    /// The least amount for a capacity.
    pub fn bound(&self, capacity: u64) -> u64 {
        match self.amount {
            Amount::Units(units) => units,
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of a size"
            )]
            Amount::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }
}

/// Upstream's thresholds when none are configured.
const DEFAULTS: [(&str, &str); 5] = [
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
];

/// Reads `evictionHard`; nothing configured means upstream's defaults.
///
/// # Errors
/// The signal that is unknown, or whose value cannot be read.
pub fn parse(configured: &BTreeMap<String, String>) -> Result<Vec<Threshold>, String> {
    let defaults: BTreeMap<String, String>;
    let configured = if configured.is_empty() {
        defaults = DEFAULTS.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        &defaults
    } else {
        configured
    };
    let mut thresholds = Vec::new();
    for (name, text) in configured {
        let signal = Signal::parse(name).ok_or_else(|| format!("unknown eviction signal {name:?}"))?;
        let bad = || format!("{name}: {text:?} is neither a quantity nor a percentage");
        let amount = match text.strip_suffix('%') {
            Some(percent) => Amount::Percent(percent.parse().map_err(|_| bad())?),
            None => {
                let quantity: apimachinery::quantity::Quantity = text.parse().map_err(|_| bad())?;
                Amount::Units(u64::try_from(quantity.value()).map_err(|_| bad())?)
            }
        };
        // Zero switches a signal off.
        if !matches!(amount, Amount::Units(0)) && amount != Amount::Percent(0.0) {
            thresholds.push(Threshold { signal, text: text.clone(), amount });
        }
    }
    Ok(thresholds)
}

/// A reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub signal: Signal,
    pub available: u64,
    pub capacity: u64,
}

/// Reads all signals; one that cannot be read is missing.
pub fn observe(root: &Path) -> Vec<Observation> {
    let mut seen = Vec::new();
    let mut add = |signal, available, capacity| seen.push(Observation { signal, available, capacity });
    if let Ok(text) = std::fs::read_to_string("/proc/meminfo") {
        let get = |key| u64::try_from(meminfo(&text, key)).unwrap_or(0);
        add(Signal::MemoryAvailable, get("MemAvailable"), get("MemTotal"));
    }
    if let Ok(stat) = rustix::fs::statvfs(root) {
        add(Signal::NodefsAvailable, stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
        // Some file systems have no fixed number of inodes and report none.
        if stat.f_files > 0 {
            add(Signal::NodefsInodesFree, stat.f_favail, stat.f_files);
        }
    }
    let number = |path| std::fs::read_to_string(path).ok().and_then(|t: String| t.trim().parse::<u64>().ok());
    let running = std::fs::read_to_string("/proc/loadavg").ok();
    let running = running.and_then(|t| t.split(' ').nth(3)?.split('/').nth(1)?.parse::<u64>().ok());
    if let (Some(max), Some(running)) = (number("/proc/sys/kernel/pid_max"), running) {
        add(Signal::PidAvailable, max.saturating_sub(running), max);
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing() {
        let one = |name: &str, text: &str| parse(&BTreeMap::from([(name.to_owned(), text.to_owned())]));
        assert_eq!(one("memory.available", "1Gi").unwrap()[0].bound(0), 1 << 30);
        assert_eq!(one("nodefs.available", "2.5%").unwrap()[0].bound(1000), 25);
        assert!(one("nodefs.available", "0%").unwrap().is_empty());
        assert!(one("x", "1").is_err());
        assert!(one("pid.available", "much").is_err());
        assert_eq!(parse(&BTreeMap::new()).unwrap().len(), DEFAULTS.len());
    }
}

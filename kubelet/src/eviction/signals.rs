//! Eviction signals: their names, thresholds, and how they are read.

use std::path::Path;
use std::time::Duration;

use component_base::duration::GoDuration;

use crate::config_file::KubeletConfiguration;
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
    ImagefsAvailable,
    ImagefsInodesFree,
    PidAvailable,
}

impl Signal {
    /// Writable layers are on the images' file system, so containerfs is another name for it.
    fn parse(name: &str) -> Option<Self> {
        match name {
            "memory.available" | "allocatableMemory.available" => Some(Self::MemoryAvailable),
            "nodefs.available" => Some(Self::NodefsAvailable),
            "nodefs.inodesFree" => Some(Self::NodefsInodesFree),
            "imagefs.available" | "containerfs.available" => Some(Self::ImagefsAvailable),
            "imagefs.inodesFree" | "containerfs.inodesFree" => Some(Self::ImagefsInodesFree),
            "pid.available" => Some(Self::PidAvailable),
            _ => None,
        }
    }

    /// What runs short when it is crossed.
    pub fn resource(self) -> Resource {
        match self {
            Self::MemoryAvailable => Resource::Memory,
            Self::NodefsAvailable | Self::NodefsInodesFree | Self::ImagefsAvailable | Self::ImagefsInodesFree => {
                Resource::Disk
            }
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
    /// How long it may be crossed before pods end; none for a hard threshold, which ends them at once.
    pub grace: Option<Duration>,
    amount: Amount,
    /// What must be there above the threshold before it counts as over.
    reclaim: Amount,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Amount {
    Units(u64),
    /// Hundredths of the capacity.
    Percent(f64),
}

impl Amount {
    fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Units(units) => units,
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of a size"
            )]
            Self::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }

    fn parse(name: &str, text: &str) -> Result<Self, String> {
        let bad = || format!("{name}: {text:?} is neither a quantity nor a percentage");
        match text.strip_suffix('%') {
            Some(percent) => percent.parse().map(Self::Percent).map_err(|_| bad()),
            None => {
                let quantity: apimachinery::quantity::Quantity = text.parse().map_err(|_| bad())?;
                u64::try_from(quantity.value()).map(Self::Units).map_err(|_| bad())
            }
        }
    }
}

impl Threshold {
    /// Whether it is crossed; one that was needs the reclaim on top to be over.
    pub fn crossed(&self, seen: &Observation, was: bool) -> bool {
        let extra = if was { self.reclaim.of(seen.capacity) } else { 0 };
        seen.available < self.amount.of(seen.capacity) + extra
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

/// The configured thresholds; without hard ones upstream's defaults.
///
/// # Errors
/// The field and the signal that is unknown, whose value cannot be read, or that has no grace period.
pub fn parse(file: &KubeletConfiguration) -> Result<Vec<Threshold>, (&'static str, String)> {
    let mut hard = file.eviction_hard.clone();
    if hard.is_empty() || file.merge_default_eviction_settings {
        for (name, text) in DEFAULTS {
            hard.entry(name.to_owned()).or_insert_with(|| text.to_owned());
        }
    }
    let mut thresholds = Vec::new();
    for (field, map) in [("evictionHard", &hard), ("evictionSoft", &file.eviction_soft)] {
        for (name, text) in map {
            let fail = |message: String| (field, message);
            let signal = Signal::parse(name).ok_or_else(|| fail(format!("unknown eviction signal {name:?}")))?;
            let amount = Amount::parse(name, text).map_err(fail)?;
            let grace = match (field, file.eviction_soft_grace_period.get(name)) {
                ("evictionHard", _) => None,
                (_, Some(grace)) => Some(*grace.parse::<GoDuration>().map_err(|e| ("evictionSoftGracePeriod", e))?),
                (_, None) => return Err(fail(format!("{name} needs a grace period in evictionSoftGracePeriod"))),
            };
            let reclaim = file.eviction_minimum_reclaim.get(name).map_or("0", String::as_str);
            let reclaim = Amount::parse(name, reclaim).map_err(|m| ("evictionMinimumReclaim", m))?;
            // Zero switches a signal off.
            if !matches!(amount, Amount::Units(0)) && amount != Amount::Percent(0.0) {
                thresholds.push(Threshold { signal, text: text.clone(), grace, amount, reclaim });
            }
        }
    }
    // Memory first: it kills fastest. Hard before soft.
    thresholds.sort_by_key(|t| (t.signal != Signal::MemoryAvailable, t.grace.is_some()));
    Ok(thresholds)
}

/// A reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub signal: Signal,
    pub available: u64,
    pub capacity: u64,
}

/// Reads all signals; one that cannot be read is missing. `images` is where the runtime keeps its images.
pub fn observe(root: &Path, images: Option<&Path>) -> Vec<Observation> {
    let mut seen = Vec::new();
    let mut add = |signal, available, capacity| seen.push(Observation { signal, available, capacity });
    if let Ok(text) = std::fs::read_to_string("/proc/meminfo") {
        let get = |key| u64::try_from(meminfo(&text, key)).unwrap_or(0);
        add(Signal::MemoryAvailable, get("MemAvailable"), get("MemTotal"));
    }
    for (path, bytes, inodes) in [
        (Some(root), Signal::NodefsAvailable, Signal::NodefsInodesFree),
        (images, Signal::ImagefsAvailable, Signal::ImagefsInodesFree),
    ] {
        let Some(Ok(stat)) = path.map(rustix::fs::statvfs) else { continue };
        add(bytes, stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
        // Some file systems have no fixed number of inodes and report none.
        if stat.f_files > 0 {
            add(inodes, stat.f_favail, stat.f_files);
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
    use serde_json::json;

    fn parsed(value: serde_json::Value) -> Result<Vec<Threshold>, (&'static str, String)> {
        parse(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn parsing() {
        let bound = |name: &str, text: &str| parsed(json!({"evictionHard": {name: text}})).unwrap()[0].amount.of(1000);
        assert_eq!(bound("memory.available", "1Gi"), 1 << 30);
        assert_eq!(bound("nodefs.available", "2.5%"), 25);
        assert!(parsed(json!({"evictionHard": {"nodefs.available": "0%"}})).unwrap().is_empty());
        assert!(parsed(json!({"evictionHard": {"x": "1"}})).is_err());
        assert!(parsed(json!({"evictionHard": {"pid.available": "much"}})).is_err());
        assert_eq!(parsed(json!({})).unwrap().len(), DEFAULTS.len());
    }

    #[test]
    fn soft_thresholds() {
        let soft = json!({"evictionHard": {"memory.available": "0"}, "evictionSoft": {"nodefs.available": "10%"}});
        assert_eq!(parsed(soft.clone()).unwrap_err().0, "evictionSoft");
        let mut soft = soft;
        soft["evictionSoftGracePeriod"] = json!({"nodefs.available": "1m30s"});
        soft["evictionMinimumReclaim"] = json!({"nodefs.available": "5%"});
        let threshold = parsed(soft).unwrap().remove(0);
        assert_eq!(threshold.grace, Some(Duration::from_secs(90)));
        let seen = Observation { signal: Signal::NodefsAvailable, available: 120, capacity: 1000 };
        assert!(!threshold.crossed(&seen, false) && threshold.crossed(&seen, true));
    }
}

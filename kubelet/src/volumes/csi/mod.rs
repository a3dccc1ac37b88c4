//! CSI: volumes of drivers that register themselves below `plugins_registry`.
//!
//! `plugins` keeps the registered drivers and tells the API of them, `driver` speaks to one, `mount` brings one volume of
//! one pod to the node and back. What is mounted is on disk under upstream's names (`vol_data.json` beside each target),
//! so a restarted kubelet unmounts what an earlier life mounted; a volume is unstaged when no pod's record names it.

mod driver;
mod mount;
mod plugins;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

pub use mount::{Source, expand, inline, set_up, tear_down};
pub use plugins::run;

/// The messages of `csi.v1`, generated from `proto/csi.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod api {
    tonic::include_proto!("csi.v1");
}

/// The messages of plugin registration, generated from `proto/registration.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod registration {
    tonic::include_proto!("pluginregistration");
}

const PLUGIN: &str = "csi";
const RECORD: &str = "vol_data.json";

/// Name → endpoint of the registered drivers, and one lock per volume that is being staged or unstaged.
#[derive(Default)]
pub struct Drivers {
    endpoints: Mutex<HashMap<String, String>>,
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Drivers {
    fn endpoint(&self, driver: &str) -> Result<String, String> {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints
            .get(driver)
            .cloned()
            .ok_or_else(|| format!("driver name {driver} not found in the list of registered CSI drivers"))
    }

    /// The lock of one volume; locks that nobody holds are dropped.
    fn lock_of(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(key.to_owned()).or_default())
    }
}

/// What is remembered of a mounted volume, in upstream's file and words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    #[serde(rename = "specVolID")]
    spec_vol_id: String,
    volume_handle: String,
    driver_name: String,
    node_name: String,
    #[serde(rename = "attachmentID")]
    attachment_id: String,
    /// `Persistent` or `Ephemeral`
    volume_lifecycle_mode: String,
    /// Where a block volume was published; file systems are below the record.
    #[serde(skip_serializing_if = "String::is_empty")]
    device: String,
}

/// The records of a pod's directory with their places.
fn records(pod_dir: &Path) -> Vec<(PathBuf, Record)> {
    let entries = std::fs::read_dir(pod_dir.join("volumes/kubernetes.io~csi")).into_iter().flatten().flatten();
    let read = |dir: PathBuf| {
        let text = std::fs::read(dir.join(RECORD)).ok()?;
        Some((dir, serde_json::from_slice(&text).ok()?))
    };
    entries.filter_map(|e| read(e.path())).collect()
}

fn all_records(root: &Path) -> impl Iterator<Item = (PathBuf, Record)> {
    let pods = std::fs::read_dir(root.join("pods")).into_iter().flatten().flatten();
    pods.flat_map(|pod| records(&pod.path()))
}

/// The attachable volumes that pods here have or wait for, as `status.volumesInUse` names them, in order.
pub fn in_use(root: &Path) -> Vec<String> {
    let persistent = all_records(root).filter(|(_, r)| r.volume_lifecycle_mode == "Persistent");
    let names = persistent.map(|(_, r)| format!("kubernetes.io/csi/{}^{}", r.driver_name, r.volume_handle));
    names.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_on_disk_are_what_is_in_use() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("pods/u/volumes/kubernetes.io~csi/pv1");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(
            dir.join(RECORD),
            r#"{"specVolID":"pv1","volumeHandle":"h","driverName":"d","volumeLifecycleMode":"Persistent"}"#,
        )
        .unwrap();
        assert_eq!(in_use(root.path()), ["kubernetes.io/csi/d^h"]);
        assert_eq!(records(&root.path().join("pods/u"))[0].1.spec_vol_id, "pv1");
    }

    #[test]
    fn locks_are_shared_and_dropped() {
        let drivers = Drivers::default();
        let first = drivers.lock_of("a");
        assert!(Arc::ptr_eq(&first, &drivers.lock_of("a")));
        drop(first);
        drivers.lock_of("b");
        assert_eq!(drivers.locks.lock().unwrap().len(), 1);
        assert!(drivers.endpoint("x").unwrap_err().contains("not found in the list of registered CSI drivers"));
    }
}

//! Figures from the runtime, the file systems and /proc: `summary` is `/stats/summary`, `exposition` the metrics that are
//! measured when they are asked for.

mod exposition;
mod summary;

use http::StatusCode;

use super::{Refusal, State, find};
use crate::cri::{api, labels};
use crate::node::machine::meminfo;
use crate::pods::manager::PodView;
use crate::volumes::usage::{self, VolumeUsage};

pub use exposition::{cadvisor_metrics, resource_metrics, volume_metrics};
pub use summary::summary;

/// One container's use.
struct Usage {
    pod: String,
    namespace: String,
    uid: String,
    container: String,
    at_nanoseconds: i64,
    cpu_core_nanoseconds: u64,
    cpu_nano_cores: u64,
    memory_working_set_bytes: u64,
    memory_usage_bytes: u64,
    disk_used_bytes: u64,
    disk_inodes: u64,
}

async fn usages(state: &State) -> Result<Vec<Usage>, Refusal> {
    let request = api::ListContainerStatsRequest { filter: None };
    let stats = state.context.runtime.list_container_stats(request).await;
    let stats = stats.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(stats.stats.into_iter().filter_map(usage).collect())
}

fn usage(stats: api::ContainerStats) -> Option<Usage> {
    let attributes = stats.attributes?;
    let label = |name: &str| attributes.labels.get(name).cloned().unwrap_or_default();
    let value = |v: Option<api::UInt64Value>| v.map_or(0, |v| v.value);
    let cpu = stats.cpu.unwrap_or_default();
    let memory = stats.memory.unwrap_or_default();
    let layer = stats.writable_layer.unwrap_or_default();
    Some(Usage {
        pod: label(labels::POD_NAME),
        namespace: label(labels::POD_NAMESPACE),
        uid: label(labels::POD_UID),
        container: label(labels::CONTAINER_NAME),
        at_nanoseconds: cpu.timestamp,
        cpu_core_nanoseconds: value(cpu.usage_core_nano_seconds),
        cpu_nano_cores: value(cpu.usage_nano_cores),
        memory_working_set_bytes: value(memory.working_set_bytes),
        memory_usage_bytes: value(memory.usage_bytes),
        disk_used_bytes: value(layer.used_bytes),
        disk_inodes: value(layer.inodes_used),
    })
}

/// The whole node's CPU time in nanoseconds.
fn node_cpu_nanoseconds() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    // Guest time is part of user time.
    let busy = ticks.iter().take(8).sum::<u64>().saturating_sub(idle);
    busy * 10_000_000
}

/// Total and available memory in bytes.
fn node_memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let get = |key| u64::try_from(meminfo(&text, key)).unwrap_or(0);
    (get("MemTotal"), get("MemAvailable"))
}

/// The pods with the use of their volumes.
async fn volumes(state: &State) -> Result<Vec<(PodView, Vec<VolumeUsage>)>, Refusal> {
    let views = find::pods(state).await?;
    let root = state.context.dirs.root.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let measure = |view: PodView| (usage::of_pod(&root, &view.pod, &view.volumes), view);
        views.into_iter().map(measure).map(|(volumes, view)| (view, volumes)).collect()
    });
    measured.await.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}
